//! Who gets what: an Envoy has the extensions of its own namespace, and an extension has the Secrets of its own, unless somebody
//! grants more.

use std::time::Duration;

use kubewasm_tests::{
    certificates::Authority,
    envoy::{Credentials, EnvoyOptions, Variant},
    subscriber::Discovery,
};
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::{
    extension_modules::filter,
    extension_site::{ExtensionServer, ExtensionSite, is_filtered},
    suite::with_temp_ns,
};

fn spec(plugin: Value) -> Value {
    json!({ "image": { "protocol": "local_fs", "uri": "filter.wasm" }, "plugin_configuration": plugin })
}

/// A server of two namespaces, each with an extension `filter`.
async fn of_two(client: &kube::Client, ns: &str) -> (ExtensionSite, ExtensionServer, String) {
    of_two_with(client, ns, &[]).await
}

async fn of_two_with(
    client: &kube::Client,
    ns: &str,
    flags: &[&str],
) -> (ExtensionSite, ExtensionServer, String) {
    let other = format!("{ns}-other");
    let mut site = ExtensionSite::new(client, ns).await.also(&other);
    for flag in flags {
        site = site.flag(*flag);
    }
    site.namespace(&other).await;
    std::fs::write(site.modules().join("filter.wasm"), filter("file")).unwrap();
    let server = site.start("a").await;
    for namespace in [ns, &other] {
        site.apply_in(namespace, "filter", spec(json!({ "value": format!("of-{namespace}") }))).await;
        site.until_in(namespace, "filter", "being published", |state| state.is("Published", "True")).await;
    }
    (site, server, other)
}

/// The refusal of a stream or of what is asked for on it.
async fn refusal(discovery: &Discovery, variant: Variant, name: &str) -> Code {
    let refused = async {
        let mut stream = discovery.subscribe(variant, &[name]).await?;
        stream.next().await
    };
    match refused.await {
        Ok(update) => panic!("{:?} came", update.names()),
        Err(error) => error.downcast_ref::<Status>().unwrap_or_else(|| panic!("{error:#}")).code(),
    }
}

/// Envoys of two namespaces at one server: each gets its own, by a token and by a certificate, and of the other's nothing, not even
/// that it is there.
#[tokio::test]
async fn an_envoy_gets_the_extensions_of_its_namespace() {
    with_temp_ns(async |client, ns| {
        let (site, server, other) = of_two(&client, ns).await;
        for variant in Variant::ALL {
            for of in [ns, &other] {
                let token = Credentials::Token(site.token(of, "default").await);
                let uri = format!("spiffe://cluster.local/ns/{of}/sa/default");
                let (certificate, key) =
                    site.identity(&format!("of-{of}"), &site.authority.client("envoy", &[&uri]).unwrap());
                for credentials in [token, Credentials::Certificate(certificate, key)] {
                    let start = async |name: &str| {
                        let options = EnvoyOptions::new(variant, server.port, name);
                        let options = options.authority(site.write("ca.crt", &site.authority.certificate));
                        site.start_envoy(&options.credentials(credentials.clone())).await
                    };
                    let envoy = start(&format!("{of}/filter")).await;
                    let plugin = format!("of-{of}");
                    envoy.until("its own", |answer| is_filtered(answer, "file", "", &plugin)).await.unwrap();
                    let theirs = if of == ns { &other } else { ns };
                    let envoy = start(&format!("{theirs}/filter")).await;
                    // It opens after its time for the first configuration, without one.
                    envoy.until("nothing", |answer| answer.status == 500).await.unwrap();
                }
            }
        }
        site.delete_namespaces(&[&other]).await;
        site.end().await;
    })
    .await;
}

/// What is granted by the operator of the server, by identity.
#[tokio::test]
async fn more_is_granted_to_gateways() {
    with_temp_ns(async |client, ns| {
        let other = format!("{ns}-other");
        let grant = format!("--grant=spiffe://cluster.local/ns/{ns}/sa/*={other}");
        let (site, server, other) = of_two_with(&client, ns, &[&grant]).await;
        let name = format!("{other}/filter");
        let identity = |namespace: &str| {
            let uri = format!("spiffe://cluster.local/ns/{namespace}/sa/gateway");
            let identity = site.authority.client("gateway", &[&uri]).unwrap();
            site.authority.trusting(Some(&identity)).unwrap()
        };
        let granted = Discovery::connect(server.port, Some(identity(ns))).await.unwrap();
        assert_eq!(granted.fetch(&[&name]).await.unwrap().names(), [name.as_str()]);
        let not_granted = Discovery::connect(server.port, Some(identity("elsewhere"))).await.unwrap();
        assert!(not_granted.fetch(&[&name]).await.unwrap().names().is_empty());
        site.delete_namespaces(&[&other]).await;
        site.end().await;
    })
    .await;
}

