//! Makes the kernel forget what it knows of UDP at ports of the node, which it keeps for as long as somebody sends there: where
//! it went before a port led to a pod, or to a pod that is gone.
//!
//! One message of `ctnetlink`; there is no library of messages for it. Layout: `linux/netfilter/nfnetlink_conntrack.h`.

use std::{io, net::IpAddr};

use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = 0x0102;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const FLAGS: u16 = 0x0005;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const UDP: u8 = 17;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const MATCH_DESTINATION: u32 = 1 << 1;
const MATCH_PROTOCOL: u32 = 1 << 3;
const MATCH_DESTINATION_PORT: u32 = 1 << 5;
/// Length of the header of a message, and of an answer that is an error with its code.
const HEADER: usize = 16;
const ERROR: u16 = 2;
/// ENOENT: there was nothing.
const NOTHING: i32 = -2;

/// Has the kernel of this thread's namespace forget the UDP that has come to a port of the node: to one address, or, without
/// one, to any of a family.
pub(crate) fn forget_udp(node: Option<IpAddr>, v4: bool, port: u16) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&message(node, v4, port), 0)?;
    let mut answer = Vec::with_capacity(4096);
    socket.recv(&mut answer, 0)?;
    match error_in(&answer) {
        Some(0 | NOTHING) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("the kernel's answer is none")),
    }
}

fn message(node: Option<IpAddr>, v4: bool, port: u16) -> Vec<u8> {
    let protocol = [attribute(CTA_PROTO_NUM, &[UDP]), attribute(CTA_PROTO_DST_PORT, &port.to_be_bytes())];
    let mut tuple = Vec::new();
    let mut matched = MATCH_PROTOCOL | MATCH_DESTINATION_PORT;
    if let Some(node) = node {
        let address = match node {
            IpAddr::V4(ip) => attribute(CTA_IP_V4_DST, &ip.octets()),
            IpAddr::V6(ip) => attribute(CTA_IP_V6_DST, &ip.octets()),
        };
        tuple.extend(attribute(CTA_TUPLE_IP | NESTED, &address));
        matched |= MATCH_DESTINATION;
    }
    tuple.extend(attribute(CTA_TUPLE_PROTO | NESTED, &protocol.concat()));
    let filter = attribute(CTA_FILTER_ORIG_FLAGS, &matched.to_ne_bytes());
    let family = if v4 { AF_INET } else { AF_INET6 };
    // `nfgenmsg`: family, version, resource.
    let mut body = vec![family, 0, 0, 0];
    body.extend(attribute(CTA_TUPLE_ORIG | NESTED, &tuple));
    body.extend(attribute(CTA_FILTER | NESTED, &filter));
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(DELETE.to_ne_bytes());
    message.extend(FLAGS.to_ne_bytes());
    // Sequence number and sender.
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// Length, kind, value, and zeros up to the next multiple of four.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The code of an answer that is an acknowledgement (zero) or an error (negative).
fn error_in(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let code = i32::from_ne_bytes(answer.get(HEADER..HEADER + 4)?.try_into().ok()?);
    (kind == ERROR).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_the_kernel_has_them() {
        let any = message(None, true, 53);
        assert_eq!(any.len() % 4, 0);
        assert_eq!(u32::from_ne_bytes(any[..4].try_into().unwrap()) as usize, any.len());
        assert!(any.windows(2).any(|bytes| bytes == 53_u16.to_be_bytes()));
        let one = message(Some("192.0.2.1".parse().unwrap()), true, 53);
        assert!(one.windows(4).any(|bytes| bytes == [192, 0, 2, 1]) && one.len() == any.len() + 12);
    }

    #[test]
    fn answers_that_are_none_are_told_from_errors() {
        let mut answer = vec![0; 20];
        assert_eq!((error_in(&answer), error_in(&answer[..18]), error_in(&[])), (None, None, None));
        answer[4..6].copy_from_slice(&ERROR.to_ne_bytes());
        assert_eq!(error_in(&answer), Some(0));
        answer[16..20].copy_from_slice(&(-1_i32).to_ne_bytes());
        assert_eq!(error_in(&answer), Some(-1));
    }
}
