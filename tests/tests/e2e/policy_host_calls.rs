//! What policies ask their host: the real API server, for a user who may not see everything, and a real registry with images that
//! cosign has signed.

use std::{fs, path::Path};

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, PostParams},
};
use kubewasm_tests::{
    cluster::programs,
    guests::{self, rust},
    registry::{PASSWORD, USER},
};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    desk::{Desk, errors},
    policy_command::{RUN, fails, review, run, says},
    suite::{suite, with_temp_ns},
};

/// Of the policy of Go, which asks for whatever its settings say.
const METADATA: &str = "
executionMode: wasi
rules: [{ apiGroups: [''], apiVersions: [v1], resources: [pods], operations: [CREATE] }]
contextAwareResources: [{ apiVersion: v1, kind: ConfigMap }, { apiVersion: v1, kind: Namespace }]
";

/// A desk with that policy, and a request.
async fn desk() -> Desk {
    let desk = Desk::new().await;
    desk.log_in();
    annotated(&desk, &guests::guest("policy.go").await.unwrap(), METADATA).await;
    fs::write(desk.path().join("request.json"), review(json!({ "name": "a" })).to_string()).unwrap();
    desk
}

async fn annotated(desk: &Desk, module: &[u8], metadata: &str) {
    fs::write(desk.path().join("plain.wasm"), module).unwrap();
    fs::write(desk.path().join("metadata.yml"), metadata).unwrap();
    let output = run(desk, &["annotate", "-m", "metadata.yml", "-o", "policy.wasm", "plain.wasm"]).await;
    assert!(output.status.success(), "{}", errors(&output));
}

/// What a policy is answered, or told instead.
async fn ask(
    desk: &Desk,
    flags: &[&str],
    namespace: &str,
    operation: &str,
    payload: Value,
) -> Result<Value, String> {
    let question =
        json!({ "ask": { "namespace": namespace, "operation": operation, "payload": payload } }).to_string();
    let args =
        [&RUN[..], &["--timeout", "30", "--settings-json", &question], flags, &["policy.wasm"]].concat();
    let said = says(desk, &args).await;
    match said["allowed"].as_bool().unwrap() {
        // What it was told is its message, which an accepted request has as well.
        true => {
            let text = said["status"]["message"].as_str().unwrap_or_else(|| panic!("{said}"));
            Ok(serde_json::from_str(text).unwrap_or_else(|_| panic!("{said}")))
        }
        false => Err(said["status"]["message"].as_str().unwrap().to_owned()),
    }
}

/// A kubeconfig of an account that may see the ConfigMaps of a namespace, and nothing else.
async fn limited(desk: &Desk, ns: &str) -> String {
    let cluster = &suite().await.cluster;
    let account = format!("--serviceaccount={ns}:viewer");
    for args in [
        &["create", "serviceaccount", "viewer", "--namespace", ns][..],
        &["create", "role", "viewer", "--verb=get,list", "--resource=configmaps", "--namespace", ns],
        &["create", "rolebinding", "viewer", "--role=viewer", &account, "--namespace", ns],
    ] {
        cluster.kubectl(args).await.unwrap();
    }
    let token = cluster.kubectl(&["create", "token", "viewer", "--namespace", ns]).await.unwrap();
    let admin = fs::read_to_string(cluster.admin_kubeconfig()).unwrap();
    let mut kubeconfig: Value = serde_yaml_ng::from_str(&admin).unwrap();
    kubeconfig["users"][0]["user"] = json!({ "token": token.trim() });
    let path = desk.path().join("viewer.kubeconfig");
    fs::write(&path, kubeconfig.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

async fn config_map(client: &Client, ns: &str, name: &str, label: &str) {
    let map = json!({ "metadata": { "name": name, "labels": { "color": label } }, "data": { "a": ns } });
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), ns);
    maps.create(&PostParams::default(), &serde_json::from_value(map).unwrap()).await.unwrap();
}