/// Nobody in particular: without anything, with a token of another cluster, with one for somebody else, with a certificate of
/// another authority.
#[tokio::test]
async fn who_is_nobody_gets_nothing() {
    with_temp_ns(async |client, ns| {
        let (site, server, other) = of_two(&client, ns).await;
        let name = site.filter("filter");
        let stranger = site.stranger(&server).await;
        // For the API server, and for nobody else.
        let for_others = {
            let suite = crate::suite::suite().await;
            suite.cluster.kubectl(&["create", "token", "default", "-n", ns]).await.unwrap().trim().to_owned()
        };
        let mut forged: Vec<String> = site.token(ns, "default").await.split('.').map(str::to_owned).collect();
        forged[2] = forged[2].chars().rev().collect();
        for variant in Variant::ALL {
            assert_eq!(refusal(&stranger, variant, &name).await, Code::Unauthenticated);
            for token in ["nonsense".to_owned(), forged.join("."), for_others.clone()] {
                let discovery = stranger.clone().token(&token).unwrap();
                assert_eq!(refusal(&discovery, variant, &name).await, Code::Unauthenticated, "{variant:?}");
            }
        }
        let log = site.log("a").await;
        assert!(!log.contains(&for_others), "a token is logged");

        let strange = Authority::new().unwrap();
        let uri = format!("spiffe://cluster.local/ns/{ns}/sa/default");
        let identity = strange.client("envoy", &[&uri]).unwrap();
        let tls = site.authority.trusting(Some(&identity)).unwrap();
        // A client learns of the refusal of its certificate with its first request.
        let refused = async { Discovery::connect(server.port, Some(tls)).await?.fetch(&[&name]).await };
        let error = refused.await.unwrap_err();
        let code = error.downcast_ref::<Status>().map(Status::code);
        assert!(!matches!(code, Some(Code::Ok)), "{error:#}");
        // Whoever speaks without TLS is not understood.
        assert!(
            tokio::time::timeout(Duration::from_secs(30), plain(server.port, &name)).await.unwrap().is_err()
        );
        // One who may goes on.
        assert_eq!(site.discovery(&server).await.fetch(&[&name]).await.unwrap().names(), [name.as_str()]);
        site.delete_namespaces(&[&other]).await;
        site.end().await;
    })
    .await;
}

async fn plain(port: u16, name: &str) -> anyhow::Result<()> {
    Discovery::connect(port, None).await?.fetch(&[name]).await.map(drop)
}

/// A Secret of another namespace is read when somebody there allows it, for this, and not before; and no longer than that.
#[tokio::test]
async fn an_extension_reads_no_secret_of_others() {
    with_temp_ns(async |client, ns| {
        let (site, server, other) = of_two(&client, ns).await;
        site.put("Secret", &other, "password", "key", "not-for-everybody").await;
        let from = |namespace: &str| {
            let key = json!({ "name": "password", "namespace": namespace, "key": "key" });
            spec(json!({ "valueFrom": { "secretKeyRef": key } }))
        };
        site.apply("thief", from(&other)).await;
        let state = site.until("thief", "a refusal", |state| state.is("ConfigResolved", "False")).await;
        let [_, reason, message] = state.condition("ConfigResolved");
        assert_eq!(reason, "RefNotPermitted", "{message}");
        assert!(
            message.contains(&other)
                && message.contains("ReferenceGrant")
                && !message.contains("not-for-everybody")
        );
        assert!(!state.is("Published", "True"), "{state:?}");
        // A grant for something else is none for this.
        site.grant(ns, &other, "ConfigMap").await;
        site.grant("somebody", &other, "Secret").await;
        let envoy = site.envoy(&server, Variant::Delta, "thief").await;
        envoy.until("nothing", |answer| answer.status == 500).await.unwrap();
        assert_eq!(
            site.until("thief", "a refusal", |_| true).await.condition("ConfigResolved")[1],
            "RefNotPermitted"
        );
        site.grant(ns, &other, "Secret").await;
        envoy
            .until("the filter", |answer| is_filtered(answer, "file", "", "not-for-everybody"))
            .await
            .unwrap();
        // What is taken back does not take the filter along, but nothing new is read.
        site.revoke(ns, &other, "Secret").await;
        site.until("thief", "a refusal", |state| state.condition("ConfigResolved")[1] == "RefNotPermitted")
            .await;
        site.put("Secret", &other, "password", "key", "changed-since").await;
        site.apply_in(&other, "filter", spec(json!({ "value": "later" }))).await;
        site.until_in(&other, "filter", "being published", |state| state.is("Published", "True")).await;
        assert!(is_filtered(&envoy.get().await.unwrap(), "file", "", "not-for-everybody"));
        site.delete_namespaces(&[&other]).await;
        site.end().await;
    })
    .await;
}
