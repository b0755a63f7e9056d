//! What a guest may reach by its own list: names, networks, ports.
//!
//! An entry is about the addresses that a guest connects to, before a Service has chosen an endpoint for them. A name is
//! enforced where it is looked up: what was answered is allowed for as long as the answer counts. Where the list has
//! names, others are not looked up, and where it is empty, none is: a question is a message to whoever answers it.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use ipnet::IpNet;

/// Entries of one list.
const MOST_ENTRIES: usize = 256;
/// Addresses of names that are allowed at a time.
const MOST_GRANTS: usize = 4096;
/// For how long an answer counts at least: a program connects after it has asked.
const LEAST_GRANT: Duration = Duration::from_secs(30);
/// For how long an answer counts at most.
const LONGEST_GRANT: Duration = Duration::from_secs(24 * 60 * 60);

/// What a guest may reach. Without any entry, nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EgressList {
    entries: Vec<EgressEntry>,
    has_names: bool,
    /// Names that are looked up besides those of the entries.
    look_ups: Vec<EgressTarget>,
    /// Any name is.
    looks_up_any: bool,
}

impl EgressList {
    /// The list without entries.
    pub const NOTHING: Self =
        Self { entries: Vec::new(), has_names: false, look_ups: Vec::new(), looks_up_any: false };
}

/// One entry of an [`EgressList`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressEntry {
    pub(crate) target: EgressTarget,
    /// `None` is all of them.
    pub(crate) port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EgressTarget {
    Network(IpNet),
    /// In lower case, and without a dot at its end.
    Name(String),
    /// All names that end with a dot and this.
    Below(String),
}

/// A text that is no list of what may be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEgress {
    /// An entry is none.
    #[error(
        "{0:?} is neither a name (example.com, *.example.com) nor an address or a network (192.0.2.0/24), with or without a port behind it (:443; that of IPv6 in brackets, [2001:db8::1]:443)"
    )]
    Entry(String),
    /// There are too many.
    #[error("it has more than {MOST_ENTRIES} entries")]
    TooMany,
}

impl FromStr for EgressEntry {
    type Err = InvalidEgress;

    fn from_str(text: &str) -> Result<Self, InvalidEgress> {
        let invalid = || InvalidEgress::Entry(text.to_owned());
        if let Some(network) = network(text) {
            return Ok(Self { target: EgressTarget::Network(network), port: None });
        }
        let port = |text: &str| port(text).map(Some).ok_or_else(invalid);
        if let Some(rest) = text.strip_prefix('[') {
            let (inner, rest) = rest.split_once(']').ok_or_else(invalid)?;
            let network = network(inner).filter(|network| matches!(network, IpNet::V6(_)));
            let port = match rest.strip_prefix(':') {
                Some(text) => port(text)?,
                None if rest.is_empty() => None,
                None => return Err(invalid()),
            };
            return Ok(Self { target: EgressTarget::Network(network.ok_or_else(invalid)?), port });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, text)) => (host, port(text)?),
            None => (text, None),
        };
        if let Some(network) = network(host) {
            return Ok(Self { target: EgressTarget::Network(network), port });
        }
        let target = match host.strip_prefix("*.") {
            Some(parent) => EgressTarget::Below(name(parent).ok_or_else(invalid)?),
            None => EgressTarget::Name(name(host).ok_or_else(invalid)?),
        };
        Ok(Self { target, port })
    }
}

impl fmt::Display for EgressEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            EgressTarget::Network(network @ IpNet::V6(_)) => write!(f, "[{network}]")?,
            EgressTarget::Network(network) => write!(f, "{network}")?,
            EgressTarget::Name(name) => f.write_str(name)?,
            EgressTarget::Below(parent) => write!(f, "*.{parent}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// A port that something can be at.
pub(crate) fn port(text: &str) -> Option<u16> {
    let port = text.parse().ok().filter(|port| *port > 0);
    port.filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A host name as names are compared; `None` for what is none, or looks like an address.
pub(crate) fn name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    let is_name = name.len() <= 253
        && name.split('.').all(is_label)
        && name.rsplit('.').next().is_some_and(|last| !is_number(last));
    is_name.then_some(name)
}

/// Whether a name ends with a dot and another one, both as they are compared.
pub(crate) fn is_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).is_some_and(|front| front.len() > 1 && front.ends_with('.'))
}

