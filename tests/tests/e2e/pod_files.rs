//! The files that a node writes for a pod, and the one that a guest leaves behind.

use std::fs;

use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{Api, api::DeleteParams};
use kubewasm_tests::node::Options;
use serde_json::json;

use crate::{
    pods::{Pods, terminated},
    status::says,
    suite::{own_node, suite, with_temp_ns},
};

/// `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` are what the pod asks for.
#[tokio::test]
async fn files_of_the_node() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let spec = json!({
            "hostname": "web-0", "subdomain": "db",
            "hostAliases": [{ "ip": "192.0.2.9", "hostnames": ["one", "two"] }],
            "dnsPolicy": "None",
            "dnsConfig": { "nameservers": ["192.0.2.53"], "searches": ["corp.example"], "options": [{ "name": "ndots", "value": "2" }] },
            "containers": [{
                "name": "main", "image": suite().await.actor.tagged,
                "args": ["cat", "/etc/hostname", "cat", "/etc/resolv.conf", "cat", "/etc/hosts"],
            }],
        });
        pods.create("named", spec).await;
        let pod = pods.phase("named", "Succeeded").await;
        let ip = pod.status.unwrap().pod_ip.unwrap();
        let logs = pods.logs("named").await;
        let start = "web-0\nsearch corp.example\nnameserver 192.0.2.53\noptions ndots:2\n\
                     # Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n";
        assert!(logs.starts_with(start), "{logs}");
        let end = format!(
            "{ip}\tweb-0.db.{ns}.svc\tweb-0\n\n# Entries added by HostAliases.\n192.0.2.9\tone\ttwo\n"
        );
        assert!(logs.ends_with(&end), "{logs}");
    })
    .await;
}

/// A pod that wants the cluster's DNS, on a node that was not told of it, gets the node's own, and is told; so is one
/// that has more servers than resolvers ask.
#[tokio::test]
async fn name_resolution_that_is_not_as_wished_is_told() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let resolv_conf = tempfile::NamedTempFile::new().unwrap();
        fs::write(resolv_conf.path(), "nameserver 192.0.2.1\n").unwrap();
        let options = Options::default().config("resolvConf", json!(resolv_conf.path()));
        let node = own_node("nameless-node", &options).await;
        let servers = json!(["192.0.2.2", "192.0.2.3", "192.0.2.4"]);
        let spec = json!({
            "nodeSelector": { "kubernetes.io/hostname": node.name() },
            "dnsPolicy": "ClusterFirst",
            "dnsConfig": { "nameservers": servers },
            "containers": [{
                "name": "main", "image": suite().await.actor.tagged, "args": ["cat", "/etc/resolv.conf"],
            }],
        });
        pods.create("asks", spec).await;
        pods.phase("asks", "Succeeded").await;
        let applied = "192.0.2.1 192.0.2.2 192.0.2.3";
        let lines: String = applied.split(' ').map(|server| format!("nameserver {server}\n")).collect();
        assert_eq!(pods.logs("asks").await, lines);
        let missing = "Falling back to \"Default\" policy.";
        pods.event("asks", "the other policy", |event| says(event, "MissingClusterDNS", missing)).await;
        let omitted =
            format!("some nameservers have been omitted, the applied nameserver line is: {applied}");
        pods.event("asks", "what is left", |event| says(event, "DNSConfigForming", &omitted)).await;
        let name = node.name().to_owned();
        drop(node);
        Api::<NodeObject>::all(client).delete(&name, &DeleteParams::default()).await.unwrap();
    })
    .await;
}

/// What a guest writes to its termination message path is in its status.
#[tokio::test]
async fn a_termination_message_is_read_from_its_file() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor.tagged;
        let args = ["write", "/dev/termination-log", "why", "exit", "3"];
        pods.run("usual", image, &args).await;
        let args = ["write", "/messages/last", "another why", "exit", "0"];
        let container = json!({
            "name": "main", "image": image, "args": args, "terminationMessagePath": "/messages/last",
        });
        pods.create("elsewhere", json!({ "containers": [container] })).await;
        for (name, phase, expected) in [("usual", "Failed", "why"), ("elsewhere", "Succeeded", "another why")]
        {
            let pod = pods.phase(name, phase).await;
            assert_eq!(terminated(&pod).unwrap().message.as_deref(), Some(expected));
        }
    })
    .await;
}

/// A variable may come from a file that an init container has written.
#[tokio::test]
async fn a_variable_comes_from_a_file() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor.tagged;
        let source = json!({ "fileKeyRef": { "volumeName": "v", "path": "env", "key": "COLOUR" } });
        let spec = json!({
            "volumes": [{ "name": "v", "emptyDir": {} }],
            "initContainers": [{
                "name": "first", "image": image, "args": ["write", "/v/env", "COLOUR='green'\n"],
                "volumeMounts": [{ "name": "v", "mountPath": "/v" }],
            }],
            "containers": [{
                "name": "main", "image": image, "args": ["say", "$(X)"],
                "env": [{ "name": "X", "valueFrom": source }],
            }],
        });
        pods.create("coloured", spec).await;
        pods.phase("coloured", "Succeeded").await;
        assert_eq!(pods.logs("coloured").await, "green\n");
    })
    .await;
}
