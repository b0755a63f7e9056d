//! Configuration by file, drop-ins and the kubelet's flags, as `/configz` shows it to kubectl.

use std::fs;

use kubewasm_tests::node::Options;
use serde_json::{Value, json};

use crate::suite::{own_node, suite};

/// Flags go before drop-ins and these before the file, and what has no effect is shown with its default.
#[tokio::test]
async fn configz_shows_what_file_drop_ins_and_flags_have_come_to() {
    let dir = tempfile::tempdir().unwrap();
    let drop_in = |name: &str, body: &str| {
        let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
        fs::write(dir.path().join(name), format!("{head}{body}")).unwrap();
    };
    drop_in("10-a.conf", "maxPods: 21\nkubeReserved: {memory: 32Mi}\nclusterDomain: first.example\n");
    drop_in("20-b.conf", "clusterDomain: second.example\n");
    drop_in("30-c.yaml", "clusterDomain: ignored.example\n");
    let options = Options::default()
        .config("maxPods", json!(20))
        .config("kubeReserved", json!({ "cpu": "10m" }))
        .flag(format!("--config-dir={}", dir.path().display()))
        .flag("--cluster-dns=192.0.2.53")
        .flag("--system-reserved=cpu=20m")
        .flag("--cgroup-driver=systemd")
        .flag("--pod-infra-container-image=registry.example/pause:3");
    let node = own_node("configured-node", &options).await;
    let raw = format!("/api/v1/nodes/{}/proxy/configz", node.name());
    let shown = suite().await.cluster.kubectl(&["get", "--raw", &raw]).await.unwrap();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let shown = &shown["kubeletconfig"];
    for (field, expected) in [
        ("maxPods", json!(21)),
        ("kubeReserved", json!({ "cpu": "10m", "memory": "32Mi" })),
        ("systemReserved", json!({ "cpu": "20m" })),
        ("clusterDomain", json!("second.example")),
        ("clusterDNS", json!(["192.0.2.53"])),
        ("cgroupDriver", json!("systemd")),
        ("topologyManagerPolicy", json!("none")),
        ("syncFrequency", json!("1m0s")),
        ("kind", json!("KubeletConfiguration")),
    ] {
        assert_eq!(shown[field], expected, "{field}");
    }
}
