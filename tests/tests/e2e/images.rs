//! Where modules come from, and what is said when they do not.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use k8s_openapi::api::core::v1::{Event, Node, Secret, ServiceAccount};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use kubewasm_tests::{
    guests,
    node::Options,
    registry::{PASSWORD, Registry, USER, image::Content},
};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use crate::{
    pods::{Pods, container},
    suite::{own_node, suite, with_temp_ns},
};

/// A module that is a bare artifact runs, and so does one in a classic image, by tag and by digest.
#[tokio::test]
async fn both_layouts_by_tag_and_by_digest() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let module = guests::guest("actor.c").await.unwrap();
        let suite = suite().await;
        let artifact = suite.registry.push("artifact:v1", &Content::Artifact(module.clone())).await.unwrap();
        let classic = suite.registry.push("classic:v1", &Content::program("actor", module)).await.unwrap();
        for (name, image) in [
            ("artifact-tag", &artifact.tagged),
            ("artifact-digest", &artifact.by_digest),
            ("classic-tag", &classic.tagged),
            ("classic-digest", &classic.by_digest),
        ] {
            pods.run(name, image, &["say", name]).await;
            let pod = pods.phase(name, "Succeeded").await;
            assert_eq!(pods.logs(name).await, format!("{name}\n"));
            let digest = if name.starts_with("artifact") { &artifact } else { &classic };
            let digest = digest.by_digest.rsplit_once('@').unwrap().1;
            assert!(container(&pod).unwrap().image_id.ends_with(digest));
        }
    })
    .await;
}

/// The Events of a container follow it from its image to its start. An image that is there already is not
/// pulled again, and that is told, too.
#[tokio::test]
async fn a_start_is_told_step_by_step() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let module = guests::guest("actor.c").await.unwrap();
        let image = suite().await.registry.push("told:v1", &Content::Artifact(module)).await.unwrap().tagged;
        let pulling = format!("Pulling image \"{image}\"");
        let pulled = format!("Successfully pulled image \"{image}\" in ");
        let present =
            format!("Container image \"{image}\" already present on machine and can be accessed by the pod");
        for (name, pull) in [
            ("first", [("Pulling", &pulling), ("Pulled", &pulled)].as_slice()),
            ("second", &[("Pulled", &present)]),
        ] {
            pods.run(name, &image, &["say", "hello"]).await;
            pods.phase(name, "Succeeded").await;
            for (reason, message) in pull {
                pods.event(name, reason, |event| says(event, reason, message)).await;
            }
            for (reason, message) in [("Created", "Container created"), ("Started", "Container started")] {
                pods.event(name, reason, |event| says(event, reason, message)).await;
            }
        }
    })
    .await;
}

/// Two digests of one repository are two modules.
#[tokio::test]
async fn a_digest_names_one_module() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let suite = suite().await;
        for text in ["first", "second"] {
            let image = Content::Image {
                files: vec![("actor".to_owned(), guests::guest("actor.c").await.unwrap())],
                entrypoint: vec!["/actor".to_owned()],
                cmd: vec!["say".to_owned(), text.to_owned()],
                env: Vec::new(),
            };
            let pushed = suite.registry.push("moving:v1", &image).await.unwrap();
            let spec = json!({ "containers": [{ "name": "main", "image": pushed.by_digest }] });
            pods.create(text, spec).await;
        }
        for text in ["first", "second"] {
            pods.phase(text, "Succeeded").await;
            assert_eq!(pods.logs(text).await, format!("{text}\n"));
        }
    })
    .await;
}

/// A WASI 0.2 component runs as well as a core module.
#[tokio::test]
async fn a_component_runs() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let module = guests::guest("hello-0.2.wat").await.unwrap();
        let image = suite().await.registry.push("component:v1", &Content::Artifact(module)).await.unwrap();
        pods.run("component", &image.tagged, &[]).await;
        pods.phase("component", "Succeeded").await;
        assert_eq!(pods.logs("component").await, "hello from a component\n");
    })
    .await;
}

/// What is no image name is refused as that, and not pulled.
#[tokio::test]
async fn a_name_that_is_none() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        pods.run("misnamed", "No Image/Name::", &[]).await;
        let state = pods.waiting("misnamed", &["InvalidImageName"]).await;
        assert!(state.message.unwrap_or_default().contains("No Image/Name::"));
        pods.event("misnamed", "what is wrong", |event| says(event, "InspectFailed", "No Image/Name::"))
            .await;
    })
    .await;
}

