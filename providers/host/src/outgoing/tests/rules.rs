//! Requests go where the guest's own sockets would.

use kubewasm_rules::{PodRules, Protocol};

use super::*;
use crate::{
    PodAddresses, Refusals,
    network::{ExposedPort, ExposedPorts, Service, ServiceChanges, ServiceRule, TablesUpdate},
};

fn prohibited(result: Result<Response<WasiBody>, Error>) -> bool {
    matches!(result, Err(Error::DestinationIpProhibited))
}

#[tokio::test]
async fn networks_that_are_out_of_reach_are_so_for_requests() {
    let server = Server::plain().await;
    let outgoing = GuestOf { network: Network::Outgoing, ..GuestOf::default() }.client();
    assert!(prohibited(outgoing.get(&server.url("/hello")).await), "this machine's loopback");
    assert!(prohibited(outgoing.get("http://169.254.169.254/").await), "a metadata service");
    assert!(prohibited(outgoing.get(&format!("http://name.test:{}/", server.at.port())).await));
    let denied = DeniedNetworks { networks: vec!["192.0.2.0/24".parse().unwrap()], host: false };
    let denied = GuestOf { network: Network::Outgoing, denied, ..GuestOf::default() }.client();
    assert!(prohibited(denied.get("http://192.0.2.1/").await));
    assert_eq!(server.accepted(), 0);
}

/// A list is about the guest that has it, whatever its neighbours have open.
#[tokio::test]
async fn a_guests_list_is_asked_for_each_request() {
    let (server, connections, firewall) =
        (Server::plain().await, Arc::default(), Arc::new(Firewall::default()));
    let port = server.at.port();
    let named = |name: &str| format!("http://{name}:{port}/hello");
    let listed = GuestOf {
        egress: Some(format!("listed.test:{port}").parse().unwrap()),
        firewall: Some(Arc::clone(&firewall)),
        ..GuestOf::default()
    };
    let (free, listed) = (GuestOf::default().with(&connections), listed.with(&connections));
    assert_eq!(free.text(&named("listed.test")).await, "hello");
    assert_eq!(free.text(&named("other.test")).await, "hello");
    assert_eq!(free.text(&server.url("/hello")).await, "hello");
    assert_eq!(server.accepted(), 3);

    // It has looked nothing up so far.
    assert!(prohibited(listed.get(&server.url("/hello")).await));
    assert_eq!(listed.text(&named("listed.test")).await, "hello");
    assert_eq!(server.accepted(), 3, "what is open for the same name is used");
    let other = listed.get(&named("other.test")).await;
    assert!(matches!(other, Err(Error::HttpRequestDenied)), "{other:?}");
    assert_eq!(server.accepted(), 3);
    let Refusals { egress, last, .. } = firewall.refusals();
    assert_eq!(egress, 2);
    assert!(last.iter().any(|last| last.contains("a look-up of other.test")), "{last:?}");
}

/// What is open stays, as connections do when policies change. What would be a new request is one.
#[tokio::test]
async fn a_policy_that_changes_holds_for_the_next_request() {
    let (server, firewall) = (Server::plain().await, Arc::new(Firewall::default()));
    let client = GuestOf { firewall: Some(Arc::clone(&firewall)), ..GuestOf::default() }.client();
    let waits = server.url("/wait");
    let under_way = client.get(&waits);
    let change = async {
        server.has_waiting(1).await;
        firewall.set(Arc::new(PodRules { ingress: None, egress: Some(Vec::new()) }));
        assert!(prohibited(client.get(&server.url("/hello")).await));
        server.seen.gate.add_permits(1);
    };
    let (under_way, ()) = tokio::join!(under_way, change);
    assert_eq!(text(under_way.unwrap()).await, "waited");
    assert!(prohibited(client.get(&server.url("/hello")).await), "there is a connection, and it is not used");
    assert_eq!(firewall.refusals().egress, 2);
    firewall.set(Arc::new(PodRules { ingress: None, egress: None }));
    assert_eq!(client.text(&server.url("/hello")).await, "hello");
    assert_eq!(server.accepted(), 1);
}

