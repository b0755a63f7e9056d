//! Names that a hosts file knows. Pure.

use std::net::IpAddr;

/// The addresses of a name in the text of `/etc/hosts`, in the order of its lines. As for `getaddrinfo`, case and a final
/// dot do not matter, and every line counts that has the name.
pub(super) fn find(text: &str, name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_name = |word: &str| word.strip_suffix('.').unwrap_or(word).eq_ignore_ascii_case(name);
    let mut found = Vec::new();
    for line in text.lines() {
        let entry = line.split('#').next().unwrap_or_default();
        let mut words = entry.split_whitespace();
        let Some(address) = words.next() else { continue };
        if words.any(is_name)
            && let Ok(ip) = address.parse::<IpAddr>()
            && !found.contains(&ip)
        {
            found.push(ip);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: &str = "# Kubernetes-managed hosts file.\n\
        127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\n\
        10.244.1.7\tweb-0.db.ns.svc.cluster.local\tweb-0\n\
        \n\
        # Entries added by HostAliases.\n\
        10.9.9.9\tone\tTwo.example # three\n\
        10.9.9.8 one\n\
        10.9.9.9 one\n\
        not-an-address four\n\
        fe80::1%eth0 five\n\
        192.0.2.1\n";

    #[test]
    fn names_of_a_hosts_file() {
        for (name, expected) in [
            ("localhost", &["127.0.0.1", "::1"][..]),
            ("LOCALHOST.", &["127.0.0.1", "::1"]),
            ("web-0", &["10.244.1.7"]),
            ("web-0.db.ns.svc.cluster.local", &["10.244.1.7"]),
            ("one", &["10.9.9.9", "10.9.9.8"]),
            ("two.EXAMPLE", &["10.9.9.9"]),
            ("three", &[]),
            ("four", &[]),
            ("five", &[]),
            ("192.0.2.1", &[]),
            ("10.9.9.9", &[]),
            ("", &[]),
        ] {
            let expected: Vec<IpAddr> = expected.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(find(HOSTS, name), expected, "{name}");
        }
    }
}
