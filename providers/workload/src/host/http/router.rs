//! Which component answers a request.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{HeaderMap, Uri, header, uri::Authority};
use kubewasm_host::http::HttpHandler;

use crate::{host_interface::InterfaceError, resolved::HttpExport, wit::WitInterface};

/// Any host that nobody else has.
const ANY: &str = "*";
const HOST: &str = "host";
const ALIASES: &str = "host-aliases";

/// Finds handlers by the header Host, in the table of those that there are now. Clones are the same table.
#[derive(Clone, Default)]
pub struct DynamicRouter(Arc<RwLock<Table<Arc<HttpHandler>>>>);

impl fmt::Debug for DynamicRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_list().entries(table.hosts.keys()).finish()
    }
}

/// There is nobody to answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoute {
    /// It does not say whom it is for.
    NoHost,
    /// It is for nobody who is here.
    Unknown,
}

/// Who has which host. What is replaced in it is so in one step: a request finds the one or the other.
struct Table<H> {
    /// In lower case and without a port. Of each, the workloads that have it, with their handlers.
    hosts: HashMap<String, Vec<(String, H)>>,
    next: AtomicUsize,
}

impl<H> Default for Table<H> {
    fn default() -> Self {
        Self { hosts: HashMap::new(), next: AtomicUsize::new(0) }
    }
}

impl<H: Clone> Table<H> {
    fn set(&mut self, workload: &str, hosts: &[String], handlers: &[H]) {
        self.remove(workload);
        for host in hosts {
            let of_host = self.hosts.entry(host.clone()).or_default();
            of_host.extend(handlers.iter().map(|handler| (workload.to_owned(), handler.clone())));
        }
        self.hosts.retain(|_, handlers| !handlers.is_empty());
    }

    fn remove(&mut self, workload: &str) {
        for handlers in self.hosts.values_mut() {
            handlers.retain(|(of, _)| of != workload);
        }
        self.hosts.retain(|_, handlers| !handlers.is_empty());
    }

    /// The next of those who have a host, or any.
    fn find(&self, host: &str) -> Option<&H> {
        let handlers = self.hosts.get(host).or_else(|| self.hosts.get(ANY))?;
        let at = self.next.fetch_add(1, Ordering::Relaxed) % handlers.len().max(1);
        handlers.get(at).map(|(_, handler)| handler)
    }
}

impl DynamicRouter {
    /// Gives a workload these hosts, and no others that it had.
    pub(super) fn set(&self, workload: &str, mut hosts: Vec<String>, exports: &[HttpExport]) {
        if hosts.is_empty() {
            hosts.push(ANY.to_owned());
        }
        hosts.sort_unstable();
        hosts.dedup();
        let handlers: Vec<_> = exports.iter().map(|export| Arc::clone(&export.handler)).collect();
        self.0.write().unwrap_or_else(PoisonError::into_inner).set(workload, &hosts, &handlers);
    }

    pub(super) fn remove(&self, workload: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(workload);
    }

    /// Who answers a request.
    pub(super) fn find(&self, uri: &Uri, headers: &HeaderMap) -> Result<Arc<HttpHandler>, NoRoute> {
        let host = host_of(uri, headers).ok_or(NoRoute::NoHost)?;
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table.find(&host).map(Arc::clone).ok_or(NoRoute::Unknown)
    }
}

/// Whom a request is for: its target where that says it (HTTP/2, and an absolute target of HTTP/1.1; RFC 9112, 3.2.2), or its one
/// header Host.
fn host_of(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    if let Some(authority) = uri.authority() {
        return name_of(authority);
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return None };
    name_of(&host.to_str().ok()?.parse().ok()?)
}

fn name_of(authority: &Authority) -> Option<String> {
    let host = authority.host();
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

/// The hosts that an entry of a workload names.
pub(super) fn hosts(interface: &WitInterface) -> Result<Vec<String>, InterfaceError> {
    let named = |key: &str| {
        let values = interface.config.get(key).map_or("", String::as_str).split(',').map(str::trim);
        let values = values.filter(|value| !value.is_empty()).map(|value| match value {
            ANY => Ok(ANY.to_owned()),
            value => value.parse::<Authority>().ok().and_then(|host| name_of(&host)).ok_or_else(|| {
                InterfaceError::Setting {
                    key: key.to_owned(),
                    reason: format!("{value:?} is no host: write a name such as example.com, or *"),
                }
            }),
        });
        values.collect::<Result<Vec<_>, _>>()
    };
    let mut hosts = named(HOST)?;
    if hosts.is_empty() {
        hosts.push(ANY.to_owned());
    }
    hosts.extend(named(ALIASES)?);
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(&str, &[&str], &[u8])]) -> Table<u8> {
        let mut table = Table::default();
        for (workload, hosts, handlers) in entries {
            let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
            table.set(workload, &hosts, handlers);
        }
        table
    }

    #[test]
    fn the_host_decides_and_any_is_for_what_is_left() {
        let table = table(&[("a", &["a.org", "alias.org"], &[1]), ("b", &["*"], &[2])]);
        for (host, expected) in [("a.org", 1), ("alias.org", 1), ("c.org", 2)] {
            assert_eq!(table.find(host), Some(&expected), "{host}");
        }
    }

    #[test]
    fn who_shares_a_host_is_asked_in_turns() {
        let table = table(&[("a", &["a.org"], &[1, 2]), ("b", &["a.org"], &[3])]);
        let mut found: Vec<_> = (0..3).filter_map(|_| table.find("a.org")).collect();
        found.sort_unstable();
        assert_eq!(found, [&1, &2, &3]);
    }

    #[test]
    fn what_is_removed_is_found_no_more() {
        let mut table = table(&[("a", &["a.org", "alias.org"], &[1]), ("b", &["a.org"], &[2])]);
        table.remove("a");
        assert_eq!((table.find("a.org"), table.find("alias.org")), (Some(&2), None));
        table.set("b", &["b.org".to_owned()], &[3]);
        assert_eq!((table.find("a.org"), table.find("b.org")), (None, Some(&3)));
        assert_eq!(table.hosts.len(), 1, "nothing is left of those that had nobody");
    }

    #[test]
    fn hosts_are_read_from_requests() {
        for (uri, headers, expected) in [
            ("/", &["Example.com:8080"][..], Some("example.com")),
            ("/", &["example.com."], Some("example.com")),
            ("/", &["[2001:db8::1]:80"], Some("[2001:db8::1]")),
            ("http://b.org/", &["a.org"], Some("b.org")),
            ("/", &[], None),
            ("/", &[""], None),
            ("/", &["a.org", "b.org"], None),
            ("/", &["a b"], None),
        ] {
            let mut map = HeaderMap::new();
            for value in headers {
                map.append(header::HOST, value.parse().unwrap());
            }
            assert_eq!(host_of(&uri.parse().unwrap(), &map).as_deref(), expected, "{uri} {headers:?}");
        }
    }

    #[test]
    fn hosts_are_read_from_settings() {
        for (config, expected) in [
            (&[][..], Some(&["*"][..])),
            (&[("host", "Foo.org:8080")], Some(&["foo.org"])),
            (&[("host", "a"), ("host-aliases", "b, c ,")], Some(&["a", "b", "c"])),
            (&[("host-aliases", "b")], Some(&["*", "b"])),
            (&[("host", "a b")], None),
        ] {
            let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let interface = WitInterface { config, ..WitInterface::default() };
            let found = hosts(&interface).ok();
            let expected = expected.map(|hosts| hosts.iter().map(|host| (*host).to_owned()).collect());
            assert_eq!(found, expected, "{:?}", interface.config);
        }
    }
}