/// A missing image is reported, retried with a growing pause, and runs when it appears.
#[tokio::test]
async fn a_missing_image_runs_when_it_appears() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let suite = suite().await;
        let image = suite.registry.name("late:v1");
        pods.run("late", &image, &["say", "here"]).await;
        let state = pods.waiting("late", &["ErrImagePull", "ImagePullBackOff"]).await;
        assert!(state.message.unwrap_or_default().contains("late:v1"));
        pods.waiting("late", &["ImagePullBackOff"]).await;
        pods.event("late", "a Failed event", |event| {
            says(event, "Failed", &format!("Failed to pull image \"{image}\""))
        })
        .await;
        let module = guests::guest("actor.c").await.unwrap();
        suite.registry.push("late:v1", &Content::program("actor", module)).await.unwrap();
        pods.phase("late", "Succeeded").await;
    })
    .await;
}

/// A registry that does not answer is reported as that, and the pod runs when it is back.
#[tokio::test]
async fn an_unreachable_registry_is_waited_for() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let mut registry = Registry::open(&suite().await.home, "outage-registry").unwrap();
        let image = registry.name("actor:v1");
        pods.run("patient", &image, &["say", "here"]).await;
        let reasons = ["RegistryUnavailable", "ErrImagePull", "ImagePullBackOff"];
        let state = pods.waiting("patient", &reasons).await;
        assert!(state.message.unwrap_or_default().contains(&registry.host()));
        pods.event("patient", "a Failed event", |event| says(event, "Failed", "Failed to pull image")).await;
        registry.start().await.unwrap();
        let module = guests::guest("actor.c").await.unwrap();
        registry.push("actor:v1", &Content::program("actor", module)).await.unwrap();
        pods.phase("patient", "Succeeded").await;
        registry.stop().unwrap();
    })
    .await;
}

/// A registry that knows its users serves a pod with the right pull secret, and no other.
#[tokio::test]
async fn a_private_registry_wants_a_pull_secret() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let mut registry = Registry::private(&suite().await.home, "private-registry").unwrap();
        registry.start().await.unwrap();
        let module = guests::guest("actor.c").await.unwrap();
        let image = registry.push("actor:v1", &Content::program("actor", module)).await.unwrap();
        pull_secret(&client, ns, "right", &registry.host(), PASSWORD).await;
        pull_secret(&client, ns, "wrong", &registry.host(), "looking-glass").await;
        for secret in [None, Some("missing"), Some("wrong"), Some("right")] {
            let name = format!("secret-{}", secret.unwrap_or("none"));
            let spec = json!({
                "imagePullSecrets": secret.map(|name| json!({ "name": name })).into_iter().collect::<Vec<_>>(),
                "containers": [{ "name": "main", "image": image.tagged, "args": ["say", "served"] }],
            });
            pods.create(&name, spec).await;
            if secret == Some("right") {
                pods.phase(&name, "Succeeded").await;
            } else {
                let state = pods.waiting(&name, &["ErrImagePull", "ImagePullBackOff"]).await;
                let message = state.message.unwrap_or_default();
                assert!(!message.contains("looking-glass"), "{message}");
            }
            if secret == Some("missing") {
                let why = "Unable to retrieve some image pull secrets (missing); attempting to pull the image may not succeed.";
                let told = |event: &_| says(event, "FailedToRetrieveImagePullSecret", why);
                pods.event(&name, "the missing secret", told).await;
            }
        }
        registry.stop().unwrap();
    })
    .await;
}