/// Objects are those of the API server, as far as the policy says that it needs them and its user may see them.
#[tokio::test]
async fn a_policy_asks_a_cluster() {
    let desk = desk().await;
    with_temp_ns(async |client, ns| {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let other = serde_json::from_value(json!({ "metadata": { "generateName": "e2e-other-" } })).unwrap();
        let other = namespaces.create(&PostParams::default(), &other).await.unwrap().name_any();
        config_map(&client, ns, "green", "green").await;
        config_map(&client, ns, "red", "red").await;
        config_map(&client, &other, "green", "green").await;
        let viewer = limited(&desk, ns).await;
        let flags = ["--allow-context-aware", "--kubeconfig", &*viewer];
        let asked = async |operation: &str, payload: Value| ask(&desk, &flags, "kubernetes", operation, payload).await;

        let query = |namespace: &str| json!({
            "api_version": "v1", "kind": "ConfigMap", "namespace": namespace, "label_selector": "color=green",
            "field_selector": null,
        });
        let list = asked("list_resources_by_namespace", query(ns)).await.unwrap();
        assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("ConfigMapList"), 1));
        let item = &list["items"][0];
        assert_eq!((&item["kind"], &item["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
        assert_eq!((&item["metadata"]["name"], &item["data"]["a"]), (&json!("green"), &json!(ns)));
        assert!(item["metadata"].get("managedFields").is_none(), "{item}");
        let by_field = json!({ "api_version": "v1", "kind": "ConfigMap", "namespace": ns, "field_selector": "metadata.name=red" });
        let list = asked("list_resources_by_namespace", by_field).await.unwrap();
        assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");

        let forbidden = asked("list_resources_by_namespace", query(&other)).await.unwrap_err();
        assert!(forbidden.contains("403 Forbidden: configmaps is forbidden") && forbidden.contains("viewer"), "{forbidden}");
        let everywhere = json!({ "api_version": "v1", "kind": "ConfigMap", "label_selector": "color=green" });
        assert!(asked("list_resources_all", everywhere.clone()).await.unwrap_err().contains("403 Forbidden"));

        let get = |kind: &str, name: &str| json!({
            "api_version": "v1", "kind": kind, "name": name, "namespace": ns, "disable_cache": true,
        });
        let found = asked("get_resource", get("ConfigMap", "red")).await.unwrap();
        assert_eq!(found["metadata"]["labels"]["color"], json!("red"));
        let missing = asked("get_resource", get("ConfigMap", "blue")).await.unwrap_err();
        assert_eq!(missing, format!("Cannot find v1/ConfigMap named 'blue' inside of namespace 'Some(\"{ns}\")'"));
        // The account could not see it anyhow, and nobody is asked.
        let denied = asked("get_resource", get("Secret", "red")).await.unwrap_err();
        assert_eq!(
            denied,
            "Policy has not been granted access to Kubernetes v1/Secret resources. The violation has been reported."
        );
        let elsewhere = asked("get_resource", get("ConfigMap", "../secrets/x")).await.unwrap_err();
        assert_eq!(elsewhere, "\"../secrets/x\" is no name");

        // Somebody who may see everything.
        let admin = suite().await.cluster.admin_kubeconfig();
        let flags = ["--allow-context-aware", "--kubeconfig", admin.to_str().unwrap()];
        let all = ask(&desk, &flags, "kubernetes", "list_resources_all", everywhere).await.unwrap();
        let places: Vec<&str> =
            all["items"].as_array().unwrap().iter().filter_map(|item| item["metadata"]["namespace"].as_str()).collect();
        assert!(places.contains(&ns) && places.contains(&&*other), "{places:?}");
        let wide = json!({ "api_version": "v1", "kind": "Namespace", "namespace": ns });
        let error = ask(&desk, &flags, "kubernetes", "list_resources_by_namespace", wide).await.unwrap_err();
        assert_eq!(error, "resource v1/Namespace is cluster wide. Cannot search for it inside of a namespace");
        for (place, allowed) in [(ns, true), (&*other, false)] {
            let review = json!({
                "subject_access_review": {
                    "user": format!("system:serviceaccount:{ns}:viewer"), "groups": null,
                    "resource_attributes": { "verb": "list", "group": "", "resource": "configmaps", "namespace": place },
                },
                "disable_cache": false,
            });
            let status = ask(&desk, &flags, "kubernetes", "can_i", review).await.unwrap();
            assert_eq!(status["allowed"], json!(allowed), "{status}");
        }
        namespaces.delete(&other, &DeleteParams::default()).await.unwrap();
    })
    .await;
    let query = json!({ "api_version": "v1", "kind": "ConfigMap" });
    let denied = ask(&desk, &[], "kubernetes", "list_resources_all", query).await.unwrap_err();
    assert!(denied.contains("'kubernetes/list_resources_all' host capability"), "{denied}");
}

/// What was recorded is answered again, without a cluster.
#[tokio::test]
async fn a_session_is_recorded_and_replayed() {
    let desk = desk().await;
    let admin = suite().await.cluster.admin_kubeconfig();
    let query =
        json!({ "api_version": "v1", "kind": "Namespace", "name": "kube-system", "disable_cache": false });
    let record = ["--record-host-capabilities-interactions", "session.yml"];
    let flags = [&["--allow-context-aware", "--kubeconfig", admin.to_str().unwrap()], &record[..]].concat();
    let recorded = ask(&desk, &flags, "kubernetes", "get_resource", query.clone()).await.unwrap();
    assert_eq!(recorded["metadata"]["name"], json!("kube-system"));
    let session = fs::read_to_string(desk.path().join("session.yml")).unwrap();
    assert!(session.starts_with("- type: Exchange\n  request: |\n    !KubernetesGetResource\n"), "{session}");

    let replay = ["--replay-host-capabilities-interactions", "session.yml"];
    let flags = [&["--allow-context-aware", "--kubeconfig", "nothing"], &replay[..]].concat();
    assert_eq!(ask(&desk, &flags, "kubernetes", "get_resource", query).await, Ok(recorded));
    let other = json!({ "api_version": "v1", "kind": "Namespace", "name": "default" });
    let error = ask(&desk, &flags, "kubernetes", "get_resource", other).await.unwrap_err();
    assert!(error.starts_with("Replay error: unexpected request"), "{error}");
}

/// cosign, with a pair of keys in a folder.
async fn cosign(folder: &Path, args: &[&str]) {
    let program = programs::build("cosign/build.sh").await.unwrap();
    let mut command = Command::new(program);
    command.args(args).current_dir(folder).env("HOME", folder).env("COSIGN_PASSWORD", "");
    // Nobody listens there: what should not leave this machine does not.
    command.env("HTTPS_PROXY", "http://127.0.0.1:9").kill_on_drop(true);
    let output = command.output().await.unwrap();
    assert!(output.status.success(), "cosign {args:?}: {}", errors(&output));
}

/// Manifests and configurations are those of the registry, and signatures those of cosign.
#[tokio::test]
async fn a_policy_asks_a_registry() {
    let desk = desk().await;
    let image = desk.registry.name("team/app:v1");
    let pushed = run(&desk, &["push", "policy.wasm", &image]).await;
    assert!(pushed.status.success(), "{}", errors(&pushed));
    let flags = ["--allowed-host-capabilities", "oci/*"];
    let asked = async |operation: &str, payload: Value| ask(&desk, &flags, "oci", operation, payload).await;

    let digest =
        asked("v1/manifest_digest", json!(image)).await.unwrap()["digest"].as_str().unwrap().to_owned();
    let printed = run(&desk, &["digest", &image]).await;
    assert!(String::from_utf8_lossy(&printed.stdout).trim_end().ends_with(&digest), "{digest}");
    let manifest = asked("v1/oci_manifest", json!(image)).await.unwrap();
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1, "{manifest}");
    let whole = asked("v1/oci_manifest_config", json!(image)).await.unwrap();
    assert_eq!((&whole["manifest"], &whole["digest"]), (&manifest, &json!(digest)));
    assert!(whole["config"].is_object(), "{whole}");
    let missing = asked("v1/manifest_digest", json!(desk.registry.name("team/none:v1"))).await.unwrap_err();
    assert!(missing.contains("not found"), "{missing}");
    assert!(asked("v1/manifest_digest", json!("A B")).await.unwrap_err().contains("is no name of an image"));

    let folder = tempfile::tempdir().unwrap();
    for name in ["team", "stranger"] {
        cosign(folder.path(), &["generate-key-pair", "--output-key-prefix", name]).await;
    }
    let key = |name: &str| fs::read_to_string(folder.path().join(format!("{name}.pub"))).unwrap();
    let verify = |keys: &[&str], annotations: Value| {
        let keys: Vec<String> = keys.iter().map(|name| key(name)).collect();
        json!({ "image": image, "pub_keys": keys, "annotations": annotations })
    };
    let unsigned = json!({ "SigstorePubKeyVerify": verify(&["team"], Value::Null) });
    let error = asked("v1/verify", unsigned).await.unwrap_err();
    assert!(error.contains("is not signed, and the admission policy asks for it"), "{error}");

    let name = format!("{}@{digest}", image.strip_suffix(":v1").unwrap());
    let login = ["--registry-username", USER, "--registry-password", PASSWORD];
    let tag = ["--new-bundle-format=false", "--use-signing-config=false", "--tlog-upload=false"];
    let sign =
        [&["sign", "--yes", "--key", "team.key", "-a", "stage=prod"], &tag[..], &login, &[&name]].concat();
    cosign(folder.path(), &sign).await;
    let trusted = json!({ "is_trusted": true, "digest": digest });
    let v1 = json!({ "SigstorePubKeyVerify": verify(&["team"], json!({ "stage": "prod" })) });
    assert_eq!(asked("v1/verify", v1).await, Ok(trusted.clone()));
    let v2 = |keys: &[&str], annotations: Value| {
        let mut asked = verify(keys, annotations);
        asked["type"] = json!("SigstorePubKeyVerify");
        asked
    };
    assert_eq!(asked("v2/verify", v2(&["team"], Value::Null)).await, Ok(trusted));
    for (keys, annotations, expected) in [
        (&["stranger"][..], Value::Null, "not by a trusted key"),
        (&["team", "stranger"], Value::Null, "not by a trusted key"),
        (&["team"], json!({ "stage": "test" }), "without the annotations that are asked for"),
    ] {
        let error = asked("v2/verify", v2(keys, annotations)).await.unwrap_err();
        assert!(error.contains(expected), "{keys:?}: {error}");
    }
    let keyless = json!({ "type": "SigstoreKeylessVerify", "image": image, "keyless": [] });
    let error = asked("v2/verify", keyless).await.unwrap_err();
    assert!(error.starts_with("SigstoreKeylessVerify is not verified here"), "{error}");
}

