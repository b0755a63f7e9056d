//! Plugins and the API server: whom they ask, as whom, and what they see of it.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Stdio};

use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use kubewasm_tests::{cluster::Cluster, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::user::{User, end};
use crate::{
    desk::errors,
    suite::{SOON, suite, with_temp_ns},
};
use k8s_openapi::api::core::v1::ConfigMap;

const API: &str = "https://kubernetes.default.svc";

/// The kubeconfig of the cluster's administrator, to be changed.
pub(super) fn admin(cluster: &Cluster) -> Value {
    serde_yaml_ng::from_str(&fs::read_to_string(cluster.admin_kubeconfig()).unwrap()).unwrap()
}

/// Writes a kubeconfig for a user.
pub(super) fn write(user: &User, name: &str, config: &Value) -> PathBuf {
    let path = user.home().join(name);
    fs::write(&path, serde_yaml_ng::to_string(config).unwrap()).unwrap();
    path
}

/// A token of the namespace's default service account.
pub(super) async fn token(cluster: &Cluster, namespace: &str) -> String {
    let token = cluster.kubectl(&["create", "token", "default", "--namespace", namespace]).await.unwrap();
    token.trim().to_owned()
}

/// By certificate, token, file of a token, program and on behalf of others, over several kubeconfigs, and by flags: each as
/// kubectl itself would be.
#[tokio::test]
async fn a_plugin_asks_as_its_user() {
    with_temp_ns(async |_, ns| {
        let cluster = &suite().await.cluster;
        let token = token(cluster, ns).await;
        let user = User::new().await;
        user.has("outgoing-0.2.c", "asker", &[]).await;
        let login = user.home().join("login");
        let credential = json!({
            "apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": token},
        });
        fs::write(user.home().join("credential"), credential.to_string()).unwrap();
        fs::write(&login, format!("#!/bin/sh\nexec cat {}/credential\n", user.home().display())).unwrap();
        fs::set_permissions(&login, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(user.home().join("token"), format!("{token}\n")).unwrap();
        let mut config = admin(cluster);
        let administrator = config["users"][0]["user"].clone();
        config["users"] = json!([
            {"name": "user", "user": administrator},
            {"name": "token", "user": {"token": token}},
            {"name": "file", "user": {"tokenFile": "token"}},
            {"name": "exec", "user": {"exec": {
                "apiVersion": "client.authentication.k8s.io/v1", "command": "./login", "interactiveMode": "Never",
            }}},
        ]);
        let first = write(&user, "first", &config);
        // A second file, which the first goes before.
        let mut second = config.clone();
        second["users"] = json!([{"name": "late", "user": {"token": token}}, {"name": "user", "user": {"token": "no"}}]);
        second["current-context"] = json!("nothing");
        let second = write(&user, "second", &second);
        let list = format!("{}:{}:{}", first.display(), user.home().join("gone").display(), second.display());
        let user = user.with_kubeconfig(list.into());

        let all = format!("{API}/api/v1/secrets");
        let may = async |args: &[&str]| {
            let output = user.kubectl(&[&["asker"], args, &[&*all]].concat()).await;
            assert!(output.status.success(), "{args:?}: {}", errors(&output));
            String::from_utf8(output.stdout).unwrap()
        };
        assert!(may(&[]).await.contains(": 200, "), "{}", may(&[]).await);
        for args in ["--user=token", "--user=file", "--user=exec", "--user=late"] {
            let printed = may(&[args]).await;
            assert!(printed.contains(": 403, "), "{args}: {printed}");
            assert!(printed.contains(&format!("system:serviceaccount:{ns}:default")), "{args}: {printed}");
        }
        let printed = may(&["--as=jane", "--as-group=nobodies"]).await;
        assert!(printed.contains(": 403, ") && printed.contains("jane"), "{printed}");
        // A file that is named is the only one.
        let output = user.kubectl(&["asker", &format!("--kubeconfig={}", second.display()), &all]).await;
        assert!(errors(&output).contains("has no context \"nothing\""), "{}", errors(&output));
        assert!(String::from_utf8_lossy(&output.stdout).contains("refused 37"), "{output:?}");
    })
    .await;
}

/// The very token is nowhere in the guest's memory, and neither in what it is told.
#[tokio::test]
async fn no_credential_is_in_a_guests_memory() {
    with_temp_ns(async |_, ns| {
        let cluster = &suite().await.cluster;
        let token = token(cluster, ns).await;
        let user = User::new().await;
        user.has("outgoing-0.2.c", "asker", &[]).await;
        user.has("actor.c", "actor", &[]).await;
        let mut config = admin(cluster);
        config["users"] = json!([{"name": "user", "user": {"token": token}}]);
        let kubeconfig = write(&user, "config", &config);
        let user = user.with_kubeconfig(kubeconfig);
        let reversed = |text: &str| format!("~{}", text.chars().rev().collect::<String>());
        let (all, mark) = (format!("{API}/api/v1/secrets"), reversed("/api/v1/secrets"));
        let part = reversed(&token[token.len() - 24..]);
        let printed = user.kubectl_prints(&["asker", &all, &mark, &part, &reversed("Bearer ")]).await;
        let found: Vec<_> = printed.lines().skip(1).collect();
        assert!(printed.contains(": 403, "), "{printed}");
        let [marks, "0 found", "0 found"] = found[..] else { panic!("{printed}") };
        assert_ne!(marks, "0 found", "what is there is found");
        for verb in ["env", "args"] {
            let told = user.kubectl_prints(&["actor", verb]).await;
            assert!(!told.contains(&token) && !told.contains(user.home().to_str().unwrap()), "{told}");
        }
    })
    .await;
}

/// A namespace is that of the context, or of the flag that the plugin has as well.
#[tokio::test]
async fn a_plugin_knows_the_namespace() {
    let cluster = &suite().await.cluster;
    let user = User::new().await;
    user.has("actor.c", "actor", &[]).await;
    let mut config = admin(cluster);
    config["contexts"][0]["context"]["namespace"] = json!("team");
    let kubeconfig = write(&user, "config", &config);
    let user = user.with_kubeconfig(kubeconfig);
    for (args, namespace) in
        [(&["env"][..], "team"), (&["env", "say", "--namespace=x"], "x"), (&["env", "say", "-nx"], "x")]
    {
        let printed = user.kubectl_prints(&[&["actor"], args].concat()).await;
        assert!(printed.contains(&format!("KUBECTL_PLUGIN_NAMESPACE={namespace}\n")), "{args:?}: {printed}");
    }
    // kubectl, too.
    let own = user.kubectl_prints(&["config", "view", "--minify", "-o", "jsonpath={..namespace}"]).await;
    assert_eq!(own, "team");
}

/// What is added and what goes is printed as it happens; Ctrl-C ends it at once.
#[tokio::test]
async fn a_watch_is_followed_as_it_happens_and_interrupted() {
    with_temp_ns(async |client, ns| {
        let cluster = &suite().await.cluster;
        let user = User::new().await.with_kubeconfig(cluster.admin_kubeconfig());
        user.has("outgoing-0.2.c", "follower", &[]).await;
        let watch = format!("<{API}/api/v1/namespaces/{ns}/configmaps?watch=1");
        let mut command = user.kubectl_command();
        let mut child = command.args(["follower", &watch]).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut until = async |kind: &str, name: &str| {
            let wanted = async {
                while let Some(line) = lines.next_line().await.unwrap() {
                    let event: Value = serde_json::from_str(&line).unwrap();
                    if event["type"] == kind && event["object"]["metadata"]["name"] == name {
                        return;
                    }
                }
                panic!("the watch has ended before {kind} {name}");
            };
            tokio::time::timeout(SOON, wanted).await.expect("an event");
        };
        let maps: Api<ConfigMap> = Api::namespaced(Client::clone(&client), ns);
        for name in ["one", "two"] {
            let map = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
            maps.create(&PostParams::default(), &map).await.unwrap();
            until("ADDED", name).await;
            maps.delete(name, &DeleteParams::default()).await.unwrap();
            until("DELETED", name).await;
        }
        let pid = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let ended = tokio::time::timeout(SOON, child.wait()).await.expect("an end").unwrap();
        assert_eq!(ended.code(), Some(130));
    })
    .await;
}

/// A module that asks nothing needs no cluster, and one that asks is told what is missing.
#[tokio::test]
async fn a_plugin_without_a_kubeconfig_runs_until_it_asks() {
    let user = User::new().await;
    user.has("actor.c", "actor", &[]).await;
    user.has("outgoing-0.2.c", "asker", &[]).await;
    assert_eq!(user.kubectl_prints(&["actor", "say", "alone"]).await, "alone\n");
    let output = user.kubectl(&["asker", &format!("{API}/version")]).await;
    assert!(errors(&output).contains("there is no kubeconfig"), "{}", errors(&output));
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("refused 37"),
        "a configuration error: {output:?}"
    );
}

