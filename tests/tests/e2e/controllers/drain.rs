//! `kubectl drain`, and namespaces that are deleted: both end only when the node lets go of its pods.

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, Node as NodeObject, Pod},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams},
};
use kubewasm_tests::{node::Options, wait};
use serde_json::json;

use super::{create, template};
use crate::{
    pods::{Pods, running},
    suite::{SOON, own_node, suite, with_temp_ns},
};

/// Draining a node ends, with every pod gone from it, and nothing new comes.
#[tokio::test]
async fn a_node_can_be_drained() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let node = own_node("drained-node", &Options::default()).await;
        let here = json!({ "kubernetes.io/hostname": node.name() });
        let mut template = template("Always", &["sleep", "600"]).await;
        template["spec"]["nodeSelector"] = here.clone();
        let spec = json!({
            "replicas": 3,
            "selector": { "matchLabels": { "app": "test" } },
            "template": template,
        });
        create::<Deployment>(&client, ns, "web", spec).await;
        let image = &suite().await.actor.tagged;
        let alone = json!({
            "nodeSelector": here,
            "containers": [{ "name": "main", "image": image, "args": ["sleep", "600"] }],
        });
        pods.create("alone", alone).await;
        pods.until("alone", "running", running).await;
        let status = ["--namespace", ns, "rollout", "status", "deployment/web", "--timeout=90s"];
        let kubectl = async |arguments: &[&str]| suite().await.cluster.kubectl(arguments).await.unwrap();
        kubectl(&status).await;
        kubectl(&["drain", node.name(), "--force", "--timeout=60s"]).await;
        let on_node = ListParams::default().fields(&format!("spec.nodeName={}", node.name()));
        assert_eq!(Api::<Pod>::all(client.clone()).list(&on_node).await.unwrap().items, []);
        let name = node.name().to_owned();
        drop(node);
        Api::<NodeObject>::all(client).delete(&name, &DeleteParams::default()).await.unwrap();
    })
    .await;
}

/// A namespace that is deleted goes, whatever its pods are doing.
#[tokio::test]
async fn a_namespace_with_pods_goes() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor.tagged;
        let main = |args: &[&str]| json!({ "name": "main", "image": image, "args": args });
        pods.act("runs", &["sleep", "600"]).await;
        pods.act("finished", &["say", "done"]).await;
        pods.create("crashes", json!({ "restartPolicy": "Always", "containers": [main(&["exit", "1"])] }))
            .await;
        pods.run("absent", &suite().await.registry.name("absent:v1"), &[]).await;
        let initialises = json!({ "initContainers": [main(&["sleep", "600"])], "containers": [
            { "name": "later", "image": image, "args": ["say", "never"] },
        ] });
        pods.create("initialises", initialises).await;
        pods.until("runs", "running", running).await;
        pods.phase("finished", "Succeeded").await;
        pods.waiting("crashes", &["CrashLoopBackOff"]).await;
        pods.waiting("absent", &["ErrImagePull", "ImagePullBackOff"]).await;
        let namespaces: Api<Namespace> = Api::all(client);
        namespaces.delete(ns, &DeleteParams::default()).await.unwrap();
        wait::object(namespaces, ns, "its end", SOON, |namespace| namespace.is_none()).await.unwrap();
    })
    .await;
}
