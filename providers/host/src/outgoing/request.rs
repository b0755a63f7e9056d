//! What guests may send, and to whom. Pure.

use http::{
    Method, Request, Uri, Version,
    header::{CONTENT_LENGTH, HOST, HeaderValue, PROXY_AUTHORIZATION},
    uri::{Authority, PathAndQuery, Scheme},
};
use wasmtime_wasi_http::{Error, WasiBody};

use super::{
    body::{RequestBody, SendProgress},
    proxy::HttpProxy,
    tls::AuthoritiesId,
};

/// Bytes of a path and query.
const LONGEST_PATH: usize = 32 << 10;

/// Whom a request is for, and what makes that credible: requests of one origin share connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub(super) host: HostName,
    pub(super) port: u16,
    pub(super) security: Security,
}

/// As it stands in an authority: in lower case, an address of IPv6 in brackets.
pub(super) type HostName = String;

/// Whether an origin has to prove that it is the one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Security {
    Plain,
    /// By a certificate that these trust, besides those that this machine trusts.
    Tls(AuthoritiesId),
}

/// A request that may be sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) origin: Origin,
    pub(super) request: Request<RequestBody>,
    /// It can be sent once more without harm: it has no body, and asks for nothing but an answer.
    pub(super) is_safe: bool,
}

impl Origin {
    fn default_port(&self) -> u16 {
        match self.security {
            Security::Plain => 80,
            Security::Tls(_) => 443,
        }
    }

    /// Host, and the port if it has to be named.
    fn authority(&self) -> Result<Authority, Error> {
        let text = match self.port {
            port if port == self.default_port() => self.host.clone(),
            port => format!("{}:{port}", self.host),
        };
        text.parse().map_err(|_| Error::HttpRequestUriInvalid)
    }

    /// Writes the target of a request of HTTP/1.1 as a proxy has it, and who asks. In a tunnel there is nobody to be told.
    pub(super) fn ask(&self, proxy: &HttpProxy, request: &mut Request<RequestBody>) -> Result<(), Error> {
        if self.security != Security::Plain {
            return Ok(());
        }
        let path = request.uri().path_and_query().cloned();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let target = Uri::builder().scheme(Scheme::HTTP).authority(self.authority()?).path_and_query(path);
        *request.uri_mut() = target.build().map_err(|_| Error::HttpRequestUriInvalid)?;
        if let Some(authorization) = proxy.authorization() {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization);
        }
        Ok(())
    }

    /// Writes the target of a request as a version of HTTP has it.
    pub(super) fn address(&self, request: &mut Request<RequestBody>, version: Version) -> Result<(), Error> {
        let authority = self.authority()?;
        let path = request.uri().path_and_query().cloned();
        let mut path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        if path.as_str().starts_with('?') {
            path = format!("/{}", path.as_str()).parse().map_err(|_| Error::HttpRequestUriInvalid)?;
        }
        // Of a connection on which it was tried before.
        request.headers_mut().remove(PROXY_AUTHORIZATION);
        let mut target = Uri::builder().path_and_query(path);
        if version == Version::HTTP_2 {
            request.headers_mut().remove(HOST);
            let scheme = match self.security {
                Security::Plain => Scheme::HTTP,
                Security::Tls(_) => Scheme::HTTPS,
            };
            target = target.scheme(scheme).authority(authority);
        } else {
            let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Error::HttpRequestUriInvalid)?;
            request.headers_mut().insert(HOST, host);
        }
        *request.uri_mut() = target.build().map_err(|_| Error::HttpRequestUriInvalid)?;
        *request.version_mut() = version;
        Ok(())
    }
}

/// Looks at what a guest wants to send. Headers that are about connections are not among it: wasmtime refuses them where a guest
/// sets them.
///
/// # Errors
/// The guest's.
pub(super) fn prepare(
    request: Request<WasiBody>,
    authorities: AuthoritiesId,
    progress: SendProgress,
) -> Result<Outgoing, Error> {
    let uri = request.uri();
    let security = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => Security::Plain,
        Some(scheme) if *scheme == Scheme::HTTPS => Security::Tls(authorities),
        Some(_) | None => return Err(Error::HttpRequestUriInvalid),
    };
    let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
    // A password in there would be sent to nobody, and stand in logs.
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(Error::HttpRequestUriInvalid);
    }
    let host = authority.host().to_ascii_lowercase();
    let mut origin = Origin { host, port: 0, security };
    origin.port = match authority.port() {
        None if authority.as_str().ends_with(':') => origin.default_port(),
        None if authority.as_str() == authority.host() => origin.default_port(),
        Some(port) if port.as_u16() > 0 => port.as_u16(),
        // Something that is no port, or none that can be connected to.
        Some(_) | None => return Err(Error::HttpRequestUriInvalid),
    };
    if uri.path_and_query().is_some_and(|path| path.as_str().len() > LONGEST_PATH) {
        return Err(Error::HttpRequestUriTooLong);
    }
    // There is no way to hand a tunnel to a guest.
    if request.method() == Method::CONNECT {
        return Err(Error::HttpRequestMethodInvalid);
    }
    let length = length(&request)?;
    let (parts, body) = request.into_parts();
    let body = RequestBody::new(body, length, progress);
    let is_safe = body.is_empty() && parts.method.is_safe();
    Ok(Outgoing { origin, request: Request::from_parts(parts, body), is_safe })
}

