use std::{collections::HashSet, time::Duration};

use Protocol::{Tcp, Udp};

use super::*;
use crate::network::PodRuleKeys;
use crate::network::services::{Service, ServiceRule};

const CLIENT: &str = "10.244.1.7";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn all(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| at(text)).collect()
}

fn rule(addresses: &[&str], endpoints: &[&str]) -> ServiceRule {
    ServiceRule {
        transport: Tcp,
        at: all(addresses),
        endpoints: all(endpoints),
        node_only: false,
        affinity: None,
        sources: Vec::new(),
    }
}

fn service(key: &str, cluster_ip: &str, rules: Vec<ServiceRule>) -> Service {
    Service { key: key.to_owned(), cluster_ips: vec![cluster_ip.parse().unwrap()], rules }
}

fn whole(revision: u64, services: Vec<Service>) -> TablesUpdate {
    let services = ServiceChanges { set: services, removed: Vec::new() };
    TablesUpdate { base: None, revision, services, rules: None }
}

fn tables(services: Vec<Service>) -> NetworkTables {
    let tables = NetworkTables::default();
    tables.apply(whole(1, services)).unwrap();
    tables
}

fn ask(tables: &NetworkTables, wanted: &str) -> Result<SocketAddr, Refused> {
    tables.destination(CLIENT.parse().unwrap(), Tcp, at(wanted))
}

#[test]
fn what_is_no_services_goes_where_it_is_sent() {
    for tables in [NetworkTables::default(), tables(Vec::new())] {
        assert_eq!(ask(&tables, "10.96.0.1:443"), Ok(at("10.96.0.1:443")));
    }
}

#[test]
fn every_endpoint_is_chosen_and_nothing_else() {
    let endpoints = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:8080"];
    let tables = tables(vec![service("ns/web", "10.96.0.9", vec![rule(&["10.96.0.9:80"], &endpoints)])]);
    let chosen: HashSet<_> = (0..1000).map(|_| ask(&tables, "10.96.0.9:80").unwrap()).collect();
    assert_eq!(chosen, all(&endpoints).into_iter().collect());
    for endpoint in endpoints {
        assert!(tables.is_endpoint(Tcp, at("10.96.0.9:80"), at(endpoint)));
        assert!(!tables.is_endpoint(Udp, at("10.96.0.9:80"), at(endpoint)));
    }
    assert!(!tables.is_endpoint(Tcp, at("10.96.0.9:80"), at("10.0.0.4:80")));
}

/// A question is no use of a Service: nothing is chosen, nor remembered, and who answers does not matter.
#[test]
fn what_is_a_service_is_known_without_being_sent_to_it() {
    let with_affinity =
        ServiceRule { affinity: Some(Duration::from_secs(60)), ..rule(&["10.96.0.9:80"], &["10.0.0.1:80"]) };
    let of_nobody = rule(&["10.96.0.8:80"], &[]);
    let tables = tables(vec![
        service("ns/web", "10.96.0.9", vec![with_affinity]),
        service("ns/empty", "10.96.0.8", vec![of_nobody]),
    ]);
    for (wanted, expected) in [
        ("10.96.0.9:80", true),
        ("10.96.0.9:81", true),
        ("10.96.0.8:80", true),
        ("10.0.0.1:80", false),
        ("192.0.2.1:80", false),
    ] {
        assert_eq!(tables.is_service(Tcp, at(wanted)), expected, "{wanted}");
    }
    let key = (CLIENT.parse().unwrap(), Tcp, at("10.96.0.9:80"));
    assert_eq!(tables.affinities().find(&key, Instant::now()), None);
    ask(&tables, "10.96.0.9:80").unwrap();
    assert!(tables.affinities().find(&key, Instant::now()).is_some());
}

/// A guest may name a flow with an address of IPv6, which is no part of whose it is.
#[test]
fn a_service_is_found_whatever_the_flow() {
    let tables =
        tables(vec![service("ns/web", "fd00:96::9", vec![rule(&["[fd00:96::9]:80"], &["[fd00:10::1]:80"])])]);
    let wanted = std::net::SocketAddrV6::new("fd00:96::9".parse().unwrap(), 80, 7, 0);
    let found = tables.destination("fd00:10::7".parse().unwrap(), Tcp, wanted.into());
    assert_eq!(found, Ok(at("[fd00:10::1]:80")));
}