/// Large bodies pass whole, in both directions.
#[tokio::test]
async fn large_bodies_pass() {
    let cluster = &suite().await.cluster;
    let user = User::new().await.with_kubeconfig(cluster.admin_kubeconfig());
    user.has("outgoing-0.2.c", "asker", &[]).await;
    let openapi = format!("{API}/openapi/v2");
    let own = user.kubectl_prints(&["get", "--raw", "/openapi/v2"]).await;
    let printed = user.kubectl_prints(&["asker", &openapi]).await;
    assert!(printed.contains(&format!(": 200, {} bytes", own.len())), "{printed}");
    // Nothing that the server wants, and it has read all of it.
    let printed = user.kubectl_prints(&["asker", "+2000000", &format!("{API}/api/v1/namespaces")]).await;
    assert!(printed.contains(": 4") && !printed.contains("refused"), "{printed}");
}

/// What ends is asked for again, at a server that is back.
#[tokio::test]
async fn a_request_is_answered_again_after_the_server_was_away() {
    // A control plane of its own: others go on.
    let home = kubewasm_tests::home::Home::temporary().unwrap();
    let cluster = Cluster::start(&home).await.unwrap();
    let user = User::new().await.with_kubeconfig(cluster.admin_kubeconfig());
    user.has("outgoing-0.2.c", "asker", &[]).await;
    let version = format!("{API}/version");
    assert!(user.kubectl_prints(&["asker", &version]).await.contains(": 200, "));
    cluster.stop_apiserver().await.unwrap();
    let away = user.kubectl(&["asker", &version]).await;
    assert!(errors(&away).contains("cannot reach the API server"), "{}", errors(&away));
    cluster.start_apiserver().await.unwrap();
    wait::until("an answer", SOON, async || {
        let mut command = user.kubectl_command();
        command.args(["asker", &version]);
        let output = end(command).await;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if printed.contains(": 200, ") { Ok(()) } else { Err(printed) }
    })
    .await
    .unwrap();
}