/// A secret may hold a user name and a password and no more. One that is there and cannot be used is told of with its name
/// and its key, and the registry is not asked without it.
#[tokio::test]
async fn secrets_of_every_type_are_pull_secrets_and_a_broken_one_is_named() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let mut registry = Registry::private(&suite().await.home, "secrets-registry").unwrap();
        registry.start().await.unwrap();
        let module = guests::guest("actor.c").await.unwrap();
        let image = registry.push("actor:v1", &Content::program("actor", module)).await.unwrap().tagged;
        let secrets: Api<Secret> = Api::namespaced(client.clone(), ns);
        let login = json!({ "username": USER, "password": PASSWORD });
        let elsewhere = json!({ "username": USER, "password": PASSWORD, "registry": "other.example.com" });
        for (name, kind, data, expected) in [
            ("basic", "kubernetes.io/basic-auth", login.clone(), None),
            ("opaque", "Opaque", login, None),
            ("elsewhere", "Opaque", elsewhere, Some("401 Unauthorized")),
            ("no-user", "Opaque", json!({ "password": PASSWORD }), Some("it has no key \"username\"")),
            ("no-login", "Opaque", json!({ "token": PASSWORD }), Some("has neither .dockerconfigjson")),
        ] {
            let secret = json!({ "metadata": { "name": name }, "type": kind, "stringData": data });
            secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
            let spec = json!({
                "imagePullSecrets": [{ "name": name }],
                "containers": [{
                    "name": "main", "image": image, "args": ["say", "served"], "imagePullPolicy": "Always",
                }],
            });
            pods.create(name, spec).await;
            let Some(expected) = expected else {
                pods.phase(name, "Succeeded").await;
                continue;
            };
            let state = pods.waiting(name, &["ErrImagePull", "ImagePullBackOff"]).await;
            let message = state.message.unwrap_or_default();
            assert!(message.contains(expected) && !message.contains(PASSWORD), "{name}: {message}");
            if name != "elsewhere" {
                let why = format!("the image pull secret {name:?} cannot be used: ");
                pods.event(name, "the secret's name", |event| says(event, "Failed", &why)).await;
            }
        }
        registry.stop().unwrap();
    })
    .await;
}

/// A pod without pull secrets of its own has those of its service account.
#[tokio::test]
async fn pull_secrets_of_the_service_account() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let mut registry = Registry::private(&suite().await.home, "account-registry").unwrap();
        registry.start().await.unwrap();
        let module = guests::guest("actor.c").await.unwrap();
        let image = registry.push("actor:v1", &Content::program("actor", module)).await.unwrap().tagged;
        pull_secret(&client, ns, "right", &registry.host(), PASSWORD).await;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), ns);
        let account = json!({ "metadata": { "name": "puller" }, "imagePullSecrets": [{ "name": "right" }] });
        accounts.create(&PostParams::default(), &serde_json::from_value(account).unwrap()).await.unwrap();
        let spec = json!({
            "serviceAccountName": "puller",
            "containers": [{ "name": "main", "image": image, "args": ["say", "served"] }],
        });
        pods.create("by-account", spec).await;
        pods.phase("by-account", "Succeeded").await;
        registry.stop().unwrap();
    })
    .await;
}

/// The kubelet's credential providers give a node credentials for all its pods.
#[tokio::test]
async fn a_credential_provider_is_asked_for_the_images_that_it_is_for() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let mut registry = Registry::private(&suite().await.home, "provider-registry").unwrap();
        registry.start().await.unwrap();
        let module = guests::guest("actor.c").await.unwrap();
        let image = registry.push("actor:v1", &Content::program("actor", module)).await.unwrap().tagged;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        // The provider is the shell; its script need not be executable.
        std::os::unix::fs::symlink("/bin/sh", at("desk")).unwrap();
        let version = "credentialprovider.kubelet.k8s.io/v1";
        let answer = json!({
            "kind": "CredentialProviderResponse", "apiVersion": version, "cacheKeyType": "Registry",
            "auth": { registry.host(): { "username": USER, "password": PASSWORD } },
        });
        std::fs::write(at("script"), format!("cat >&2; echo '{answer}'\n")).unwrap();
        let config = json!({
            "kind": "CredentialProviderConfig", "apiVersion": "kubelet.config.k8s.io/v1",
            "providers": [{
                "name": "desk", "apiVersion": version, "matchImages": [registry.host()],
                "defaultCacheDuration": "1h", "args": [at("script")],
            }],
        });
        std::fs::write(at("providers.yaml"), config.to_string()).unwrap();
        let options = Options::default()
            .flag(format!("--image-credential-provider-config={}", at("providers.yaml").display()))
            .flag(format!("--image-credential-provider-bin-dir={}", folder.path().display()));
        let node = own_node("provider-node", &options).await;
        let spec = json!({
            "nodeSelector": { "kubernetes.io/hostname": "provider-node" },
            "containers": [{ "name": "main", "image": image, "args": ["say", "served"] }],
        });
        pods.create("provided", spec).await;
        pods.phase("provided", "Succeeded").await;
        drop(node);
        Api::<Node>::all(client).delete("provider-node", &DeleteParams::default()).await.unwrap();
        registry.stop().unwrap();
    })
    .await;
}

