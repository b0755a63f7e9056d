//! Signatures that the real cosign has made, in both of its forms, and policies that ask for them.

use kubewasm_modules::SignaturePolicy;

use super::{
    cosign::{Cosign, FORMS, Form},
    web::{WebServer, file},
    *,
};

fn node(policy: &SignaturePolicy) -> Node {
    Node::with(StoreOptions { signature_policy: policy.clone(), ..StoreOptions::default() })
}

/// Another process on the store of `node`, with another policy.
fn reopened(node: &Node, policy: &SignaturePolicy) -> Store {
    let options = StoreOptions { signature_policy: policy.clone(), ..StoreOptions::default() };
    Store::open(node.directory.path(), options).unwrap()
}

async fn refused(store: &Store, reference: &Reference) -> String {
    match failure(store, reference).await {
        PullFailure::SignatureInvalid(text) => text,
        other => panic!("{reference}: {other}"),
    }
}

fn unusable(store: &Store, reference: &Reference) {
    let error = store.get(&reference.clone().into()).unwrap_err();
    assert!(matches!(error, StoreError::SignatureInvalid { .. }), "{reference}: {error}");
}

#[tokio::test]
async fn a_signed_image_is_pulled_and_one_without_the_right_signature_leaves_nothing() {
    let (registry, cosign) = (Registry::start(), Cosign::new());
    cosign.key("team");
    cosign.key("stranger");
    for (form, name) in FORMS.into_iter().zip(["bundle", "tag"]) {
        let digest = registry.push(&format!("{name}:v1"), artifact(module(name), WASM, None)).await;
        let reference = registry.reference(&format!("{name}:v1"));
        let by_team = cosign.policy(&reference.name(), "team");
        let unsigned = node(&by_team);
        let text = refused(&unsigned.store, &reference).await;
        assert!(text.contains("is not signed") && text.contains(&reference.name()), "{form:?}: {text}");
        unsigned.assert_empty();

        cosign.sign(form, "team", &reference, &digest);
        let signed = node(&by_team);
        let image = pull(&signed.store, &reference).await.unwrap();
        assert_eq!(image.digest.to_string(), digest, "{form:?}");
        let signer = signed.store.signer(&image).unwrap().unwrap();
        assert!(signer.ends_with("team.pub"), "{signer}");
        assert_eq!(Node::new().store.signer(&image).unwrap(), None, "nobody asks for one");
        assert_eq!(signed.store.get(&reference.clone().into()).unwrap(), Some(image));

        let by_stranger = node(&cosign.policy(&reference.name(), "stranger"));
        let text = refused(&by_stranger.store, &reference).await;
        assert!(text.contains("1 not by a trusted key"), "{form:?}: {text}");
        by_stranger.assert_empty();
        // The signature of another key beside it does no harm, and now both policies are met.
        cosign.sign(form, "stranger", &reference, &digest);
        for policy in [by_team, cosign.policy(&reference.name(), "stranger")] {
            pull(&node(&policy).store, &reference).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_signature_of_an_index_or_of_what_is_chosen_from_it_will_do() {
    let (registry, cosign) = (Registry::start(), Cosign::new());
    cosign.key("team");
    for form in FORMS {
        for signed in ["index", "child", "other"] {
            let name = format!("{signed}-{form:?}").to_lowercase();
            let image = |text: &str| {
                container(vec![(tar(&[("app", &module(text))]), TAR)], json!({"Entrypoint": ["/app"]}))
            };
            let child = registry.push(&format!("{name}:wasi"), image(&name)).await;
            let other = registry.push(&format!("{name}:linux"), image("linux")).await;
            let entries = [(other.as_str(), "linux", "amd64"), (child.as_str(), "wasi", "wasm")];
            let index = registry.push_index(&format!("{name}:v1"), &entries).await;
            let reference = registry.reference(&format!("{name}:v1"));
            let digest = match signed {
                "index" => &index,
                "child" => &child,
                _ => &other,
            };
            cosign.sign(form, "team", &reference, digest);
            let node = node(&cosign.policy(&reference.name(), "team"));
            if signed == "other" {
                let text = refused(&node.store, &reference).await;
                assert!(text.contains("is not signed"), "a signature of another platform: {text}");
                node.assert_empty();
                continue;
            }
            let pulled = pull(&node.store, &reference).await.unwrap();
            assert_eq!((pulled.digest.to_string(), pulled.manifest.to_string()), (index, child), "{name}");
            assert!(node.store.get(&reference.into()).unwrap().is_some());
        }
    }
}

#[tokio::test]
async fn a_signature_that_was_moved_to_another_image_is_of_that_other() {
    let (registry, cosign) = (Registry::start(), Cosign::new());
    cosign.key("team");
    let hex = |digest: &str| digest.replace(':', "-");
    for (form, suffix) in [(Form::Bundle, ""), (Form::Tag, ".sig")] {
        let name = format!("{form:?}").to_lowercase();
        let good = registry.push(&format!("{name}:good"), artifact(module("good"), WASM, None)).await;
        let evil = registry.push(&format!("{name}:evil"), artifact(module("evil"), WASM, None)).await;
        let reference = registry.reference(&format!("{name}:evil"));
        cosign.sign(form, "team", &reference, &good);
        let tag = |digest: &str| format!("{name}:{}{suffix}", hex(digest));
        registry.copy(&tag(&good), &tag(&evil)).await;
        let node = node(&cosign.policy(&reference.name(), "team"));
        let text = refused(&node.store, &reference).await;
        assert!(text.contains(&format!("1 of another image ({good})")), "{form:?}: {text}");
        node.assert_empty();
        assert!(pull(&node.store, &registry.reference(&format!("{name}:good"))).await.is_ok());
    }
}

#[tokio::test]
async fn a_signature_that_was_changed_in_the_registry_does_not_count() {
    let (registry, cosign) = (Registry::start(), Cosign::new());
    cosign.key("team");
    for form in FORMS {
        let name = format!("{form:?}").to_lowercase();
        let digest = registry.push(&name, artifact(module(&name), WASM, None)).await;
        let reference = registry.reference(&name);
        cosign.sign(form, "team", &reference, &digest);
        let policy = cosign.policy(&reference.name(), "team");
        let (blob, length) = registry.signature_blob(&name, &digest, form == Form::Tag).await;
        let path = registry.blob(&blob);
        let original = fs::read(&path).unwrap();
        assert_eq!(original.len(), length);
        let mut changed = original.clone();
        let last = changed.len() - 2;
        changed[last] ^= 1;
        fs::write(&path, changed).unwrap();
        let text = refused(&node(&policy).store, &reference).await;
        assert!(text.contains("something else") || text.contains("not to be had"), "{form:?}: {text}");
        fs::write(&path, original).unwrap();
        assert!(pull(&node(&policy).store, &reference).await.is_ok());
    }
}

#[tokio::test]
async fn what_is_kept_is_measured_by_the_policy_of_today() {
    let cosign = Cosign::new();
    cosign.key("old");
    cosign.key("new");
    for form in FORMS {
        let mut registry = Registry::start();
        let digest = registry.push("app:v1", artifact(module("app"), WASM, None)).await;
        let reference = registry.reference("app:v1");
        cosign.sign(form, "old", &reference, &digest);
        let [by_old, by_new] = ["old", "new"].map(|key| cosign.policy(reference.registry(), key));

        // Kept before there was a policy: its signature is asked for once it is.
        let node = Node::new();
        let image = pull(&node.store, &reference).await.unwrap();
        let store = reopened(&node, &by_old);
        unusable(&store, &reference);
        assert_eq!(pull(&store, &reference).await.unwrap(), image);
        assert_eq!(store.get(&reference.clone().into()).unwrap(), Some(image.clone()));

        // Another key is asked for, and then has signed it, too.
        let store = reopened(&node, &by_new);
        unusable(&store, &reference);
        refused(&store, &reference).await;
        unusable(&store, &reference);
        cosign.sign(form, "new", &reference, &digest);
        assert_eq!(pull(&store, &reference).await.unwrap(), image);

        // Whatever is asked for now, what is kept suffices: by whoever is asked, no registry.
        let rejecting = cosign.write_policy("default: {action: reject}");
        registry.stop();
        for policy in [&by_old, &by_new, &SignaturePolicy::default()] {
            let store = reopened(&node, policy);
            assert_eq!(store.get(&reference.clone().into()).unwrap(), Some(image.clone()), "{form:?}");
        }
        let store = reopened(&node, &rejecting);
        unusable(&store, &reference);
        refused(&store, &reference).await;

        // The signatures go with the image.
        assert_eq!(node.count("signatures"), 1);
        store.remove(&image.reference).unwrap();
        assert_eq!(node.count("signatures"), 0);
        node.assert_empty();
    }
}

#[tokio::test]
async fn an_image_that_has_not_changed_is_not_asked_for_its_signatures_again() {
    let (mut registry, cosign) = (Registry::start(), Cosign::new());
    cosign.key("team");
    let digest = registry.push("app:v1", artifact(module("app"), WASM, None)).await;
    let reference = registry.reference("app:v1");
    cosign.sign(Form::Tag, "team", &reference, &digest);
    let node = node(&cosign.policy(&reference.name(), "team"));
    let first = pull(&node.store, &reference).await.unwrap();
    assert_eq!(pull(&node.store, &reference).await.unwrap(), first);
    let log = registry.stop();
    let tag = format!("{}.sig", digest.replace(':', "-"));
    let asked = log.iter().filter(|line| is_get(line, &tag) && line.contains("kubewasm")).count();
    assert_eq!(asked, 1, "{log:#?}");
}

#[tokio::test]
async fn a_rejected_name_is_not_even_asked_for() {
    let mut registry = Registry::start();
    registry.push("team/app:v1", artifact(module("app"), WASM, None)).await;
    let reference = registry.reference("team/app:v1");
    let cosign = Cosign::new();
    let node = node(&cosign.write_policy(&format!(
        "default: {{action: accept}}\nrules: [{{prefix: '{}/team', action: reject}}]",
        reference.registry()
    )));
    let text = refused(&node.store, &reference).await;
    assert!(text.contains("/team\" of the node's signature policy rejects it"), "{text}");
    node.assert_empty();
    let asked = registry.stop().into_iter().filter(|line| line.contains("kubewasm")).count();
    assert_eq!(asked, 0);
}

/// A file at a URL has no signatures: a policy that asks for some by default takes none, neither now nor of what is kept.
#[tokio::test]
async fn a_file_at_a_url_is_taken_only_where_nothing_is_asked_for_by_default() {
    let bytes = module("web");
    let server = WebServer::start(move |request| file(request, &bytes)).await;
    let name: ImageName = server.url("/app.wasm").parse().unwrap();
    let cosign = Cosign::new();
    cosign.key("team");
    let open = node(&cosign.write_policy("default: {action: accept}"));
    open.store.pull(&name, &[], None).await.unwrap();
    let asked = server.requests().len();
    for (policy, expected) in [
        ("default: {action: reject}", "\"default\" of the node's signature policy rejects it"),
        ("default: {action: verify, keys: [{file: team.pub}]}", "a file at a URL has none"),
    ] {
        let policy = cosign.write_policy(policy);
        let strict = node(&policy);
        let error = strict.store.pull(&name, &[], None).await.unwrap_err();
        let PullFailure::SignatureInvalid(text) = &error.reason else { panic!("{error}") };
        assert!(text.contains(expected), "{text}");
        strict.assert_empty();
        let error = reopened(&open, &policy).get(&name).unwrap_err();
        assert!(matches!(error, StoreError::SignatureInvalid { .. }), "{error}");
    }
    assert_eq!(server.requests().len(), asked, "nobody was asked");
}

#[tokio::test]
async fn signatures_are_asked_for_with_the_credential_of_the_image() {
    let (registry, cosign) = (Registry::start_with_login(), Cosign::new());
    cosign.key("team");
    for form in FORMS {
        let name = format!("{form:?}").to_lowercase();
        let digest = registry.push(&name, artifact(module(&name), WASM, None)).await;
        let reference = registry.reference(&name);
        cosign.sign(form, "team", &reference, &digest);
        let node = node(&cosign.policy(&reference.name(), "team"));
        let credentials = [credential("wrong"), credential(PASSWORD)];
        let fetched = node.store.pull(&reference, &credentials, None).await.unwrap();
        assert_eq!((fetched.image.digest.to_string(), fetched.credential), (digest, Some(1)), "{form:?}");
        assert!(matches!(failure(&node.store, &reference).await, PullFailure::Denied(_)));
    }
}
