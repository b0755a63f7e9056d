//! Which addresses a pod has.
//!
//! A pod's addresses are decided when its task begins, and kept in its record
//! ([`State::addresses`](super::lifecycle::State::addresses)). All readers take them from there: the status, the
//! variables of containers, `/etc/hosts`, probes and hooks, and the provider.

use std::net::IpAddr;

/// The addresses of a pod, the primary first. Pods share those of their node: the `recorded` ones stay for as
/// long as the node still has all of them, and a pod that has none, or lost one, takes the node's.
#[must_use]
pub(super) fn decide(recorded: &[IpAddr], node: &[IpAddr]) -> Vec<IpAddr> {
    let kept = !recorded.is_empty() && recorded.iter().all(|ip| node.contains(ip));
    if kept { recorded.to_vec() } else { node.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stay_while_the_node_has_them() {
        for (recorded, node, expected) in [
            ("", "", ""),
            ("", "10.0.0.1 fd00::1", "10.0.0.1 fd00::1"),
            ("10.0.0.1", "10.0.0.2 10.0.0.1", "10.0.0.1"),
            ("10.0.0.1 fd00::1", "fd00::1 10.0.0.1", "10.0.0.1 fd00::1"),
            ("10.0.0.1 fd00::1", "10.0.0.1", "10.0.0.1"),
            ("10.0.0.1", "10.0.0.2", "10.0.0.2"),
        ] {
            let ips = |text: &str| -> Vec<IpAddr> {
                text.split_whitespace().map(|ip| ip.parse().unwrap()).collect()
            };
            assert_eq!(decide(&ips(recorded), &ips(node)), ips(expected), "{recorded:?} on {node:?}");
        }
    }
}
