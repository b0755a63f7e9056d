//! Policies as webhooks of the API server: each kind of request, and a server that goes and comes back.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use k8s_openapi::api::{
    admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
    core::v1::{ConfigMap, Pod},
};
use kube::{
    Api, Client, Error, Resource, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use kubewasm_tests::{certificates::ServerIdentity, wait};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    policy_site::{PolicySite, accepts, annotations, identity, refuses, says},
    suite::{SOON, suite, with_temp_ns},
};

/// A pod that nobody runs.
fn pod(name: &str, annotations: &Value) -> Pod {
    let pod = json!({
        "metadata": { "name": name, "annotations": annotations },
        "spec": { "schedulerName": "nobody", "containers": [{ "name": "main", "image": "example.dev/none" }] },
    });
    serde_json::from_value(pod).unwrap()
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap()
}

/// Webhooks of one namespace that lead to a server of policies. They go when this goes, by [`Hooks::remove`].
struct Hooks<'a> {
    client: Client,
    namespace: &'a str,
    server: u16,
    authority: String,
    validating: Vec<String>,
    mutating: Vec<String>,
}

/// For which requests a webhook is asked.
struct Asked<'a> {
    policy: &'a str,
    operations: &'a [&'a str],
    resources: &'a [&'a str],
    failure_policy: &'a str,
}

impl<'a> Asked<'a> {
    fn of(policy: &'a str, operations: &'a [&'a str], resources: &'a [&'a str]) -> Self {
        Self { policy, operations, resources, failure_policy: "Fail" }
    }
}

impl<'a> Hooks<'a> {
    fn new(client: &Client, namespace: &'a str, site: &PolicySite, identity: &ServerIdentity) -> Self {
        Self {
            client: client.clone(),
            namespace,
            server: site.port,
            authority: BASE64_STANDARD.encode(&identity.chain),
            validating: Vec::new(),
            mutating: Vec::new(),
        }
    }

    fn configuration(&self, asked: &Asked<'_>) -> Value {
        let Asked { policy, operations, resources, failure_policy } = asked;
        json!({
            "metadata": { "name": format!("{}-{policy}", self.namespace) },
            "webhooks": [{
                "name": format!("{policy}.kubewasm.test"),
                "clientConfig": {
                    "url": format!("https://127.0.0.1:{}/validate/{policy}", self.server),
                    "caBundle": self.authority,
                },
                "rules": [{ "apiGroups": ["*"], "apiVersions": ["*"], "operations": operations, "resources": resources }],
                "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": self.namespace } },
                "failurePolicy": failure_policy, "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 10,
            }],
        })
    }

    async fn validate(&mut self, asked: Asked<'_>) {
        let hook: ValidatingWebhookConfiguration = create(&self.client, self.configuration(&asked)).await;
        self.validating.push(hook.name_any());
    }

    async fn mutate(&mut self, asked: Asked<'_>) {
        let hook: MutatingWebhookConfiguration = create(&self.client, self.configuration(&asked)).await;
        self.mutating.push(hook.name_any());
    }

    async fn remove(self) {
        let params = DeleteParams::default();
        for name in &self.validating {
            let _ =
                Api::<ValidatingWebhookConfiguration>::all(self.client.clone()).delete(name, &params).await;
        }
        for name in &self.mutating {
            let _ = Api::<MutatingWebhookConfiguration>::all(self.client.clone()).delete(name, &params).await;
        }
    }
}

async fn create<K>(client: &Client, object: Value) -> K
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let api: Api<K> = Api::all(client.clone());
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
}

/// The message of a request that was refused.
fn refused<T: std::fmt::Debug>(outcome: Result<T, Error>) -> String {
    match outcome {
        Err(Error::Api(status)) => status.message,
        other => panic!("it was not refused: {other:?}"),
    }
}

/// Asks until an answer is what it should be once the API server has heard of a webhook.
async fn until<T: std::fmt::Debug>(
    what: &str,
    ask: impl AsyncFn() -> Result<T, Error>,
    is_there: impl Fn(&Result<T, Error>) -> bool,
) -> Result<T, Error> {
    let probe = async || match ask().await {
        outcome if is_there(&outcome) => Ok(outcome),
        outcome => Err(format!("{outcome:?}")),
    };
    wait::until(what, SOON, probe).await.unwrap()
}

fn is_refusal<T>(outcome: &Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::Api(_)))
}