/// An image that one pod's secret has pulled is no other pod's: a pod that cannot show as much is refused by the
/// registry, or under `Never` by the node, whether or not the agent was started again since. One with a right secret
/// of its own runs.
#[tokio::test]
async fn a_private_image_is_for_those_who_may_pull_it() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let mut registry = Registry::private(&suite().await.home, "owned-registry").unwrap();
        registry.start().await.unwrap();
        let module = guests::guest("actor.c").await.unwrap();
        let image = registry.push("actor:v1", &Content::program("actor", module)).await.unwrap().tagged;
        pull_secret(&client, ns, "owner", &registry.host(), PASSWORD).await;
        pull_secret(&client, ns, "second", &registry.host(), PASSWORD).await;
        pull_secret(&client, ns, "wrong", &registry.host(), "looking-glass").await;
        let mut node = own_node("owned-node", &Options::default()).await;
        let create = async |name: &str, secret: Option<&str>, policy: &str| {
            let spec = json!({
                "nodeSelector": { "kubernetes.io/hostname": "owned-node" },
                "imagePullSecrets": secret.map(|name| json!({ "name": name })).into_iter().collect::<Vec<_>>(),
                "containers": [{
                    "name": "main", "image": image, "args": ["say", "mine"], "imagePullPolicy": policy,
                }],
            });
            pods.create(name, spec).await;
        };
        create("owner", Some("owner"), "IfNotPresent").await;
        pods.phase("owner", "Succeeded").await;
        for round in ["first", "after-restart"] {
            for (who, secret) in [("nobody", None), ("wrong", Some("wrong"))] {
                let name = format!("{who}-{round}");
                create(&name, secret, "IfNotPresent").await;
                let state = pods.waiting(&name, &["ErrImagePull", "ImagePullBackOff"]).await;
                let message = state.message.unwrap_or_default();
                assert!(message.contains("401 Unauthorized"), "{name}: {message}");
                let name = format!("{who}-never-{round}");
                create(&name, secret, "Never").await;
                let state = pods.waiting(&name, &["ErrImageNeverPull"]).await;
                let expected = format!("Container image \"{image}\" is not present with pull policy of Never");
                assert_eq!(state.message, Some(expected));
            }
            let present = "already present on machine and can be accessed by the pod";
            for (who, secret, policy) in [("own", "owner", "Never"), ("second", "second", "IfNotPresent")] {
                let name = format!("{who}-{round}");
                create(&name, Some(secret), policy).await;
                pods.phase(&name, "Succeeded").await;
                pods.event(&name, "no pull", |event| says(event, "Pulled", present)).await;
            }
            node.kill().unwrap();
            node.start_again().await.unwrap();
        }
        drop(node);
        Api::<Node>::all(client).delete("owned-node", &DeleteParams::default()).await.unwrap();
        registry.stop().unwrap();
    })
    .await;
}

/// A file at a URL is an image: it runs, is not fetched again, and what the pod tells of it names the URL and the digest.
#[tokio::test]
async fn a_module_at_a_url_runs() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let module = guests::guest("actor.c").await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/team/actor.wasm", listener.local_addr().unwrap());
        let served = Arc::new(AtomicUsize::new(0));
        let server = {
            let served = Arc::clone(&served);
            tokio::spawn(async move {
                loop {
                    let (mut connection, _) = listener.accept().await.unwrap();
                    let mut request = BufReader::new(&mut connection).lines();
                    while request
                        .next_line()
                        .await
                        .is_ok_and(|line| line.is_some_and(|line| !line.is_empty()))
                    {}
                    served.fetch_add(1, Ordering::SeqCst);
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                        module.len()
                    );
                    let _ = connection.write_all(&[head.as_bytes(), &module].concat()).await;
                }
            })
        };
        for name in ["first", "second"] {
            pods.run(name, &url, &["say", name]).await;
            let pod = pods.phase(name, "Succeeded").await;
            assert_eq!(pods.logs(name).await, format!("{name}\n"));
            let status = container(&pod).unwrap();
            assert_eq!(status.image, url);
            assert!(status.image_id.starts_with(&format!("{url}@sha256:")), "{}", status.image_id);
        }
        server.abort();
        assert_eq!(served.load(Ordering::SeqCst), 1);

        let plain = "http://modules.example/actor.wasm";
        pods.run("plain", plain, &["say", "hello"]).await;
        let state = pods.waiting("plain", &["ErrImagePull", "ImagePullBackOff", "InvalidImageName"]).await;
        let message = state.message.unwrap_or_default();
        assert!(message.contains(plain), "{message}");
    })
    .await;
}

