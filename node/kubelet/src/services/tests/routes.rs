//! Which endpoints count for which address, by the rules of kube-proxy for what a pod sends.

use serde_json::json;

use super::*;

/// Lines of the routes of a Service with this specification.
fn check(spec: Value, endpoints: &[(&str, &str)], expected: &[&str]) {
    assert_eq!(lines(&service(spec.clone()), endpoints), expected, "{spec} {endpoints:?}");
}

#[test]
fn endpoints_that_are_ready_count_and_those_that_end_where_there_is_no_other() {
    for (endpoints, expected) in [
        (&[][..], "Tcp 10.96.0.9:80 -> "),
        (&[("10.0.0.2", ""), ("10.0.0.1", "")], "Tcp 10.96.0.9:80 -> 10.0.0.1:8080 10.0.0.2:8080"),
        (
            &[("10.0.0.1", ""), ("10.0.0.2", "unready"), ("10.0.0.3", "ending")],
            "Tcp 10.96.0.9:80 -> 10.0.0.1:8080",
        ),
        (&[("10.0.0.2", "unready"), ("10.0.0.3", "ending")], "Tcp 10.96.0.9:80 -> 10.0.0.3:8080"),
        (&[("10.0.0.2", "unready"), ("10.0.0.3", "ending unserving")], "Tcp 10.96.0.9:80 -> "),
    ] {
        check(json!({}), endpoints, &[expected]);
    }
}

/// An endpoint of which nothing is told is taken for ready.
#[test]
fn conditions_that_are_missing_are_good_ones() {
    let bare = json!({"addresses": ["10.0.0.1"]});
    let slices = slices(vec![slice("one", vec![bare])]);
    let routes = crate::services::routes::of(&service(json!({})), slices.of("ns/web"), &here()).unwrap();
    assert_eq!(text(&routes), ["Tcp 10.96.0.9:80 -> 10.0.0.1:8080"]);
}

#[test]
fn services_without_an_address_of_their_own_are_skipped() {
    for spec in [
        json!({"clusterIP": "None", "clusterIPs": ["None"]}),
        json!({"clusterIP": ""}),
        json!({"clusterIP": null, "type": "ExternalName", "externalName": "example.com"}),
    ] {
        check(spec, &[("10.0.0.1", "")], &["none"]);
    }
    let mut anothers = service(json!({}));
    anothers.metadata.labels =
        Some([("service.kubernetes.io/service-proxy-name".into(), "me".into())].into());
    assert_eq!(lines(&anothers, &[("10.0.0.1", "")]), ["none"]);
}

#[test]
fn internal_traffic_may_be_kept_on_the_node() {
    let local = json!({"internalTrafficPolicy": "Local"});
    for (endpoints, expected) in [
        (&[("10.0.0.1", "here"), ("10.0.0.2", "")][..], "Tcp 10.96.0.9:80 -> 10.0.0.1:8080; node only"),
        (&[("10.0.0.1", "here ending"), ("10.0.0.2", "")], "Tcp 10.96.0.9:80 -> 10.0.0.1:8080; node only"),
        (&[("10.0.0.2", "")], "Tcp 10.96.0.9:80 -> ; node only"),
        (&[("10.0.0.2", "ending")], "Tcp 10.96.0.9:80 -> ; node only"),
        (&[("10.0.0.2", "unready")], "Tcp 10.96.0.9:80 -> "),
    ] {
        check(local.clone(), endpoints, &[expected]);
    }
    let ports = json!([{"port": 80, "nodePort": 30080}]);
    check(
        json!({"internalTrafficPolicy": "Local", "type": "NodePort", "ports": ports}),
        &[("10.0.0.1", "here"), ("10.0.0.2", "")],
        &[
            "Tcp 10.96.0.9:80 -> 10.0.0.1:8080; node only",
            "Tcp 192.0.2.1:30080 -> 10.0.0.1:8080 10.0.0.2:8080",
        ],
    );
}

