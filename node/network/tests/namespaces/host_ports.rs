//! Ports of the node that lead to pods.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
};

use futures::TryStreamExt as _;
use kubewasm_network::{HostPort, LivingWorker, Namespace, PodNetwork, Protocol};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::{NODE, Pods, WAIT, connect_from, ip, netlink_in, on_node, outside, pods, worker};

const NODE_OUTSIDE: &str = "203.0.113.1";
const FAR: &str = "203.0.113.2";
const PORT: u16 = 8080;
const POD_PORT: u16 = 80;

fn leading(node: Option<&str>, protocol: Protocol, pod: &str) -> HostPort {
    HostPort { node: node.map(ip), port: PORT, protocol, pod: ip(pod), pod_port: POD_PORT }
}

/// Who connects: from a namespace, or from the node, and from this address where it matters.
type Client<'a> = (Option<&'a Namespace>, Option<&'a str>);

/// Who a server in a namespace sees, when somebody connects to a port of the node.
fn comes(server: &Namespace, pod: &str, (from, address): Client<'_>, to: SocketAddr) -> io::Result<IpAddr> {
    let listener = server.run(|| TcpListener::bind((ip(pod), POD_PORT)))?;
    set_socket_timeout(&listener, Timeout::Recv, Some(WAIT))?;
    let connect = || connect_from(address.map(ip), to);
    let mut client = from.map_or_else(connect, |namespace| namespace.run(connect))?;
    let (mut accepted, peer) = listener.accept()?;
    client.write_all(b"x")?;
    accepted.read_exact(&mut [0])?;
    Ok(peer.ip())
}

fn is_refused(result: io::Result<IpAddr>) -> bool {
    result.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn at(address: &str) -> SocketAddr {
    SocketAddr::new(ip(address), PORT)
}

async fn has_filter() -> bool {
    let has = PodNetwork::has_filter().await;
    if !has {
        eprintln!("skipped: there is no nft here");
    }
    has
}

#[test]
fn a_port_of_the_node_leads_to_a_pod() {
    on_node(|| async {
        if !has_filter().await {
            return;
        }
        let Pods { network, a, b, .. } = pods().await;
        let outside = outside().await;
        let two = "10.244.1.2";
        assert!(is_refused(comes(&a, two, (Some(&outside), None), at(NODE_OUTSIDE))));
        let ports = [leading(None, Protocol::Tcp, two), leading(None, Protocol::Tcp, "fd00:10::2")];
        network.set_host_ports(&ports).await.unwrap();
        for (client, to, expected) in [
            ((Some(&outside), None), NODE_OUTSIDE, FAR),
            ((None, None), NODE_OUTSIDE, NODE_OUTSIDE),
            ((Some(&*b), Some("10.244.1.4")), NODE_OUTSIDE, "10.244.1.4"),
            ((Some(&*a), Some("10.244.1.3")), NODE_OUTSIDE, "10.244.1.3"),
            ((Some(&*a), Some(two)), NODE_OUTSIDE, two),
        ] {
            assert_eq!(comes(&a, two, client, at(to)).unwrap(), ip(expected), "from {:?}", client.1);
        }
        // Seen from some address of the node: those of its loopback are nobody else's.
        let near = comes(&a, two, (None, None), at("127.0.0.1")).unwrap();
        assert!(!near.is_loopback(), "{near}");
        let six = comes(&a, "fd00:10::2", (None, None), at("2001:db8::1")).unwrap();
        assert_eq!(six, ip("2001:db8::1"));
        network.set_host_ports(&[]).await.unwrap();
        assert!(
            is_refused(comes(&a, two, (Some(&outside), None), at(NODE_OUTSIDE))),
            "it leads nowhere again"
        );
    });
}

#[test]
fn a_port_at_one_address_is_at_no_other() {
    on_node(|| async {
        if !has_filter().await {
            return;
        }
        let Pods { network, a, .. } = pods().await;
        let outside = outside().await;
        network.set_host_ports(&[leading(Some("127.0.0.1"), Protocol::Tcp, "10.244.1.2")]).await.unwrap();
        assert!(comes(&a, "10.244.1.2", (None, None), at("127.0.0.1")).is_ok());
        assert!(is_refused(comes(&a, "10.244.1.2", (Some(&outside), None), at(NODE_OUTSIDE))));
    });
}

/// While ports of the loopback lead to pods, nothing but answers comes from pods to the loopback: not from a namespace, either,
/// in which somebody has made himself master.
#[test]
fn the_nodes_loopback_stays_out_of_reach() {
    on_node(|| async {
        if !has_filter().await {
            return;
        }
        let Pods { network, a, .. } = pods().await;
        network.set_host_ports(&[leading(None, Protocol::Udp, "10.244.1.2")]).await.unwrap();
        let rules = netlink_in(&a);
        let listed: Vec<_> =
            rules.rule().get(rtnetlink::IpVersion::V4).execute().try_collect().await.unwrap();
        let stays_inside = |rule: &RuleMessage| {
            rule.attributes
                .iter()
                .any(|one| matches!(one, RuleAttribute::Destination(to) if to.is_loopback()))
        };
        let inside = listed.into_iter().find(stays_inside).unwrap();
        rules.rule().del(inside).execute().await.unwrap();

        let secret = UdpSocket::bind("127.0.0.1:0").unwrap();
        secret.set_read_timeout(Some(WAIT)).unwrap();
        let to = secret.local_addr().unwrap();
        let pod = a.run(|| UdpSocket::bind((ip("10.244.1.2"), 0))).unwrap();
        pod.send_to(b"from a pod", to).unwrap();
        // It comes later: when it is there, the other is not.
        let node = UdpSocket::bind("127.0.0.1:0").unwrap();
        node.send_to(b"from the node", to).unwrap();
        let mut buffer = [0; 32];
        let (size, _) = secret.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..size], b"from the node");
    });
}

