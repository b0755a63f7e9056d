//! Certificates of the policy server, which come and go while requests are judged.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt as _, api::DeleteParams};
use kubewasm_tests::wait;
use serde_json::json;

use crate::{
    policy_cluster::{CLUSTER, PolicyCluster, Requests, push},
    policy_site::accepts,
    suite::{SOON, with_temp_ns},
};

fn text(secret: &Secret, name: &str) -> String {
    let data = secret.data.as_ref().and_then(|data| data.get(name));
    data.map(|data| String::from_utf8(data.0.clone()).unwrap()).unwrap_or_default()
}

/// Whether there is a certificate, with no rotation under way.
fn is_settled(secret: &Secret) -> bool {
    !text(secret, "tls.crt").is_empty()
        && text(secret, "next-tls.crt").is_empty()
        && text(secret, "previous-ca.crt").is_empty()
}

/// Certificates that are good for seconds, on two replicas, one of which requests come to: no request fails.
#[tokio::test]
async fn no_request_fails_while_certificates_change() {
    let module = push("policies/accepts:v1", accepts()).await;
    with_temp_ns(async |client, ns| {
        let cluster = PolicyCluster::new(&client, ns).await;
        let cluster = cluster.flag("--certificate-lifetime=30").flag("--webhook-settle-time=3");
        let _servers = [cluster.start("a").await, cluster.start("b").await];
        let name = format!("{ns}-p");
        cluster.create(CLUSTER, ns, &name, json!({ "module": module })).await;
        cluster.active(CLUSTER, ns, &name).await;
        let requests = Requests::start(&client, ns);
        requests.more(10).await;

        let secrets: Api<Secret> = Api::namespaced(client.clone(), &cluster.system);
        let secret = format!("kubewasm-policy-{ns}");
        let mut seen = BTreeSet::new();
        while seen.len() < 3 {
            let found = wait::object(secrets.clone(), &secret, "a new certificate", SOON, |secret| {
                secret.is_some_and(|secret| is_settled(secret) && !seen.contains(&text(secret, "tls.crt")))
            });
            let found = text(&found.await.unwrap().unwrap(), "tls.crt");
            seen.insert(found);
            requests.more(10).await;
        }
        requests.end().await;
        cluster.end().await;
    })
    .await;
}

/// By hand, certificates are replaced by removing the Secret. No request fails then either.
#[tokio::test]
async fn a_secret_that_is_removed_is_made_anew() {
    let module = push("policies/accepts:v1", accepts()).await;
    with_temp_ns(async |client, ns| {
        let cluster = PolicyCluster::new(&client, ns).await.flag("--webhook-settle-time=3");
        let _server = cluster.start("a").await;
        let name = format!("{ns}-p");
        cluster.create(CLUSTER, ns, &name, json!({ "module": module })).await;
        cluster.active(CLUSTER, ns, &name).await;
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &cluster.system);
        let secret = format!("kubewasm-policy-{ns}");
        let before = secrets.get(&secret).await.unwrap();
        assert!(is_settled(&before));
        let requests = Requests::start(&client, ns);
        requests.more(10).await;
        secrets.delete(&secret, &DeleteParams::default()).await.unwrap();
        let after = wait::object(secrets, &secret, "a new certificate", SOON, |secret| {
            secret.is_some_and(|secret| secret.uid() != before.uid() && is_settled(secret))
        });
        let after = after.await.unwrap().unwrap();
        assert_ne!(text(&after, "ca.crt"), text(&before, "ca.crt"));
        requests.more(10).await;
        requests.end().await;
        cluster.end().await;
    })
    .await;
}
