use serde_json::{Value, json};

use super::*;

fn node() -> NodeView {
    NodeView {
        name: "n".to_owned(),
        labels: [("kubernetes.io/os", "linux"), ("zone", "a")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        taints: vec![Taint {
            key: "kubernetes.io/arch".to_owned(),
            value: Some("wasm32-wasi".to_owned()),
            effect: "NoExecute".to_owned(),
            time_added: None,
        }],
        allocatable: [("cpu", 4000), ("memory", 1 << 30), ("pods", 2)]
            .map(|(name, amount)| (name.to_owned(), amount))
            .into(),
        sysctls: SysctlAllowlist::default(),
    }
}

/// A pod that tolerates the node, changed by `more`.
fn pod(more: Value) -> Pod {
    let mut spec = json!({
        "containers": [{"name": "c", "image": "i"}],
        "tolerations": [{"key": "kubernetes.io/arch", "operator": "Exists"}],
    });
    if let (Value::Object(spec), Value::Object(more)) = (&mut spec, more) {
        spec.extend(more);
    }
    serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
}

fn asking(cpu: &str) -> Value {
    json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]})
}

fn on_port(port: u16, ip: &str) -> Value {
    json!({"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "hostPort": port, "hostIP": ip}]}]})
}

fn used(pods: &[Pod]) -> Amounts {
    let mut sum = Amounts::new();
    pods.iter().for_each(|pod| resources::add(&mut sum, &resources::footprint(pod)));
    sum
}

#[test]
fn every_reason_in_its_words() {
    let busy = [pod(asking("3800m"))];
    let bound = [pod(on_port(8080, "10.0.0.1"))];
    let full = [pod(json!({})), pod(json!({}))];
    type Row<'a> = (Value, &'a [Pod], Option<(&'static str, &'static str)>);
    let table: Vec<Row<'_>> = vec![
        (json!({}), &[], None),
        (asking("200m"), &busy, None),
        (
            asking("500m"),
            &busy,
            Some((
                "OutOfcpu",
                "Node didn't have enough resource: cpu, requested: 500, used: 3800, capacity: 4000",
            )),
        ),
        (
            json!({}),
            &full,
            Some(("OutOfpods", "Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2")),
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}}),
            &[],
            Some(("SysctlForbidden", "forbidden sysctl: \"kernel.msgmax\" not allowlisted")),
        ),
        (
            json!({"nodeSelector": {"zone": "b"}}),
            &[],
            Some((
                "NodeAffinity",
                "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
            )),
        ),
        (
            json!({"nodeName": "m"}),
            &[],
            Some(("NodeName", "Predicate NodeName failed: node(s) didn't match the requested node name")),
        ),
        (
            on_port(8080, ""),
            &bound,
            Some((
                "NodePorts",
                "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
            )),
        ),
        (on_port(8080, "10.0.0.2"), &bound, None),
        (
            json!({"tolerations": []}),
            &[],
            Some((
                "TaintToleration",
                "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
            )),
        ),
        (
            json!({"nodeSelector": {"kubernetes.io/os": "windows"}}),
            &[],
            Some((
                "PodOSSelectorNodeLabelDoesNotMatch",
                "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
            )),
        ),
        (
            json!({"os": {"name": "windows"}}),
            &[],
            Some(("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")),
        ),
    ];
    for (more, others, expected) in table {
        let rejection = admit(&pod(more.clone()), &node(), &used(others), others).err();
        let found = rejection.as_ref().map(|r| (r.reason.as_str(), r.message.as_str()));
        assert_eq!(found, expected, "{more}");
    }
}

#[test]
fn a_static_pod_stays_whatever_the_taints() {
    let mut pod = pod(json!({"tolerations": []}));
    pod.metadata.annotations = Some([("kubernetes.io/config.source".to_owned(), "file".to_owned())].into());
    assert_eq!(admit(&pod, &node(), &Amounts::new(), &[]), Ok(vec![]));
}

/// A critical pod is told what it lacks, all of it, and refused for what no other pod could give it.
#[test]
fn a_critical_pod_is_not_refused_for_resources() {
    let critical = |more: Value| {
        let mut pod = pod(more);
        pod.spec.get_or_insert_default().priority = Some(SYSTEM_CRITICAL);
        pod
    };
    let full = [pod(asking("3800m")), pod(json!({}))];
    let shortage = |resource: &str, missing| Shortage { resource: resource.to_owned(), missing };
    let lacks = admit(&critical(asking("500m")), &node(), &used(&full), &full);
    assert_eq!(lacks, Ok(vec![shortage("pods", 1), shortage("cpu", 300)]));
    let mut elsewhere = critical(asking("500m"));
    elsewhere.spec.get_or_insert_default().node_selector = Some([("zone".to_owned(), "b".to_owned())].into());
    let refusal = admit(&elsewhere, &node(), &used(&full), &full).unwrap_err();
    assert_eq!(refusal.reason, "NodeAffinity");
}

