//! The proxy that requests of guests go through where an operator names one, and what is reached past it. Pure.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use http::HeaderValue;
use ipnet::IpNet;

use crate::network::egress::{self, EgressEntry, EgressTarget};

/// Bytes of credentials.
const LONGEST_CREDENTIALS: usize = 4096;
/// Entries of what is reached past a proxy.
const MOST_PAST: usize = 256;

/// A proxy for HTTP that guests do not know of: it is asked for what is fetched in the clear, and for tunnels to servers of HTTPS.
///
/// Its `Debug` does not show credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpProxy {
    /// A name, or an address without brackets.
    host: String,
    port: u16,
    credentials: Option<ProxyCredentials>,
    past: Vec<PastProxy>,
}

/// A user and a password: `user:password`.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyCredentials {
    text: String,
    /// As they are sent.
    header: HeaderValue,
}

/// Something that is reached past the proxy, as programs read it from `NO_PROXY`: a name with all names below it, `.example.com` or
/// `*.example.com` for those below it alone, an address, a network, `*` for everything; with or without a port behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastProxy {
    target: PastTarget,
    /// `None` is all of them.
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PastTarget {
    Everything,
    /// The name, and all below it.
    Name(String),
    Below(String),
    Network(IpNet),
}

/// A text that names no proxy, or not what goes past it. What the text was is not said where it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHttpProxy {
    /// The URL is none of a proxy.
    #[error(
        "the proxy must be a URL such as http://proxy.example:3128, with nothing behind the port; it is spoken to by http:// alone"
    )]
    Url,
    /// There are credentials in it.
    #[error(
        "there are credentials in the URL of the proxy, where others can read them: write user:password into a file that only root reads, and name the file"
    )]
    Secret,
    /// There is none in the file.
    #[error(
        "the credentials of the proxy must be one line, user:password, without control characters and of {LONGEST_CREDENTIALS} bytes at most"
    )]
    Credentials,
    /// An entry is none.
    #[error(
        "{0:?} is nothing that is reached past a proxy: write a name (example.com, .example.com), an address or a network (10.0.0.0/8), or *, with or without a port behind it (:443; that of IPv6 in brackets)"
    )]
    Past(String),
    /// There are too many.
    #[error("more than {MOST_PAST} entries name what is reached past the proxy")]
    TooMany,
}

impl FromStr for ProxyCredentials {
    type Err = InvalidHttpProxy;

    fn from_str(text: &str) -> Result<Self, InvalidHttpProxy> {
        use base64::Engine as _;
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        let is_right = text.len() <= LONGEST_CREDENTIALS
            && text.find(':').is_some_and(|colon| colon > 0)
            && !text.chars().any(char::is_control);
        if !is_right {
            return Err(InvalidHttpProxy::Credentials);
        }
        let encoded = base64::engine::general_purpose::STANDARD.encode(text);
        let mut header =
            HeaderValue::try_from(format!("Basic {encoded}")).map_err(|_| InvalidHttpProxy::Credentials)?;
        header.set_sensitive(true);
        Ok(Self { text: text.to_owned(), header })
    }
}

impl ProxyCredentials {
    /// The text that they are read from. It is a secret.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for ProxyCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyCredentials").finish_non_exhaustive()
    }
}

impl FromStr for PastProxy {
    type Err = InvalidHttpProxy;

    fn from_str(text: &str) -> Result<Self, InvalidHttpProxy> {
        let invalid = || InvalidHttpProxy::Past(text.to_owned());
        let everything = |port| Ok(Self { target: PastTarget::Everything, port });
        match text.strip_prefix('*').map(|rest| (rest, rest.strip_prefix(':'))) {
            Some(("", _)) => return everything(None),
            Some((_, Some(port))) => return everything(Some(egress::port(port).ok_or_else(invalid)?)),
            Some((_, None)) | None => {}
        }
        let as_listed = match text.strip_prefix('.') {
            Some(rest) => &format!("*.{rest}"),
            None => text,
        };
        let entry: EgressEntry = as_listed.parse().map_err(|_| invalid())?;
        let target = match entry.target {
            EgressTarget::Network(network) => PastTarget::Network(network),
            EgressTarget::Name(name) => PastTarget::Name(name),
            EgressTarget::Below(parent) => PastTarget::Below(parent),
        };
        Ok(Self { target, port: entry.port })
    }
}