/// `externalTrafficPolicy` is for what comes from beyond the cluster.
#[test]
fn external_addresses_lead_pods_anywhere() {
    for policy in ["Cluster", "Local"] {
        check(
            json!({
                "type": "LoadBalancer", "externalTrafficPolicy": policy, "externalIPs": ["203.0.113.1", "2001:db8::7"],
                "ports": [{"port": 80, "nodePort": 30080}],
            }),
            &[("10.0.0.2", "")],
            &["Tcp 10.96.0.9:80 203.0.113.1:80 192.0.2.1:30080 -> 10.0.0.2:8080"],
        );
    }
}

#[test]
fn load_balancers_are_answered_for_unless_they_see_to_it_themselves() {
    let balanced = |spec: Value, ingress: Value| {
        let mut service = service(spec);
        service.status = serde_json::from_value(json!({"loadBalancer": {"ingress": ingress}})).unwrap();
        lines(&service, &[("10.0.0.2", "")])
    };
    let cluster_ip = "Tcp 10.96.0.9:80 -> 10.0.0.2:8080";
    let ranges = |ranges: Value| json!({"loadBalancerSourceRanges": ranges});
    for (spec, ingress, expected) in [
        (json!({}), json!([{"ip": "203.0.113.5"}]), Some("Tcp 203.0.113.5:80 -> 10.0.0.2:8080")),
        (
            json!({}),
            json!([{"ip": "203.0.113.5", "ipMode": "VIP"}]),
            Some("Tcp 203.0.113.5:80 -> 10.0.0.2:8080"),
        ),
        (json!({}), json!([{"ip": "203.0.113.5", "ipMode": "Proxy"}]), None),
        (json!({}), json!([{"hostname": "balancer.example.com"}]), None),
        (
            ranges(json!([" 192.0.2.0/24 ", "2001:db8::/32"])),
            json!([{"ip": "203.0.113.5"}]),
            Some("Tcp 203.0.113.5:80 -> 10.0.0.2:8080; from 192.0.2.0/24"),
        ),
        (
            ranges(json!(["192.0.2.0/24", "0.0.0.0/0"])),
            json!([{"ip": "203.0.113.5"}]),
            Some("Tcp 203.0.113.5:80 -> 10.0.0.2:8080"),
        ),
    ] {
        let expected: Vec<_> = std::iter::once(cluster_ip).chain(expected).collect();
        assert_eq!(balanced(spec.clone(), ingress.clone()), expected, "{spec} {ingress}");
    }
}

#[test]
fn ports_are_found_by_name_and_protocol() {
    let service = service(json!({"ports": [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        {"name": "sctp", "port": 54, "protocol": "SCTP"},
        {"name": "lonely", "port": 55},
    ]}));
    let mut of_dns = slice("one", vec![endpoint("10.0.0.1", "")]);
    of_dns.ports = serde_json::from_value(json!([
        {"name": "dns", "port": 5353, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 5354, "protocol": "TCP"},
        {"name": "sctp", "port": 5355, "protocol": "SCTP"},
        {"name": "lonely", "port": null},
    ]))
    .unwrap();
    // Pods of a rollout may have another number for the same name.
    let mut newer = of_dns.clone();
    newer.metadata.name = Some("two".into());
    newer.ports = serde_json::from_value(json!([{"name": "dns", "port": 9953, "protocol": "UDP"}])).unwrap();
    newer.endpoints = serde_json::from_value(json!([endpoint("10.0.0.2", "")])).unwrap();
    let slices = slices(vec![of_dns, newer]);
    let routes = crate::services::routes::of(&service, slices.of("ns/web"), &here()).unwrap();
    assert_eq!(
        text(&routes),
        [
            "Udp 10.96.0.9:53 -> 10.0.0.1:5353 10.0.0.2:9953",
            "Tcp 10.96.0.9:53 -> 10.0.0.1:5354",
            "Tcp 10.96.0.9:55 -> ",
        ]
    );
}

