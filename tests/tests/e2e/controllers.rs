//! What Kubernetes' own controllers make of the node's pods. Nothing here is about the controllers: each of
//! them leans on another part of a pod's status, and goes wrong in its own way where that is not right.

mod daemon_sets;
mod deployments;
mod drain;
mod jobs;
mod stateful_sets;

use std::fmt::Debug;

use k8s_openapi::{Metadata, NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, Resource, api::PostParams};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::suite::{NODE, suite};

/// A pod template for the shared node, of one container that runs the actor guest with `args`.
async fn template(restart_policy: &str, args: &[&str]) -> Value {
    json!({
        "metadata": { "labels": { "app": "test" } },
        "spec": {
            "runtimeClassName": "wasm",
            "restartPolicy": restart_policy,
            "nodeSelector": { "kubernetes.io/hostname": NODE },
            "containers": [{ "name": "main", "image": suite().await.actor.tagged, "args": args }],
        },
    })
}

/// Creates an object from its name and spec, and returns where its like are found.
async fn create<K>(client: &Client, namespace: &str, name: &str, spec: Value) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Metadata<Ty = ObjectMeta>,
    K: Clone + Debug + Serialize + DeserializeOwned,
{
    let api = Api::namespaced(client.clone(), namespace);
    let object = json!({ "metadata": { "name": name }, "spec": spec });
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    api
}
