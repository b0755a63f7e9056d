//! Whom a component may connect to: `allowed_hosts`, as they are written, and what follows for sockets and for requests.
//!
//! ```text
//!   "*", "host[:port]", "*.suffix[:port]", "scheme://host[:port][/]" ─► EgressRules ─┬─► EgressList: names, networks, ports
//!                                                                                    └─► HttpRule: the same, with the scheme
//! ```
//!
//! A socket has no scheme, so that an entry with one lets sockets to its port: what it names, or that of the scheme.

use std::{net::IpAddr, str::FromStr};

use http::Uri;
use kubewasm_host::{EgressEntry, EgressList, HttpRule};

/// All addresses.
const EVERYWHERE: [&str; 2] = ["0.0.0.0/0", "::/0"];
/// Entries of one list.
const MOST: usize = 256;

/// What is wrong with an entry, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidRule {
    #[error(
        "{0:?} is none of `*`, `host[:port]`, `*.suffix[:port]` and `scheme://host[:port][/]`; a path, a user or a query has no place in it"
    )]
    Host(String),
    #[error("{0:?} is no name that could be looked up: write a name, `*.suffix` or `*`")]
    Name(String),
    #[error("there are more than {MOST} entries")]
    TooMany,
}

/// What a component may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EgressRules {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// In lower case.
    scheme: Option<String>,
    host: Host,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Any,
    /// In lower case, without brackets.
    One(String),
    /// With the dot.
    Below(String),
}

fn port_of(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

impl FromStr for Rule {
    type Err = InvalidRule;

    fn from_str(text: &str) -> Result<Self, InvalidRule> {
        let invalid = || InvalidRule::Host(text.to_owned());
        let lower = text.trim().to_ascii_lowercase();
        let (scheme, rest) = match lower.split_once("://") {
            Some((scheme, rest)) => {
                let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                    && scheme.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-.".contains(&c));
                if !is_scheme {
                    return Err(invalid());
                }
                (Some(scheme.to_owned()), rest.strip_suffix('/').unwrap_or(rest))
            }
            None => (None, &*lower),
        };
        let (host, port) = split_port(rest).ok_or_else(invalid)?;
        let host = match host {
            "*" => Host::Any,
            host => match host.strip_prefix('*') {
                Some(suffix) if suffix.starts_with('.') => Host::Below(suffix.to_owned()),
                Some(_) => return Err(invalid()),
                None => Host::One(host.to_owned()),
            },
        };
        let rule = Self { scheme, host, port };
        // Whatever is no name and no address is found here.
        rule.entries().map(|_| rule).ok_or_else(invalid)
    }
}

/// Host, without brackets, and port.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        return match rest.strip_prefix(':') {
            Some(text) => Some((host, Some(port(text)?))),
            None => rest.is_empty().then_some((host, None)),
        };
    }
    match text.split_once(':') {
        // An address of IPv6 without brackets has no port.
        Some(_) if text.parse::<IpAddr>().is_ok() => Some((text, None)),
        Some((host, text)) => Some((host, Some(port(text)?))),
        None => Some((text, None)),
    }
}

impl Rule {
    /// The same for sockets.
    fn entries(&self) -> Option<Vec<EgressEntry>> {
        let port = self.port.or_else(|| self.scheme.as_deref().and_then(port_of));
        let suffix = port.map_or(String::new(), |port| format!(":{port}"));
        let entry = |host: &str| {
            let is_v6 = host.contains(':');
            let host = if is_v6 { format!("[{host}]") } else { host.to_owned() };
            format!("{host}{suffix}").parse::<EgressEntry>().ok()
        };
        match &self.host {
            Host::Any => EVERYWHERE.iter().map(|network| entry(network)).collect(),
            // A network is no host.
            Host::One(host) if host.contains('/') => None,
            Host::One(host) => Some(vec![entry(host)?]),
            Host::Below(suffix) => Some(vec![entry(&format!("*{suffix}"))?]),
        }
    }

