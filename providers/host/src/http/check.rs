//! What is refused of a request before a guest hears of it. Pure.
//!
//! hyper has refused by then what cannot be read as HTTP. What is refused here can be read in two ways, which is how requests
//! are smuggled past a proxy (RFC 9112, 6.1 and 11.2), asks for another protocol, or is too large.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header, request::Parts};

use super::settings::HttpSettings;

/// A request that is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// For people.
    pub(super) reason: &'static str,
    /// What follows on this connection cannot be trusted to be another request.
    pub(super) closes: bool,
}

fn refuse(status: StatusCode, reason: &'static str) -> Result<(), Refusal> {
    Err(Refusal { status, reason, closes: false })
}

fn refuse_and_close(status: StatusCode, reason: &'static str) -> Result<(), Refusal> {
    Err(Refusal { status, reason, closes: true })
}

/// Whether a request is passed on.
pub(super) fn request(parts: &Parts, settings: &HttpSettings) -> Result<(), Refusal> {
    let headers = &parts.headers;
    framing(headers)?;
    if parts.version == Version::HTTP_11 {
        host(headers)?;
    }
    if parts.method == Method::CONNECT {
        return refuse_and_close(StatusCode::NOT_IMPLEMENTED, "this server is no proxy");
    }
    target(parts)?;
    if asks_for_upgrade(headers) {
        return refuse(StatusCode::NOT_IMPLEMENTED, "this server speaks HTTP alone");
    }
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > settings.max_uri as usize {
        return refuse(StatusCode::URI_TOO_LONG, "the target of the request is too long");
    }
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if size > settings.max_header as usize {
        return refuse(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "the headers are too large");
    }
    let is_known = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if headers.get(header::EXPECT).is_some_and(|value| !is_known(value)) {
        return refuse(StatusCode::EXPECTATION_FAILED, "there is no such expectation");
    }
    if settings.max_body > 0 && length(headers).is_some_and(|length| length > settings.max_body) {
        return refuse_and_close(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large");
    }
    Ok(())
}

/// How long the body will be, where that is said.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Where the body ends must be said in one way.
fn framing(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if headers.contains_key(header::CONTENT_LENGTH) {
            return refuse_and_close(StatusCode::BAD_REQUEST, "the body has two lengths");
        }
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return refuse_and_close(StatusCode::NOT_IMPLEMENTED, "the transfer coding is not chunked alone");
        }
    }
    if headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return refuse_and_close(StatusCode::BAD_REQUEST, "the body has two lengths");
    }
    Ok(())
}

/// What may be asked of a server that is no proxy (RFC 9112, 3.2): a path, an absolute URI, or `*` for OPTIONS; of other characters
/// than those of ASCII, each would make its own.
fn target(parts: &Parts) -> Result<(), Refusal> {
    let uri = &parts.uri;
    if uri.scheme().is_none() && uri.authority().is_some() {
        return refuse_and_close(StatusCode::BAD_REQUEST, "a host and a port are a target for CONNECT alone");
    }
    if uri.path() == "*" && parts.method != Method::OPTIONS {
        return refuse_and_close(StatusCode::BAD_REQUEST, "* is a target for OPTIONS alone");
    }
    match uri.path_and_query() {
        Some(target) if !target.as_str().is_ascii() => {
            refuse_and_close(StatusCode::BAD_REQUEST, "the target of the request is not of ASCII alone")
        }
        _ => Ok(()),
    }
}

/// Fields that have no place behind a body: they say where the message ends, where it goes, from whom, or what it is (RFC 9110,
/// 6.5.1). Whoever takes both for one list would be misled.
const NO_TRAILERS: [HeaderName; 12] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::HOST,
    header::MAX_FORWARDS,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
];

/// Trailers as they are passed on: without what has no place there.
pub(super) fn trailers(mut trailers: HeaderMap) -> HeaderMap {
    for name in &NO_TRAILERS {
        trailers.remove(name);
    }
    trailers
}

/// One Host, as HTTP/1.1 demands (RFC 9112, 3.2).
fn host(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    let is_valid = |value: &HeaderValue| {
        value.to_str().is_ok_and(|text| text.is_empty() || text.parse::<http::uri::Authority>().is_ok())
    };
    match (first, second) {
        (Some(host), None) if is_valid(host) => Ok(()),
        _ => refuse_and_close(StatusCode::BAD_REQUEST, "a request has one header Host"),
    }
}

/// Only a guest could speak another protocol, and it has no way to. HTTP/2 is spoken by those who begin with it; who would
/// rather upgrade to it is answered in HTTP/1.1, as it has to expect.
fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    let is_other = |value: &HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"h2c");
    headers.get_all(header::UPGRADE).iter().any(is_other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: &str, uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn requests_are_refused_for_what_they_are() {
        let long = format!("/{}", "a".repeat(8 << 10));
        let large = "a".repeat(33 << 10);
        let host = ("host", "a");
        for (method, uri, headers, expected) in [
            ("GET", "/", &[host][..], None),
            ("GET", "/", &[("host", "")], None),
            ("GET", "/", &[], Some(400)),
            ("GET", "/", &[host, ("host", "b")], Some(400)),
            ("GET", "/", &[("host", "a b")], Some(400)),
            ("POST", "/", &[host, ("content-length", "1"), ("transfer-encoding", "chunked")], Some(400)),
            ("POST", "/", &[host, ("content-length", "1"), ("content-length", "1")], Some(400)),
            ("POST", "/", &[host, ("transfer-encoding", "chunked")], None),
            ("POST", "/", &[host, ("transfer-encoding", "Chunked")], None),
            ("POST", "/", &[host, ("transfer-encoding", "gzip, chunked")], Some(501)),
            (
                "POST",
                "/",
                &[host, ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
                Some(501),
            ),
            ("CONNECT", "a:80", &[host], Some(501)),
            ("GET", "a:80", &[host], Some(400)),
            ("GET", "http://a:80/", &[host], None),
            ("GET", "*", &[host], Some(400)),
            ("OPTIONS", "*", &[host], None),
            ("GET", "/\u{e9}", &[host], Some(400)),
            ("GET", "/%e9?%e9", &[host], None),
            ("GET", "/", &[host, ("connection", "upgrade"), ("upgrade", "websocket")], Some(501)),
            ("GET", "/", &[host, ("connection", "upgrade"), ("upgrade", "h2c")], None),
            ("GET", &long, &[host], Some(414)),
            ("GET", "/", &[host, ("a", &large)], Some(431)),
            ("POST", "/", &[host, ("expect", "100-Continue")], None),
            ("POST", "/", &[host, ("expect", "tea")], Some(417)),
            ("POST", "/", &[host, ("content-length", "1048576")], None),
            ("POST", "/", &[host, ("content-length", "1048577")], Some(413)),
        ] {
            let found = request(&parts(method, uri, headers), &HttpSettings::default());
            let status = found.err().map(|refusal| refusal.status.as_u16());
            assert_eq!(status, expected, "{method} {headers:.100?}");
        }
        let unbounded = HttpSettings { max_body: 0, ..HttpSettings::default() };
        assert_eq!(request(&parts("POST", "/", &[host, ("content-length", "1048577")]), &unbounded), Ok(()));
    }

    #[test]
    fn trailers_say_nothing_of_where_a_message_ends() {
        let mut all = HeaderMap::new();
        for name in ["content-length", "host", "transfer-encoding", "x-sum", "x-sum"] {
            all.append(name, HeaderValue::from_static("1"));
        }
        let passed: Vec<_> = trailers(all).keys().map(ToString::to_string).collect();
        assert_eq!(passed, ["x-sum"]);
    }
}
