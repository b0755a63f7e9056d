//! The resources of policies, and the manifests of their server, as the API server takes them.

use std::process::Command;

use kube::api::PostParams;
use kubewasm_tests::guests;
use serde_json::{Value, json};

use crate::{
    policy_cluster::{CLUSTER, CLUSTER_GROUP, NAMESPACED, PolicyCluster},
    suite::{suite, with_temp_ns},
};

/// What nobody could serve is refused when it is written, with the reason; what is not said gets the defaults.
#[tokio::test]
async fn what_cannot_be_a_policy_is_refused() {
    with_temp_ns(async |client, ns| {
        // Nobody serves it.
        let cluster = PolicyCluster::new(&client, ns).await;
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let rules = |more: Value| {
            let mut rule = json!({ "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"] });
            rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({ "module": "r.io/p", "rules": [rule] })
        };
        let long = "p".repeat(161);
        let group = |member: Value| json!({ "policies": { "a": member }, "expression": "a()", "message": "no" });
        for (kind, name, spec, complaint) in [
            (CLUSTER, "p", json!({}), "spec.module: Required value"),
            (CLUSTER, "p", json!({ "module": "" }), "spec.module"),
            (CLUSTER, "p", json!({ "module": "r.io/p", "rules": [] }), "spec.rules"),
            (CLUSTER, "p", rules(json!({ "operations": ["WATCH"] })), "spec.rules[0].operations[0]"),
            (CLUSTER, "p", rules(json!({ "apiVersions": [] })), "spec.rules[0].apiVersions"),
            (CLUSTER, "p", json!({ "module": "r.io/p", "mode": "off" }), "spec.mode"),
            (CLUSTER, "p", json!({ "module": "r.io/p", "failurePolicy": "Retry" }), "spec.failurePolicy"),
            (CLUSTER, "p", json!({ "module": "r.io/p", "timeoutSeconds": 1 }), "spec.timeoutSeconds"),
            (CLUSTER, "p", json!({ "module": "r.io/p", "timeoutSeconds": 31 }), "spec.timeoutSeconds"),
            (CLUSTER, "p", json!({ "module": "r.io/p", "timeoutEvalSeconds": 31 }), "spec.timeoutEvalSeconds"),
            (
                CLUSTER,
                "p",
                json!({ "module": "r.io/p", "timeoutSeconds": 5, "timeoutEvalSeconds": 6 }),
                "timeoutEvalSeconds is no more than timeoutSeconds",
            ),
            (CLUSTER, "p", json!({ "module": "r.io/p", "settings": [1] }), "spec.settings"),
            (CLUSTER, long.as_str(), json!({ "module": "r.io/p" }), "no more than 160 characters"),
            (CLUSTER_GROUP, "p", json!({ "policies": {}, "expression": "a()", "message": "no" }), "spec.policies"),
            (CLUSTER_GROUP, "p", group(json!({})), "spec.policies.a.module"),
            (CLUSTER_GROUP, "p", json!({ "policies": { "a": { "module": "m" } } }), "spec.expression"),
        ] {
            let (api, object) = cluster.object(kind, ns, name, spec);
            let refused = api.create(&dry, &object).await.expect_err(complaint).to_string();
            assert!(refused.contains(complaint), "{complaint}: {refused}");
        }
        let spec = json!({ "module": "r.io/p", "settings": { "a": [{ "b": null }] } });
        let (api, mut object) = cluster.object(NAMESPACED, ns, "p", spec);
        object.data["spec"].as_object_mut().unwrap().remove("policyServer");
        let taken = api.create(&dry, &object).await.unwrap();
        for (field, value) in [
            ("policyServer", json!("default")),
            ("mode", json!("protect")),
            ("timeoutSeconds", json!(10)),
            ("backgroundAudit", json!(true)),
            ("settings", json!({ "a": [{ "b": null }] })),
        ] {
            assert_eq!(taken.data["spec"][field], value, "{field}");
        }
        cluster.end().await;
    })
    .await;
}

/// The API server takes the manifests, and the strictest of its standards for pods what they start.
#[tokio::test]
async fn the_api_server_takes_the_manifests() {
    with_temp_ns(async |_, ns| {
        let cluster = &suite().await.cluster;
        cluster
            .kubectl(&["label", "namespace", ns, "pod-security.kubernetes.io/warn=restricted"])
            .await
            .unwrap();
        let manifests = guests::repository().join("manifests/policy");
        let built = cluster.kubectl(&["kustomize", &manifests.to_string_lossy()]).await.unwrap();
        // Another namespace: this one is not there otherwise.
        let file = suite().await.home.folder(ns).unwrap().join("policy.yaml");
        std::fs::write(&file, built.replace("kubewasm-system", ns)).unwrap();
        let mut command = Command::new(cluster.kubectl_path());
        command.arg(format!("--kubeconfig={}", cluster.admin_kubeconfig().display()));
        let output = command.args(["apply", "--dry-run=server", "-f"]).arg(&file).output().unwrap();
        let (said, complaints) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}{complaints}");
        assert!(!complaints.contains("would violate PodSecurity"), "{complaints}");
        for made in [
            "deployment.apps/kubewasm-policy",
            "service/kubewasm-policy",
            "poddisruptionbudget.policy/kubewasm-policy",
        ] {
            assert!(said.contains(made), "{said}");
        }
    })
    .await;
}
