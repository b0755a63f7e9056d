//! A pod's `/etc/resolv.conf`, after upstream's `pkg/kubelet/network/dns`.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    net::IpAddr,
    path::Path,
};

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig};

use crate::pods::{lifecycle::Note, reason::EventReason};

/// What resolvers of C libraries take; upstream's limits.
const SERVERS: usize = 3;
const SEARCHES: usize = 32;
const SEARCH_BYTES: usize = 2048;
const NAME_BYTES: usize = 253;

/// Bytes of the node's file that are read at most; upstream's number.
const FILE_BYTES: u64 = 10 << 20;

/// What a `resolv.conf` says. Its `Display` is the text of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of servers.
    pub servers: Vec<String>,
    /// Domains that short names are tried in.
    pub searches: Vec<String>,
    /// `name` or `name:value`.
    pub options: Vec<String>,
}

impl fmt::Display for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.searches.is_empty() {
            writeln!(f, "search {}", self.searches.join(" "))?;
        }
        for server in &self.servers {
            writeln!(f, "nameserver {server}")?;
        }
        if !self.options.is_empty() {
            writeln!(f, "options {}", self.options.join(" "))?;
        }
        Ok(())
    }
}

/// Reads the node's own file; the empty path is a node that resolves no names. A file that is not there
/// says nothing.
///
/// # Errors
/// The message for the user.
pub(in crate::pods) fn read(path: &Path) -> Result<Dns, String> {
    if path.as_os_str().is_empty() {
        return Ok(Dns {
            servers: vec!["127.0.0.1".to_owned()],
            searches: vec![".".to_owned()],
            ..Dns::default()
        });
    }
    let text = || {
        let mut text = Vec::new();
        File::open(path)?.take(FILE_BYTES).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    match text() {
        Ok(text) => Ok(Dns::parse(&text)),
        Err(error) if io::Error::kind(&error) == io::ErrorKind::NotFound => Ok(Dns::default()),
        Err(error) => Err(format!("cannot read {}: {error}", path.display())),
    }
}

/// How names are resolved on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsSettings {
    /// `clusterDNS`.
    pub cluster_dns: Vec<IpAddr>,
    /// `clusterDomain`; empty when there is none.
    pub cluster_domain: String,
    /// There is no cluster: nobody misses its servers.
    pub alone: bool,
}

impl Dns {
    /// Reads a `resolv.conf`. What it does not know is left out, as upstream does.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut dns = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
                // The last one counts.
                Some("search") => {
                    let kept = words.filter(|word| *word != ".");
                    dns.searches =
                        kept.map(|word| word.strip_suffix('.').unwrap_or(word).to_owned()).collect();
                }
                Some("options") => words.for_each(|word| set_option(&mut dns.options, word.to_owned())),
                _ => {}
            }
        }
        dns
    }

    /// What a pod's file says, and what there is to tell about it. `node` is the node's own file.
    #[must_use]
    pub fn of(pod: &Pod, settings: &DnsSettings, node: &Self) -> (Self, Vec<Note>) {
        let mut notes = Vec::new();
        let spec = pod.spec.as_ref();
        let host_network = spec.and_then(|s| s.host_network) == Some(true);
        let policy = spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst");
        let of_cluster = match policy {
            "Default" => false,
            "ClusterFirst" => !host_network,
            _ => true,
        };
        let mut dns = match policy {
            "None" => Self::default(),
            _ if of_cluster && !settings.cluster_dns.is_empty() => Self {
                servers: settings.cluster_dns.iter().map(ToString::to_string).collect(),
                searches: cluster_searches(pod, settings, node),
                options: vec!["ndots:5".to_owned()],
            },
            _ => {
                if of_cluster && !settings.alone {
                    notes.push(missing_cluster_dns(pod));
                }
                node.clone()
            }
        };
        if let Some(config) = spec.and_then(|s| s.dns_config.as_ref()) {
            dns.merge(config);
        }
        notes.extend(dns.cut());
        (dns, notes)
    }

    fn merge(&mut self, config: &PodDNSConfig) {
        self.servers.extend(config.nameservers.iter().flatten().cloned());
        self.searches.extend(config.searches.iter().flatten().cloned());
        without_duplicates(&mut self.servers);
        without_duplicates(&mut self.searches);
        for option in config.options.iter().flatten() {
            let Some(name) = option.name.clone() else { continue };
            let text = match option.value.as_deref().filter(|value| !value.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name,
            };
            set_option(&mut self.options, text);
        }
    }

    /// Cuts what is more than resolvers take, and tells of it.
    fn cut(&mut self) -> Vec<Note> {
        let mut notes = Vec::new();
        let note =
            |message| Note { container: None, warning: true, reason: EventReason::DNSConfigForming, message };
        if self.servers.len() > SERVERS {
            self.servers.truncate(SERVERS);
            notes.push(note(format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
                self.servers.join(" ")
            )));
        }
        let before = self.searches.len();
        self.searches.truncate(SEARCHES);
        self.searches.retain(|search| search.len() <= NAME_BYTES);
        while self.searches.join(" ").len() > SEARCH_BYTES {
            self.searches.pop();
        }
        if self.searches.len() < before {
            notes.push(note(format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
                self.searches.join(" ")
            )));
        }
        notes
    }
}

fn cluster_searches(pod: &Pod, settings: &DnsSettings, node: &Dns) -> Vec<String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut searches = match settings.cluster_domain.as_str() {
        "" => Vec::new(),
        domain => vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()],
    };
    searches.extend(node.searches.iter().filter(|search| *search != ".").cloned());
    without_duplicates(&mut searches);
    searches
}

