//! Random policies, and a second opinion on them that takes each policy and each pod as they are.

use proptest::prelude::*;

use super::*;

/// Whether a connection is allowed, by going through all policies.
fn second_opinion(cluster: &Cluster, direction: Direction, pod: &TestPod, peer: &TestPod, port: u16) -> bool {
    let (section, peers, kind) = match direction {
        Direction::Ingress => ("ingress", "from", "Ingress"),
        Direction::Egress => ("egress", "to", "Egress"),
    };
    let target = if direction == Direction::Ingress { pod } else { peer };
    let about = |(namespace, spec): &&(String, Value)| {
        let types: Vec<&str> =
            spec["policyTypes"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        *namespace == pod.namespace && types.contains(&kind) && matches(&spec["podSelector"], &pod.labels)
    };
    let policies: Vec<_> = cluster.policies.iter().filter(about).collect();
    let allows = |(namespace, spec): &&(String, Value)| {
        spec[section].as_array().into_iter().flatten().any(|rule| {
            let of_peer = each(&rule[peers], |one| is_peer(cluster, namespace, one, peer));
            let of_port = each(&rule["ports"], |one| is_port(one, target, port));
            of_peer && of_port
        })
    };
    policies.is_empty() || policies.iter().any(allows)
}

/// A list that is empty or missing is about everything.
fn each(list: &Value, is_meant: impl Fn(&Value) -> bool) -> bool {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    list.is_empty() || list.iter().any(is_meant)
}

fn matches(selector: &Value, labels: &Labels) -> bool {
    let wanted = selector["matchLabels"].as_object();
    wanted.into_iter().flatten().all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str())
}

fn is_peer(cluster: &Cluster, namespace: &str, peer: &Value, pod: &TestPod) -> bool {
    if let Some(block) = peer["ipBlock"].as_object() {
        let has =
            |network: &Value| network.as_str().unwrap().parse::<ipnet::IpNet>().unwrap().contains(&pod.ip);
        return has(&block["cidr"]) && !block["except"].as_array().into_iter().flatten().any(has);
    }
    let of_namespace = match &peer["namespaceSelector"] {
        Value::Null => pod.namespace == namespace,
        selector => matches(selector, &cluster.namespaces[&pod.namespace]),
    };
    of_namespace && matches(&peer["podSelector"], &pod.labels)
}

fn is_port(rule: &Value, target: &TestPod, port: u16) -> bool {
    if rule["protocol"].as_str().unwrap_or("TCP") != "TCP" {
        return false;
    }
    match &rule["port"] {
        Value::Null => true,
        Value::String(name) => target.ports.contains(&(name.clone(), port)),
        number => {
            let first = number.as_u64().unwrap();
            let last = rule["endPort"].as_u64().unwrap_or(first);
            (first..=last).contains(&port.into())
        }
    }
}

fn selector() -> impl Strategy<Value = Value> {
    let label = || (0..2u8, 0..2u8).prop_map(|(key, value)| (format!("k{key}"), format!("v{value}")));
    prop_oneof![
        Just(json!({})),
        label().prop_map(|(key, value)| json!({"matchLabels": {key: value}})),
        (label(), label()).prop_map(|((a, b), (c, d))| json!({"matchLabels": {a: b, c: d}})),
    ]
}

fn peer() -> impl Strategy<Value = Value> {
    prop_oneof![
        selector().prop_map(|pods| json!({"podSelector": pods})),
        selector().prop_map(|namespaces| json!({"namespaceSelector": namespaces})),
        (selector(), selector())
            .prop_map(|(namespaces, pods)| json!({"namespaceSelector": namespaces, "podSelector": pods})),
        (29..33u8, 1..6u8, 30..33u8, 1..6u8).prop_map(|(bits, last, except, hole)| json!({"ipBlock": {
            "cidr": format!("10.0.0.{last}/{bits}"), "except": [format!("10.0.0.{hole}/{except}")],
        }})),
    ]
}

fn port() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!({})),
        Just(json!({"protocol": "UDP", "port": 80})),
        Just(json!({"protocol": "SCTP"})),
        Just(json!({"port": "web"})),
        (79..82u16).prop_map(|port| json!({"port": port})),
        Just(json!({"port": 79, "endPort": 8002})),
    ]
}

fn rules(peers: &'static str) -> impl Strategy<Value = Value> {
    let list = |of| proptest::collection::vec(of, 0..3);
    let rule = (list(peer().boxed()), list(port().boxed()))
        .prop_map(move |(of_peers, ports)| json!({peers: of_peers, "ports": ports}));
    proptest::collection::vec(rule, 0..3).prop_map(Value::from)
}

fn policy() -> impl Strategy<Value = (String, Value)> {
    let types = prop_oneof![Just(vec!["Ingress"]), Just(vec!["Egress"]), Just(vec!["Ingress", "Egress"])];
    (0..2u8, selector(), types, rules("from"), rules("to")).prop_map(
        |(namespace, pods, types, ingress, egress)| {
            let spec =
                json!({"podSelector": pods, "policyTypes": types, "ingress": ingress, "egress": egress});
            (format!("ns{namespace}"), spec)
        },
    )
}

fn cluster() -> impl Strategy<Value = Cluster> {
    let labels = || {
        proptest::collection::btree_map(
            (0..2u8).prop_map(|n| format!("k{n}")),
            (0..2u8).prop_map(|n| format!("v{n}")),
            0..3,
        )
    };
    let pods = proptest::collection::vec((0..2u8, labels()), 2..6);
    let namespaces = proptest::collection::vec(labels(), 2);
    (namespaces, pods, proptest::collection::vec(policy(), 0..5)).prop_map(|(namespaces, pods, policies)| {
        Cluster {
            namespaces: namespaces
                .into_iter()
                .enumerate()
                .map(|(n, labels)| (format!("ns{n}"), labels))
                .collect(),
            pods: (1..)
                .zip(pods)
                .map(|(n, (namespace, labels)): (u8, _)| TestPod {
                    namespace: format!("ns{namespace}"),
                    name: format!("p{n}"),
                    labels,
                    ip: IpAddr::from([10, 0, 0, n]),
                    ports: vec![("web".to_owned(), 8000 + u16::from(n))],
                })
                .collect(),
            policies,
        }
    })
}

proptest! {
    #[test]
    fn rules_say_what_the_policies_say(cluster in cluster()) {
        for pod in &cluster.pods {
            let rules = cluster.rules(&pod.name);
            for peer in &cluster.pods {
                for port in [79, 80, 81, 443, 8001, 8002, 8003] {
                    let comes = rules.may_come(peer.ip, Protocol::Tcp, port);
                    prop_assert_eq!(comes, second_opinion(&cluster, Direction::Ingress, pod, peer, port), "{} from {} at {}", pod.name, peer.name, port);
                    let goes = rules.may_go((peer.ip, port).into(), Protocol::Tcp);
                    prop_assert_eq!(goes, second_opinion(&cluster, Direction::Egress, pod, peer, port), "{} to {} at {}", pod.name, peer.name, port);
                }
            }
        }
    }
}