impl fmt::Display for PastProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            PastTarget::Everything => f.write_str("*")?,
            PastTarget::Name(name) => f.write_str(name)?,
            PastTarget::Below(parent) => write!(f, ".{parent}")?,
            PastTarget::Network(network @ IpNet::V6(_)) => write!(f, "[{network}]")?,
            PastTarget::Network(network) => write!(f, "{network}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl PastProxy {
    /// Whether it is about a host of this name, if it has one, with the addresses that it was found to have.
    fn is_about(&self, name: Option<&str>, addresses: &[SocketAddr], port: u16) -> bool {
        let is_in = |network: &IpNet| {
            let mut ips = addresses.iter().map(|at| at.ip().to_canonical());
            !addresses.is_empty() && ips.all(|ip| network.contains(&ip))
        };
        self.port.is_none_or(|own| own == port)
            && match &self.target {
                PastTarget::Everything => true,
                PastTarget::Name(own) => name.is_some_and(|name| name == own || egress::is_below(name, own)),
                PastTarget::Below(parent) => name.is_some_and(|name| egress::is_below(name, parent)),
                PastTarget::Network(network) => is_in(network),
            }
    }
}

impl HttpProxy {
    /// One of such a URL.
    ///
    /// # Errors
    /// [`InvalidHttpProxy`].
    pub fn new(
        url: &str,
        credentials: Option<ProxyCredentials>,
        past: Vec<PastProxy>,
    ) -> Result<Self, InvalidHttpProxy> {
        let url = url::Url::parse(url).map_err(|_| InvalidHttpProxy::Url)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidHttpProxy::Secret);
        }
        let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if url.scheme() != "http" || !is_bare {
            return Err(InvalidHttpProxy::Url);
        }
        if past.len() > MOST_PAST {
            return Err(InvalidHttpProxy::TooMany);
        }
        let host = match url.host() {
            Some(url::Host::Domain(name)) => name.to_owned(),
            Some(url::Host::Ipv4(address)) => address.to_string(),
            Some(url::Host::Ipv6(address)) => address.to_string(),
            None => return Err(InvalidHttpProxy::Url),
        };
        let port = url.port_or_known_default().filter(|port| *port > 0).ok_or(InvalidHttpProxy::Url)?;
        Ok(Self { host, port, credentials, past })
    }

    /// Its URL, without credentials.
    #[must_use]
    pub fn url(&self) -> String {
        match self.host.contains(':') {
            true => format!("http://[{}]:{}", self.host, self.port),
            false => format!("http://{}:{}", self.host, self.port),
        }
    }

    /// Whether its URL names the machine that asks, whichever that is: by an address of the loopback, or by `localhost`.
    #[must_use]
    pub fn is_on_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => is_on_loopback(ip),
            Err(_) => egress::name(&self.host)
                .is_some_and(|name| name == "localhost" || egress::is_below(&name, "localhost")),
        }
    }

    /// With what it is asked.
    #[must_use]
    pub fn credentials(&self) -> Option<&ProxyCredentials> {
        self.credentials.as_ref()
    }

    /// What is reached past it.
    #[must_use]
    pub fn past(&self) -> &[PastProxy] {
        &self.past
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The header by which it knows who asks.
    pub(super) fn authorization(&self) -> Option<HeaderValue> {
        self.credentials.as_ref().map(|credentials| credentials.header.clone())
    }

    /// Whether a host is reached past it, at the addresses that it was found to have.
    pub(super) fn is_passed(&self, host: &str, addresses: &[SocketAddr], port: u16) -> bool {
        let name = egress::name(host);
        self.past.iter().any(|entry| entry.is_about(name.as_deref(), addresses, port))
    }
}

/// Whether an address is of the machine that connects to it: what is unspecified leads to the loopback.
pub(super) fn is_on_loopback(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_loopback() || ip.is_unspecified()
}