/// Whoever goes on sending from one port is led to the pod that has the port now, not to the one that had it.
#[test]
fn datagrams_follow_a_port_to_its_next_pod() {
    on_node(|| async {
        if !has_filter().await {
            return;
        }
        let Pods { network, a, b, .. } = pods().await;
        let outside = outside().await;
        let servers = [(&a, "10.244.1.2"), (&b, "10.244.1.4")].map(|(namespace, pod)| {
            let server = namespace.run(|| UdpSocket::bind((ip(pod), POD_PORT))).unwrap();
            server.set_read_timeout(Some(WAIT)).unwrap();
            (pod, server)
        });
        let node = UdpSocket::bind((ip(NODE_OUTSIDE), PORT)).unwrap();
        node.set_read_timeout(Some(WAIT)).unwrap();
        let client = outside.run(|| UdpSocket::bind((ip(FAR), 0))).unwrap();
        client.set_read_timeout(Some(WAIT)).unwrap();
        client.send_to(b"x", at(NODE_OUTSIDE)).unwrap();
        node.recv_from(&mut [0]).unwrap();
        for (pod, server) in &servers {
            network.set_host_ports(&[leading(None, Protocol::Udp, pod)]).await.unwrap();
            client.send_to(b"x", at(NODE_OUTSIDE)).unwrap();
            let (_, from) = server.recv_from(&mut [0]).unwrap();
            assert_eq!(from, client.local_addr().unwrap());
            server.send_to(b"y", from).unwrap();
            assert_eq!(client.recv_from(&mut [0]).unwrap().1, at(NODE_OUTSIDE));
        }
        network.set_host_ports(&[]).await.unwrap();
        client.send_to(b"x", at(NODE_OUTSIDE)).unwrap();
        node.recv_from(&mut [0]).unwrap();
    });
}

/// An agent that comes back finds the ports as they were, and changes them when it has been told of all.
#[test]
fn ports_outlive_the_agent() {
    on_node(|| async {
        if !has_filter().await {
            return;
        }
        let Pods { network, a, node, b } = pods().await;
        let outside = outside().await;
        let ports = [leading(None, Protocol::Tcp, "10.244.1.4")];
        network.set_host_ports(&ports).await.unwrap();
        let mut worker = worker(&b);
        drop((network, a, node));
        let living =
            LivingWorker { domain: "net-b".to_owned(), group: "net-b.1".to_owned(), pid: worker.id() };
        let (network, _) = PodNetwork::open(NODE, vec![living]).await.unwrap();
        network.set_ranges(&["10.244.1.0/24".parse().unwrap()], &[]).await.unwrap();
        let reached = || comes(&b, "10.244.1.4", (Some(&outside), None), at(NODE_OUTSIDE));
        assert_eq!(reached().unwrap(), ip(FAR));
        network.set_host_ports(&ports).await.unwrap();
        assert_eq!(reached().unwrap(), ip(FAR));
        network.set_host_ports(&[]).await.unwrap();
        assert!(is_refused(reached()));
        worker.kill().unwrap();
        worker.wait().unwrap();
    });
}
