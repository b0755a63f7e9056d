//! `kubewasm policy`: policies by hand, against a real registry and without a cluster.

use std::{fs, process::Output};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use kubewasm_tests::{
    guests, node,
    registry::{PASSWORD, USER},
};
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol},
    secrets::RegistryAuth,
};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    desk::{Desk, errors},
    suite::SOON,
};

const METADATA: &str = "
executionMode: wasi
mutating: true
rules: [{ apiGroups: [''], apiVersions: [v1], resources: [pods], operations: [CREATE, UPDATE] }]
annotations:
  io.kubewarden.policy.title: annotations
  io.kubewarden.policy.source: https://example.dev/annotations
";

/// A desk with the policy of Go, annotated, and a request in a file.
async fn desk() -> Desk {
    let desk = Desk::new().await;
    desk.log_in();
    fs::write(desk.path().join("plain.wasm"), guests::guest("policy.go").await.unwrap()).unwrap();
    fs::write(desk.path().join("metadata.yml"), METADATA).unwrap();
    fs::write(desk.path().join("README.md"), "# Annotations\n\nSets them.\n").unwrap();
    let annotated =
        run(&desk, &["annotate", "-m", "metadata.yml", "-u", "README.md", "-o", "policy.wasm", "plain.wasm"])
            .await;
    assert!(annotated.status.success(), "{}", errors(&annotated));
    fs::write(
        desk.path().join("request.json"),
        review(json!({ "name": "a", "annotations": { "a": "1" } })).to_string(),
    )
    .unwrap();
    desk
}

pub(crate) fn review(metadata: Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705a", "kind": { "group": "", "version": "v1", "kind": "Pod" }, "operation": "CREATE",
            "object": { "apiVersion": "v1", "kind": "Pod", "metadata": metadata },
        },
    })
}

pub(crate) async fn run(desk: &Desk, args: &[&str]) -> Output {
    let mut command = Command::new(node::program().unwrap());
    command.arg("policy").args(args).arg("--root-dir=root").current_dir(desk.path()).kill_on_drop(true);
    command.env("DOCKER_CONFIG", desk.path().join("docker")).env("PATH", desk.path());
    tokio::time::timeout(SOON, command.output()).await.expect("an end").unwrap()
}

/// The JSON of a command that succeeds.
pub(crate) async fn says(desk: &Desk, args: &[&str]) -> Value {
    let output = run(desk, args).await;
    assert!(output.status.success(), "{args:?}: {}", errors(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a command says that fails with this code, and prints nothing.
pub(crate) async fn fails(desk: &Desk, code: i32, args: &[&str]) -> String {
    let output = run(desk, args).await;
    let text = errors(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    assert!(output.stdout.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&output.stdout));
    assert!(!text.contains(PASSWORD), "{text}");
    text
}

pub(crate) const RUN: [&str; 3] = ["run", "-r", "request.json"];

/// A request is let through, refused and changed, as the protocol has it.
#[tokio::test]
async fn a_policy_judges_a_request() {
    let desk = desk().await;
    let accepted = says(&desk, &[&RUN[..], &["./policy.wasm"]].concat()).await;
    assert_eq!(
        accepted,
        json!({ "uid": "705a", "allowed": true, "auditAnnotations": null, "warnings": null })
    );

    fs::write(desk.path().join("settings.yml"), "forbiddenAnnotations: [a]\n").unwrap();
    let refused = says(&desk, &[&RUN[..], &["-s", "settings.yml", "policy.wasm"]].concat()).await;
    let expected = json!({
        "uid": "705a", "allowed": false, "status": { "message": "forbidden annotation a", "code": 400 },
        "auditAnnotations": null, "warnings": null,
    });
    assert_eq!(refused, expected);

    let settings = r#"{"requiredAnnotations":{"cc":"x"}}"#;
    let mutated = says(&desk, &[&RUN[..], &["--settings-json", settings, "policy.wasm"]].concat()).await;
    assert_eq!((&mutated["allowed"], &mutated["patchType"]), (&json!(true), &json!("JSONPatch")));
    assert_eq!(mutated["warnings"], json!(["annotations were set"]));
    let patch = BASE64_STANDARD.decode(mutated["patch"].as_str().unwrap()).unwrap();
    let patch: Value = serde_json::from_slice(&patch).unwrap();
    assert_eq!(patch, json!([{ "op": "add", "path": "/metadata/annotations/cc", "value": "x" }]));

    // A module that says nothing of itself, and the request alone, at standard input.
    let request = review(json!({ "annotations": {} }))["request"].to_string();
    let mut command = Command::new(node::program().unwrap());
    command
        .args(["policy", "run", "-r", "-", "-e", "wasi", "plain.wasm", "--root-dir=root"])
        .current_dir(desk.path());
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut child.stdin.take().unwrap(), request.as_bytes()).await.unwrap();
    let output = tokio::time::timeout(SOON, child.wait_with_output()).await.expect("an end").unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), accepted);
}

