//! The text of `/etc/hosts`, after upstream's `managedHostsFileContent` and `nodeHostsFileContent`.

use std::{fmt::Write as _, net::IpAddr};

use k8s_openapi::api::core::v1::HostAlias;

use super::names::Names;

const HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HOST_NETWORK_HEADER: &str = "# Kubernetes-managed hosts file (host network).\n";
const LOCAL: &str = "127.0.0.1\tlocalhost\n\
                     ::1\tlocalhost ip6-localhost ip6-loopback\n\
                     fe00::0\tip6-localnet\n\
                     fe00::0\tip6-mcastprefix\n\
                     fe00::1\tip6-allnodes\n\
                     fe00::2\tip6-allrouters\n";

/// For a pod with addresses of its own.
pub(super) fn of_pod(ips: &[IpAddr], names: &Names, aliases: &[HostAlias]) -> String {
    let mut text = format!("{HEADER}{LOCAL}");
    let Names { hostname, domain } = names;
    for ip in ips {
        // Writing to a String does not fail.
        let _ = match domain {
            Some(domain) => writeln!(text, "{ip}\t{hostname}.{domain}\t{hostname}"),
            None => writeln!(text, "{ip}\t{hostname}"),
        };
    }
    text.push_str(&entries(aliases));
    text
}

/// For a pod that shares the network of its node, whose own file is `node`.
pub(super) fn of_node(node: &str, aliases: &[HostAlias]) -> String {
    format!("{HOST_NETWORK_HEADER}{node}{}", entries(aliases))
}

fn entries(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let lines = aliases.iter().map(|alias| {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        format!("{}\t{names}\n", alias.ip)
    });
    format!("\n# Entries added by HostAliases.\n{}", lines.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aliases() -> Vec<HostAlias> {
        serde_json::from_value(serde_json::json!([
            {"ip": "10.9.9.9", "hostnames": ["one", "two.example"]},
            {"ip": "fd00::9", "hostnames": ["six"]},
        ]))
        .unwrap()
    }

    #[test]
    fn a_pod_of_its_own() {
        let ips: Vec<IpAddr> = ["10.1.0.7", "fd00::7"].map(|ip| ip.parse().unwrap()).into();
        let bare = Names { hostname: "web-0".to_owned(), domain: None };
        assert_eq!(
            of_pod(&ips, &bare, &[]),
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n\
             10.1.0.7\tweb-0\nfd00::7\tweb-0\n"
        );
        let named = Names { domain: Some("db.ns.svc.cluster.local".to_owned()), ..bare };
        let text = of_pod(&ips, &named, &aliases());
        let expected = "10.1.0.7\tweb-0.db.ns.svc.cluster.local\tweb-0\n\
                        fd00::7\tweb-0.db.ns.svc.cluster.local\tweb-0\n\
                        \n# Entries added by HostAliases.\n10.9.9.9\tone\ttwo.example\nfd00::9\tsix\n";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn a_pod_in_the_nodes_network() {
        assert_eq!(
            of_node("127.0.0.1 localhost\n", &aliases()),
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n\
             \n# Entries added by HostAliases.\n10.9.9.9\tone\ttwo.example\nfd00::9\tsix\n"
        );
        assert_eq!(of_node("", &[]), "# Kubernetes-managed hosts file (host network).\n");
    }
}
