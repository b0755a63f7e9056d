//! Policies that are objects of the cluster: what becomes of requests, and what the policies' statuses say.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::{
    pods::Pods,
    policy_cluster::{
        CLUSTER, CLUSTER_GROUP, NAMESPACED, NAMESPACED_GROUP, PolicyCluster, api, push, tried, until_tried,
    },
    policy_site::{accepts, annotations, refuses},
    suite::with_temp_ns,
};

fn is_refused(outcome: &Result<Pod, String>) -> bool {
    outcome.is_err()
}

/// What the API server says of a refusal by a policy.
fn denied(unique: &str, message: &str) -> String {
    format!("admission webhook \"{unique}.kubewarden.admission\" denied the request: {message}")
}

fn forbids(annotation: &str) -> Value {
    json!({ "forbiddenAnnotations": [annotation] })
}

/// A policy is enforced, changed while it is, and goes on being enforced as it was when its new version cannot be.
#[tokio::test]
async fn a_policy_is_enforced_and_changed_live() {
    let module = push("policies/annotations:v1", annotations().await).await;
    with_temp_ns(async |client, ns| {
        let cluster = PolicyCluster::new(&client, ns).await;
        let _server = cluster.start("a").await;
        let (name, unique) = (format!("{ns}-p"), format!("kw.cap.{ns}-p"));
        let spec = json!({ "module": module, "settings": forbids("bad") });
        cluster.create(CLUSTER, ns, &name, spec).await;
        assert_eq!(cluster.active(CLUSTER, ns, &name).await.mode, "protect");
        let refused = until_tried(&client, ns, json!({ "bad": "1" }), is_refused).await;
        assert_eq!(refused.unwrap_err(), denied(&unique, "forbidden annotation bad"));
        assert!(tried(&client, ns, json!({ "worse": "1" })).await.is_ok());
        // What is as it should be is not written again.
        let applied =
            |log: &str| log.matches(&format!("applied ValidatingWebhookConfiguration {unique}")).count();
        assert_eq!(applied(&cluster.log("a")), 1, "{}", cluster.log("a"));

        cluster.change(&name, json!({ "settings": forbids("worse") })).await;
        cluster.active(CLUSTER, ns, &name).await;
        let worse = denied(&unique, "forbidden annotation worse");
        assert_eq!(tried(&client, ns, json!({ "worse": "1" })).await.unwrap_err(), worse);
        assert!(tried(&client, ns, json!({ "bad": "1" })).await.is_ok());

        // Each of these is a version that cannot be, and says why; the one before goes on.
        let both = json!({ "forbiddenAnnotations": ["a"], "requiredAnnotations": { "a": "1" } });
        let absent = module.replace(":v1", ":none");
        for (change, reason, message) in [
            (json!({ "settings": both }), "PolicyInvalid", "annotation a is required and forbidden"),
            (json!({ "settings": {}, "module": absent }), "", "policies/annotations:none"),
        ] {
            cluster.change(&name, change).await;
            let state = cluster
                .until(CLUSTER, ns, &name, "a failure", |state| {
                    state.loaded().0 == "False" && state.loaded().1 != "PolicyLoading"
                })
                .await;
            let (_, why, said) = state.loaded();
            assert!(reason.is_empty() || why == reason, "{state:?}");
            assert!(said.contains(message) && said.contains("generation 2 goes on being served"), "{said}");
            assert_eq!((&*state.phase, state.webhook()), ("active", "WebhookOfFormerGeneration"));
            assert_eq!(tried(&client, ns, json!({ "worse": "1" })).await.unwrap_err(), worse);
        }
        // A change is merged with what is there.
        let worst = json!({ "forbiddenAnnotations": ["worst"], "requiredAnnotations": null });
        cluster.change(&name, json!({ "module": module, "settings": worst, "message": "not here" })).await;
        cluster.active(CLUSTER, ns, &name).await;
        assert_eq!(
            tried(&client, ns, json!({ "worst": "1" })).await.unwrap_err(),
            denied(&unique, "not here")
        );
        assert!(tried(&client, ns, json!({ "worse": "1" })).await.is_ok());

        cluster.delete(CLUSTER, ns, &name).await;
        until_tried(&client, ns, json!({ "worst": "1" }), Result::is_ok).await.unwrap();
        cluster.end().await;
    })
    .await;
}

