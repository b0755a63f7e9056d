//! An exit code that a test changes between two runs of a guest.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

/// A config map with the code of the next run.
pub(crate) struct ExitCode {
    maps: Api<ConfigMap>,
}

impl ExitCode {
    pub(crate) async fn new(client: &Client, namespace: &str, code: i32) -> Self {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        let map = json!({ "metadata": { "name": "exit-code" }, "data": { "code": code.to_string() } });
        maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
        Self { maps }
    }

    /// Changes the code of the runs that begin from now on.
    pub(crate) async fn set(&self, code: i32) {
        let patch = json!({ "data": { "code": code.to_string() } });
        self.maps.patch("exit-code", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Makes a container exit with the code.
    pub(crate) fn apply(container: &mut Value) {
        let source = json!({ "configMapKeyRef": { "name": "exit-code", "key": "code" } });
        container["env"] = json!([{ "name": "CODE", "valueFrom": source }]);
        container["args"] = json!(["exit", "$(CODE)"]);
    }
}