/// A component of `kubewasm:policy` judges, changes and asks, by types.
#[tokio::test]
async fn a_policy_with_types_judges_a_request() {
    let desk = desk().await;
    let component = rust::component("tests/guests/typed-policy").await.unwrap();
    fs::write(desk.path().join("typed.wasm"), component).unwrap();
    let mut request = review(json!({ "name": "a" }));
    request["request"]["name"] = json!("a");
    request["request"]["namespace"] = json!("b");
    fs::write(desk.path().join("request.json"), request.to_string()).unwrap();
    let judged = async |settings: Value, flags: &[&str]| {
        let settings = settings.to_string();
        says(&desk, &[&RUN[..], &["--settings-json", &settings], flags, &["typed.wasm"]].concat()).await
    };
    assert_eq!(judged(json!({}), &[]).await["allowed"], json!(true));
    let denied = judged(json!({ "deny": "a" }), &[]).await;
    assert_eq!(denied["status"], json!({ "message": "CREATE of a in Some(\"b\")", "code": 418 }));
    let failed = judged(json!({ "deny": "c" }), &[]).await;
    assert_eq!(failed["status"], json!({ "message": "a is not c", "code": 500 }));
    let labelled = judged(json!({ "label": "x" }), &[]).await;
    assert_eq!((&labelled["allowed"], &labelled["patchType"]), (&json!(true), &json!("JSONPatch")));
    assert_eq!(labelled["auditAnnotations"], json!({ "uid": "705a" }));
    assert_eq!(labelled["warnings"], json!(["a label was set"]));
    let trapped = judged(json!({ "trap": true }), &[]).await;
    assert!(trapped["status"]["message"].as_str().unwrap().contains("as it was told"), "{trapped}");
    let spun = judged(json!({ "spin": true }), &["--timeout", "0.5"]).await;
    assert_eq!(spun["status"]["message"], json!("the policy came to no answer within 0.5 s"));
    let question =
        json!({ "ask": { "namespace": "net", "operation": "v1/dns_lookup_host", "payload": "127.0.0.1" } });
    let refused = judged(question.clone(), &[]).await;
    assert!(refused["status"]["message"].as_str().unwrap().contains("has not been granted"), "{refused}");
    let answered = judged(question, &["--allowed-host-capabilities", "net/*"]).await;
    assert_eq!(answered["status"]["message"], json!("{\"ips\":[\"127.0.0.1\"]}"));
    let invalid =
        fails(&desk, 1, &[&RUN[..], &["--settings-json", "{\"x\":1}", "typed.wasm"]].concat()).await;
    assert!(invalid.contains("Provided settings are not valid: there is no setting x"), "{invalid}");
}