/// A pod is refused with the policy's message and code, another is changed, a third is only watched; dry runs are judged too.
#[tokio::test]
async fn pods_are_refused_changed_and_watched() {
    let identity = identity();
    let mut site = PolicySite::new(&[("go", annotations().await)], &identity);
    let forbid = json!({ "forbiddenAnnotations": ["forbidden"] });
    site.policies(&json!({
        "forbids": { "module": site.module("go"), "settings": forbid },
        "watches": { "module": site.module("go"), "settings": { "forbiddenAnnotations": ["watched"] }, "policyMode": "monitor" },
        "sets": { "module": site.module("go"), "settings": { "requiredAnnotations": { "cc": "x" } }, "allowedToMutate": true },
    }));
    site.start().await;
    with_temp_ns(async |client, ns| {
        let pods: Api<Pod> = Api::namespaced(client.clone(), ns);
        let mut hooks = Hooks::new(&client, ns, &site, &identity);
        let all = ["CREATE", "UPDATE"];
        hooks.validate(Asked::of("forbids", &all, &["pods"])).await;
        hooks.validate(Asked::of("watches", &all, &["pods"])).await;
        hooks.mutate(Asked::of("sets", &all, &["pods"])).await;

        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let forbidden = pod("forbidden", &json!({ "forbidden": "1" }));
        let outcome = until("a refusal", async || pods.create(&dry, &forbidden).await, is_refusal).await;
        let Err(Error::Api(status)) = outcome else { panic!("{outcome:?}") };
        let expected =
            "admission webhook \"forbids.kubewasm.test\" denied the request: forbidden annotation forbidden";
        assert_eq!((status.message.as_str(), status.code), (expected, 400));
        assert_eq!(refused(pods.create(&PostParams::default(), &forbidden).await), expected);

        let good = pod("good", &json!({ "watched": "1" }));
        let is_set = |outcome: &Result<Pod, Error>| {
            outcome.as_ref().is_ok_and(|pod| pod.annotations().get("cc").is_some_and(|value| value == "x"))
        };
        until("a change", async || pods.create(&dry, &good).await, is_set).await.unwrap();
        let created = pods.create(&PostParams::default(), &good).await.unwrap();
        assert_eq!(created.annotations()["cc"], "x", "{created:?}");
        let update = json!({ "metadata": { "annotations": { "forbidden": "1" } } });
        let update = pods.patch("good", &PatchParams::default(), &Patch::Merge(update)).await;
        assert_eq!(refused(update), expected);
        hooks.remove().await;
    })
    .await;
    let log = site.log();
    assert!(log.contains("forbidden annotation watched") && log.contains("only watches"), "{log}");
}

