//! Settings of the kernel for a network namespace: that of the thread that writes them.

use std::{fs, io, path::Path};

use crate::error::NetworkError;

const ROOT: &str = "/proc/sys/net";

/// Settings inside a worker's namespace, before its link is up.
pub(crate) const INSIDE: [(&str, &str); 11] = [
    // What one pod sends to another of the same namespace comes back in by the link.
    ("ipv4/conf/eth0/accept_local", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/eth0/rp_filter", "0"),
    ("ipv4/conf/eth0/accept_redirects", "0"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/ip_forward", "0"),
    // Workers have no capability for it.
    ("ipv4/ip_unprivileged_port_start", "0"),
    // A route makes an address of IPv6 local, but not one to bind to.
    ("ipv6/ip_nonlocal_bind", "1"),
    ("ipv6/conf/eth0/accept_ra", "0"),
    ("ipv6/conf/eth0/accept_redirects", "0"),
    ("ipv6/conf/eth0/addr_gen_mode", "1"),
];

/// Settings inside a namespace that others lay the network of, for a pod that has it to itself.
pub(crate) const ALONE: [(&str, &str); 1] = [
    // Workers have no capability for it.
    ("ipv4/ip_unprivileged_port_start", "0"),
];

/// Settings of the node's end of a link, before it is up.
pub(crate) fn outside(link: &str) -> Vec<(String, &'static str)> {
    let settings = [
        ("ipv4", "forwarding", "1"),
        // Sources that are not routed to this link are dropped.
        ("ipv4", "rp_filter", "1"),
        ("ipv4", "send_redirects", "0"),
        ("ipv4", "accept_redirects", "0"),
        ("ipv4", "accept_local", "0"),
        ("ipv6", "forwarding", "1"),
        ("ipv6", "accept_ra", "0"),
        ("ipv6", "accept_redirects", "0"),
        ("ipv6", "addr_gen_mode", "1"),
    ];
    settings.iter().map(|(family, name, value)| (format!("{family}/conf/{link}/{name}"), *value)).collect()
}

/// Whether the node's loopback and what is behind a link may exchange packets: for what a port of the node's loopback leads
/// to. The packet filter then sees to it that nothing but answers comes in that way.
pub(crate) fn loopback_beyond(link: &str, allowed: bool) -> (String, &'static str) {
    (format!("ipv4/conf/{link}/route_localnet"), if allowed { "1" } else { "0" })
}

/// Writes a setting, where it is not so already. Those of IPv6 are missing where the kernel has none.
pub(crate) fn set(name: &str, value: &'static str) -> Result<(), NetworkError> {
    let path = Path::new(ROOT).join(name);
    let write = || match fs::read_to_string(&path) {
        Ok(present) if present.trim() == value => Ok(()),
        Ok(_) => fs::write(&path, value),
        Err(error) if error.kind() == io::ErrorKind::NotFound && name.starts_with("ipv6/") => Ok(()),
        Err(error) => Err(error),
    };
    write().map_err(|source| NetworkError::Sysctl { path: path.display().to_string(), value, source })
}
