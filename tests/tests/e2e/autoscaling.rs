//! What is made of the node's numbers by those for whom they are: metrics-server, `kubectl top`, and autoscalers.

use std::collections::BTreeMap;

use k8s_openapi::api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler};
use kube::{Api, Client, api::PostParams};
use kubewasm_tests::{
    cluster::{self, Cluster},
    home::Home,
    metrics_server::MetricsServer,
    node::{Node, Options},
    wait,
};
use serde_json::{Value, json};

use crate::suite::{SOON, await_ready, start_registry};

const NODE: &str = "measured-node";
const NAMESPACE: &str = "default";

/// One that computes without end and may have a tenth of a processor, where half of a twentieth is what it should take: three
/// of them, which is as many as there may be; and one again when they do not compute any more.
#[tokio::test]
async fn metrics_server_shows_pods_and_an_autoscaler_goes_by_it() {
    let home = Home::temporary().unwrap();
    let cluster = Cluster::start(&home).await.unwrap();
    let (_registry, actor) = start_registry(&home).await.unwrap();
    let client = cluster.client().await.unwrap();
    let _node = Node::start(&home, &cluster, NODE, &Options::default()).await.unwrap();
    await_ready(&client, NODE).await.unwrap();
    cluster::await_default_service_account(&client, NAMESPACE).await.unwrap();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let deployment = |name: &str, args: &[&str]| deployment(name, &actor.tagged, args);
    for (name, args) in [("busy", ["spin"].as_slice()), ("idle", &["sleep", "6000"])] {
        deployments.create(&PostParams::default(), &deployment(name, args)).await.unwrap();
    }
    let _metrics = MetricsServer::start(&home, &cluster).await.unwrap();

    let nodes = top(&cluster, &["top", "node", "--no-headers"], |rows| rows.contains_key(NODE)).await;
    assert!(nodes[NODE][0].ends_with('m') && nodes[NODE][2].ends_with("Mi"), "{nodes:?}");
    let row = |rows: &Rows, name: &str| {
        rows.iter().find(|(pod, _)| pod.starts_with(name)).map(|(_, columns)| columns.clone())
    };
    let is_busy = |rows: &Rows| {
        let busy = row(rows, "busy-").and_then(|columns| columns[0].strip_suffix('m')?.parse::<u32>().ok());
        busy.is_some_and(|millis| (30..=130).contains(&millis)) && row(rows, "idle-").is_some()
    };
    let pods = top(&cluster, &["top", "pod", "--no-headers"], is_busy).await;
    let idle = row(&pods, "idle-").unwrap();
    assert!(idle[0] == "0m" || idle[0] == "1m", "{pods:?}");
    let each = top(&cluster, &["top", "pod", "--containers", "--no-headers"], |rows| rows.len() == 2).await;
    assert!(each.values().all(|columns| columns[0] == "main"), "{each:?}");

    autoscale(&client, "busy").await;
    until_replicas(&deployments, "busy", 3).await;
    let stop = json!([{ "op": "replace", "path": "/spec/template/spec/containers/0/args", "value": ["sleep", "6000"] }]);
    let patch = ["patch", "deployment/busy", "--type=json", "-p", &stop.to_string()];
    cluster.kubectl(&patch).await.unwrap();
    until_replicas(&deployments, "busy", 1).await;
}

/// The columns of a table after the first, by that.
type Rows = BTreeMap<String, Vec<String>>;

/// Asks `kubectl top` until its answer is as it should be: metrics-server needs two looks at a node.
async fn top(cluster: &Cluster, arguments: &[&str], is_right: impl Fn(&Rows) -> bool) -> Rows {
    let mut found = Rows::new();
    wait::until(&format!("the answer to kubectl {}", arguments.join(" ")), SOON, async || {
        let text = cluster.kubectl(arguments).await.map_err(|error| format!("{error:#}"))?;
        let row = |line: &str| {
            let mut columns = line.split_whitespace().map(str::to_owned);
            Some((columns.next()?, columns.collect()))
        };
        found = text.lines().filter_map(row).collect();
        if is_right(&found) { Ok(()) } else { Err(text) }
    })
    .await
    .unwrap();
    found
}

fn deployment(name: &str, image: &str, args: &[&str]) -> Deployment {
    let deployment: Value = json!({
        "metadata": { "name": name },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": {
                    "tolerations": [{ "operator": "Exists" }],
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{
                        "name": "main",
                        "image": image,
                        "args": args,
                        "resources": {
                            "requests": { "cpu": "50m", "memory": "1Mi" },
                            "limits": { "cpu": "100m", "memory": "16Mi" },
                        },
                    }],
                },
            },
        },
    });
    serde_json::from_value(deployment).unwrap()
}

async fn autoscale(client: &Client, name: &str) {
    let autoscalers: Api<HorizontalPodAutoscaler> = Api::namespaced(client.clone(), NAMESPACE);
    let target = json!({ "type": "Utilization", "averageUtilization": 50 });
    let autoscaler = json!({
        "metadata": { "name": name },
        "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": name },
            "minReplicas": 1,
            "maxReplicas": 3,
            "metrics": [{ "type": "Resource", "resource": { "name": "cpu", "target": target } }],
        },
    });
    let autoscaler = serde_json::from_value(autoscaler).unwrap();
    autoscalers.create(&PostParams::default(), &autoscaler).await.unwrap();
}

/// Waits until so many are wanted and Ready.
async fn until_replicas(deployments: &Api<Deployment>, name: &str, count: i32) {
    let what = format!("{count} replicas of {name}");
    wait::object(deployments.clone(), name, &what, SOON * 2, |deployment| {
        let status = deployment.and_then(|deployment| deployment.status.as_ref());
        let wanted = deployment.and_then(|deployment| deployment.spec.as_ref()?.replicas);
        wanted == Some(count)
            && status.is_some_and(|s| s.ready_replicas == Some(count) && s.replicas == Some(count))
    })
    .await
    .unwrap();
}