fn tables(tables: &NetworkTables, revision: u64, endpoints: Vec<std::net::SocketAddr>) {
    let rule = |port: u16, endpoints| ServiceRule {
        transport: Protocol::Tcp,
        at: vec![format!("10.96.0.10:{port}").parse().unwrap()],
        endpoints,
        node_only: false,
        affinity: None,
        sources: Vec::new(),
    };
    let service = Service {
        key: "default/web".to_owned(),
        cluster_ips: vec!["10.96.0.10".parse().unwrap()],
        rules: vec![rule(80, endpoints), rule(81, Vec::new())],
    };
    let services = ServiceChanges { set: vec![service], removed: Vec::new() };
    tables.apply(TablesUpdate { base: None, revision, services, rules: None }).unwrap();
}

/// In a pod with addresses of its own, which this machine has anyway.
#[tokio::test]
async fn a_service_is_reached_at_those_who_answer_for_it() {
    let own: IpAddr = "127.77.0.7".parse().unwrap();
    let addresses = PodAddresses {
        own: vec![own],
        loopback: "127.0.28.0/22".parse().unwrap(),
        loopback_v6: "fd6b::7:1".parse().unwrap(),
    };
    let (first, second) = (Server::at(own).await, Server::at(own).await);
    let known = Arc::new(NetworkTables::default());
    tables(&known, 1, vec![first.at]);
    let network = Network::Pod(addresses);
    let client = GuestOf { network, tables: Arc::clone(&known), ..GuestOf::default() }.client();
    assert_eq!(client.text("http://10.96.0.10/host").await, "10.96.0.10");
    assert_eq!(client.text("http://10.96.0.10/hello").await, "hello");
    assert_eq!((first.accepted(), second.accepted()), (1, 0));
    // The first does not answer for it any more: it may still be there, and gets nothing.
    tables(&known, 2, vec![second.at]);
    assert_eq!(client.text("http://10.96.0.10/hello").await, "hello");
    assert_eq!((first.accepted(), second.accepted()), (1, 1));
    first.has_open(0).await;
    for (url, expected) in [
        ("http://10.96.0.10:81/", "ConnectionRefused"),
        ("http://10.96.0.10:82/", "ConnectionRefused"),
        ("http://[2001:db8::1]/", "DestinationIpUnroutable"),
    ] {
        assert_eq!(format!("{:?}", client.get(url).await.unwrap_err()), expected, "{url}");
    }
    // Its loopback is its own, and nobody else's.
    let loopback = Server::at("127.0.28.1".parse().unwrap()).await;
    let url = |name: &str| format!("http://{name}:{}/hello", loopback.at.port());
    assert_eq!(client.text(&url("127.0.0.1")).await, "hello");
    assert_eq!(client.text(&url("name.test")).await, "hello");
    let unmapped = client.get(&url("127.0.28.1")).await.unwrap_err();
    assert!(matches!(unmapped, Error::DestinationIpUnroutable), "{unmapped:?}");
}

/// A pod with the node's address reaches what its own guests listen on there, by the ports of their containers, and nothing else
/// of the node.
#[tokio::test]
async fn ports_of_the_node_that_are_the_pods_lead_home() {
    let server = Server::plain().await;
    let port = ExposedPort {
        protocol: Protocol::Tcp,
        container_port: 8080,
        host_ip: None,
        host_port: server.at.port(),
    };
    let exposed = ExposedPorts { own: vec!["192.0.2.9".parse().unwrap()], ports: vec![port] };
    let ports = Arc::default();
    let network = Network::Exposed(exposed);
    let client = GuestOf { network, ports: Arc::clone(&ports), ..GuestOf::default() }.client();
    let listens = ports.listening(Protocol::Tcp, format!("0.0.0.0:{}", server.at.port()).parse().unwrap());
    for _ in 0..2 {
        assert_eq!(client.text("http://127.0.0.1:8080/hello").await, "hello");
    }
    assert_eq!(client.text("http://192.0.2.9:8080/hello").await, "hello");
    assert_eq!(server.accepted(), 2);
    assert!(prohibited(client.get(&server.url("/hello")).await), "by its number on the node");
    // Whoever listens there now is somebody else.
    drop(listens);
    assert!(prohibited(client.get("http://127.0.0.1:8080/hello").await));
    assert_eq!(server.accepted(), 2);
}
