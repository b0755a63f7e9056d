//! What a user gets wrong, and what they are told.

use std::{fs, process::Output, time::Duration};

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kubewasm_tests::{guests, node, registry::image::Content};

use crate::{
    pods::Pods,
    suite::{suite, with_temp_ns},
};

/// Time for a command to refuse its input.
const REFUSAL: Duration = Duration::from_secs(60);

/// A module that cannot run keeps its container waiting, with a reason and a message that names what is
/// wrong with it; the node goes on.
#[tokio::test]
async fn modules_that_cannot_run() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let suite = suite().await;
        let cases = [
            ("not-wasm", b"#!/bin/sh\necho no module\n".to_vec(), "WebAssembly"),
            ("empty", Vec::new(), "is empty (0 bytes)"),
            ("cut-short", guests::guest("actor.c").await.unwrap()[..1000].to_vec(), "damaged"),
            ("no-entry", guests::guest("reactor.wat").await.unwrap(), "_start"),
            ("unknown-world", guests::guest("unknown-world.wat").await.unwrap(), "acme:rocket/pad@1.0.0"),
        ];
        for (name, module, _) in &cases {
            let image =
                suite.registry.push(&format!("{name}:v1"), &Content::Artifact(module.clone())).await.unwrap();
            pods.run(name, &image.tagged, &[]).await;
        }
        for (name, _, part) in &cases {
            let state =
                pods.waiting(name, &["CreateContainerError", "ErrImagePull", "ImagePullBackOff"]).await;
            let message = state.message.unwrap_or_default();
            assert!(message.contains(part), "{name}: {message:?}");
        }
        pods.act("afterwards", &["say", "fine"]).await;
        pods.phase("afterwards", "Succeeded").await;
    })
    .await;
}

/// Files that cannot be read as what they should be are named, with the line.
#[tokio::test]
async fn files_that_do_not_parse() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.yaml");
    fs::write(&broken, "apiVersion: v1\nkind: Pod\nmetadata: {name: x\n").unwrap();
    let path = broken.to_str().unwrap();
    let root = folder.path().join("root");
    let root = format!("--root-dir={}", root.display());
    for arguments in
        [vec!["run", path], vec!["node", "--kubeconfig", path, &root], vec!["node", "--config", path, &root]]
    {
        let output = refused(&arguments).await;
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains("broken.yaml") && message.contains("line"), "{arguments:?}: {message}");
    }
}

/// A file that is not there is named.
#[tokio::test]
async fn files_that_are_not_there() {
    let node = ["node", "--kubeconfig=/nonexistent/kubeconfig", "--port=0", "--healthz-port=0"];
    for arguments in [["run", "/nonexistent/pod.yaml"].as_slice(), &node] {
        let output = refused(arguments).await;
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains("/nonexistent/"), "{arguments:?}: {message}");
    }
}

/// A root folder that cannot be used is named. A file is in its way here, which stops even root.
#[tokio::test]
async fn a_root_folder_that_cannot_be_made() {
    let suite = suite().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let root = file.path().join("root");
    let bootstrap = format!("--bootstrap-kubeconfig={}", suite.cluster.bootstrap_kubeconfig().display());
    let kubeconfig = format!("--kubeconfig={}", root.join("kubeconfig").display());
    let output = refused(&[
        "node",
        &bootstrap,
        &kubeconfig,
        &format!("--root-dir={}", root.display()),
        "--healthz-port=0",
    ])
    .await;
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains(root.to_str().unwrap()), "{message}");
}

/// A port that somebody else has is named before anything is asked for: the node has no key, no credentials and
/// no object then.
#[tokio::test]
async fn a_port_that_is_taken() {
    let suite = suite().await;
    let address = suite.cluster.node_address();
    let taken = std::net::TcpListener::bind((address, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let root = tempfile::tempdir().unwrap();
    let file = |name| root.path().join(name);
    let output = refused(&[
        "node",
        "--hostname-override=portless-node",
        &format!("--bootstrap-kubeconfig={}", suite.cluster.bootstrap_kubeconfig().display()),
        &format!("--kubeconfig={}", file("kubeconfig").display()),
        &format!("--root-dir={}", root.path().display()),
        &format!("--cert-dir={}", file("pki").display()),
        &format!("--node-ip={address}"),
        &format!("--address={address}"),
        &format!("--port={port}"),
        "--healthz-port=0",
    ])
    .await;
    let message = String::from_utf8_lossy(&output.stderr);
    let expected = format!("cannot listen on {address}:{port} for the HTTPS API: ");
    assert!(message.contains(&expected) && message.contains("--port"), "{message}");
    assert!(!file("pki").exists() && !file("kubeconfig").exists(), "it has asked for a certificate");
    let nodes: Api<Node> = Api::all(suite.cluster.client().await.unwrap());
    assert!(nodes.get_opt("portless-node").await.unwrap().is_none());
}

/// Runs a command that must fail by itself, without a panic.
async fn refused(arguments: &[&str]) -> Output {
    let command =
        tokio::process::Command::new(node::program().unwrap()).args(arguments).kill_on_drop(true).output();
    let output = tokio::time::timeout(REFUSAL, command).await.expect("a refusal, not a wait").unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{arguments:?} was taken");
    assert!(!message.contains("panicked"), "{message}");
    output
}
