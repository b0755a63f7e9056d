//! The controller of policies: one of several replicas, which comes and goes, and what it does to what is not its own.

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, PostParams},
};
use kubewasm_tests::wait;
use serde_json::{Value, json};

use crate::{
    policy_cluster::{CLUSTER, PolicyCluster, Requests, push, until_tried},
    policy_site::{accepts, refuses},
    suite::{SOON, with_temp_ns},
};

type Webhooks = Api<ValidatingWebhookConfiguration>;

async fn url(webhooks: &Webhooks, name: &str) -> String {
    let webhook = webhooks.get(name).await.unwrap().webhooks.unwrap().remove(0);
    webhook.client_config.url.unwrap()
}

/// When the leader is gone from one moment to the next, another replica goes on with its work.
#[tokio::test]
async fn another_replica_takes_over() {
    let module = push("policies/refuses:v1", refuses("not today")).await;
    with_temp_ns(async |client, ns| {
        let cluster = PolicyCluster::new(&client, ns).await;
        let cluster = cluster.flag("--leader-elect-lease-duration=3").flag("--leader-elect-retry-period=1");
        let one = cluster.start("a").await;
        let other = cluster.start("b").await;
        let (first, second) = (format!("{ns}-p"), format!("{ns}-q"));
        cluster.create(CLUSTER, ns, &first, json!({ "module": module })).await;
        cluster.active(CLUSTER, ns, &first).await;
        let (leader, follower) = match cluster.leader().await.as_deref() {
            Some("a") => (one, other),
            Some("b") => (other, one),
            nobody => panic!("{nobody:?}"),
        };
        let webhooks: Webhooks = Api::all(client.clone());
        let unique = format!("kw.cap.{first}");
        let of = |port: u16| format!("https://127.0.0.1:{port}/validate/{unique}");
        assert_eq!(url(&webhooks, &unique).await, of(leader.port));
        leader.kill();
        let taken = async || match cluster.leader().await {
            Some(name) if name == follower.name => Ok(()),
            other => Err(format!("{other:?}")),
        };
        wait::until("another leader", SOON, taken).await.unwrap();

        cluster.create(CLUSTER, ns, &second, json!({ "module": module })).await;
        cluster.active(CLUSTER, ns, &second).await;
        let moved = async || match url(&webhooks, &unique).await {
            there if there == of(follower.port) => Ok(()),
            there => Err(there),
        };
        wait::until("the webhook of the other replica", SOON, moved).await.unwrap();
        let by_policy = |outcome: &Result<_, String>| {
            outcome.as_ref().is_err_and(|message| message.ends_with("denied the request: not today"))
        };
        until_tried(&client, ns, json!({}), by_policy).await.unwrap_err();
        cluster.end().await;
    })
    .await;
}

/// While a policy goes, every request is answered: the API server still asks for a moment.
#[tokio::test]
async fn no_request_fails_while_a_policy_goes() {
    let module = push("policies/accepts:v1", accepts()).await;
    with_temp_ns(async |client, ns| {
        let cluster = PolicyCluster::new(&client, ns).await;
        let _server = cluster.start("a").await;
        let requests = Requests::start(&client, ns);
        for round in 0..3 {
            let name = format!("{ns}-{round}");
            cluster.create(CLUSTER, ns, &name, json!({ "module": module })).await;
            cluster.active(CLUSTER, ns, &name).await;
            requests.more(20).await;
            cluster.delete(CLUSTER, ns, &name).await;
            requests.more(20).await;
        }
        requests.end().await;
        cluster.end().await;
    })
    .await;
}

fn webhook(name: &str, labels: &Value) -> ValidatingWebhookConfiguration {
    let webhook = json!({
        "name": format!("{name}.kubewasm.test"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": { "url": "https://127.0.0.1:1/" }, "failurePolicy": "Ignore",
        "rules": [{ "apiGroups": ["none.dev"], "apiVersions": ["v1"], "resources": ["nothings"], "operations": ["CREATE"] }],
    });
    serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels }, "webhooks": [webhook] }))
        .unwrap()
}

async fn create(client: &Client, name: &str, labels: Value) {
    let webhooks: Webhooks = Api::all(client.clone());
    webhooks.create(&PostParams::default(), &webhook(name, &labels)).await.unwrap();
}

/// What has our labels and no policy is removed; what is somebody else's stays, also under the name that a policy's would have.
#[tokio::test]
async fn what_is_not_ours_is_left_alone() {
    let module = push("policies/accepts:v1", accepts()).await;
    with_temp_ns(async |client, ns| {
        let webhooks: Webhooks = Api::all(client.clone());
        let ours = |server: &str| {
            json!({ "app.kubernetes.io/managed-by": "kubewasm-policy", "kubewasm.dev/policy-server": server })
        };
        let name = format!("{ns}-p");
        let (taken, orphan, foreign) =
            (format!("kw.cap.{name}"), format!("kw.cap.{ns}-orphan"), format!("kw.cap.{ns}-foreign"));
        create(&client, &taken, json!({})).await;
        create(&client, &orphan, ours(ns)).await;
        create(&client, &foreign, ours(&format!("{ns}-other"))).await;

        let cluster = PolicyCluster::new(&client, ns).await;
        let _server = cluster.start("a").await;
        cluster.create(CLUSTER, ns, &name, json!({ "module": module })).await;
        let state =
            cluster.until(CLUSTER, ns, &name, "a refusal", |state| state.webhook() == "WebhookRefused").await;
        assert_eq!(state.phase, "pending");
        wait::object(webhooks.clone(), &orphan, "its end", SOON, |webhook| webhook.is_none()).await.unwrap();
        let untouched = |name: &str, found: ValidatingWebhookConfiguration| {
            assert_eq!(found.webhooks.unwrap()[0].name, format!("{name}.kubewasm.test"));
        };
        untouched(&taken, webhooks.get(&taken).await.unwrap());
        untouched(&foreign, webhooks.get(&foreign).await.unwrap());

        // As soon as the name is free, the policy is enforced.
        for name in [&taken, &foreign] {
            webhooks.delete(name, &DeleteParams::default()).await.unwrap();
        }
        cluster.change(&name, json!({ "timeoutSeconds": 5 })).await;
        cluster.active(CLUSTER, ns, &name).await;
        let made = webhooks.get(&taken).await.unwrap();
        assert_eq!(made.labels()["kubewasm.dev/policy-server"], ns);

        // What somebody changes or removes is put right.
        let patch = json!({ "webhooks": [{ "name": format!("{taken}.kubewarden.admission"), "failurePolicy": "Ignore" }] });
        let patch = kube::api::Patch::Strategic(patch);
        webhooks.patch(&taken, &kube::api::PatchParams::default(), &patch).await.unwrap();
        let is_right = |webhook: Option<&ValidatingWebhookConfiguration>| {
            let webhook = webhook.and_then(|webhook| webhook.webhooks.as_ref()?.first());
            webhook.is_some_and(|webhook| webhook.failure_policy.as_deref() == Some("Fail"))
        };
        wait::object(webhooks.clone(), &taken, "being put right", SOON, is_right).await.unwrap();
        webhooks.delete(&taken, &DeleteParams::default()).await.unwrap();
        wait::object(webhooks.clone(), &taken, "coming back", SOON, is_right).await.unwrap();
        cluster.end().await;
    })
    .await;
}