impl FromIterator<EgressEntry> for EgressList {
    fn from_iter<I: IntoIterator<Item = EgressEntry>>(entries: I) -> Self {
        let entries: Vec<_> = entries.into_iter().collect();
        let has_names = entries.iter().any(|entry| !matches!(entry.target, EgressTarget::Network(_)));
        Self { entries, has_names, ..Self::NOTHING }
    }
}

impl FromStr for EgressList {
    type Err = InvalidEgress;

    /// Entries with commas between them; none at all is a list, too.
    fn from_str(text: &str) -> Result<Self, InvalidEgress> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let entries = entries.map(str::parse).collect::<Result<Vec<EgressEntry>, _>>()?;
        if entries.len() > MOST_ENTRIES {
            return Err(InvalidEgress::TooMany);
        }
        Ok(entries.into_iter().collect())
    }
}

impl EgressList {
    /// The same list for a guest that also looks up other names, without reaching what is found for them by that. Ports of these
    /// entries count for nothing.
    #[must_use]
    pub fn with_look_ups(mut self, names: impl IntoIterator<Item = EgressEntry>) -> Self {
        self.look_ups.extend(names.into_iter().map(|entry| entry.target));
        self
    }

    /// The same list for a guest that looks up any name.
    #[must_use]
    pub fn with_any_look_up(self) -> Self {
        Self { looks_up_any: true, ..self }
    }

    /// Whether a name is looked up that no entry is about.
    fn looks_up(&self, asked: &str) -> bool {
        let is_meant = |asked: &str| {
            self.look_ups.iter().any(|target| match target {
                EgressTarget::Network(_) => false,
                EgressTarget::Name(name) => name == asked,
                EgressTarget::Below(parent) => is_below(asked, parent),
            })
        };
        self.looks_up_any || name(asked).is_some_and(|asked| is_meant(&asked))
    }

    /// Its entries.
    #[must_use]
    pub fn entries(&self) -> &[EgressEntry] {
        &self.entries
    }

    /// Whether an address is on it.
    fn has(&self, to: SocketAddr) -> bool {
        let ip = to.ip().to_canonical();
        self.entries.iter().any(|entry| {
            let is_port = entry.port.is_none_or(|port| port == to.port());
            is_port && matches!(&entry.target, EgressTarget::Network(network) if network.contains(&ip))
        })
    }

    /// The ports of the entries that are about a name.
    fn ports_of(&self, asked: &str) -> impl Iterator<Item = Option<u16>> {
        let asked = name(asked);
        self.entries.iter().filter_map(move |entry| {
            let asked = asked.as_deref()?;
            let is_meant = match &entry.target {
                EgressTarget::Network(_) => false,
                EgressTarget::Name(name) => name == asked,
                EgressTarget::Below(parent) => is_below(asked, parent),
            };
            is_meant.then_some(entry.port)
        })
    }
}

/// A list, and what was answered to look-ups of the names on it.
#[derive(Debug)]
pub(crate) struct NameGrants {
    list: EgressList,
    /// Until when an address may be reached, at a port or at all of them.
    granted: Mutex<HashMap<(IpAddr, Option<u16>), Instant>>,
}

impl NameGrants {
    pub(crate) fn new(list: EgressList) -> Self {
        Self { list, granted: Mutex::default() }
    }

    /// Whether a name may be looked up: any where networks alone are listed, and none where nothing is.
    pub(crate) fn may_look_up(&self, name: &str) -> bool {
        let has_networks_alone = !self.list.has_names && !self.list.entries.is_empty();
        has_networks_alone || self.list.ports_of(name).next().is_some() || self.list.looks_up(name)
    }

    /// A look-up was answered: the addresses of a name on the list may be reached for as long as the answer counts.
    pub(crate) fn grant(&self, name: &str, addresses: &[IpAddr], ttl: Duration) {
        self.grant_at(name, addresses, ttl, Instant::now());
    }

    fn grant_at(&self, name: &str, addresses: &[IpAddr], ttl: Duration, now: Instant) {
        let until = now + ttl.clamp(LEAST_GRANT, LONGEST_GRANT);
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        for port in self.list.ports_of(name) {
            for ip in addresses {
                if granted.len() >= MOST_GRANTS {
                    make_room(&mut granted, now);
                }
                let known = granted.entry((ip.to_canonical(), port)).or_insert(until);
                *known = until.max(*known);
            }
        }
    }