/// Deletions, connections, subresources: what has no object, or one of another kind, is judged as well.
#[tokio::test]
async fn requests_of_each_kind_are_judged() {
    let identity = identity();
    let changes = says(&json!({ "accepted": true, "mutated_object": { "a": 1 } }));
    let modules = [("refuses", refuses("not today")), ("accepts", accepts()), ("changes", changes)];
    let mut site = PolicySite::new(&modules, &identity);
    site.policies(&json!({
        "no-deletion": { "module": site.module("refuses") },
        "no-connection": { "module": site.module("refuses") },
        "no-eviction": { "module": site.module("refuses") },
        "any-status": { "module": site.module("accepts") },
        "changes": { "module": site.module("changes"), "allowedToMutate": true },
    }));
    site.start().await;
    with_temp_ns(async |client, ns| {
        let pods: Api<Pod> = Api::namespaced(client.clone(), ns);
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), ns);
        for name in ["one", "two"] {
            maps.create(&PostParams::default(), &config_map(name)).await.unwrap();
        }
        pods.create(&PostParams::default(), &pod("a", &json!({}))).await.unwrap();
        let mut hooks = Hooks::new(&client, ns, &site, &identity);
        hooks.validate(Asked::of("no-deletion", &["DELETE"], &["pods"])).await;
        hooks.validate(Asked::of("no-connection", &["CONNECT"], &["pods/exec", "pods/proxy"])).await;
        hooks.validate(Asked::of("no-eviction", &["CREATE"], &["pods/eviction"])).await;
        hooks.validate(Asked::of("any-status", &["UPDATE"], &["pods/status"])).await;
        hooks.mutate(Asked::of("changes", &["DELETE"], &["configmaps"])).await;

        let dry = DeleteParams { dry_run: true, ..DeleteParams::default() };
        let outcome = until("a refusal", async || pods.delete("a", &dry).await, is_refusal).await;
        assert!(refused(outcome).ends_with("\"no-deletion.kubewasm.test\" denied the request: not today"));
        let outcome = until("a refusal", async || maps.delete("one", &dry).await, is_refusal).await;
        let message = refused(outcome);
        assert!(message.contains("a DELETE has a null object and cannot be mutated"), "{message}");

        let proxied = async || {
            let path = format!("/api/v1/namespaces/{ns}/pods/a/proxy/");
            client.request_text(http::Request::get(path).body(Vec::new()).unwrap()).await
        };
        let is_denied = |outcome: &Result<String, Error>| {
            matches!(outcome, Err(Error::Api(status)) if status.message.contains("denied the request"))
        };
        let message = refused(until("a refusal", &proxied, is_denied).await);
        assert!(message.contains("\"no-connection.kubewasm.test\" denied the request: not today"), "{message}");
        let exec = suite().await.cluster.kubectl(&["--namespace", ns, "exec", "a", "--", "true"]).await;
        let message = format!("{:#}", exec.unwrap_err());
        assert!(message.contains("\"no-connection.kubewasm.test\" denied the request: not today"), "{message}");

        let eviction = async || pods.evict("a", &kube::api::EvictParams { post_options: PostParams { dry_run: true, ..PostParams::default() }, ..Default::default() }).await;
        let message = refused(until("a refusal", &eviction, is_refusal).await);
        assert!(message.contains("\"no-eviction.kubewasm.test\" denied the request: not today"), "{message}");

        // It is let through, and was asked about.
        let status = json!({ "status": { "message": "seen" } });
        let judged = async || {
            let patch = Patch::Merge(&status);
            pods.patch_status("a", &PatchParams::default(), &patch).await.map_err(|error| error.to_string())?;
            let log = site.log();
            let line = log.lines().find(|line| line.contains("policy=any-status"));
            line.map(str::to_owned).ok_or(log.clone())
        };
        let line = wait::until("a verdict on a status", SOON, judged).await.unwrap();
        assert!(line.contains("allowed=true") && line.contains("UPDATE"), "{line}");
        hooks.remove().await;
    })
    .await;
}

/// While the server is gone, requests are refused or let through as the webhook says; afterwards they are judged again.
#[tokio::test]
async fn a_server_that_is_gone_is_as_its_webhook_says() {
    let identity = identity();
    let modules = [("refuses", refuses("not today")), ("accepts", accepts())];
    let mut site = PolicySite::new(&modules, &identity);
    site.policies(&json!({
        "must": { "module": site.module("accepts") },
        "may": { "module": site.module("refuses") },
    }));
    site.start().await;
    with_temp_ns(async |client, ns| {
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), ns);
        let secrets: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(client.clone(), ns);
        let mut hooks = Hooks::new(&client, ns, &site, &identity);
        hooks.validate(Asked::of("must", &["CREATE"], &["configmaps"])).await;
        hooks
            .validate(Asked { failure_policy: "Ignore", ..Asked::of("may", &["CREATE"], &["secrets"]) })
            .await;
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let secret = serde_json::from_value(json!({ "metadata": { "name": "s" } })).unwrap();
        let ask_map = async || maps.create(&dry, &config_map("m")).await;
        let ask_secret = async || secrets.create(&dry, &secret).await;
        until("a refusal", &ask_secret, is_refusal).await.unwrap_err();
        let judged = async || match site.log() {
            log if log.contains("policy=must") => Ok(()),
            _ => ask_map()
                .await
                .map(|_| ())
                .map_err(|error| error.to_string())
                .and(Err("not asked".to_owned())),
        };
        wait::until("the webhook to be asked", SOON, judged).await.unwrap();

        for _ in 0..2 {
            // What is under way when it is killed fails as it may; nothing hangs.
            let asking: Vec<_> = (0..8)
                .map(|_| {
                    let (maps, dry) = (maps.clone(), dry.clone());
                    tokio::spawn(async move { maps.create(&dry, &config_map("m")).await })
                })
                .collect();
            site.process().kill().unwrap();
            for task in asking {
                let _ = task.await.unwrap();
            }
            let message = refused(ask_map().await);
            assert!(message.contains("failed calling webhook \"must.kubewasm.test\""), "{message}");
            ask_secret().await.unwrap();

            site.start().await;
            until("judgement", &ask_map, Result::is_ok).await.unwrap();
            let message = refused(until("a refusal", &ask_secret, is_refusal).await);
            assert!(message.contains("\"may.kubewasm.test\" denied the request: not today"), "{message}");
        }
        hooks.remove().await;
    })
    .await;
}
