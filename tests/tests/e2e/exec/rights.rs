//! Who may run commands, and by which way they come.

use std::{
    fs,
    path::{Path, PathBuf},
};

use k8s_openapi::api::{core::v1::Node as NodeObject, rbac::v1::Role};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use kubewasm_tests::wait;
use serde_json::{Value, json};

use super::exec;
use crate::{
    pods::{Pods, running},
    sessions::{ROUTES, Route, kubectl_as, run},
    suite::{NODE, SOON, suite, with_temp_ns},
};

/// Who may read pods may not run anything in them: that takes `create` on `pods/exec`. Who has that may.
#[tokio::test]
async fn exec_is_granted_by_create_on_pods_exec() {
    with_temp_ns(async |client, ns| {
        let (pods, suite) = (Pods::new(&client, ns), suite().await);
        pods.act("guarded", &["sleep", "600"]).await;
        pods.until("guarded", "running", running).await;
        let roles = Api::<Role>::namespaced(client.clone(), ns);
        let role = json!({
            "metadata": { "name": "operator" },
            "rules": [
                { "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"] },
                { "apiGroups": [""], "resources": ["pods/exec", "pods/attach", "pods/portforward"], "verbs": ["get"] },
            ],
        });
        roles.create(&PostParams::default(), &serde_json::from_value(role).unwrap()).await.unwrap();
        let bind = ["create", "rolebinding", "operator", "--role=operator", &format!("--serviceaccount={ns}:default")];
        suite.cluster.kubectl(&[&["--namespace", ns][..], &bind].concat()).await.unwrap();
        let token = suite.cluster.kubectl(&["--namespace", ns, "create", "token", "default"]).await.unwrap();
        for route in ROUTES {
            let kubeconfig = with_token(&route.kubeconfig().await, ns, token.trim());
            let kubectl = async |arguments: &[&str]| {
                run(kubectl_as(&kubeconfig, route, ns, arguments).await, b"").await
            };
            let user = format!("User \"system:serviceaccount:{ns}:default\" cannot create resource");
            for (arguments, resource) in [
                (&["exec", "guarded", "--", "actor"][..], "pods/exec"),
                (&["attach", "guarded"], "pods/attach"),
                (&["port-forward", "guarded", ":80"], "pods/portforward"),
            ] {
                let ended = kubectl(arguments).await;
                assert_eq!(ended.code, Some(1), "{route:?}: {ended:?}");
                let part = format!("{user} \"{resource}\"");
                assert!(ended.stderr.contains(&part), "{route:?}: {ended:?}");
            }
        }
        let more = json!({ "rules": [
            { "apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"] },
            { "apiGroups": [""], "resources": ["pods/exec"], "verbs": ["get", "create"] },
        ] });
        roles.patch("operator", &PatchParams::default(), &Patch::Merge(more)).await.unwrap();
        for route in ROUTES {
            let kubeconfig = with_token(&route.kubeconfig().await, ns, token.trim());
            // An API server hears of a role by a watch.
            wait::until("the new right", SOON, async || {
                let arguments = ["exec", "guarded", "--", "actor", "say", "granted"];
                let ended = run(kubectl_as(&kubeconfig, route, ns, &arguments).await, b"").await;
                if ended.text() == "granted\n" { Ok(()) } else { Err(format!("{ended:?}")) }
            })
            .await
            .unwrap();
        }
    })
    .await;
}

/// A copy of a kubeconfig with the rights of a token.
fn with_token(kubeconfig: &Path, namespace: &str, token: &str) -> PathBuf {
    let mut config: Value = serde_yaml_ng::from_str(&fs::read_to_string(kubeconfig).unwrap()).unwrap();
    config["users"][0]["user"] = json!({ "token": token });
    let path = kubeconfig.with_extension(namespace);
    fs::write(&path, config.to_string()).unwrap();
    path
}

/// An API server that hands WebSockets on to nodes does so for this one: it declares that it takes them.
#[tokio::test]
async fn the_node_declares_that_it_takes_websockets() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        pods.act("asked", &["sleep", "600"]).await;
        pods.until("asked", "running", running).await;
        let node = Api::<NodeObject>::all(client.clone()).get(NODE).await.unwrap();
        let declared = node.status.unwrap().declared_features.unwrap_or_default();
        assert!(declared.iter().any(|feature| feature == "ExtendWebSocketsToKubelet"), "{declared:?}");
        let handed_on = async || {
            let metrics = suite().await.cluster.kubectl(&["get", "--raw", "/metrics"]).await.unwrap();
            let mut lines = metrics.lines().filter(|line| {
                line.contains("websocket_streaming_requests_total")
                    && line.contains("subresource=\"exec\"")
                    && line.contains("proxied_to_kubelet")
            });
            lines.next().map_or(0, |line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        };
        let before = handed_on().await;
        assert_eq!(exec(Route::WebSocket, ns, "asked", &["actor", "exit", "9"]).await.code, Some(9));
        assert!(handed_on().await > before, "the API server has handed a WebSocket on");
    })
    .await;
}