/// A node whose policy asks for signatures refuses an image without one, whether it is new or was there before the
/// policy was; what the policy does not ask for runs.
#[tokio::test]
async fn an_image_without_the_signature_that_the_node_asks_for() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let suite = suite().await;
        let module = guests::guest("actor.c").await.unwrap();
        let content = Content::program("actor", module);
        let unsigned = suite.registry.push("unsigned/actor:v1", &content).await.unwrap().tagged;
        let key = "-----BEGIN PUBLIC KEY-----\n\
                   MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEQdJivcF3IufEyCZAE246fZbNfsPR\n\
                   2vTjMecYl3TCYW3hOAZddjvuaQN3L0GH1zJh5XAEr9Sznx4i5YahbBNePA==\n\
                   -----END PUBLIC KEY-----\n";
        let rule = json!({
            "prefix": suite.registry.name("unsigned"), "action": "verify", "keys": [{ "pem": key }],
        });
        let policy = suite.home.folder("signature-policy").unwrap().join("policy.json");
        let text = json!({ "default": { "action": "accept" }, "rules": [] });
        std::fs::write(&policy, text.to_string()).unwrap();
        let flag = format!("--image-signature-policy={}", policy.display());
        let mut node = own_node("verifying-node", &Options::default().flag(flag)).await;
        let create = async |name: &str, image: &str, pull: &str| {
            let spec = json!({
                "nodeSelector": { "kubernetes.io/hostname": "verifying-node" },
                "containers": [{
                    "name": "main", "image": image, "args": ["say", "hello"], "imagePullPolicy": pull,
                }],
            });
            pods.create(name, spec).await;
        };
        create("before", &unsigned, "IfNotPresent").await;
        pods.phase("before", "Succeeded").await;

        let text = json!({ "default": { "action": "accept" }, "rules": [rule] });
        std::fs::write(&policy, text.to_string()).unwrap();
        node.kill().unwrap();
        node.start_again().await.unwrap();
        for (name, pull) in [("kept", "Never"), ("asked", "IfNotPresent"), ("always", "Always")] {
            create(name, &unsigned, pull).await;
            let state = pods.waiting(name, &["SignatureValidationFailed", "ImagePullBackOff"]).await;
            let message = state.message.unwrap_or_default();
            assert!(message.contains("because the signature validation failed: "), "{name}: {message}");
            assert!(message.contains(&suite.registry.name("unsigned")), "{name}: {message}");
        }
        create("elsewhere", &suite.actor.tagged, "IfNotPresent").await;
        pods.phase("elsewhere", "Succeeded").await;
        drop(node);
        Api::<Node>::all(client).delete("verifying-node", &DeleteParams::default()).await.unwrap();
    })
    .await;
}

/// `imagePullPolicy: Never` runs what is there and pulls nothing.
#[tokio::test]
async fn never_pulling() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let suite = suite().await;
        let image = suite.registry.name("unseen:v1");
        let spec = json!({ "containers": [{ "name": "main", "image": image, "imagePullPolicy": "Never" }] });
        pods.create("unseen", spec).await;
        let state = pods.waiting("unseen", &["ErrImageNeverPull"]).await;
        let message = state.message.unwrap_or_default();
        assert!(message.contains("is not present with pull policy of Never"), "{message}");
        pods.event("unseen", "why", |event| says(event, "ErrImageNeverPull", &message)).await;
    })
    .await;
}

async fn pull_secret(client: &Client, namespace: &str, name: &str, host: &str, password: &str) {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let config = json!({ "auths": { host: { "username": USER, "password": password } } });
    let secret = json!({
        "metadata": { "name": name },
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": { ".dockerconfigjson": config.to_string() },
    });
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
}

fn says(event: &Event, reason: &str, text: &str) -> bool {
    event.reason.as_deref() == Some(reason)
        && event.message.as_deref().is_some_and(|message| message.contains(text))
}
