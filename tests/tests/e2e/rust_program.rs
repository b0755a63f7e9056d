//! What `cargo build --target wasm32-wasip1` makes of a program, in a pod.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::PostParams};
use kubewasm_tests::{guests::rust, registry::image::Content};
use serde_json::json;

use crate::{
    pods::Pods,
    suite::{suite, with_temp_ns},
};

/// Its arguments, environment, files of two volumes, clock, output and exit code are those of any program.
#[tokio::test]
async fn a_program_of_rust_for_wasi_0_1_is_a_program_like_any_other() {
    let module = rust::module("tests/guests/courier").await.unwrap();
    let image =
        suite().await.registry.push("courier:v1", &Content::program("courier", module)).await.unwrap();
    with_temp_ns(async |client, ns| {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), ns);
        let letter = json!({ "metadata": { "name": "letters" }, "data": { "letter": "Dear all" } });
        maps.create(&PostParams::default(), &serde_json::from_value(letter).unwrap()).await.unwrap();
        let pods = Pods::new(&client, ns);
        let spec = json!({
            "volumes": [{ "name": "in", "configMap": { "name": "letters" } }, { "name": "out", "emptyDir": {} }],
            "containers": [{
                "name": "main", "image": image.tagged, "args": ["/in/letter", "/out/letter", "42"],
                "env": [{ "name": "STAMP", "value": ", posted" }],
                "volumeMounts": [{ "name": "in", "mountPath": "/in" }, { "name": "out", "mountPath": "/out" }],
            }],
        });
        pods.create("courier", spec).await;
        let pod = pods.phase("courier", "Failed").await;
        let state = pod.status.unwrap().container_statuses.unwrap().remove(0).state.unwrap().terminated.unwrap();
        assert_eq!(state.exit_code, 42, "{state:?}");
        let log = pods.api().logs("courier", &kube::api::LogParams::default()).await.unwrap();
        assert_eq!(log, "Dear all, posted in [\"letter\"]\n");
    })
    .await;
}