    /// Whether an address may be reached, or whatever a look-up of this name has answered.
    pub(crate) fn lists(&self, to: SocketAddr, name: Option<&str>) -> bool {
        let is_named = |name| self.list.ports_of(name).any(|port| port.is_none_or(|port| port == to.port()));
        match name {
            Some(name) => self.may_look_up(name) && (self.list.has(to) || is_named(name)),
            None => self.may_reach(to),
        }
    }

    /// Whether an address may be reached.
    pub(crate) fn may_reach(&self, to: SocketAddr) -> bool {
        self.may_reach_at(to, Instant::now())
    }

    fn may_reach_at(&self, to: SocketAddr, now: Instant) -> bool {
        if self.list.has(to) {
            return true;
        }
        let granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        let ip = to.ip().to_canonical();
        [None, Some(to.port())]
            .iter()
            .any(|port| granted.get(&(ip, *port)).is_some_and(|until| *until >= now))
    }
}

/// Drops what counts no more, or else the quarter that would be over first.
fn make_room(granted: &mut HashMap<(IpAddr, Option<u16>), Instant>, now: Instant) {
    granted.retain(|_, until| *until >= now);
    if granted.len() < MOST_GRANTS {
        return;
    }
    let mut ends: Vec<Instant> = granted.values().copied().collect();
    let (_, limit, _) = ends.select_nth_unstable(MOST_GRANTS / 4);
    let limit = *limit;
    granted.retain(|_, until| *until > limit);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn entries_are_read_as_they_are_written() {
        for (text, expected) in [
            ("example.com", Some("example.com")),
            ("Example.COM.", Some("example.com")),
            ("*.example.com:443", Some("*.example.com:443")),
            ("db", Some("db")),
            ("_dmarc.example.com", Some("_dmarc.example.com")),
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("192.0.2.1", Some("192.0.2.1/32")),
            ("192.0.2.1:5432", Some("192.0.2.1/32:5432")),
            ("10.0.0.0/8:53", Some("10.0.0.0/8:53")),
            ("2001:db8::/32", Some("[2001:db8::/32]")),
            ("2001:db8::1", Some("[2001:db8::1/128]")),
            ("[2001:db8::1]:443", Some("[2001:db8::1/128]:443")),
            ("[2001:db8::/32]:443", Some("[2001:db8::/32]:443")),
            ("[2001:db8::1]", Some("[2001:db8::1/128]")),
            ("", None),
            ("*", None),
            ("*.", None),
            ("*example.com", None),
            ("a.*.com", None),
            ("example.com:", None),
            ("example.com:0", None),
            ("example.com:+443", None),
            ("example.com:65536", None),
            ("example.com:https", None),
            ("example..com", None),
            ("exa mple.com", None),
            ("https://example.com", None),
            ("10.0.0", None),
            ("10.0.0.256", None),
            ("10.0.0.0/33", None),
            ("[192.0.2.1]:80", None),
            ("[2001:db8::1]443", None),
            ("[2001:db8::1", None),
        ] {
            let read = text.parse::<EgressEntry>();
            assert_eq!(read.as_ref().ok().map(ToString::to_string).as_deref(), expected, "{text}");
            match read {
                Ok(entry) => assert_eq!(entry.to_string().parse(), Ok(entry)),
                Err(error) => assert!(error.to_string().contains(&format!("{text:?}")), "{error}"),
            }
        }
        let long = format!("{}.com", "a".repeat(64));
        assert!(long.parse::<EgressEntry>().is_err());
        let many = vec!["a"; MOST_ENTRIES + 1].join(",");
        assert_eq!(many.parse::<EgressList>(), Err(InvalidEgress::TooMany));
        assert_eq!(" a , ,b:80".parse::<EgressList>().unwrap().entries().len(), 2);
    }

    /// What was looked up for somebody who keeps it need not be looked up again.
    #[test]
    fn a_name_on_the_list_stands_for_what_was_found_for_it() {
        let grants = NameGrants::new("a.example:443, 10.0.0.0/8".parse().unwrap());
        for (to, name, expected) in [
            ("192.0.2.1:443", Some("a.example"), true),
            ("192.0.2.1:443", Some("A.example."), true),
            ("192.0.2.1:80", Some("a.example"), false),
            ("192.0.2.1:443", Some("b.example"), false),
            ("10.1.2.3:80", Some("a.example"), true),
            ("10.1.2.3:80", Some("b.example"), false),
            ("10.1.2.3:80", None, true),
            ("192.0.2.1:443", None, false),
        ] {
            assert_eq!(grants.lists(at(to), name), expected, "{to} {name:?}");
        }
        let without_names = NameGrants::new("10.0.0.0/8".parse().unwrap());
        assert!(without_names.lists(at("10.1.2.3:80"), Some("b.example")));
    }

    #[test]
    fn networks_and_ports_on_the_list_are_reached() {
        let list: EgressList = "10.0.0.0/8, 192.0.2.1:443, [2001:db8::/32]:53".parse().unwrap();
        let grants = NameGrants::new(list);
        for (to, expected) in [
            ("10.1.2.3:9", true),
            ("[::ffff:10.1.2.3]:9", true),
            ("11.1.2.3:9", false),
            ("192.0.2.1:443", true),
            ("192.0.2.1:80", false),
            ("[2001:db8::9]:53", true),
            ("[2001:db8::9]:54", false),
        ] {
            assert_eq!(grants.may_reach(at(to)), expected, "{to}");
        }
        assert!(grants.may_look_up("anything.example"), "no names are listed");
        let nothing = NameGrants::new("".parse().unwrap());
        assert!(!nothing.may_reach(at("192.0.2.1:1")));
        assert!(!nothing.may_look_up("anything.example"), "a question is a message");
    }

    #[test]
    fn a_name_can_be_looked_up_without_being_reached() {
        let list = "a.example".parse::<EgressList>().unwrap();
        let names = ["b.example", "*.c.example"].map(|name| name.parse().unwrap());
        let grants = NameGrants::new(list.clone().with_look_ups(names));
        for (name, expected) in [
            ("a.example", true),
            ("B.example.", true),
            ("x.c.example", true),
            ("c.example", false),
            ("d", false),
        ] {
            assert_eq!(grants.may_look_up(name), expected, "{name}");
        }
        grants.grant("b.example", &["192.0.2.1".parse().unwrap()], Duration::from_secs(60));
        assert!(!grants.may_reach(at("192.0.2.1:80")));
        assert!(NameGrants::new(list.with_any_look_up()).may_look_up("d"));
    }

    #[test]
    fn a_name_is_reached_where_its_look_up_was_answered_and_for_as_long() {
        let grants = NameGrants::new("api.example.com:443,*.example.org".parse().unwrap());
        for (name, expected) in [
            ("api.example.com", true),
            ("API.example.com.", true),
            ("x.api.example.com", false),
            ("example.com", false),
            ("example.org", false),
            ("a.example.org", true),
            ("a.b.example.org", true),
            ("aexample.org", false),
            (".example.org", false),
        ] {
            assert_eq!(grants.may_look_up(name), expected, "{name}");
        }
        let (now, ttl) = (Instant::now(), Duration::from_secs(60));
        let ips: Vec<IpAddr> = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap()).into();
        assert!(!grants.may_reach_at(at("192.0.2.1:443"), now), "nobody has asked");
        grants.grant_at("api.example.com", &ips, ttl, now);
        grants.grant_at("a.example.org", &["192.0.2.2".parse().unwrap()], Duration::ZERO, now);
        grants.grant_at("other.example", &["192.0.2.3".parse().unwrap()], ttl, now);
        for (to, after, expected) in [
            ("192.0.2.1:443", 60, true),
            ("192.0.2.1:443", 61, false),
            ("192.0.2.1:80", 0, false),
            ("[2001:db8::1]:443", 0, true),
            ("192.0.2.2:80", 30, true),
            ("192.0.2.2:80", 31, false),
            ("192.0.2.3:80", 0, false),
        ] {
            let then = now + Duration::from_secs(after);
            assert_eq!(grants.may_reach_at(at(to), then), expected, "{to} after {after} s");
        }
        grants.grant_at("api.example.com", &ips, Duration::ZERO, now);
        assert!(grants.may_reach_at(at("192.0.2.1:443"), now + ttl), "an earlier answer counts on");
    }

    #[test]
    fn answers_take_a_bounded_room() {
        let grants = NameGrants::new("*.example.org".parse().unwrap());
        let now = Instant::now();
        for n in 0..20_000u32 {
            let ip = IpAddr::V4((0x0a00_0000 + n).into());
            grants.grant_at("a.example.org", &[ip], Duration::from_secs(60 + u64::from(n)), now);
        }
        assert!(grants.granted.lock().unwrap().len() <= MOST_GRANTS);
        assert!(grants.may_reach_at(at("10.0.78.31:1"), now), "the newest is there");
    }
}