#[test]
fn each_family_has_its_own_endpoints() {
    let service = service(json!({
        "clusterIPs": ["10.96.0.9", "fd00:96::9"], "ports": [{"port": 80, "nodePort": 30080}],
        "externalIPs": ["203.0.113.1", "2001:db8::7"],
    }));
    let mut of_ipv6 = slice("two", vec![endpoint("fd00:10::1", "")]);
    of_ipv6.address_type = "IPv6".into();
    let names = slice("three", vec![endpoint("web.example.com", "")]);
    let slices = slices(vec![slice("one", vec![endpoint("10.0.0.1", "")]), of_ipv6, names]);
    let routes = crate::services::routes::of(&service, slices.of("ns/web"), &here()).unwrap();
    assert_eq!(routes.cluster_ips.len(), 2);
    assert_eq!(
        text(&routes),
        [
            "Tcp 10.96.0.9:80 203.0.113.1:80 192.0.2.1:30080 -> 10.0.0.1:8080",
            "Tcp [fd00:96::9]:80 [2001:db8::7]:80 [2001:db8::1]:30080 -> [fd00:10::1]:8080",
        ]
    );
}

#[test]
fn hints_are_followed_where_all_have_them_and_one_is_for_here() {
    for (endpoints, expected) in [
        (&[("10.0.0.1", "zone=a"), ("10.0.0.2", "zone=b")][..], "10.0.0.1:8080"),
        (&[("10.0.0.1", "zone=b zone=a"), ("10.0.0.2", "zone=b")], "10.0.0.1:8080"),
        (&[("10.0.0.1", "zone=a"), ("10.0.0.2", "")], "10.0.0.1:8080 10.0.0.2:8080"),
        (&[("10.0.0.1", "zone=b"), ("10.0.0.2", "zone=c")], "10.0.0.1:8080 10.0.0.2:8080"),
        (&[("10.0.0.1", "zone=a unready"), ("10.0.0.2", "zone=b")], "10.0.0.2:8080"),
        (&[("10.0.0.1", "zone=a"), ("10.0.0.2", "unready")], "10.0.0.1:8080"),
        (&[("10.0.0.1", "zone=a node=there"), ("10.0.0.2", "zone=a node=here")], "10.0.0.2:8080"),
        (&[("10.0.0.1", "zone=a node=there"), ("10.0.0.2", "zone=b node=there")], "10.0.0.1:8080"),
        (&[("10.0.0.1", "zone=a node=here"), ("10.0.0.2", "zone=a")], "10.0.0.1:8080 10.0.0.2:8080"),
        (&[("10.0.0.1", "zone=a ending"), ("10.0.0.2", "zone=b ending")], "10.0.0.1:8080 10.0.0.2:8080"),
    ] {
        check(json!({}), endpoints, &[&format!("Tcp 10.96.0.9:80 -> {expected}")]);
    }
    // A node without a zone is in none.
    let slices =
        slices(vec![slice("one", vec![endpoint("10.0.0.1", "zone=a"), endpoint("10.0.0.2", "zone=b")])]);
    let nowhere = Viewpoint { zone: String::new(), ..here() };
    let routes = crate::services::routes::of(&service(json!({})), slices.of("ns/web"), &nowhere).unwrap();
    assert_eq!(text(&routes), ["Tcp 10.96.0.9:80 -> 10.0.0.1:8080 10.0.0.2:8080"]);
}

#[test]
fn affinity_has_a_time() {
    let sticky = |more: Value| {
        let mut spec = json!({"sessionAffinity": "ClientIP"});
        merge(&mut spec, more);
        spec
    };
    let endpoints = &[("10.0.0.1", "")];
    check(sticky(json!({})), endpoints, &["Tcp 10.96.0.9:80 -> 10.0.0.1:8080; affinity 10800"]);
    let config = json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 7}}});
    check(sticky(config), endpoints, &["Tcp 10.96.0.9:80 -> 10.0.0.1:8080; affinity 7"]);
    check(json!({"sessionAffinity": "None"}), endpoints, &["Tcp 10.96.0.9:80 -> 10.0.0.1:8080"]);
}
