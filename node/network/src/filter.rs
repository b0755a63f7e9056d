//! The rules of the packet filter, in a table of this node's own, by the program `nft`.
//!
//! What pods send to somewhere that does not know their addresses is sent on from the node's, as everywhere; and what comes
//! from a namespace with a source that is not routed there is dropped, which the kernel has a setting for with IPv4 alone.

use std::{
    io::{self, Write as _},
    process::{Command, Stdio},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::names::{OWN_V4, OWN_V6};

/// The program.
const PROGRAM: &str = "nft";
/// Where nobody sends from another address: link-local and multicast.
const NEAR_V4: [&str; 2] = ["169.254.0.0/16", "224.0.0.0/4"];
const NEAR_V6: [&str; 2] = ["fe80::/10", "ff00::/8"];

/// The whole table, in place of what it was. `links` is how the names of the node's ends of links begin, `ranges` are the
/// networks of its pods, and `known` those that know the way back to them.
pub(crate) fn ruleset(table: &str, links: &str, ranges: &[IpNet], known: &[IpNet]) -> String {
    let mut masquerade = String::new();
    for range in ranges {
        let (family, near) = match range {
            IpNet::V4(_) => ("ip", NEAR_V4),
            IpNet::V6(_) => ("ip6", NEAR_V6),
        };
        let spared = spared(range, known, near);
        masquerade.push_str(&format!(
            "    {family} saddr {} {family} daddr != {{ {spared} }} masquerade fully-random\n",
            range.trunc()
        ));
    }
    format!(
        "table inet {table}\n\
         delete table inet {table}\n\
         table inet {table} {{\n  \
           chain spoofed {{\n    \
             type filter hook prerouting priority raw; policy accept;\n    \
             iifname \"{links}*\" fib saddr . iif oif missing drop\n  \
           }}\n  \
           chain leaving {{\n    \
             type nat hook postrouting priority srcnat; policy accept;\n    \
             ip saddr {OWN_V4} masquerade fully-random\n    \
             ip6 saddr {OWN_V6} masquerade fully-random\n\
             {masquerade}  \
           }}\n\
         }}\n"
    )
}

/// Takes a table away, if it is there.
pub(crate) fn no_rules(table: &str) -> String {
    format!("table inet {table}\ndelete table inet {table}\n")
}

/// The networks of a range's family to which pods send from their own addresses. None is part of another.
fn spared(range: &IpNet, known: &[IpNet], near: [&str; 2]) -> String {
    let all = known.iter().copied().chain([*range]).chain(near.iter().filter_map(|net| net.parse().ok()));
    let (mut v4, mut v6) = (Vec::<Ipv4Net>::new(), Vec::<Ipv6Net>::new());
    for network in all {
        match network.trunc() {
            IpNet::V4(network) => v4.push(network),
            IpNet::V6(network) => v6.push(network),
        }
    }
    let texts: Vec<String> = match range {
        IpNet::V4(_) => Ipv4Net::aggregate(&v4).iter().map(ToString::to_string).collect(),
        IpNet::V6(_) => Ipv6Net::aggregate(&v6).iter().map(ToString::to_string).collect(),
    };
    texts.join(", ")
}

/// Has `nft` read rules: all of them, or none. Blocks.
///
/// # Errors
/// It is not there ([`io::ErrorKind::NotFound`]), or refuses; then the error is what it says.
pub(crate) fn apply(rules: &str) -> io::Result<()> {
    let mut command = Command::new(PROGRAM);
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that has ended without reading says why below.
        let _ = stdin.write_all(rules.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(words.lines().next().unwrap_or("it says nothing").trim().to_owned()))
}

/// Whether the program is there. Blocks.
pub(crate) fn is_there() -> bool {
    let mut command = Command::new(PROGRAM);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_table_is_replaced_as_a_whole() {
        let rules = ruleset(
            "kubewasm_1",
            "kw1x",
            &nets(&["10.244.1.0/24", "fd00:10::/64"]),
            &nets(&["10.0.0.0/8", "172.30.0.0/16"]),
        );
        assert_eq!(
            rules,
            "table inet kubewasm_1\n\
             delete table inet kubewasm_1\n\
             table inet kubewasm_1 {\n  \
               chain spoofed {\n    \
                 type filter hook prerouting priority raw; policy accept;\n    \
                 iifname \"kw1x*\" fib saddr . iif oif missing drop\n  \
               }\n  \
               chain leaving {\n    \
                 type nat hook postrouting priority srcnat; policy accept;\n    \
                 ip saddr 169.254.64.0/18 masquerade fully-random\n    \
                 ip6 saddr fd6b:7761:736d:1::/64 masquerade fully-random\n    \
                 ip saddr 10.244.1.0/24 ip daddr != { 10.0.0.0/8, 169.254.0.0/16, 172.30.0.0/16, 224.0.0.0/4 } masquerade fully-random\n    \
                 ip6 saddr fd00:10::/64 ip6 daddr != { fd00:10::/64, fe80::/10, ff00::/8 } masquerade fully-random\n  \
               }\n\
             }\n"
        );
    }

    #[test]
    fn networks_inside_others_are_named_once() {
        let range: IpNet = "10.244.1.0/24".parse().unwrap();
        let text = spared(&range, &nets(&["10.0.0.0/8", "10.96.0.0/12", "fd00::/8"]), NEAR_V4);
        assert_eq!(text, "10.0.0.0/8, 169.254.0.0/16, 224.0.0.0/4");
    }
}
