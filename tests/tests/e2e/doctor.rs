//! `kubewasm doctor`: on a machine and a cluster that are as they should be, and on others.

use std::{net::TcpListener, path::Path, process::Output};

use kubewasm_tests::{node, ports};
use serde_json::Value;
use tokio::process::Command;

use crate::suite::{NODE, SOON, suite};

/// The certificate of a node has all rights that a node needs, and its clock is the API server's.
#[tokio::test]
async fn a_node_that_works_is_told_so() {
    let suite = suite().await;
    let kubeconfig = suite.node.root().join("kubeconfig");
    let (output, findings) =
        doctor(&[&format!("--kubeconfig={}", kubeconfig.display()), &format!("--hostname-override={NODE}")])
            .await;
    for check in ["API server", "clock", "identity"] {
        assert_eq!(find(&findings, check)["state"], "ok", "{findings:?}");
    }
    let rights: Vec<_> = findings.iter().filter(|finding| finding["check"] == "rights").collect();
    assert!(!rights.is_empty() && rights.iter().all(|finding| finding["state"] != "failed"), "{rights:?}");
    assert!(findings.iter().all(|finding| finding["state"] != "failed"), "{findings:?}");
    assert_eq!(output.status.code(), Some(0));

    let (output, findings) =
        doctor(&[&format!("--kubeconfig={}", kubeconfig.display()), "--hostname-override=another-node"])
            .await;
    let identity = find(&findings, "identity");
    assert_eq!((identity["state"].as_str(), output.status.code()), (Some("failed"), Some(1)));
    assert!(identity["remedy"].as_str().unwrap().contains("--hostname-override"), "{identity}");
}

/// A token that may only ask for a certificate may do that; it is looked at where there is no kubeconfig yet.
#[tokio::test]
async fn a_bootstrap_token_is_looked_at_for_what_it_is_good_for() {
    let bootstrap = suite().await.cluster.bootstrap_kubeconfig();
    let (_, findings) = doctor(&[
        "--kubeconfig=/nonexistent/kubeconfig",
        &format!("--bootstrap-kubeconfig={}", bootstrap.display()),
    ])
    .await;
    assert_eq!(find(&findings, "right to ask for a certificate")["state"], "ok", "{findings:?}");
    assert!(findings.iter().all(|finding| finding["check"] != "rights"), "{findings:?}");
}

/// What is in the way is named, with the way out, and the exit code says that there is something.
#[tokio::test]
async fn what_is_in_the_way_is_named_with_the_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let nobody = ports::free().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    write_kubeconfig(&kubeconfig, &format!("https://127.0.0.1:{nobody}"));
    let (output, findings) = doctor(&[
        "--address=127.0.0.1",
        &format!("--port={}", taken.local_addr().unwrap().port()),
        &format!("--kubeconfig={}", kubeconfig.display()),
        "--eviction-hard=memory.available<lots",
    ])
    .await;
    assert_eq!(output.status.code(), Some(1));
    for (check, message, remedy) in [
        ("configuration", "--eviction-hard: evictionHard.memory.available", "docs/configuration.md"),
        ("API server", "cannot be used: ", "kubeconfig"),
    ] {
        let finding = find(&findings, check);
        assert_eq!(finding["state"], "failed", "{finding}");
        assert!(finding["message"].as_str().unwrap().contains(message), "{finding}");
        assert!(finding["remedy"].as_str().unwrap().contains(remedy), "{finding}");
    }
}

/// A user without rights in a namespace of its own has warnings for what root would have, and lines for people.
#[tokio::test]
async fn a_user_without_rights_is_told_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let root = format!("--root-dir={}", folder.path().join("root").display());
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]);
    command.arg(node::program().unwrap()).args([
        "doctor",
        "--healthz-port=0",
        "--port=0",
        "--network=pod",
        &root,
    ]);
    std::os::unix::fs::chown(folder.path(), Some(65534), Some(65534)).unwrap();
    command.env("TMPDIR", folder.path()).kill_on_drop(true);
    let output = tokio::time::timeout(SOON, command.output()).await.expect("an end").unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in [
        "warning  user: user 65534",
        "FAILED   networks of pods: they cannot be made: ",
        "→ run the node as root, or with CAP_NET_ADMIN",
        "FAILED   credentials: there are none for an API server",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

async fn doctor(arguments: &[&str]) -> (Output, Vec<Value>) {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(node::program().unwrap());
    command.args(["doctor", "--output=json", "--network=host", "--healthz-port=0"]);
    command.arg(format!("--root-dir={}", folder.path().join("root").display()));
    if !arguments.iter().any(|argument| argument.starts_with("--port")) {
        command.arg("--port=0");
    }
    command.args(arguments).kill_on_drop(true);
    let output = tokio::time::timeout(SOON, command.output()).await.expect("an end").unwrap();
    let findings = serde_json::from_slice(&output.stdout);
    let findings = findings.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (output, findings)
}

fn find<'a>(findings: &'a [Value], check: &str) -> &'a Value {
    let found = findings.iter().find(|finding| finding["check"] == check);
    found.unwrap_or_else(|| panic!("nothing of {check}: {findings:?}"))
}

fn write_kubeconfig(path: &Path, server: &str) {
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: \"{server}\"}}}}]\n\
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{token: t}}}}]\n"
    );
    std::fs::write(path, text).unwrap();
}
