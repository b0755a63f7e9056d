//! What a `resolv.conf` asks of a resolver, after resolv.conf(5) and what the GNU C library makes of it. Pure.

use std::{net::IpAddr, time::Duration};

/// Servers that count; the others are not asked.
const SERVERS: usize = 3;
/// Bounds of the library for `ndots`, `timeout` (seconds) and `attempts`.
const NDOTS: usize = 15;
const TIMEOUT: u64 = 30;
const ATTEMPTS: usize = 5;

/// What a `resolv.conf` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResolvConf {
    /// Who is asked, in this order.
    pub(super) servers: Vec<NameServer>,
    /// Domains in which short names are tried.
    pub(super) searches: Vec<String>,
    /// A name with so many dots is tried as it is first.
    pub(super) ndots: usize,
    /// How long one server is waited for.
    pub(super) timeout: Duration,
    /// How often all servers are asked.
    pub(super) attempts: usize,
    /// Look-ups begin with different servers.
    pub(super) rotate: bool,
    /// Servers are asked by TCP alone (`use-vc`).
    pub(super) by_tcp: bool,
    /// Servers are told that answers may be longer than 512 bytes (`edns0`).
    pub(super) edns: bool,
    /// Nobody is asked for addresses of IPv6.
    pub(super) no_aaaa: bool,
}

/// A server that is asked at port 53.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NameServer {
    pub(super) ip: IpAddr,
    /// The interface that an address on a link belongs to, by name or number: `fe80::1%eth0`.
    pub(super) zone: Option<String>,
}

impl Default for ResolvConf {
    /// What an empty file says, but for the server, which is then on the loopback.
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            searches: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            rotate: false,
            by_tcp: false,
            edns: false,
            no_aaaa: false,
        }
    }
}

impl ResolvConf {
    /// Reads the text of a file. What makes no sense, or is not known, is passed over, as the library does.
    pub(super) fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => conf.servers.extend(words.next().and_then(server)),
                // The last one counts, and `domain` is a search list of one.
                Some("search") => conf.searches = words.map(str::to_owned).collect(),
                Some("domain") => conf.searches = words.take(1).map(str::to_owned).collect(),
                Some("options") => words.for_each(|word| conf.set(word)),
                _ => {}
            }
        }
        conf.servers.truncate(SERVERS);
        if conf.servers.is_empty() {
            conf.servers.push(NameServer { ip: IpAddr::from([127, 0, 0, 1]), zone: None });
        }
        conf
    }

    fn set(&mut self, option: &str) {
        let (name, value) = option.split_once(':').unwrap_or((option, ""));
        let number = value.parse::<usize>().ok();
        match (name, number) {
            ("ndots", Some(dots)) => self.ndots = dots.min(NDOTS),
            ("timeout", Some(seconds)) => {
                self.timeout = Duration::from_secs((seconds as u64).clamp(1, TIMEOUT));
            }
            ("attempts", Some(times)) => self.attempts = times.clamp(1, ATTEMPTS),
            ("rotate", _) => self.rotate = true,
            ("use-vc", _) => self.by_tcp = true,
            ("edns0", _) => self.edns = true,
            ("no-aaaa", _) => self.no_aaaa = true,
            _ => {}
        }
    }

    /// The full names that a name may stand for, with their final dots, in the order in which they are tried.
    pub(super) fn candidates(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let full = |name: &str| format!("{name}.");
        let mut names: Vec<String> = Vec::with_capacity(self.searches.len() + 1);
        if name.matches('.').count() >= self.ndots {
            names.push(full(name));
        }
        for search in &self.searches {
            let domain = search.trim_matches('.');
            names.push(if domain.is_empty() { full(name) } else { full(&format!("{name}.{domain}")) });
        }
        names.push(full(name));
        let mut seen = std::collections::HashSet::new();
        names.retain(|name| seen.insert(name.to_ascii_lowercase()));
        names
    }
}

fn server(text: &str) -> Option<NameServer> {
    let (ip, zone) = match text.split_once('%') {
        Some((ip, zone)) => (ip, Some(zone.to_owned())),
        None => (text, None),
    };
    Some(NameServer { ip: ip.parse().ok()?, zone })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(ip: &str) -> NameServer {
        NameServer { ip: ip.parse().unwrap(), zone: None }
    }

    #[test]
    fn a_file_of_a_cluster() {
        let conf = ResolvConf::parse(
            "search ns.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n",
        );
        assert_eq!(conf.servers, [plain("10.96.0.10")]);
        assert_eq!(conf.searches, ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local"]);
        assert_eq!((conf.ndots, conf.attempts, conf.timeout), (5, 2, Duration::from_secs(5)));
    }

    #[test]
    fn everything_that_is_known() {
        let conf = ResolvConf::parse(
            "; comment\n# nameserver 192.0.2.9\nnameserver 192.0.2.1\nnameserver nonsense\nnameserver\n\
             nameserver fe80::1%eth0 # a comment, as the first word counts\nnameserver 2001:db8::1\nnameserver 192.0.2.4\n\
             domain one.example two.example\nsortlist 192.0.2.0\n\
             options ndots:99 timeout:0 attempts:9 rotate use-vc edns0 no-aaaa trust-ad single-request ndots: ndots:x\n",
        );
        let near = NameServer { ip: "fe80::1".parse().unwrap(), zone: Some("eth0".into()) };
        let expected = ResolvConf {
            servers: vec![plain("192.0.2.1"), near, plain("2001:db8::1")],
            searches: vec!["one.example".into()],
            ndots: 15,
            timeout: Duration::from_secs(1),
            attempts: 5,
            rotate: true,
            by_tcp: true,
            edns: true,
            no_aaaa: true,
        };
        assert_eq!(conf, expected);
    }

    #[test]
    fn an_empty_file_asks_the_loopback() {
        assert_eq!(
            ResolvConf::parse(""),
            ResolvConf { servers: vec![plain("127.0.0.1")], ..ResolvConf::default() }
        );
    }

    #[test]
    fn names_are_tried_in_the_order_of_the_c_library() {
        for (conf, name, expected) in [
            ("", "host", &["host."][..]),
            ("search a.example b.example", "host", &["host.a.example.", "host.b.example.", "host."]),
            ("search a.example", "host.sub", &["host.sub.", "host.sub.a.example."]),
            ("search a.example", "host.", &["host."]),
            ("search a.example\noptions ndots:2", "x.y", &["x.y.a.example.", "x.y."]),
            ("search a.example\noptions ndots:2", "x.y.z", &["x.y.z.", "x.y.z.a.example."]),
            ("search a.example\noptions ndots:0", "host", &["host.", "host.a.example."]),
            ("search a.example. .", "host", &["host.a.example.", "host."]),
            ("search . a.example", "host", &["host.", "host.a.example."]),
            ("search A.example a.example", "host", &["host.A.example.", "host."]),
        ] {
            assert_eq!(ResolvConf::parse(conf).candidates(name), expected, "{conf:?} {name}");
        }
    }
}