#[test]
fn tolerations() {
    let taint = |effect: &str| Taint {
        key: "k".to_owned(),
        value: Some("v".to_owned()),
        effect: effect.to_owned(),
        time_added: None,
    };
    let table = [
        (json!({"key": "k", "operator": "Equal", "value": "v", "effect": "NoExecute"}), true),
        (json!({"key": "k", "value": "v"}), true),
        (json!({"key": "k", "value": "w"}), false),
        (json!({"key": "k", "operator": "Exists"}), true),
        (json!({"key": "j", "operator": "Exists"}), false),
        (json!({"operator": "Exists"}), true),
        (json!({"operator": "Exists", "effect": "NoSchedule"}), false),
        (json!({}), false),
    ];
    for (toleration, expected) in table {
        let toleration_: Toleration = serde_json::from_value(toleration.clone()).unwrap();
        assert_eq!(tolerates(&toleration_, &taint("NoExecute")), expected, "{toleration}");
    }
}

/// Two pods do not have one port of the node, by whichever container; init containers that end have theirs for a while only.
#[test]
fn ports_of_the_node_are_one_pods() {
    let port = |protocol: &str, ip: &str| json!({"containerPort": 80, "hostPort": 8080, "protocol": protocol, "hostIP": ip});
    let regular = |port: Value| pod(json!({"containers": [{"name": "c", "image": "i", "ports": [port]}]}));
    let init = |port: Value, policy: Value| {
        let init = json!([{"name": "s", "image": "i", "restartPolicy": policy, "ports": [port]}]);
        pod(json!({"initContainers": init, "containers": [{"name": "c", "image": "i"}]}))
    };
    let tcp = || port("TCP", "");
    for (one, other, conflict) in [
        (regular(tcp()), regular(tcp()), true),
        (regular(tcp()), regular(port("UDP", "")), false),
        (regular(port("TCP", "10.0.0.1")), regular(port("TCP", "10.0.0.2")), false),
        (regular(port("TCP", "10.0.0.1")), regular(port("TCP", "10.0.0.1")), true),
        (regular(port("TCP", "10.0.0.1")), regular(port("TCP", "0.0.0.0")), true),
        (regular(port("TCP", "::")), regular(port("TCP", "10.0.0.1")), true),
        (init(tcp(), json!("Always")), regular(tcp()), true),
        (regular(tcp()), init(tcp(), json!("Always")), true),
        (init(tcp(), json!(null)), regular(tcp()), false),
    ] {
        let used = used(std::slice::from_ref(&other));
        let refused = admit(&one, &node(), &used, [&other]).is_err_and(|error| error.reason == "NodePorts");
        assert_eq!(refused, conflict, "{one:?} {other:?}");
    }
}

/// Under memory pressure alone, who asks for nothing is not taken, but for who says that it can live with that; under
/// pressure of the disk, nobody is. The node's own pods always are.
#[test]
fn a_node_under_pressure_takes_who_helps_it_or_asks_for_what_it_needs() {
    let memory = Pressure { memory: true, disk: false };
    let disk = Pressure { memory: false, disk: true };
    let both = Pressure { memory: true, disk: true };
    let told = |what: &str| Some(format!("The node had condition: [{what}]. "));
    let tolerating = |key: &str| json!({"tolerations": [{"key": key, "operator": "Exists"}]});
    let limited =
        json!({"containers": [{"name": "c", "image": "i", "resources": {"limits": {"memory": "1Mi"}}}]});
    let stored = json!({
        "containers": [{"name": "c", "image": "i", "resources": {"requests": {"ephemeral-storage": "1Mi"}}}]
    });
    let cases = [
        (json!({}), Pressure::default(), None),
        (json!({}), memory, told("MemoryPressure")),
        (json!({}), disk, told("DiskPressure")),
        (json!({}), both, told("MemoryPressure DiskPressure")),
        (asking("1m"), memory, None),
        (limited, memory, None),
        (stored, memory, told("MemoryPressure")),
        (asking("1m"), both, told("MemoryPressure DiskPressure")),
        (tolerating("node.kubernetes.io/memory-pressure"), memory, None),
        (tolerating("node.kubernetes.io/memory-pressure"), both, told("MemoryPressure DiskPressure")),
        (tolerating("node.kubernetes.io/disk-pressure"), disk, told("DiskPressure")),
        (json!({"priority": 1_999_999_999}), memory, told("MemoryPressure")),
        (json!({"priority": 2_000_000_000}), both, None),
    ];
    for (more, pressure, expected) in cases {
        let refusal = admit_under(&pod(more.clone()), pressure).err();
        let reason = refusal.as_ref().map(|refusal| refusal.reason.as_str());
        assert_eq!(reason, expected.as_ref().map(|_| "Evicted"), "{more} {pressure:?}");
        assert_eq!(refusal.map(|refusal| refusal.message), expected, "{more} {pressure:?}");
    }
    let mut own = pod(json!({}));
    own.metadata.annotations = Some([("kubernetes.io/config.source".to_owned(), "file".to_owned())].into());
    assert_eq!(admit_under(&own, both), Ok(()));
}