/// A policy that is called by waPC, as most that are published, does as any other.
#[tokio::test]
async fn a_policy_of_wapc_judges_a_request() {
    let desk = desk().await;
    let module = rust::library("tests/guests/wapc-policy").await.unwrap();
    let metadata =
        METADATA.replace("executionMode: wasi", "executionMode: kubewarden-wapc\nprotocolVersion: v1");
    annotated(&desk, &module, &metadata).await;
    let judged = async |settings: Value, flags: &[&str]| {
        let settings = settings.to_string();
        says(&desk, &[&RUN[..], &["--settings-json", &settings], flags, &["policy.wasm"]].concat()).await
    };
    assert_eq!(judged(json!({}), &[]).await["allowed"], json!(true));
    let denied = judged(json!({ "deny": "a" }), &[]).await;
    assert_eq!(denied["status"], json!({ "message": "a is denied", "code": 403 }));
    let failed = judged(json!({ "fail": true }), &[]).await;
    assert_eq!(failed["status"], json!({ "message": "as it was told", "code": 500 }));
    let counted = judged(json!({ "count": true }), &[]).await;
    assert_eq!(counted["status"]["message"], json!("1"), "an instance of its own, which was prepared");
    let spun = judged(json!({ "spin": true }), &["--timeout", "0.5"]).await;
    assert_eq!(spun["status"]["message"], json!("the policy came to no answer within 0.5 s"));
    let admin = suite().await.cluster.admin_kubeconfig();
    let flags = ["--allow-context-aware", "--kubeconfig", admin.to_str().unwrap()];
    let query = json!({ "api_version": "v1", "kind": "Namespace", "name": "kube-system" });
    let found = ask(&desk, &flags, "kubernetes", "get_resource", query).await.unwrap();
    assert_eq!(found["kind"], json!("Namespace"));
    let invalid =
        fails(&desk, 1, &[&RUN[..], &["--settings-json", "{\"invalid\":\"so\"}", "policy.wasm"]].concat())
            .await;
    assert!(invalid.contains("Provided settings are not valid: so"), "{invalid}");
    let mode = fails(&desk, 1, &[&RUN[..], &["-e", "wasi", "policy.wasm"]].concat()).await;
    assert!(mode.contains("exports the `__guest_call` of waPC"), "{mode}");
}