/// What a request says of the length of its body.
fn length(request: &Request<WasiBody>) -> Result<Option<u64>, Error> {
    let mut values = request.headers().get_all(CONTENT_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let length = text.and_then(|text| text.parse().ok()).filter(|_| values.next().is_none());
    length.map(Some).ok_or(Error::HttpRequestBodySize(None))
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Empty};

    use super::*;

    fn request(uri: &str) -> Request<WasiBody> {
        let body = Empty::new().map_err(Error::from).boxed_unsync();
        Request::builder().uri(uri).body(body).unwrap()
    }

    fn prepared(request: Request<WasiBody>) -> Result<Outgoing, Error> {
        prepare(request, AuthoritiesId::default(), SendProgress::default())
    }

    #[test]
    fn a_request_is_for_whom_its_address_names() {
        for (uri, host, port, authority) in [
            ("http://example.com/", "example.com", 80, "example.com"),
            ("http://Example.COM:80/", "example.com", 80, "example.com"),
            ("https://example.com/", "example.com", 443, "example.com"),
            ("https://example.com:80/", "example.com", 80, "example.com:80"),
            ("http://192.0.2.1:8080/", "192.0.2.1", 8080, "192.0.2.1:8080"),
            ("https://[2001:db8::1]/", "[2001:db8::1]", 443, "[2001:db8::1]"),
            ("https://[2001:db8::1]:8443/", "[2001:db8::1]", 8443, "[2001:db8::1]:8443"),
        ] {
            let Outgoing { origin, .. } = prepared(request(uri)).unwrap();
            assert_eq!((&*origin.host, origin.port), (host, port), "{uri}");
            assert_eq!(origin.authority().unwrap().as_str(), authority, "{uri}");
        }
    }

    #[test]
    fn what_names_nobody_is_refused() {
        for uri in
            ["ftp://example.com/", "http://me:secret@example.com/", "http://example.com:0/", "/only/a/path"]
        {
            let error = prepared(request(uri)).unwrap_err();
            assert!(matches!(error, Error::HttpRequestUriInvalid), "{uri}: {error:?}");
        }
        let long = format!("http://example.com/{}", "a".repeat(LONGEST_PATH));
        assert!(matches!(prepared(request(&long)).unwrap_err(), Error::HttpRequestUriTooLong));
        let mut tunnel = request("http://example.com/");
        *tunnel.method_mut() = Method::CONNECT;
        assert!(matches!(prepared(tunnel).unwrap_err(), Error::HttpRequestMethodInvalid));
    }

    /// What a server takes for the end of one request and the start of the next is decided here once.
    #[test]
    fn a_length_is_one_number() {
        for (values, expected) in [
            (&[][..], Some(None)),
            (&["0"], Some(Some(0))),
            (&["12"], Some(Some(12))),
            (&["+1"], None),
            (&[""], None),
            (&["1, 1"], None),
            (&["1", "1"], None),
            (&["0x1"], None),
            (&["18446744073709551616"], None),
        ] {
            let mut request = request("http://example.com/");
            for value in values {
                request.headers_mut().append(CONTENT_LENGTH, HeaderValue::from_static(value));
            }
            assert_eq!(length(&request).ok(), expected, "{values:?}");
        }
    }

    #[test]
    fn each_version_has_the_target_in_its_own_place() {
        let mut sent = prepared(request("https://Example.com:8443?q=1")).unwrap();
        // Once for each connection that it is tried on.
        for _ in 0..2 {
            sent.origin.address(&mut sent.request, Version::HTTP_2).unwrap();
            assert_eq!(sent.request.uri(), "https://example.com:8443/?q=1");
            assert!(!sent.request.headers().contains_key(HOST));
            sent.origin.address(&mut sent.request, Version::HTTP_11).unwrap();
            assert_eq!(sent.request.uri(), "/?q=1");
            assert_eq!(sent.request.headers()[HOST], "example.com:8443");
        }
    }

    #[test]
    fn a_proxy_has_the_whole_address_and_an_origin_no_secret_of_the_proxys() {
        let proxy = HttpProxy::new("http://proxy", Some("me:hunter2".parse().unwrap()), Vec::new()).unwrap();
        let mut plain = prepared(request("http://Example.com:8080?q=1")).unwrap();
        plain.origin.address(&mut plain.request, Version::HTTP_11).unwrap();
        plain.origin.ask(&proxy, &mut plain.request).unwrap();
        assert_eq!(plain.request.uri(), "http://example.com:8080/?q=1");
        assert_eq!(plain.request.headers()[HOST], "example.com:8080");
        assert!(plain.request.headers().contains_key(PROXY_AUTHORIZATION));
        plain.origin.address(&mut plain.request, Version::HTTP_11).unwrap();
        assert_eq!(plain.request.uri(), "/?q=1");
        assert!(!plain.request.headers().contains_key(PROXY_AUTHORIZATION));
        let mut secured = prepared(request("https://example.com/")).unwrap();
        secured.origin.address(&mut secured.request, Version::HTTP_11).unwrap();
        secured.origin.ask(&proxy, &mut secured.request).unwrap();
        assert_eq!(secured.request.uri(), "/");
        assert!(!secured.request.headers().contains_key(PROXY_AUTHORIZATION));
    }

    #[test]
    fn only_what_does_nothing_is_sent_twice() {
        for (method, expected) in
            [(Method::GET, true), (Method::HEAD, true), (Method::POST, false), (Method::DELETE, false)]
        {
            let mut request = request("http://example.com/");
            *request.method_mut() = method.clone();
            assert_eq!(prepared(request).unwrap().is_safe, expected, "{method}");
        }
    }
}