fn missing_cluster_dns(pod: &Pod) -> Note {
    let meta = &pod.metadata;
    let [name, namespace, uid] =
        [&meta.name, &meta.namespace, &meta.uid].map(|text| text.as_deref().unwrap_or_default());
    let message = format!(
        "pod: \"{name}_{namespace}({uid})\". kubelet does not have ClusterDNS IP configured and cannot create Pod using \
         \"ClusterFirst\" policy. Falling back to \"Default\" policy."
    );
    Note { container: None, warning: true, reason: EventReason::MissingClusterDNS, message }
}

/// Sets an option; one of its name that is there already is replaced in its place.
fn set_option(options: &mut Vec<String>, option: String) {
    fn name(option: &str) -> &str {
        option.split(':').next().unwrap_or_default()
    }
    match options.iter_mut().find(|present| name(present) == name(&option)) {
        Some(present) => *present = option,
        None => options.push(option),
    }
}

fn without_duplicates(texts: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    texts.retain(|text| seen.insert(text.clone()));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(mut spec: Value) -> Pod {
        spec["containers"] = json!([]);
        serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec}),
        )
        .unwrap()
    }

    fn node() -> Dns {
        Dns::parse(
            "# ours\nnameserver 192.0.2.1\nnameserver\nsearch old.example\nsearch corp.example. .\n\
             options timeout:1 rotate\noptions timeout:2\nsortlist x\n",
        )
    }

    fn settings() -> DnsSettings {
        DnsSettings {
            cluster_dns: vec!["10.0.0.10".parse().unwrap()],
            cluster_domain: "cluster.local".to_owned(),
            alone: false,
        }
    }

    #[test]
    fn the_nodes_file() {
        assert_eq!(
            node().to_string(),
            "search corp.example\nnameserver 192.0.2.1\noptions timeout:2 rotate\n"
        );
        assert_eq!(Dns::parse("").to_string(), "");
    }

    #[test]
    fn every_policy() {
        let cluster = "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
                       nameserver 10.0.0.10\noptions ndots:5\n";
        let host = "search corp.example\nnameserver 192.0.2.1\noptions timeout:2 rotate\n";
        let own = json!({
            "nameservers": ["192.0.2.9"], "searches": ["mine.example"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
        });
        let table = [
            (json!({}), cluster.to_owned()),
            (json!({"dnsPolicy": "ClusterFirst"}), cluster.to_owned()),
            (json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), host.to_owned()),
            (json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), cluster.to_owned()),
            (json!({"dnsPolicy": "Default"}), host.to_owned()),
            (
                json!({"dnsPolicy": "None", "dnsConfig": own.clone()}),
                "search mine.example\nnameserver 192.0.2.9\noptions ndots:2 edns0\n".to_owned(),
            ),
            (
                json!({"dnsPolicy": "ClusterFirst", "dnsConfig": own}),
                "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example mine.example\n\
                 nameserver 10.0.0.10\nnameserver 192.0.2.9\noptions ndots:2 edns0\n"
                    .to_owned(),
            ),
        ];
        for (spec, expected) in table {
            let (dns, notes) = Dns::of(&pod(spec.clone()), &settings(), &node());
            assert_eq!(dns.to_string(), expected, "{spec}");
            assert_eq!(notes, [], "{spec}");
        }
    }

    #[test]
    fn without_servers_of_the_cluster() {
        let none = DnsSettings { cluster_dns: Vec::new(), ..settings() };
        let (dns, notes) = Dns::of(&pod(json!({})), &none, &node());
        assert_eq!(dns, node());
        let [note] = notes.as_slice() else { panic!("{notes:?}") };
        assert_eq!(note.reason, EventReason::MissingClusterDNS);
        assert!(note.message.starts_with("pod: \"p_ns(u)\". kubelet does not have"), "{}", note.message);
        let alone = DnsSettings { alone: true, ..none.clone() };
        assert_eq!(Dns::of(&pod(json!({})), &alone, &node()).1, []);
        assert_eq!(Dns::of(&pod(json!({"dnsPolicy": "Default"})), &none, &node()).1, []);
    }

    #[test]
    fn limits_are_kept_and_told() {
        let servers: Vec<_> = (1..6).map(|n| format!("192.0.2.{n}")).collect();
        let searches: Vec<_> = (0..40).map(|n| format!("s{n}.example")).collect();
        let config =
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": servers, "searches": searches}});
        let (dns, notes) = Dns::of(&pod(config), &settings(), &node());
        assert_eq!((dns.servers.len(), dns.searches.len()), (3, 32));
        let texts: Vec<_> = notes.iter().map(|n| n.message.split(',').next().unwrap()).collect();
        assert_eq!(texts, ["Nameserver limits were exceeded", "Search Line limits were exceeded"]);

        let long: Vec<_> = (0..20).map(|n| format!("{n}{}", "x".repeat(200))).collect();
        let config =
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"], "searches": long}});
        let (dns, notes) = Dns::of(&pod(config), &settings(), &node());
        assert!(dns.searches.join(" ").len() <= 2048 && dns.searches.len() == 10, "{}", dns.searches.len());
        assert_eq!(notes.len(), 1);

        let config = json!({"dnsPolicy": "None", "dnsConfig": {"searches": ["y".repeat(254), "ok.example".to_owned()]}});
        assert_eq!(Dns::of(&pod(config), &settings(), &node()).0.searches, ["ok.example"]);
    }
}