/// Times are printed as criterion prints them.
#[tokio::test]
async fn a_policy_is_measured() {
    let desk = desk().await;
    let module = rust::library("tests/guests/wapc-policy").await.unwrap();
    fs::write(desk.path().join("policy.wasm"), module).unwrap();
    let bench = [
        "bench",
        "-r",
        "request.json",
        "--warm-up-time",
        "0",
        "--measurement-time",
        "1",
        "--num-samples",
        "10",
    ];
    let output = run(&desk, &[&bench[..], &["policy.wasm"]].concat()).await;
    assert!(output.status.success(), "{}", errors(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<(&str, usize)> = printed
        .lines()
        .map(|line| {
            let (name, times) = line.split_once("time:").unwrap();
            (name.trim(), times.trim().trim_matches(['[', ']']).split_whitespace().count())
        })
        .collect();
    let expected = [("prepare (cold)", 2), ("first call", 2), ("validate_settings", 6), ("validate", 6)];
    assert_eq!(lines, expected, "{printed}");
    let failing = ["--settings-json", "{\"fail\":true}", "policy.wasm"];
    let error = fails_after(&desk, &[&bench[..], &failing].concat()).await;
    assert!(error.contains("validate: the policy fails: as it was told"), "{error}");
}

/// What a command says that fails after it has printed something.
async fn fails_after(desk: &Desk, args: &[&str]) -> String {
    let output = run(desk, args).await;
    assert_eq!(output.status.code(), Some(1));
    errors(&output)
}