    /// Whether a request is meant.
    fn is_about(&self, scheme: &str, host: &str, port: u16) -> bool {
        let wanted = self.port.or_else(|| self.scheme.as_deref().and_then(port_of));
        let is_host = match &self.host {
            Host::Any => true,
            Host::One(name) => name == host,
            Host::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        };
        is_host
            && self.scheme.as_deref().is_none_or(|wanted| wanted == scheme)
            && wanted.is_none_or(|wanted| wanted == port)
    }
}

impl EgressRules {
    pub(crate) fn parse(entries: &[String]) -> Result<Self, InvalidRule> {
        if entries.len() > MOST {
            return Err(InvalidRule::TooMany);
        }
        let rules = entries.iter().map(|entry| entry.parse()).collect::<Result<_, _>>()?;
        Ok(Self { rules })
    }

    fn allows_everything(&self) -> bool {
        self.rules.iter().any(|rule| rule.host == Host::Any && rule.scheme.is_none() && rule.port.is_none())
    }

    /// What sockets reach; `None` for everything. `look_ups` are names that may be looked up besides.
    pub(crate) fn list(&self, look_ups: &[String]) -> Result<Option<EgressList>, InvalidRule> {
        if look_ups.len() > MOST {
            return Err(InvalidRule::TooMany);
        }
        let looks_up_any = look_ups.iter().any(|name| name == "*");
        let names = look_ups.iter().filter(|name| *name != "*").map(|name| {
            // An address is its own answer.
            let is_name = name.parse::<IpAddr>().is_err() && !name.contains(['/', ':']);
            let entry = is_name.then(|| name.parse::<EgressEntry>().ok()).flatten();
            entry.ok_or_else(|| InvalidRule::Name(name.clone()))
        });
        let mut names = names.collect::<Result<Vec<_>, _>>()?;
        if self.allows_everything() {
            return Ok(None);
        }
        // Its own loopback is nobody else's to know of.
        names.extend("localhost".parse::<EgressEntry>());
        let list: EgressList = self.rules.iter().filter_map(Rule::entries).flatten().collect();
        let list = list.with_look_ups(names);
        let has_any = self.rules.iter().any(|rule| rule.host == Host::Any);
        Ok(Some(if looks_up_any || has_any { list.with_any_look_up() } else { list }))
    }
}

impl HttpRule for EgressRules {
    fn allows(&self, uri: &Uri) -> bool {
        let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else { return false };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let Some(port) = uri.port_u16().or_else(|| port_of(scheme)) else { return false };
        is_loopback(host) || self.rules.iter().any(|rule| rule.is_about(scheme, host, port))
    }
}

