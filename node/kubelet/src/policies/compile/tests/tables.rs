//! One behaviour of the API after the other.

use super::*;

/// Three namespaces: two of team `a`, one of team `b`.
fn cluster() -> Cluster {
    Cluster::new(
        &[("one", "team=a"), ("two", "team=a stage=test"), ("three", "team=b")],
        &[
            "one/web app=web",
            "one/db app=db",
            "one/bare",
            "two/web2 app=web",
            "two/db2 app=db",
            "three/web3 app=web",
            "three/bare3",
        ],
    )
}

fn labelled(key: &str, value: &str) -> Value {
    json!({"matchLabels": {key: value}})
}

/// Who reaches port 80 of `one/db`, whom this policy of its namespace is about.
fn with_ingress(rules: Value) -> String {
    let spec = json!({"podSelector": labelled("app", "db"), "policyTypes": ["Ingress"], "ingress": rules});
    cluster().with("one", spec).who_reaches("db", 80)
}

const EVERYBODY: &str = "web bare web2 db2 web3 bare3";

#[test]
fn who_is_let_in() {
    let (app_web, team_a) = (labelled("app", "web"), labelled("team", "a"));
    for (rules, expected) in [
        (json!([]), ""),
        (json!([{}]), EVERYBODY),
        (json!([{"from": []}]), EVERYBODY),
        (json!([{"from": [{"podSelector": {}}]}]), "web bare"),
        (json!([{"from": [{"podSelector": app_web}]}]), "web"),
        (json!([{"from": [{"namespaceSelector": {}}]}]), EVERYBODY),
        (json!([{"from": [{"namespaceSelector": team_a}]}]), "web bare web2 db2"),
        (json!([{"from": [{"namespaceSelector": labelled("team", "c")}]}]), ""),
        (json!([{"from": [{"namespaceSelector": {}, "podSelector": app_web}]}]), "web web2 web3"),
        (json!([{"from": [{"namespaceSelector": team_a, "podSelector": app_web}]}]), "web web2"),
        (
            json!([{"from": [{"namespaceSelector": labelled("team", "b")}, {"podSelector": app_web}]}]),
            "web web3 bare3",
        ),
        (
            json!([{"from": [{"podSelector": app_web}]}, {"from": [{"namespaceSelector": labelled("stage", "test")}]}]),
            "web web2 db2",
        ),
        (
            json!([{"from": [{"podSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}}]}]),
            "bare",
        ),
        (json!([{"from": [{"ipBlock": {"cidr": "10.0.0.0/29"}}]}]), EVERYBODY),
        (json!([{"from": [{"ipBlock": {"cidr": "10.0.0.0/30"}}]}]), "web bare"),
        (
            json!([{"from": [{"ipBlock": {"cidr": "10.0.0.0/29", "except": ["10.0.0.1/32", "10.0.0.4/30"]}}]}]),
            "bare",
        ),
        (json!([{"from": [{"ipBlock": {"cidr": "2001:db8::/32"}}]}]), ""),
        (json!([{"ports": [{"port": 80}]}]), EVERYBODY),
        (json!([{"ports": [{"port": 81}]}]), ""),
        (json!([{"ports": [{}]}]), EVERYBODY),
        (json!([{"ports": [{"protocol": "UDP"}]}]), ""),
        (json!([{"ports": [{"protocol": "SCTP", "port": 80}]}]), ""),
        (json!([{"ports": [{"port": 70, "endPort": 80}]}]), EVERYBODY),
        (json!([{"ports": [{"port": 70, "endPort": 79}]}]), ""),
        (json!([{"ports": [{"port": 443}, {"port": 80}], "from": [{"podSelector": app_web}]}]), "web"),
        (json!([{"ports": [{"port": "web"}]}]), ""),
        (json!([{"ports": [{"port": "other"}]}]), ""),
    ] {
        assert_eq!(with_ingress(rules.clone()), expected, "{rules}");
    }
}

#[test]
fn who_is_selected() {
    let deny = |selector: Value| json!({"podSelector": selector, "policyTypes": ["Ingress"]});
    for (namespace, selector, expected) in [
        ("one", json!({}), ""),
        ("one", labelled("app", "db"), ""),
        ("one", labelled("app", "web"), EVERYBODY),
        ("two", json!({}), EVERYBODY),
    ] {
        let reached = cluster().with(namespace, deny(selector.clone())).who_reaches("db", 80);
        assert_eq!(reached, expected, "{namespace} {selector}");
    }
}

#[test]
fn policies_add_up() {
    let allow = |who: Value| json!({"podSelector": {}, "ingress": [{"from": [who]}]});
    let cluster = cluster().with("one", json!({"podSelector": {}}));
    assert_eq!(cluster.who_reaches("db", 80), "");
    let cluster = cluster.with("one", allow(json!({"podSelector": labelled("app", "web")})));
    assert_eq!(cluster.who_reaches("db", 80), "web");
    let cluster = cluster.with("one", allow(json!({"ipBlock": {"cidr": "10.0.0.7/32"}})));
    assert_eq!(cluster.who_reaches("db", 80), "web bare3");
    let cluster = cluster.with("one", json!({"podSelector": {}, "ingress": [{}]}));
    assert_eq!(cluster.who_reaches("db", 80), EVERYBODY);
}

#[test]
fn what_may_go_out() {
    let with = |rules: Value| {
        let spec = json!({"podSelector": labelled("app", "web"), "policyTypes": ["Egress"], "egress": rules});
        cluster().with("one", spec)
    };
    let reached = |cluster: &Cluster, port: u16| {
        let all =
            cluster.pods.iter().filter(|pod| pod.name != "web" && cluster.reaches("web", &pod.name, port));
        all.map(|pod| pod.name.as_str()).collect::<Vec<_>>().join(" ")
    };
    let app_db = labelled("app", "db");
    for (rules, expected) in [
        (json!([]), ""),
        (json!([{}]), "db bare web2 db2 web3 bare3"),
        (json!([{"to": [{"podSelector": app_db}]}]), "db"),
        (json!([{"to": [{"podSelector": app_db, "namespaceSelector": {}}]}]), "db db2"),
        (
            json!([{"to": [{"ipBlock": {"cidr": "10.0.0.4/30"}}], "ports": [{"port": 80}]}]),
            "web2 db2 web3 bare3",
        ),
        (json!([{"to": [{"podSelector": app_db}], "ports": [{"port": 81}]}]), ""),
    ] {
        assert_eq!(reached(&with(rules.clone()), 80), expected, "{rules}");
    }
    assert_eq!(with(json!([])).who_reaches("db", 80), "bare web2 db2 web3 bare3", "others are not selected");

    // Each pod is reached at the port that has the name there: `web` is 8000 and the number of the pod.
    let named = json!([{"to": [{"podSelector": {}, "namespaceSelector": {}}], "ports": [{"port": "web"}]}]);
    let anywhere = json!([{"ports": [{"port": "web"}, {"port": 443}]}]);
    for rules in [named, anywhere.clone()] {
        for (port, expected) in [(8002, "db"), (8005, "db2"), (8001, ""), (80, "")] {
            assert_eq!(reached(&with(rules.clone()), port), expected, "{rules} {port}");
        }
    }
    assert_eq!(reached(&with(anywhere), 443), "db bare web2 db2 web3 bare3");
    let block = json!([{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": "web"}]}]);
    assert_eq!(reached(&with(block.clone()), 8002), "db", "of the pods that have an address in it");
    assert_eq!(reached(&with(block), 80), "");
}

/// The pod's own port of that name: two pods of one policy have different ones.
#[test]
fn a_named_port_is_that_of_the_pod_that_is_connected_to() {
    let spec = json!({"podSelector": {}, "ingress": [{"ports": [{"port": "web"}]}]});
    let cluster = cluster().with("one", spec);
    for (to, port, expected) in
        [("db", 8002, true), ("db", 8003, false), ("bare", 8003, true), ("bare", 8002, false)]
    {
        assert_eq!(cluster.reaches("web2", to, port), expected, "{to} {port}");
    }
}

#[test]
fn only_what_policies_ask_for_is_followed() {
    let asked = |spec: Value| {
        let cluster = cluster().with("one", spec).with(
            "two",
            json!({
                "podSelector": {}, "ingress": [{"from": [{"namespaceSelector": labelled("x", "y")}]}],
            }),
        );
        let (_, demand) = cluster.world(&[cluster.pod("db").local()]);
        let scopes: Vec<_> = demand.scopes.iter().map(ToString::to_string).collect();
        (demand.namespaces, scopes.join("; "))
    };
    let ingress = |from: Value| json!({"podSelector": {}, "ingress": [{"from": [from]}]});
    let app_web = labelled("app", "web");
    for (spec, namespaces, expected) in [
        (json!({"podSelector": {}}), false, ""),
        (json!({"podSelector": {}, "ingress": [{}]}), false, ""),
        (json!({"podSelector": app_web, "ingress": [{"from": [{"podSelector": {}}]}]}), false, ""),
        (ingress(json!({"ipBlock": {"cidr": "10.0.0.0/8"}})), false, ""),
        (ingress(json!({"podSelector": app_web})), false, "pods of namespace one with app=web"),
        (ingress(json!({"namespaceSelector": {}, "podSelector": app_web})), false, "pods with app=web"),
        (
            ingress(json!({"namespaceSelector": labelled("team", "a")})),
            true,
            "pods of namespace one; pods of namespace two",
        ),
        (
            json!({"podSelector": {}, "policyTypes": ["Egress"], "ingress": [{"from": [{"podSelector": {}}]}]}),
            false,
            "",
        ),
        (json!({"podSelector": {}, "egress": [{"ports": [{"port": "web"}]}]}), false, "pods"),
    ] {
        assert_eq!(asked(spec.clone()), (namespaces, expected.to_owned()), "{spec}");
    }
}

/// Of many namespaces, all pods with the labels are followed, and those of others do not count.
#[test]
fn many_namespaces_are_followed_together() {
    let names: Vec<String> = (0..40).map(|n| format!("ns{n}")).collect();
    let team = |n: usize| if n.is_multiple_of(2) { "team=a" } else { "team=b" };
    let namespaces: Vec<_> = names.iter().enumerate().map(|(n, name)| (name.as_str(), team(n))).collect();
    let pods: Vec<String> = (0..40).map(|n| format!("ns{n}/pod{n} app=web")).collect();
    let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
    let from = json!({"namespaceSelector": labelled("team", "a"), "podSelector": labelled("app", "web")});
    let spec = json!({"podSelector": {}, "ingress": [{"from": [from]}]});
    let cluster = Cluster::new(&namespaces, &pods).with("ns1", spec);
    let (_, demand) = cluster.world(&[cluster.pod("pod1").local()]);
    assert_eq!(demand.scopes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["pods with app=web"]);
    let reached: Vec<_> = (0..40).filter(|n| cluster.reaches(&format!("pod{n}"), "pod1", 80)).collect();
    assert_eq!(reached, (0..40).filter(|n| n % 2 == 0).collect::<Vec<_>>());
}

/// Pods behind one policy have one and the same rule, and neighbours in it are one range.
#[test]
fn what_many_share_is_there_once() {
    let pods: Vec<String> = (0..200).map(|n| format!("one/p{n} app=web")).collect();
    let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
    let spec = json!({"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]});
    let cluster = Cluster::new(&[("one", "")], &pods).with("one", spec);
    let local: Vec<_> = cluster.pods.iter().map(TestPod::local).collect();
    let (world, _) = cluster.world(&local);
    let mut compiler = Compiler::new(&world);
    let rules: Vec<_> = local.iter().map(|pod| compiler.rules(pod).rules.ingress.unwrap()).collect();
    assert!(rules.iter().all(|of_pod| of_pod.len() == 1 && Arc::ptr_eq(&of_pod[0], &rules[0][0])));
    let Peers::These(peers) = &rules[0][0].peers else { panic!("{:?}", rules[0]) };
    assert_eq!(peers.v4_ranges().len(), 1);
}

#[test]
fn what_has_not_been_read_allows_nobody_and_is_named() {
    let spec = json!({"podSelector": {}, "ingress": [
        {"from": [{"podSelector": {}}, {"ipBlock": {"cidr": "10.0.0.7/32"}}]},
        {"from": [{"namespaceSelector": labelled("team", "a")}]},
    ]});
    let cluster = cluster().with("one", spec);
    let pod = cluster.pod("db").local();
    let (mut world, _) = cluster.world(std::slice::from_ref(&pod));
    (world.namespaces, world.peers) = (None, BTreeMap::new());
    let Compiled { rules, missing } = Compiler::new(&world).rules(&pod);
    let allowed = |address| rules.may_come(ip(address), Protocol::Tcp, 80);
    assert!(allowed("10.0.0.7") && !allowed("10.0.0.1"));
    let scope = PodScope { namespace: Some("one".to_owned()), selector: String::new() };
    let policies = BTreeSet::from(["one/p0".to_owned()]);
    let expected = [(Missing::Namespaces, policies.clone()), (Missing::Pods(scope), policies)];
    assert_eq!(missing, BTreeMap::from(expected));
}
