//! What plugins want, and what they get.

use std::{collections::BTreeMap, fs};

use kubewasm_tests::{guests, home::Home, node, registry::Registry};
use serde_json::json;

use super::user::{User, end, registry};
use crate::desk::errors;

const PODS: &str = "[{verbs: [get], apiGroups: [''], resources: [pods]}]";
const MORE: &str = "[{verbs: [get, list], apiGroups: [''], resources: [pods]}]";

/// Pushes a version of a plugin that says this of itself.
async fn push(user: &User, registry: &Registry, version: &str, says: &[(&str, &str)]) {
    let module = guests::with_section(&guests::guest("actor.c").await.unwrap(), version.as_bytes());
    fs::write(user.work().join("new.wasm"), module).unwrap();
    let mut command = user.command(&node::program().unwrap());
    command.args(["module", "push", "new.wasm", &registry.name("actor:v1")]);
    let says: BTreeMap<_, _> = says.iter().copied().collect();
    for (name, value) in says {
        command.arg("--annotation").arg(format!("plugin.kubewasm.dev/{name}={value}"));
    }
    let pushed = end(command).await;
    assert!(pushed.status.success(), "{}", errors(&pushed));
}

/// What a plugin wants is asked for, granted, noted down and shown; and it has nothing else.
#[tokio::test]
async fn a_plugin_has_what_it_was_granted_and_nothing_else() {
    let (user, home) = (User::new().await, Home::temporary().unwrap());
    let registry = registry(&home, "registry").await;
    push(&user, &registry, "one", &[("grants", "fs=ro:. env=EDITOR")]).await;
    let uri = registry.name("actor:v1");
    let refused = user.fails(&["pull", &uri]).await;
    for part in [
        "wants more than it has",
        "fs=ro:.",
        "read all files in .",
        "env=EDITOR",
        "--yes",
        "nothing was changed",
    ] {
        assert!(refused.contains(part), "{refused}");
    }
    assert!(!user.bin().exists());
    let refused = user.fails(&["pull", &uri, "--grant", "fs=rw:."]).await;
    assert!(refused.contains("env=EDITOR") && !refused.contains("fs=ro"), "{refused}");
    let pulled = user.json(&["pull", &uri, "--grant", "fs=rw:.", "--grant", "env=EDITOR"]).await;
    assert_eq!(pulled["grants"], json!(["fs=ro:.", "fs=rw:.", "env=EDITOR"]));
    let text = user.plugin(&["inspect", "actor"]).await;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("fs=rw:. (read and change all files in .)"), "{text}");

    fs::write(user.work().join("file"), "content\n").unwrap();
    fs::write(user.home().join("secret"), "secret\n").unwrap();
    let run = async |args: &[&str]| {
        let mut command = user.kubectl_command();
        command
            .env("EDITOR", "ed")
            .env("AWS_SECRET_ACCESS_KEY", "hunter2")
            .env("LC_ALL", "C")
            .env("TERM", "dumb");
        command.arg("actor").args(args);
        end(command).await
    };
    let read = run(&["cat", "file", "write", "new", "text"]).await;
    assert_eq!((read.status.code(), &*read.stdout), (Some(0), &b"content\n"[..]), "{}", errors(&read));
    assert_eq!(fs::read_to_string(user.work().join("new")).unwrap(), "text");
    for path in ["../secret", user.home().join("secret").to_str().unwrap(), "/etc/passwd"] {
        let refused = run(&["cat", path]).await;
        assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0), "{path}");
    }
    let seen = run(&["env"]).await;
    let seen = String::from_utf8(seen.stdout).unwrap();
    let names: Vec<_> = seen.lines().filter_map(|line| line.split('=').next()).collect();
    // kubectl tells plugins where it is.
    let expected = ["EDITOR", "KUBECTL_PATH", "KUBECTL_PLUGIN_NAMESPACE", "LC_ALL", "TERM"];
    assert!(names.iter().all(|name| expected.contains(name)), "{seen}");
    assert!(seen.contains("KUBECTL_PLUGIN_NAMESPACE=default") && !seen.contains("hunter2"), "{seen}");
}

/// A newer version that wants more is not taken without a word, and the old one stays what it was.
#[tokio::test]
async fn an_upgrade_that_wants_more_is_refused_without_consent() {
    let (user, home) = (User::new().await, Home::temporary().unwrap());
    let registry = registry(&home, "registry").await;
    push(&user, &registry, "one", &[("access", PODS)]).await;
    let uri = registry.name("actor:v1");
    let first = user.json(&["pull", &uri]).await;
    assert_eq!(user.json(&["upgrade", "actor"]).await["plugins"][0]["changed"], json!(false));

    for says in [&[("access", MORE)][..], &[], &[("access", PODS), ("grants", "env=HOME")]] {
        push(&user, &registry, &format!("{says:?}"), says).await;
        let refused = user.plugin(&["upgrade"]).await;
        assert_eq!(refused.status.code(), Some(1), "{says:?}");
        assert!(errors(&refused).contains("wants more than it has"), "{says:?}: {}", errors(&refused));
        let still = user.json(&["inspect", "actor"]).await;
        assert_eq!(still["digest"], first["digest"], "{says:?}");
        assert_eq!(user.kubectl_prints(&["actor", "say", "old"]).await, "old\n");
    }
    let upgraded = user.json(&["upgrade", "--yes"]).await;
    assert_eq!(upgraded["plugins"][0]["grants"], json!(["env=HOME"]));
    assert_ne!(upgraded["plugins"][0]["digest"], first["digest"]);
    // What was agreed to once is not asked again, and a version that wants less has less of it at once.
    push(&user, &registry, "less", &[("access", PODS), ("grants", "env=HOME")]).await;
    assert_eq!(user.json(&["upgrade"]).await["failed"], json!([]));
    // A tag that moves changes nothing by itself.
    push(&user, &registry, "moved", &[("access", PODS)]).await;
    let pinned = user.json(&["inspect", "actor"]).await;
    assert_eq!(user.kubectl_prints(&["actor", "say", "pinned"]).await, "pinned\n");
    assert_eq!(user.json(&["inspect", "actor"]).await["digest"], pinned["digest"]);
}

/// The policy for signatures that a plugin was pulled by counts whenever it is run.
#[tokio::test]
async fn a_plugin_that_the_policy_does_not_take_is_not_run() {
    let (user, home) = (User::new().await, Home::temporary().unwrap());
    let registry = registry(&home, "registry").await;
    push(&user, &registry, "one", &[]).await;
    let uri = registry.name("actor:v1");
    let policy = user.work().join("policy.yaml");
    let pull = ["pull", &uri, "--image-signature-policy", "policy.yaml"];
    fs::write(&policy, "default: {action: reject}\n").unwrap();
    user.fails(&pull).await;
    assert!(!user.bin().exists());
    fs::write(&policy, "default: {action: accept}\n").unwrap();
    user.json(&pull).await;
    assert_eq!(user.kubectl_prints(&["actor", "say", "x"]).await, "x\n");
    fs::write(&policy, "default: {action: reject}\n").unwrap();
    let refused = user.kubectl(&["actor", "say", "x"]).await;
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0), "{}", errors(&refused));
    let refused = user.plugin(&["upgrade"]).await;
    assert_eq!(refused.status.code(), Some(1), "{}", errors(&refused));
}