#[test]
fn there_are_reasons_for_a_refusal() {
    let node_only = ServiceRule { node_only: true, ..rule(&["10.96.0.9:81"], &[]) };
    let sources = vec!["192.0.2.0/24".parse().unwrap()];
    let closed = ServiceRule { sources, ..rule(&["203.0.113.1:80"], &["10.0.0.1:80"]) };
    let rules = vec![rule(&["10.96.0.9:80"], &[]), node_only, closed];
    let tables = tables(vec![service("ns/web", "10.96.0.9", rules)]);
    for (wanted, refused, lost) in [
        ("10.96.0.9:80", Refused::NoEndpoints, false),
        ("10.96.0.9:81", Refused::NoLocalEndpoint, true),
        ("10.96.0.9:82", Refused::NoPort, false),
        ("203.0.113.1:80", Refused::Source, true),
    ] {
        assert_eq!(ask(&tables, wanted), Err(refused), "{wanted}");
        assert_eq!(refused.is_lost(), lost);
    }
    let udp = tables.destination(CLIENT.parse().unwrap(), Udp, at("10.96.0.9:80"));
    assert_eq!(udp, Err(Refused::NoPort));
    assert_eq!(ask(&tables, "203.0.113.1:81"), Ok(at("203.0.113.1:81")), "not a ClusterIP");
    let admitted = tables.destination("192.0.2.7".parse().unwrap(), Tcp, at("203.0.113.1:80"));
    assert_eq!(admitted, Ok(at("10.0.0.1:80")));
}

/// A pod stays with its endpoint, until that is gone.
#[test]
fn affinity_lasts_for_as_long_as_its_endpoint() {
    let endpoints: Vec<String> = (1..=100).map(|n| format!("10.0.0.{n}:80")).collect();
    let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
    let affinity = |endpoints: &[&str]| {
        let affinity = Some(Duration::from_secs(10_800));
        service("ns/web", "10.96.0.9", vec![ServiceRule { affinity, ..rule(&["10.96.0.9:80"], endpoints) }])
    };
    let tables = tables(vec![affinity(&endpoints)]);
    let first = ask(&tables, "10.96.0.9:80").unwrap();
    for _ in 0..20 {
        assert_eq!(ask(&tables, "10.96.0.9:80"), Ok(first));
    }
    let others: HashSet<_> = (1..=50)
        .map(|pod| tables.destination(IpAddr::from([10, 244, 2, pod]), Tcp, at("10.96.0.9:80")).unwrap())
        .collect();
    assert!(others.len() > 1, "another pod has another choice");
    let left: Vec<&str> = endpoints.iter().copied().filter(|endpoint| at(endpoint) != first).collect();
    tables.apply(whole(2, vec![affinity(&left)])).unwrap();
    let second = ask(&tables, "10.96.0.9:80").unwrap();
    assert_ne!(second, first);
    tables.apply(whole(3, vec![affinity(&endpoints)])).unwrap();
    assert_eq!(ask(&tables, "10.96.0.9:80"), Ok(second));
}

#[test]
fn changes_follow_each_other_and_a_lost_one_is_found_out() {
    let web = |endpoint: &str| service("ns/web", "10.96.0.9", vec![rule(&["10.96.0.9:80"], &[endpoint])]);
    let tables = NetworkTables::default();
    let change = |base, revision, set, removed| TablesUpdate {
        base: Some(base),
        revision,
        services: ServiceChanges { set, removed },
        rules: None,
    };
    assert_eq!(tables.apply(change(0, 1, vec![web("10.0.0.1:80")], Vec::new())), Err(OutOfStep));
    tables.apply(whole(7, vec![web("10.0.0.1:80")])).unwrap();
    tables.apply(change(7, 8, vec![web("10.0.0.2:80")], Vec::new())).unwrap();
    assert_eq!(ask(&tables, "10.96.0.9:80"), Ok(at("10.0.0.2:80")));
    assert_eq!(tables.apply(change(7, 9, Vec::new(), vec!["ns/web".to_owned()])), Err(OutOfStep));
    assert_eq!(ask(&tables, "10.96.0.9:80"), Ok(at("10.0.0.2:80")), "nothing of it was applied");
    tables.apply(change(8, 9, Vec::new(), vec!["ns/web".to_owned(), "ns/unknown".to_owned()])).unwrap();
    assert_eq!(ask(&tables, "10.96.0.9:80"), Ok(at("10.96.0.9:80")));
    assert!(tables.read().services.is_empty());
    tables.apply(whole(2, vec![web("10.0.0.3:80")])).unwrap();
    assert_eq!(ask(&tables, "10.96.0.9:80"), Ok(at("10.0.0.3:80")), "another agent counts anew");
}