/// What a policy asks its host for is answered behind its document, and only where it is granted.
#[tokio::test]
async fn a_policy_asks_its_host() {
    let desk = desk().await;
    let settings = ["--settings-json", r#"{"lookUp":"127.0.0.1"}"#];
    let denied = says(&desk, &[&RUN[..], &settings, &["policy.wasm"]].concat()).await;
    assert_eq!(denied["allowed"], json!(false));
    let message = "Policy has not been granted access to the 'net/v1/dns_lookup_host' host capability. The violation has been reported.";
    assert_eq!(denied["status"]["message"], json!(message));
    let granted =
        [&RUN[..], &settings, &["--allowed-host-capabilities", "oci/*,net/*", "policy.wasm"]].concat();
    let answered = says(&desk, &granted).await;
    assert_eq!(answered["status"]["message"], json!(r#"{"ips":["127.0.0.1"]}"#));
}

/// Any JSON is judged, and the whole of it may be changed.
#[tokio::test]
async fn a_raw_request_is_judged() {
    let desk = desk().await;
    fs::write(desk.path().join("raw.json"), json!({ "object": { "metadata": {} } }).to_string()).unwrap();
    let settings = ["--settings-json", r#"{"requiredAnnotations":{"cc":"x"}}"#];
    let judged =
        says(&desk, &[&["run", "--raw", "-r", "raw.json"], &settings[..], &["policy.wasm"]].concat()).await;
    assert_eq!((&judged["uid"], &judged["allowed"]), (&json!(""), &json!(true)));
    let refused = fails(&desk, 1, &["run", "-r", "raw.json", "policy.wasm"]).await;
    assert!(refused.contains("cannot read the request in raw.json") && refused.contains("uid"), "{refused}");
}

/// A policy goes to a registry with what it says of itself, and comes back by its name, by a URI and by its digest.
#[tokio::test]
async fn a_policy_goes_to_a_registry_and_comes_back() {
    let desk = desk().await;
    let image = desk.registry.name("team/annotations:v1");
    let uri = format!("registry://{image}");
    let unannotated = fails(&desk, 1, &["push", "plain.wasm", &uri]).await;
    assert!(
        unannotated.contains("says nothing of itself") && unannotated.contains("policy annotate"),
        "{unannotated}"
    );
    let pushed = run(&desk, &["push", "policy.wasm", &uri]).await;
    assert!(pushed.status.success(), "{}", errors(&pushed));
    let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
    let reference: Reference = image.parse().unwrap();
    let login = RegistryAuth::Basic(USER.to_owned(), PASSWORD.to_owned());
    let (manifest, digest) = client.pull_image_manifest(&reference, &login).await.unwrap();
    let annotations = manifest.annotations.unwrap();
    assert_eq!(annotations["io.kubewarden.policy.title"], "annotations");
    assert_eq!(annotations["org.opencontainers.image.source"], "https://example.dev/annotations");
    assert!(!annotations.contains_key("io.kubewarden.policy.usage"), "it has several lines");

    // Pulled because it is not here yet.
    let accepted = says(&desk, &[&RUN[..], &[&uri]].concat()).await;
    assert_eq!(accepted["allowed"], json!(true));
    let of_digest = digest.strip_prefix("sha256:").unwrap().get(..12).unwrap();
    let accepted = says(&desk, &[&RUN[..], &[of_digest]].concat()).await;
    assert_eq!(accepted["allowed"], json!(true));
    let printed = run(&desk, &["digest", &uri]).await;
    let name = image.strip_suffix(":v1").unwrap();
    assert_eq!(String::from_utf8_lossy(&printed.stdout), format!("{name}@{digest}\n"));

    let inspected = says(&desk, &["inspect", "-o", "json", &uri]).await;
    assert_eq!(
        inspected["annotations"]["io.kubewarden.policy.usage"],
        json!("# Annotations\n\nSets them.\n")
    );
    let manifest =
        run(&desk, &["scaffold", "manifest", "-t", "ClusterAdmissionPolicy", "--settings-json", "{}", &uri])
            .await;
    let manifest: Value = serde_yaml_ng::from_slice(&manifest.stdout).unwrap();
    assert_eq!(
        (&manifest["spec"]["module"], &manifest["metadata"]["name"]),
        (&json!(uri), &json!("annotations"))
    );

    let removed = run(&desk, &["rm", &image]).await;
    assert!(removed.status.success(), "{}", errors(&removed));
    let gone = fails(&desk, 1, &[&RUN[..], &[of_digest]].concat()).await;
    assert!(gone.contains("no policy that is here has a digest that begins with"), "{gone}");
}

/// Each mistake is told by its name, with exit code 1 and nothing on standard output.
#[tokio::test]
async fn mistakes_are_told() {
    let desk = desk().await;
    let both = r#"{"requiredAnnotations":{"a":"1"},"forbiddenAnnotations":["a"]}"#;
    let invalid = fails(&desk, 1, &[&RUN[..], &["--settings-json", both, "policy.wasm"]].concat()).await;
    assert!(
        invalid.contains("Error: Provided settings are not valid: annotation a is required and forbidden"),
        "{invalid}"
    );
    let refused = fails(&desk, 1, &[&RUN[..], &["--settings-json", "[1]", "policy.wasm"]].concat()).await;
    assert!(refused.contains("cannot read --settings-json: settings are an object"), "{refused}");
    let unsaid = fails(&desk, 1, &[&RUN[..], &["plain.wasm"]].concat()).await;
    assert!(
        unsaid.contains("does not say how it is called") && unsaid.contains("--execution-mode wasi"),
        "{unsaid}"
    );
    let by_wapc = fails(&desk, 1, &[&RUN[..], &["-e", "kubewarden-wapc", "policy.wasm"]].concat()).await;
    assert!(by_wapc.contains("exports no `__guest_call`"), "{by_wapc}");
    fs::write(desk.path().join("wapc.yml"), "{ protocolVersion: Unknown, rules: [] }").unwrap();
    let contradiction =
        fails(&desk, 1, &["annotate", "-m", "wapc.yml", "-o", "out.wasm", "plain.wasm"]).await;
    assert!(
        contradiction.contains("protocolVersion: a policy of executionMode kubewarden-wapc"),
        "{contradiction}"
    );
    assert!(!desk.path().join("out.wasm").exists());
    let missing = fails(&desk, 1, &["run", "-r", "nothing.json", "policy.wasm"]).await;
    assert!(missing.contains("cannot read nothing.json"), "{missing}");
    let absent = fails(&desk, 3, &[&RUN[..], &[&desk.registry.name("team/none:v1")]].concat()).await;
    assert!(absent.contains("not found"), "{absent}");
}
