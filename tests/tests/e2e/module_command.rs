//! `kubewasm module`: the store by hand, against a real registry and without a cluster.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use kubewasm_tests::{
    cluster::programs,
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

/// Exit codes, as the user guide has them.
const NOT_THERE: i32 = 3;
const DENIED: i32 = 4;
const UNAVAILABLE: i32 = 5;

/// A module goes to a registry and comes back, to us and to a client that others wrote, and is listed, described, compiled
/// and removed on the way.
#[tokio::test]
async fn a_module_is_pushed_pulled_described_compiled_and_removed() {
    let desk = Desk::new().await;
    desk.log_in();
    let bytes = fs::read(desk.path().join("actor.wasm")).unwrap();
    let image = desk.registry.name("team/actor:v1");
    let annotation = "org.opencontainers.image.source=https://example.com/?a=b";
    let pushed = desk.json(&["push", "actor.wasm", &image, "--annotation", annotation]).await;
    assert_eq!((&pushed["reference"], &pushed["sizeBytes"]), (&json!(image), &json!(bytes.len())));

    let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
    let reference: Reference = image.parse().unwrap();
    let login = RegistryAuth::Basic(USER.to_owned(), PASSWORD.to_owned());
    let (manifest, digest, config) = client.pull_manifest_and_config(&reference, &login).await.unwrap();
    assert_eq!(pushed["digest"], json!(digest));
    assert_eq!(manifest.config.media_type, "application/vnd.wasm.config.v0+json");
    assert_eq!(manifest.annotations.unwrap()["org.opencontainers.image.source"], "https://example.com/?a=b");
    assert_eq!(serde_json::from_str::<Value>(&config).unwrap()["os"], "wasip1");
    let mut layer = Vec::new();
    client.pull_blob(&reference, &manifest.layers[0], &mut layer).await.unwrap();
    assert_eq!(layer, bytes);

    let pulled = desk.json(&["pull", &image]).await;
    assert_eq!((&pulled["digest"], &pulled["kind"]), (&pushed["digest"], &json!("module")));
    let list = desk.json(&["ls"]).await;
    assert_eq!(list["images"][0]["reference"], json!(image));
    assert_eq!(list["images"][0]["inUse"], json!(false));

    let seen = desk.json(&["inspect", &image]).await;
    let module = &seen["module"];
    assert_eq!((&module["kind"], &module["form"]), (&json!("core-command"), &json!("core")));
    assert_eq!(module["imports"], json!(["wasi_snapshot_preview1"]));
    assert_eq!((&module["digest"], &seen["precompiled"]), (&pushed["module"], &json!([])));
    let compiled = desk.json(&["precompile", &image]).await;
    assert_eq!(compiled["pushed"], Value::Null);
    let seen = desk.json(&["inspect", &image]).await;
    assert_eq!(seen["precompiled"][0]["key"], compiled["key"]);
    assert_eq!(seen["precompiled"][0]["current"], json!(true));
    assert_eq!(seen["precompiled"][0]["signedBy"], Value::Null);
    let compiled = desk.json(&["precompile", "--push", &image]).await;
    let code = reference.clone_with_digest(compiled["pushed"].as_str().unwrap().to_owned());
    let (manifest, _) = client.pull_image_manifest(&code, &login).await.unwrap();
    assert_eq!(manifest.artifact_type.as_deref(), Some("application/vnd.kubewasm.precompiled.v1"));
    assert_eq!(manifest.subject.unwrap().digest, digest);
    assert_eq!(Some(manifest.layers[0].size), compiled["sizeBytes"].as_i64());
    let of_file = desk.json(&["inspect", "./actor.wasm"]).await;
    assert_eq!((&of_file["module"], &of_file["image"]), (module, &Value::Null));

    let text = desk.module(&["inspect", &image]).await;
    assert!(String::from_utf8_lossy(&text.stdout).contains("Runs as:      core-command"));
    let planned = desk.json(&["prune", "--dry-run"]).await;
    assert_eq!(planned["removed"][0]["reference"], json!(image));
    assert_eq!(desk.json(&["prune", "--unused-for", "24h"]).await["removed"], json!([]));
    let removed = desk.json(&["rm", &image]).await;
    assert_eq!(removed["removed"][0]["digest"], pushed["digest"]);
    assert_eq!(desk.json(&["ls"]).await["images"], json!([]));
}

/// ORAS takes what we push, and we take what ORAS pushes.
#[tokio::test]
async fn oras_and_this_command_take_what_the_other_pushes() {
    let desk = Desk::new().await;
    desk.log_in();
    let bytes = fs::read(desk.path().join("actor.wasm")).unwrap();
    let program = programs::build("tools/oras/build.sh").await.unwrap().join("oras");
    let oras = async |args: &[&str]| {
        let mut command = Command::new(&program);
        command.args(args).args(["--plain-http", "--registry-config=docker/config.json"]);
        command.current_dir(desk.path()).env("HOME", desk.path()).kill_on_drop(true);
        let output = tokio::time::timeout(SOON, command.output()).await.expect("an end").unwrap();
        assert!(output.status.success(), "{args:?}: {}", errors(&output));
    };
    let ours = desk.registry.name("ours:v1");
    desk.json(&["push", "actor.wasm", &ours]).await;
    oras(&["pull", &ours, "--output=pulled"]).await;
    assert_eq!(fs::read(desk.path().join("pulled/actor.wasm")).unwrap(), bytes);

    let theirs = desk.registry.name("theirs:v1");
    fs::write(desk.path().join("config"), "{}").unwrap();
    let config = "--config=config:application/vnd.wasm.config.v0+json";
    for (name, options) in [("theirs:plain", None), ("theirs:v1", Some(config))] {
        let image = desk.registry.name(name);
        let args: Vec<&str> =
            ["push", &image, "actor.wasm:application/wasm"].into_iter().chain(options).collect();
        oras(&args).await;
        assert_eq!(desk.json(&["pull", &image]).await["kind"], json!("module"));
    }
    assert_eq!(desk.json(&["inspect", &theirs]).await["module"]["kind"], json!("core-command"));
}