impl fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpProxy")
            .field("url", &self.url())
            .field("credentials", &self.credentials)
            .field("past", &self.past)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(past: &[&str]) -> HttpProxy {
        let past = past.iter().map(|entry| entry.parse().unwrap()).collect();
        HttpProxy::new("http://proxy.example:3128", None, past).unwrap()
    }

    #[test]
    fn a_url_says_where_the_proxy_is_and_nothing_else() {
        for (url, expected) in [
            ("http://proxy.example:3128", "http://proxy.example:3128"),
            ("http://Proxy.Example/", "http://proxy.example:80"),
            ("http://192.0.2.1:8080", "http://192.0.2.1:8080"),
            ("http://[2001:db8::1]:8080/", "http://[2001:db8::1]:8080"),
        ] {
            let read = HttpProxy::new(url, None, Vec::new()).unwrap();
            assert_eq!(read.url(), expected);
            assert_eq!(HttpProxy::new(&read.url(), None, Vec::new()).unwrap(), read);
        }
        for url in [
            "",
            "proxy:3128",
            "https://proxy.example",
            "socks5://proxy.example",
            "http://proxy.example/x",
            "http://p:0",
        ] {
            assert_eq!(HttpProxy::new(url, None, Vec::new()), Err(InvalidHttpProxy::Url), "{url}");
        }
    }

    #[test]
    fn a_proxy_on_the_loopback_is_known_by_its_url() {
        for (host, expected) in [
            ("127.0.0.1", true),
            ("127.1", true),
            ("0.0.0.0", true),
            ("[::1]", true),
            ("[::]", true),
            ("[::ffff:127.0.0.1]", true),
            ("LOCALHOST.", true),
            ("proxy.localhost", true),
            ("192.0.2.1", false),
            ("[2001:db8::1]", false),
            ("localhost.example", false),
        ] {
            let proxy = HttpProxy::new(&format!("http://{host}:3128"), None, Vec::new()).unwrap();
            assert_eq!(proxy.is_on_loopback(), expected, "{host}");
        }
    }

    #[test]
    fn credentials_are_in_no_text() {
        for url in ["http://me:hunter2@proxy.example", "http://me@proxy.example"] {
            let error = HttpProxy::new(url, None, Vec::new()).unwrap_err();
            assert_eq!(error, InvalidHttpProxy::Secret);
            assert!(!error.to_string().contains("hunter2"));
        }
        let credentials: ProxyCredentials = "me:hunter2\n".parse().unwrap();
        assert_eq!(credentials.secret(), "me:hunter2");
        let proxy = HttpProxy::new("http://proxy.example", Some(credentials), Vec::new()).unwrap();
        assert_eq!(proxy.authorization().unwrap(), "Basic bWU6aHVudGVyMg==");
        let text = format!("{proxy:?} {:?} {}", proxy.authorization(), proxy.url());
        assert!(!text.contains("hunter2") && !text.contains("bWU6"), "{text}");
        for wrong in ["", "me", ":x", "me:\u{7}", "me:a\nb", &"a:".repeat(LONGEST_CREDENTIALS)] {
            assert_eq!(wrong.parse::<ProxyCredentials>(), Err(InvalidHttpProxy::Credentials), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_reached_past_it_is_read_as_it_is_written() {
        for text in [
            "*",
            "*:443",
            "example.com",
            ".example.com:8443",
            "10.0.0.0/8",
            "192.0.2.1/32:80",
            "[2001:db8::/32]:443",
        ] {
            let entry: PastProxy = text.parse().unwrap();
            assert_eq!(entry.to_string(), text);
        }
        assert_eq!("*.svc".parse::<PastProxy>().unwrap().to_string(), ".svc");
        for text in ["", ".", "*x", "*:", "*:0", "*:x", "a b", "example.com:0", "example.com/"] {
            assert_eq!(text.parse::<PastProxy>(), Err(InvalidHttpProxy::Past(text.to_owned())));
        }
        let many = vec!["*".parse().unwrap(); MOST_PAST + 1];
        assert_eq!(HttpProxy::new("http://p", None, many), Err(InvalidHttpProxy::TooMany));
    }

    #[test]
    fn names_and_networks_go_past_the_proxy_as_everywhere() {
        let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 80);
        let past = ["example.com", ".svc", "internal.test:8080", "10.0.0.0/8", "fd00::/8", "*:9"];
        let (proxy, public) = (proxy(&past), at("203.0.113.7"));
        for (host, port, expected) in [
            ("example.com", 443, true),
            ("example.com.", 443, true),
            ("www.example.com", 80, true),
            ("badexample.com", 80, false),
            ("svc", 80, false),
            ("web.default.svc", 80, true),
            ("internal.test", 8080, true),
            ("internal.test", 80, false),
            ("INTERNAL.test", 8080, true),
            ("other.test", 80, false),
            ("other.test", 9, true),
        ] {
            assert_eq!(proxy.is_passed(host, &[public], port), expected, "{host}:{port}");
        }
        let private = at("10.1.2.3");
        assert!(proxy.is_passed("other.test", &[private], 80));
        assert!(proxy.is_passed("[fd00::1]", &[at("fd00::1")], 80));
        assert!(proxy.is_passed("other.test", &[at("::ffff:10.1.2.3")], 80));
        assert!(!proxy.is_passed("other.test", &[private, public], 80), "one of its addresses is elsewhere");
        assert!(!proxy.is_passed("other.test", &[], 80));
    }
}