/// A policy that watches keeps nobody from anything until it is told to protect, and cannot be told to watch again.
#[tokio::test]
async fn a_policy_that_watches_becomes_one_that_protects() {
    let module = push("policies/refuses:v1", refuses("not today")).await;
    with_temp_ns(async |client, ns| {
        let cluster = PolicyCluster::new(&client, ns).await;
        let _server = cluster.start("a").await;
        let name = format!("{ns}-p");
        cluster.create(CLUSTER, ns, &name, json!({ "module": module, "mode": "monitor" })).await;
        assert_eq!(cluster.active(CLUSTER, ns, &name).await.mode, "monitor");
        assert!(tried(&client, ns, json!({})).await.is_ok());
        cluster.change(&name, json!({ "mode": "protect" })).await;
        assert_eq!(cluster.active(CLUSTER, ns, &name).await.mode, "protect");
        let refused = until_tried(&client, ns, json!({}), is_refused).await;
        assert_eq!(refused.unwrap_err(), denied(&format!("kw.cap.{ns}-p"), "not today"));
        let back = Patch::Merge(json!({ "spec": { "mode": "monitor" } }));
        let back = api(&client, CLUSTER, None).patch(&name, &PatchParams::default(), &back).await;
        let message = back.unwrap_err().to_string();
        assert!(message.contains("is not made one that monitors"), "{message}");
        cluster.end().await;
    })
    .await;
}

/// A policy changes a pod, which a node of ours then runs; it may begin and cease to do so.
#[tokio::test]
async fn a_pod_is_changed_and_runs() {
    let module = push("policies/annotations:v1", annotations().await).await;
    with_temp_ns(async |client, ns| {
        let cluster = PolicyCluster::new(&client, ns).await;
        let _server = cluster.start("a").await;
        let name = format!("{ns}-p");
        let settings = json!({ "requiredAnnotations": { "cc": "x" } });
        let spec = json!({ "module": module, "settings": settings, "mutating": true });
        cluster.create(CLUSTER, ns, &name, spec).await;
        cluster.active(CLUSTER, ns, &name).await;
        let is_set = |outcome: &Result<Pod, String>| {
            outcome.as_ref().is_ok_and(|pod| pod.annotations().get("cc").is_some_and(|value| value == "x"))
        };
        until_tried(&client, ns, json!({}), is_set).await.unwrap();
        let pods = Pods::new(&client, ns);
        pods.act("changed", &["say", "hello"]).await;
        let pod = pods.phase("changed", "Succeeded").await;
        assert_eq!((pod.annotations()["cc"].as_str(), &*pods.logs("changed").await), ("x", "hello\n"));

        // What it would change, it now refuses.
        cluster.change(&name, json!({ "mutating": false })).await;
        cluster.active(CLUSTER, ns, &name).await;
        let refused = until_tried(&client, ns, json!({}), is_refused).await.unwrap_err();
        assert!(refused.contains(&format!("kw.cap.{name}")), "{refused}");
        assert!(tried(&client, ns, json!({ "cc": "x" })).await.is_ok());
        cluster.end().await;
    })
    .await;
}

/// Policies of a namespace are for that one, also where they are several.
#[tokio::test]
async fn policies_of_a_namespace_and_groups_are_enforced() {
    let yes = push("policies/accepts:v1", accepts()).await;
    let no = push("policies/refuses:v1", refuses("not today")).await;
    with_temp_ns(async |client, ns| {
        let cluster = PolicyCluster::new(&client, ns).await;
        let _server = cluster.start("a").await;
        cluster.create(NAMESPACED, ns, "p", json!({ "module": no })).await;
        cluster.active(NAMESPACED, ns, "p").await;
        let refused = until_tried(&client, ns, json!({}), is_refused).await;
        assert_eq!(refused.unwrap_err(), denied(&format!("kw.ap.{ns}.p"), "not today"));
        assert!(tried(&client, &cluster.system, json!({})).await.is_ok());
        cluster.delete(NAMESPACED, ns, "p").await;
        until_tried(&client, ns, json!({}), Result::is_ok).await.unwrap();

        let group = |expression: &str| {
            json!({
                "policies": { "yes": { "module": yes }, "no": { "module": no } },
                "expression": expression, "message": "the group says no",
            })
        };
        for (kind, name, unique) in [
            (NAMESPACED_GROUP, "g".to_owned(), format!("kw.apg.{ns}.g")),
            (CLUSTER_GROUP, format!("{ns}-g"), format!("kw.capg.{ns}-g")),
        ] {
            cluster.create(kind, ns, &name, group("yes() && no()")).await;
            cluster.active(kind, ns, &name).await;
            let refused = until_tried(&client, ns, json!({}), is_refused).await;
            assert_eq!(refused.unwrap_err(), denied(&unique, "the group says no"));
            let namespace = (kind == NAMESPACED_GROUP).then_some(ns);
            let patch = Patch::Merge(json!({ "spec": { "expression": "yes() || no()" } }));
            api(&client, kind, namespace).patch(&name, &PatchParams::default(), &patch).await.unwrap();
            cluster.active(kind, ns, &name).await;
            assert!(tried(&client, ns, json!({})).await.is_ok());
            cluster.delete(kind, ns, &name).await;
        }
        cluster.end().await;
    })
    .await;
}
