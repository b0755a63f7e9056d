//! The condition `Ready` of a node whose parts are broken, and mended.

use kubewasm_tests::node::Options;

use crate::{
    pods::{Pods, running},
    shutdown::ready,
    suite::{await_ready, own_node, suite, with_temp_ns},
};

/// A node whose module store is gone says so, and is ready again when it is back; what runs goes on.
#[tokio::test]
async fn a_node_without_its_modules_is_not_ready() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let node = own_node("broken-node", &Options::default()).await;
        let spec = serde_json::json!({
            "nodeSelector": { "kubernetes.io/hostname": node.name() },
            "containers": [{
                "name": "main", "image": suite().await.actor.tagged, "args": ["sleep", "600"],
            }],
        });
        pods.create("stays", spec).await;
        let before = pods.until("stays", "running", running).await;
        let (here, away) = (node.root().join("modules"), node.root().join("modules.away"));
        std::fs::rename(&here, &away).unwrap();
        let problem = format!(
            "container runtime not ready: RuntimeReady=false reason:RuntimeNotReady message:modules in {} cannot be written: ",
            here.display()
        );
        ready(&client, node.name(), "False", "KubeletNotReady", &problem).await;
        std::fs::rename(&away, &here).unwrap();
        await_ready(&client, node.name()).await.unwrap();
        let after = pods.api().get("stays").await.unwrap();
        assert!(running(&after));
        let id = |pod| crate::pods::container(pod).and_then(|status| status.container_id.clone());
        assert_eq!(id(&before), id(&after));
    })
    .await;
}
