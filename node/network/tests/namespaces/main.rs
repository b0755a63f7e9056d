//! The network of pods in real network namespaces. Each test is a node of its own: a thread in a new namespace, and
//! everything that it starts. Without the rights to make namespaces, each says so and does nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod host_ports;

use std::{
    collections::HashSet,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use futures::TryStreamExt as _;
use kubewasm_network::{LivingWorker, Loopback, Namespace, NetworkError, PodNetwork};
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rustix::net::{
    AddressFamily, SocketType, bind, connect, socket,
    sockopt::{Timeout, set_socket_timeout},
};

const NODE: &str = "/var/lib/kubewasm-test";
const NODE_IP: &str = "192.0.2.1";
const WAIT: Duration = Duration::from_secs(20);

/// Runs a test on a node of its own.
fn on_node<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send) {
    let node = match Namespace::create() {
        Ok(node) => node,
        Err(error) => {
            eprintln!("skipped: no network namespace can be made here: {error}");
            return;
        }
    };
    let run = || {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        tokio.block_on(async {
            have_address().await;
            if let Err(error) = PodNetwork::check(NODE).await {
                eprintln!("skipped: {error}");
                return;
            }
            test().await;
        });
        Ok(())
    };
    node.run(run).unwrap();
}

/// Gives the node an address, as every node has one: the kernel takes no next hop before there is any.
async fn have_address() {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    let up = rtnetlink::LinkUnspec::new_with_name("lo").up().build();
    handle.link().set(up).execute().await.unwrap();
    handle.address().add(1, ip(NODE_IP), 32).execute().await.unwrap();
    // Without one of IPv6, the kernel has none to say from that an address is unreachable.
    handle.address().add(1, ip("2001:db8::1"), 128).execute().await.unwrap();
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Connects from an address, as a pod's sockets do.
fn connect_from(from: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let client = socket(family, SocketType::STREAM, None)?;
    if let Some(from) = from {
        bind(&client, &SocketAddr::new(from, 0))?;
    }
    set_socket_timeout(&client, Timeout::Send, Some(WAIT))?;
    connect(&client, &to)?;
    Ok(client.into())
}

/// What a server says of who has come, and what is said when nobody may.
fn reach(from: (&Namespace, Option<IpAddr>), server: (&Namespace, IpAddr)) -> io::Result<IpAddr> {
    let listener = server.0.run(|| TcpListener::bind((server.1, 0)))?;
    let to = listener.local_addr()?;
    let mut client = from.0.run(|| connect_from(from.1, to))?;
    let (mut accepted, peer) = listener.accept()?;
    client.write_all(b"x")?;
    accepted.read_exact(&mut [0])?;
    Ok(peer.ip())
}

/// A process in a namespace, as a worker is.
fn worker(namespace: &Namespace) -> Child {
    let mut command = Command::new("sleep");
    command.arg("1000").stdin(Stdio::null());
    namespace.run(|| command.spawn()).unwrap()
}

struct Pods {
    network: PodNetwork,
    node: Namespace,
    a: Arc<Namespace>,
    b: Arc<Namespace>,
}

/// Two domains: the first has two pods, the second one.
async fn pods() -> Pods {
    let (network, lost) = PodNetwork::open(NODE, Vec::new()).await.unwrap();
    assert!(lost.is_empty());
    let a = network.enter("net-a", "net-a.1").await.unwrap();
    let b = network.enter("net-b", "net-b.1").await.unwrap();
    let ranges = ["10.244.1.0/24", "fd00:10::/64"].map(|range| range.parse().unwrap());
    network.set_ranges(&ranges, &["10.0.0.0/8".parse().unwrap()]).await.unwrap();
    network.attach("net-a", &[ip("10.244.1.2"), ip("fd00:10::2")]).await.unwrap();
    network.attach("net-a", &[ip("10.244.1.3"), ip("fd00:10::3")]).await.unwrap();
    network.attach("net-b", &[ip("10.244.1.4"), ip("fd00:10::4")]).await.unwrap();
    Pods { network, node: Namespace::of(std::process::id()).unwrap(), a, b }
}

/// Links of this node's namespace.
fn links() -> HashSet<String> {
    let listed = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    listed.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

#[test]
fn pods_reach_each_other_by_their_own_addresses() {
    on_node(|| async {
        let Pods { a, b, .. } = pods().await;
        for prefix in ["10.244.1.", "fd00:10::"] {
            let pod = |n: u8| ip(&format!("{prefix}{n}"));
            let (two, three, four) = (pod(2), pod(3), pod(4));
            assert_eq!(reach((&a, Some(two)), (&b, four)).unwrap(), two, "another domain's");
            assert_eq!(reach((&b, Some(four)), (&a, three)).unwrap(), four, "and back");
            assert_eq!(reach((&a, Some(two)), (&a, three)).unwrap(), two, "the same domain's");
            assert_eq!(reach((&a, Some(three)), (&a, three)).unwrap(), three, "itself");
            let closed = a.run(|| connect_from(Some(two), SocketAddr::new(four, 1))).unwrap_err();
            assert_eq!(closed.kind(), io::ErrorKind::ConnectionRefused, "{prefix}");
            let nobody = a.run(|| connect_from(Some(two), SocketAddr::new(pod(99), 1))).unwrap_err();
            // That of IPv6 says "no route".
            let unreachable = if two.is_ipv4() {
                io::ErrorKind::HostUnreachable
            } else {
                io::ErrorKind::NetworkUnreachable
            };
            assert_eq!(nobody.kind(), unreachable, "{prefix}: {nobody}");
        }
        let unbound = reach((&a, None), (&b, ip("10.244.1.4"))).unwrap();
        assert!(unbound.to_string().starts_with("192.0.2.1"), "no pod's: {unbound}");
    });
}

#[test]
fn the_node_reaches_pods_and_pods_do_not_reach_its_loopback() {
    on_node(|| async {
        let Pods { a, .. } = pods().await;
        let listener = a.run(|| TcpListener::bind("10.244.1.2:80")).unwrap();
        let client = connect_from(None, listener.local_addr().unwrap()).unwrap();
        assert_eq!(listener.accept().unwrap().1.ip(), ip(NODE_IP));
        drop(client);
        let server = TcpListener::bind((ip(NODE_IP), 0)).unwrap();
        let to = server.local_addr().unwrap();
        let client = a.run(move || connect_from(Some(ip("10.244.1.2")), to)).unwrap();
        assert_eq!(server.accept().unwrap().1, client.local_addr().unwrap(), "a pod reaches the node");
        let local = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = local.local_addr().unwrap();
        let refused = a.run(move || connect_from(None, to)).unwrap_err();
        assert_eq!(
            refused.kind(),
            io::ErrorKind::ConnectionRefused,
            "the loopback of the namespace is another"
        );
    });
}

#[test]
fn loopback_blocks_stay_inside_and_lead_to_listeners_of_pods() {
    on_node(|| async {
        let Pods { a, b, .. } = pods().await;
        let [one, two] = [1, 2].map(|slot| Loopback::of(slot).unwrap());
        let inner = IpAddr::V4(one.block.hosts().next().unwrap());
        assert_eq!(reach((&a, Some(inner)), (&a, ip("10.244.1.2"))).unwrap(), inner, "to a pod's address");
        let v6 = IpAddr::V6(one.v6);
        assert_eq!(reach((&a, Some(v6)), (&a, ip("fd00:10::2"))).unwrap(), v6);
        assert_eq!(reach((&a, Some(v6)), (&a, v6)).unwrap(), v6);
        let listener = a.run(|| TcpListener::bind((two.v6, 0))).unwrap();
        let to = listener.local_addr().unwrap();
        assert!(b.run(|| connect_from(Some(ip("fd00:10::4")), to)).is_err(), "not from elsewhere");
        let (server, client) = a
            .run(|| Ok((UdpSocket::bind((one.block.addr(), 0))?, UdpSocket::bind("10.244.1.2:0")?)))
            .unwrap();
        client.send_to(b"x", server.local_addr().unwrap()).unwrap();
        server.set_read_timeout(Some(WAIT)).unwrap();
        assert_eq!(server.recv_from(&mut [0]).unwrap().1, client.local_addr().unwrap());
    });
}

#[test]
fn what_a_pod_leaves_open_ends_with_its_address() {
    on_node(|| async {
        let Pods { network, a, b, .. } = pods().await;
        let (two, three) = (ip("10.244.1.2"), ip("10.244.1.3"));
        let listeners =
            a.run(|| Ok([TcpListener::bind((two, 80))?, TcpListener::bind((three, 80))?])).unwrap();
        let to = listeners.each_ref().map(|one| one.local_addr().unwrap());
        let mut clients = to.map(|to| b.run(|| connect_from(Some(ip("10.244.1.4")), to)).unwrap());
        let mut accepted = listeners.each_ref().map(|one| one.accept().unwrap().0);
        network.detach(&[two, ip("fd00:10::2")], Loopback::of(1)).await.unwrap();
        assert!(accepted[0].read(&mut [0]).is_err(), "it was ended");
        assert!(listeners[0].accept().is_err());
        clients[1].write_all(b"x").unwrap();
        accepted[1].read_exact(&mut [0]).unwrap();
        let gone = b.run(|| connect_from(Some(ip("10.244.1.4")), to[0])).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::HostUnreachable, "{gone}");
        let left: HashSet<_> = ["10.244.1.3", "10.244.1.4", "fd00:10::3", "fd00:10::4"].map(ip).into();
        assert_eq!(network.attached().await, left);
        network.detach(&[two], None).await.unwrap();
        network.attach("net-b", &[two]).await.unwrap();
        let error = network.attach("net-a", &[two]).await.unwrap_err();
        assert!(matches!(error, NetworkError::InUse { .. }), "{error}");
        assert_eq!(reach((&a, Some(three)), (&b, two)).unwrap(), three, "the address is somebody else's now");
        drop(clients);
    });
}

#[test]
fn the_next_agent_takes_over_what_living_workers_have_and_removes_the_rest() {
    on_node(|| async {
        let Pods { network, node, a, b } = pods().await;
        let mut child = worker(&a);
        let mut elsewhere = worker(&node);
        let listener = a.run(|| TcpListener::bind("10.244.1.2:80")).unwrap();
        let to = listener.local_addr().unwrap();
        assert_eq!(links().len(), 3, "{:?}", links());
        // The agent dies, and with it what it held.
        drop((network, a, b));
        let living =
            |domain: &str, pid| LivingWorker { domain: domain.to_owned(), group: format!("{domain}.1"), pid };
        let stranger = living("net-x", elsewhere.id());
        let found = PodNetwork::open(NODE, vec![living("net-a", child.id()), stranger.clone()]).await;
        let (network, lost) = found.unwrap();
        assert_eq!(lost, [stranger]);
        assert_eq!(links().len(), 2, "the other link is gone: {:?}", links());
        let kept: HashSet<_> = ["10.244.1.2", "10.244.1.3", "fd00:10::2", "fd00:10::3"].map(ip).into();
        assert_eq!(network.attached().await, kept);
        let b = network.enter("net-b", "net-b.1").await.unwrap();
        network.attach("net-b", &[ip("10.244.1.4")]).await.unwrap();
        let client = b.run(|| connect_from(Some(ip("10.244.1.4")), to)).unwrap();
        assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
        let a = network.enter("net-a", "net-a.2").await.unwrap();
        assert!(*a == Namespace::of(child.id()).unwrap(), "a worker of another age joins it");
        network.leave("net-a", "net-a.1").await;
        assert_eq!(links().len(), 3, "one is still there");
        network.leave("net-a", "net-a.2").await;
        assert_eq!(links().len(), 2);
        for child in [&mut child, &mut elsewhere] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    });
}

/// A range that the node does not have any more is not unreachable for its sake; what another node of the machine says stays.
#[test]
fn a_node_takes_back_what_it_has_said_of_ranges() {
    on_node(|| async {
        let Pods { network, .. } = pods().await;
        let (other, _) = PodNetwork::open("/var/lib/another-node", Vec::new()).await.unwrap();
        other.set_ranges(&["10.244.2.0/24".parse().unwrap()], &[]).await.unwrap();
        network.set_ranges(&["10.244.3.0/24".parse().unwrap()], &[]).await.unwrap();
        for (to, expected) in [
            ("10.244.1.99:1", io::ErrorKind::NetworkUnreachable),
            ("10.244.2.99:1", io::ErrorKind::HostUnreachable),
            ("10.244.3.99:1", io::ErrorKind::HostUnreachable),
        ] {
            assert_eq!(connect_from(None, to.parse().unwrap()).unwrap_err().kind(), expected, "{to}");
        }
    });
}

/// Agents come and go, and each gives one address and takes one back: none is lost, none is doubled, none is left behind.
#[test]
fn addresses_outlive_any_number_of_agents() {
    on_node(|| async {
        let Pods { network, a, b, .. } = pods().await;
        let mut child = worker(&a);
        let living = || {
            let (domain, group) = ("net-a".to_owned(), "net-a.1".to_owned());
            vec![LivingWorker { domain, group, pid: child.id() }]
        };
        let pod = |n: u8| IpAddr::from([10, 244, 2, n]);
        drop(network);
        for n in 0..200 {
            let (network, lost) = PodNetwork::open(NODE, living()).await.unwrap();
            assert!(lost.is_empty());
            network.attach("net-a", &[pod(n + 1)]).await.unwrap();
            network.detach(&[pod(n)], None).await.unwrap();
        }
        let (network, _) = PodNetwork::open(NODE, living()).await.unwrap();
        let kept = ["10.244.1.2", "10.244.1.3", "10.244.2.200", "fd00:10::2", "fd00:10::3"].map(ip);
        assert_eq!(network.attached().await, HashSet::from(kept));
        assert_eq!(links().len(), 2, "{:?}", links());
        drop(b);
        let b = network.enter("net-b", "net-b.1").await.unwrap();
        network.attach("net-b", &[ip("10.244.1.4")]).await.unwrap();
        for to in ["10.244.1.3", "10.244.2.200"] {
            assert_eq!(reach((&b, Some(ip("10.244.1.4"))), (&a, ip(to))).unwrap(), ip("10.244.1.4"));
        }
        let given_back = b.run(|| connect_from(Some(ip("10.244.1.4")), SocketAddr::new(pod(100), 1)));
        assert!(given_back.is_err());
        child.kill().unwrap();
        child.wait().unwrap();
    });
}

/// A worker that takes the place of a dead one finds the addresses where they were.
#[test]
fn a_namespace_outlives_its_workers() {
    on_node(|| async {
        let Pods { network, a, b, .. } = pods().await;
        let mut child = worker(&a);
        child.kill().unwrap();
        child.wait().unwrap();
        let again = network.enter("net-a", "net-a.1").await.unwrap();
        assert!(again == a);
        assert_eq!(
            reach((&b, Some(ip("10.244.1.4"))), (&again, ip("10.244.1.2"))).unwrap(),
            ip("10.244.1.4")
        );
    });
}

/// The addresses of a pod of many, one of each family.
fn one_of_many(n: u32) -> [IpAddr; 2] {
    let v6 = u128::from_be_bytes([0xfd, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]) + u128::from(n);
    let v4 = u32::from_be_bytes([10, 245, 0, 0]) + n;
    [IpAddr::from(v4.to_be_bytes()), IpAddr::from(v6.to_be_bytes())]
}

#[test]
fn pods_that_leave_at_once_leave_together_and_wait_for_nobody_who_gives_up() {
    on_node(|| async {
        let Pods { network, a, .. } = pods().await;
        let all: Vec<_> = (1..=20).map(one_of_many).collect();
        let mut open = Vec::new();
        for pod in &all {
            network.attach("net-a", pod).await.unwrap();
            let socket = a.run(|| UdpSocket::bind((pod[0], 0))).unwrap();
            socket.set_read_timeout(Some(WAIT)).unwrap();
            open.push(socket);
        }
        let leave = |n: usize| Box::pin(network.detach(&all[n], None));
        let (mut first, mut second, mut third) = (leave(0), leave(1), leave(2));
        for departure in [&mut first, &mut second, &mut third] {
            assert!(futures::poll!(departure).is_pending());
        }
        // Now the second has its turn, and takes the third along.
        drop(first);
        assert!(futures::poll!(&mut second).is_pending());
        drop(second);
        third.await.unwrap();
        assert!(!network.attached().await.contains(&all[2][0]));
        let left = futures::future::join_all((0..all.len()).map(leave)).await;
        assert!(left.iter().all(Result::is_ok), "{left:?}");
        assert!(network.attached().await.is_disjoint(&all.concat().into_iter().collect()));
        for socket in open {
            let over = socket.recv(&mut [0]).unwrap_err();
            assert_ne!(over.kind(), io::ErrorKind::WouldBlock, "it has been told that it is over");
        }
    });
}

#[test]
fn a_thousand_pods_are_reached_in_one_domain_and_in_ten() {
    on_node(|| async {
        let Pods { network, a, b, .. } = pods().await;
        let mut namespaces = vec![a];
        for n in 1..10 {
            namespaces.push(network.enter(&format!("net-{n}"), &format!("net-{n}.1")).await.unwrap());
        }
        let domain = |n: usize| if n == 0 { "net-a".to_owned() } else { format!("net-{n}") };
        let reached = |pod: [IpAddr; 2], namespace: &Namespace| {
            for (address, from) in pod.into_iter().zip(["10.244.1.4", "fd00:10::4"]) {
                assert_eq!(reach((&b, Some(ip(from))), (namespace, address)).unwrap(), ip(from), "{address}");
            }
        };
        let all: Vec<_> = (1..=1000).map(one_of_many).collect();
        for domains in [1, 10] {
            for (n, pod) in all.iter().enumerate() {
                network.attach(&domain(n % domains), pod).await.unwrap();
            }
            for n in [0, 1, 500, 999] {
                reached(all[n], &namespaces[n % domains]);
            }
            let gone: Vec<_> = all[..999].concat();
            network.detach(&gone, None).await.unwrap();
            let left: HashSet<_> = network.attached().await.into_iter().collect();
            assert_eq!(gone.iter().filter(|address| left.contains(*address)).count(), 0);
            reached(all[999], &namespaces[999 % domains]);
            network.detach(&all[999], None).await.unwrap();
        }
    });
}

/// Netlink in a namespace.
fn netlink_in(namespace: &Namespace) -> rtnetlink::Handle {
    let runtime = tokio::runtime::Handle::current();
    let open = || {
        let _guard = runtime.enter();
        let (connection, handle, _) = rtnetlink::new_connection()?;
        runtime.spawn(connection);
        Ok(handle)
    };
    namespace.run(open).unwrap()
}

/// A namespace beyond the node, which knows the node alone.
async fn outside() -> Namespace {
    let outside = Namespace::create().unwrap();
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    let peer = rtnetlink::LinkMessageBuilder::<rtnetlink::LinkUnspec>::new()
        .name("far")
        .setns_by_fd(outside.as_fd().as_raw_fd())
        .build();
    let pair =
        rtnetlink::LinkVeth::new("near", "far").set_info_data(InfoData::Veth(InfoVeth::Peer(peer))).build();
    handle.link().add(pair).execute().await.unwrap();
    let inside = netlink_in(&outside);
    for (handle, name, address) in [(&handle, "near", "203.0.113.1"), (&inside, "far", "203.0.113.2")] {
        let link = handle.link().get().match_name(name).execute().try_next().await.unwrap().unwrap();
        handle.address().add(link.header.index, ip(address), 24).execute().await.unwrap();
        let up = rtnetlink::LinkUnspec::new_with_index(link.header.index).up().build();
        handle.link().set(up).execute().await.unwrap();
    }
    outside
}

#[test]
fn what_leaves_the_cluster_comes_from_the_node() {
    on_node(|| async {
        if !PodNetwork::has_filter().await {
            eprintln!("skipped: there is no nft here");
            return;
        }
        let Pods { network, a, b, .. } = pods().await;
        let outside = outside().await;
        let (two, far) = (ip("10.244.1.2"), ip("203.0.113.2"));
        assert_eq!(reach((&a, Some(two)), (&outside, far)).unwrap(), ip("203.0.113.1"));
        assert_eq!(reach((&a, None), (&outside, far)).unwrap(), ip("203.0.113.1"), "a worker's own");
        assert_eq!(
            reach((&a, Some(two)), (&b, ip("10.244.1.4"))).unwrap(),
            two,
            "inside it is the pod's own"
        );
        let ranges = ["10.244.1.0/24".parse().unwrap()];
        network.set_ranges(&ranges, &["203.0.113.0/24".parse().unwrap()]).await.unwrap();
        let to = outside.run(|| UdpSocket::bind((far, 0))).unwrap();
        to.set_read_timeout(Some(WAIT)).unwrap();
        let from = a.run(|| UdpSocket::bind((two, 0))).unwrap();
        from.send_to(b"x", to.local_addr().unwrap()).unwrap();
        assert_eq!(to.recv_from(&mut [0]).unwrap().1, from.local_addr().unwrap(), "it is known there now");
    });
}

/// A worker that has been taken over can bind what it likes of IPv6; nobody outside hears of it.
#[test]
fn sources_that_are_somebody_elses_are_dropped() {
    on_node(|| async {
        if !PodNetwork::has_filter().await {
            eprintln!("skipped: there is no nft here");
            return;
        }
        let Pods { a, b, .. } = pods().await;
        let (four, own) = (ip("fd00:10::4"), ip("fd00:10::2"));
        let server = b.run(|| UdpSocket::bind((four, 0))).unwrap();
        server.set_read_timeout(Some(WAIT)).unwrap();
        let to = server.local_addr().unwrap();
        // The second comes after the first: when it is there, the first is not.
        for from in [ip("2001:db8::77"), own] {
            let socket = a.run(|| UdpSocket::bind((from, 0))).unwrap();
            socket.send_to(b"x", to).unwrap();
        }
        assert_eq!(server.recv_from(&mut [0]).unwrap().1.ip(), own);
    });
}
