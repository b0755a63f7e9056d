//! Proxies, which the environment names. It is that of a whole process, so that the pulls are made by another one: this
//! program, started again for a single test.

use std::process::Command;

use super::*;
use crate::web::{WebServer, file};

/// The URL that the other process is to pull.
const URL: &str = "KUBEWASM_TEST_URL";

#[tokio::test]
#[ignore = "is started by the test below, in an environment of its own"]
async fn pull_in_another_process() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let name: ImageName = std::env::var(URL).unwrap().parse().unwrap();
    Node::new().store.pull(&name, &[], None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_are_asked_but_not_for_hosts_on_this_machine() {
    let proxy = WebServer::start(|request| file(request, &module("x"))).await;
    let server = WebServer::start(|request| file(request, &module("x"))).await;
    // What is pinned may come in the clear.
    let far = format!("http://modules.invalid/app.wasm@{}", Digest::of(&module("x")));
    for url in [far, server.url("/app.wasm")] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "proxies::pull_in_another_process"]);
        command.env(URL, &url).env("HTTP_PROXY", proxy.url("")).env("http_proxy", proxy.url(""));
        command.env_remove("NO_PROXY").env_remove("no_proxy");
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stdout));
    }
    let asked = proxy.requests();
    assert!(asked.len() == 1 && asked[0].starts_with("GET http://modules.invalid/app.wasm "), "{asked:?}");
    assert_eq!(server.requests().len(), 1);
}