/// The workload's own, and the ports of this machine's that were named: sockets reach no others.
fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(entries: &[&str]) -> EgressRules {
        let entries: Vec<_> = entries.iter().map(|entry| (*entry).to_owned()).collect();
        EgressRules::parse(&entries).unwrap()
    }

    #[test]
    fn requests_are_allowed_by_host_port_and_scheme() {
        for (entries, uri, expected) in [
            (&[][..], "http://example.com/", false),
            (&["*"], "http://example.com/", true),
            (&["*"], "https://192.0.2.1:8443/", true),
            (&["example.com"], "http://example.com/a", true),
            (&["example.com"], "https://Example.COM:8443/", true),
            (&["Example.com"], "http://example.com./", true),
            (&["example.com"], "http://api.example.com/", false),
            (&["example.com"], "http://example.com.evil.org/", false),
            (&["example.com:8080"], "http://example.com:8080/", true),
            (&["example.com:8080"], "http://example.com/", false),
            (&["example.com:80"], "http://example.com/", true),
            (&["example.com:443"], "http://example.com/", false),
            (&["*.example.com"], "http://api.example.com/", true),
            (&["*.example.com"], "http://a.b.example.com/", true),
            (&["*.example.com"], "http://example.com/", false),
            (&["*.example.com"], "http://badexample.com/", false),
            (&["*.example.com:8080"], "http://a.example.com:8080/", true),
            (&["*.example.com:8080"], "http://a.example.com/", false),
            (&["https://example.com"], "https://example.com/", true),
            (&["https://example.com/"], "https://example.com/a/b", true),
            (&["https://example.com"], "http://example.com/", false),
            (&["https://example.com"], "http://example.com:443/", false),
            (&["https://example.com"], "https://example.com:8443/", false),
            (&["http://example.com:8080/"], "http://example.com:8080/", true),
            (&["http://example.com:8080"], "https://example.com:8080/", false),
            (&["https://*.example.com"], "https://a.example.com/", true),
            (&["https://*"], "https://anywhere.org/", true),
            (&["https://*"], "http://anywhere.org/", false),
            (&["192.0.2.1:8080"], "http://192.0.2.1:8080/", true),
            (&["192.0.2.1"], "http://192.0.2.2/", false),
            (&["[2001:db8::1]:8080"], "http://[2001:db8::1]:8080/", true),
            (&["2001:db8::1"], "http://[2001:db8::1]/", true),
            (&["a.org", "b.org"], "http://b.org/", true),
            (&[], "http://localhost:8080/", true),
            (&[], "http://127.0.0.1:8080/", true),
        ] {
            let uri: Uri = uri.parse().unwrap();
            assert_eq!(rules(entries).allows(&uri), expected, "{uri} by {entries:?}");
        }
        assert!(!rules(&["*"]).allows(&"/only/a/path".parse().unwrap()));
    }

    #[test]
    fn sockets_are_allowed_by_name_network_and_port() {
        for (entries, expected) in [
            (&[][..], Some(&[][..])),
            (&["*"], None),
            (&["*", "example.com"], None),
            (&["example.com"], Some(&["example.com"])),
            (&["https://example.com", "http://b.org"], Some(&["example.com:443", "b.org:80"])),
            (&["https://example.com:8443/"], Some(&["example.com:8443"])),
            (&["redis://cache"], Some(&["cache"])),
            (&["redis://cache:6379"], Some(&["cache:6379"])),
            (&["*.example.com:25"], Some(&["*.example.com:25"])),
            (&["*:443"], Some(&["0.0.0.0/0:443", "[::/0]:443"])),
            (&["192.0.2.1:53", "[2001:db8::1]:53"], Some(&["192.0.2.1/32:53", "[2001:db8::1/128]:53"])),
        ] {
            let list = rules(entries).list(&[]).unwrap();
            let shown = list.map(|list| list.entries().iter().map(ToString::to_string).collect::<Vec<_>>());
            let expected = expected.map(|entries| entries.iter().map(|entry| (*entry).to_owned()).collect());
            assert_eq!(shown, expected, "{entries:?}");
        }
    }

    #[test]
    fn what_is_no_rule_is_named() {
        for text in [
            "",
            "*.",
            "*example.com",
            "a.*.com",
            "example.com:0",
            "example.com:http",
            "example.com/path",
            "https://example.com/path",
            "https://me@example.com",
            "://example.com",
            "1a://example.com",
            "10.0.0.0/8",
            "exa mple.com",
            "[2001:db8::1",
            "[2001:db8::1]443",
        ] {
            let error = EgressRules::parse(&[text.to_owned()]).unwrap_err();
            assert_eq!(error, InvalidRule::Host(text.to_owned()), "{text}");
        }
        let look_up = |name: &str| rules(&[]).list(&[name.to_owned()]);
        for name in ["192.0.2.1", "a:80", "a b", "10.0.0.0/8"] {
            assert_eq!(look_up(name), Err(InvalidRule::Name(name.to_owned())));
        }
        assert!(look_up("*").is_ok() && look_up("*.example.com").is_ok());
        assert_eq!(EgressRules::parse(&vec!["a".to_owned(); MOST + 1]), Err(InvalidRule::TooMany));
    }
}
