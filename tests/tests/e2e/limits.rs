//! How a node asks others: streaming lists where there are any, and no more often than it may.

use futures::future::join_all;
use kubewasm_tests::{node::Options, wait};
use serde_json::{Value, json};

use crate::{
    access,
    pods::{Pods, running},
    suite::{SOON, own_node, suite, with_temp_ns},
};

/// A 5,000-node cluster would be grateful: no node asks for a list of anything.
#[tokio::test]
async fn collections_come_in_streaming_lists() {
    with_temp_ns(async |client, ns| {
        let (suite, pods) = (suite().await, Pods::new(&client, ns));
        let node = own_node("streaming-node", &Options::default()).await;
        let spec = json!({
            "nodeSelector": { "kubernetes.io/hostname": node.name() },
            "containers": [{ "name": "main", "image": suite.actor.tagged, "args": ["sleep", "3600"] }],
        });
        // Whose coming is told by the watch.
        pods.create("followed", spec).await;
        pods.until("followed", "running", running).await;
        let asked = suite.cluster.collections_of_node(node.name()).unwrap();
        for resource in ["pods", "services", "runtimeclasses"] {
            let of = || asked.iter().filter(|request| request.resource == resource);
            let first = of().next().unwrap_or_else(|| panic!("{resource}: {asked:#?}"));
            assert!(first.verb == "watch" && first.uri.contains("sendInitialEvents=true"), "{first:?}");
            // How things are now, not how they may have been.
            assert!(!first.uri.contains("resourceVersion=0"), "{first:?}");
            assert!(of().all(|request| request.verb == "watch"), "{asked:#?}");
        }
    })
    .await;
}

/// `kubeAPIQPS` has requests wait, and `registryPullQPS` has pulls fail in the words of upstream; both get there in the end.
#[tokio::test]
async fn a_node_asks_no_more_often_than_it_may() {
    with_temp_ns(async |client, ns| {
        let (suite, pods) = (suite().await, Pods::new(&client, ns));
        let options = Options::default()
            .config("kubeAPIQPS", json!(20))
            .config("kubeAPIBurst", json!(1))
            .config("registryPullQPS", json!(1))
            .config("registryBurst", json!(1));
        let node = own_node("limited-node", &options).await;
        let names: Vec<_> = (0..3).map(|number| format!("pulls-{number}")).collect();
        let spec = json!({
            "nodeSelector": { "kubernetes.io/hostname": node.name() },
            "containers": [{
                "name": "main",
                "image": suite.actor.tagged,
                "imagePullPolicy": "Always",
                "args": ["sleep", "3600"],
            }],
        });
        join_all(names.iter().map(|name| pods.create(name, spec.clone()))).await;
        wait::until("a refused pull", SOON, async || {
            let events = ["--namespace", ns, "get", "events", "-o", "json"];
            let text = suite.cluster.kubectl(&events).await.map_err(|error| error.to_string())?;
            if text.contains("pull QPS exceeded") { Ok(()) } else { Err("none was refused".to_owned()) }
        })
        .await
        .unwrap();
        for name in &names {
            pods.until(name, "running", running).await;
        }
        let admin = access::admin_of(&node.url()).await;
        let metrics = access::get(&admin, "/metrics").await.unwrap();
        assert!(metrics.contains("rest_client_rate_limiter_duration_seconds_count{"), "{metrics}");
        let shown = access::get(&admin, "/configz").await.unwrap();
        let shown: Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["kubeletconfig"]["kubeAPIQPS"], 20);
        assert_eq!(shown["kubeletconfig"]["registryPullQPS"], 1);
    })
    .await;
}