/// wkg takes what we push, and we take what wkg pushes, which calls every component a thing of wasip2.
#[tokio::test]
async fn wkg_and_this_command_take_what_the_other_pushes() {
    let desk = Desk::new().await;
    desk.log_in();
    let bytes = guests::guest("hello-0.2.wat").await.unwrap();
    fs::write(desk.path().join("hello.wasm"), &bytes).unwrap();
    let program = programs::build("tools/wkg/build.sh").await.unwrap().join("wkg");
    let host = desk.registry.host();
    let wkg = async |args: &[&str]| {
        let mut command = Command::new(&program);
        command.arg("oci").args(args).args(["--insecure", &host, "-u", USER, "-p", PASSWORD]);
        command.current_dir(desk.path()).env("HOME", desk.path()).kill_on_drop(true);
        let output = tokio::time::timeout(SOON, command.output()).await.expect("an end").unwrap();
        assert!(output.status.success(), "{args:?}: {}", errors(&output));
    };
    let ours = desk.registry.name("ours:v1");
    desk.json(&["push", "hello.wasm", &ours]).await;
    wkg(&["pull", &ours, "--output", "pulled.wasm"]).await;
    assert_eq!(fs::read(desk.path().join("pulled.wasm")).unwrap(), bytes);

    let theirs = desk.registry.name("theirs:v1");
    wkg(&["push", &theirs, "hello.wasm"]).await;
    assert_eq!(desk.json(&["pull", &theirs]).await["kind"], json!("module"));
    assert_eq!(desk.json(&["inspect", &theirs]).await["module"]["form"], json!("component"));
}

/// What went wrong is told by the exit code, too.
#[tokio::test]
async fn exit_codes_say_what_is_missing() {
    let mut desk = Desk::new().await;
    let image = desk.registry.name("actor:v1");
    let text = desk.fails(DENIED, &["push", "actor.wasm", &image]).await;
    assert!(text.contains("docker login"), "{text}");
    desk.log_in();
    desk.fails(NOT_THERE, &["pull", &image]).await;
    for command in ["inspect", "rm", "precompile"] {
        let text = desk.fails(NOT_THERE, &[command, &image]).await;
        assert!(text.contains("pull it first"), "{text}");
    }
    desk.fails(2, &["push", "actor.wasm", &image, "--annotation", "novalue"]).await;
    fs::write(desk.path().join("text.wasm"), "text").unwrap();
    let text = desk.fails(1, &["push", "text.wasm", &image]).await;
    assert!(text.contains("not a WebAssembly module"), "{text}");
    desk.registry.stop().unwrap();
    desk.fails(UNAVAILABLE, &["pull", &image]).await;
}

/// A credential helper is asked for the registry and no other; one that fails is named.
#[tokio::test]
async fn a_credential_helper_is_asked() {
    let desk = Desk::new().await;
    let image = desk.registry.name("actor:v1");
    let host = desk.registry.host();
    // The helper is the shell, and its script has the name of the argument that it is given.
    symlink("/bin/sh", desk.path().join("docker-credential-desk")).unwrap();
    let script = |text: &str| fs::write(desk.path().join("get"), text).unwrap();
    let reply = json!({ "ServerURL": host, "Username": USER, "Secret": PASSWORD });
    script(&format!("read server; [ \"$server\" = {host} ] && echo '{reply}'\n"));
    desk.docker_config(&json!({ "credHelpers": { host: "desk" } }));
    desk.json(&["push", "actor.wasm", &image]).await;
    desk.docker_config(&json!({ "credsStore": "desk", "auths": { desk.registry.host(): {} } }));
    desk.json(&["pull", &image]).await;

    script("echo 'credentials not found in native keychain'; exit 1\n");
    desk.fails(DENIED, &["pull", &image]).await;
    script(&format!("echo {PASSWORD} >&2; exit 2\n"));
    let text = desk.fails(DENIED, &["pull", &image]).await;
    assert!(text.contains("the credential helper docker-credential-desk failed"), "{text}");
    fs::remove_file(desk.path().join("docker-credential-desk")).unwrap();
    let text = desk.fails(DENIED, &["pull", &image]).await;
    assert!(text.contains("docker-credential-desk cannot be run"), "{text}");
}

/// A shell that has read `kubewasm completions` is offered the images that are here.
#[tokio::test]
async fn images_are_completed() {
    let desk = Desk::new().await;
    desk.log_in();
    let image = desk.registry.name("team/actor:v1");
    desk.json(&["push", "actor.wasm", &image]).await;
    desk.json(&["pull", &image]).await;
    let root: PathBuf = desk.path().join("root");
    let complete = async |begun: &str| {
        let mut command = Command::new(node::program().unwrap());
        command.env("KUBEWASM_COMPLETE", "fish").arg("--");
        command.args(["kubewasm", "module", "rm", "--root-dir"]).arg(&root).arg(begun);
        let output = tokio::time::timeout(SOON, command.output()).await.expect("an end").unwrap();
        assert!(output.status.success(), "{}", errors(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(complete("").await.lines().any(|line| line == image));
    assert!(complete(&desk.registry.host()).await.contains(&image));
    assert!(!complete("other").await.contains(&image));
}