/// A Service cannot have another's ClusterIP by calling it an external address of its own, and what one gives up is the
/// other's.
#[test]
fn of_services_that_want_one_address_the_rightful_one_has_it() {
    let rightful = service("z/rightful", "10.96.0.9", vec![rule(&["10.96.0.9:80"], &["10.0.0.1:80"])]);
    let thief = service(
        "a/thief",
        "10.96.0.10",
        vec![rule(&["10.96.0.10:80", "10.96.0.9:80", "203.0.113.1:80"], &["10.0.0.66:80"])],
    );
    let later = service("b/later", "10.96.0.11", vec![rule(&["203.0.113.1:80"], &["10.0.0.2:80"])]);
    let tables = tables(vec![thief, later, rightful]);
    assert_eq!(ask(&tables, "10.96.0.9:80"), Ok(at("10.0.0.1:80")));
    assert_eq!(ask(&tables, "203.0.113.1:80"), Ok(at("10.0.0.66:80")));
    let removed = vec!["a/thief".to_owned()];
    let services = ServiceChanges { set: Vec::new(), removed };
    tables.apply(TablesUpdate { base: Some(1), revision: 2, services, rules: None }).unwrap();
    assert_eq!(ask(&tables, "203.0.113.1:80"), Ok(at("10.0.0.2:80")));
    assert_eq!(ask(&tables, "10.96.0.10:80"), Ok(at("10.96.0.10:80")));
}

/// A Service that is made again under another name may have the address before the end of the first is known.
#[test]
fn a_cluster_ip_may_pass_from_one_service_to_another() {
    let of = |key: &str| service(key, "10.96.0.9", vec![rule(&["10.96.0.9:80"], &["10.0.0.1:80"])]);
    let tables = tables(vec![of("ns/old"), of("ns/new")]);
    let services = ServiceChanges { set: Vec::new(), removed: vec!["ns/old".to_owned()] };
    tables.apply(TablesUpdate { base: Some(1), revision: 2, services, rules: None }).unwrap();
    assert_eq!(ask(&tables, "10.96.0.9:80"), Ok(at("10.0.0.1:80")));
    assert_eq!(ask(&tables, "10.96.0.9:81"), Err(Refused::NoPort));
}

/// What an update says of rules holds with it, and nothing of one that was not applied.
#[test]
fn rules_come_with_an_update_or_stay() {
    let rules = |ingress| {
        let pods = vec![("pod".to_owned(), PodRuleKeys { ingress, egress: None })];
        Some(RuleChanges { pods, ..RuleChanges::default() })
    };
    let update = |base, revision, rules| TablesUpdate { base, revision, rules, ..TablesUpdate::default() };
    let tables = NetworkTables::default();
    let firewall = tables.firewalls().of("pod");
    let is_open = || firewall.rules().allow_everything();
    tables.apply(update(None, 1, rules(Some(Vec::new())))).unwrap();
    assert!(!is_open());
    assert_eq!(tables.apply(update(Some(7), 8, rules(None))), Err(OutOfStep));
    assert!(!is_open());
    tables.apply(update(None, 1, None)).unwrap();
    assert!(!is_open(), "another agent that has nothing to say of rules yet");
    tables.apply(update(Some(1), 2, rules(None))).unwrap();
    assert!(is_open());
}
