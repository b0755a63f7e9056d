//! `kubewasm plugin` itself: from registries to kubectl and back to nothing.

use std::{fs, os::unix::fs::symlink};

use kubewasm_tests::{cluster::programs, guests, home::Home, node};
use serde_json::{Value, json};
use tokio::process::Command;

use super::user::{User, content, end, registry};
use crate::{desk::errors, suite::SOON};

/// kubectl finds what was pulled, it gets its arguments and answers with its exit code, and nothing stays of it when it is
/// removed.
#[tokio::test]
async fn a_plugin_is_pulled_found_run_and_removed() {
    let (user, home) = (User::new().await, Home::temporary().unwrap());
    let registry = registry(&home, "registry").await;
    registry.push("team/my-actor:v1", &content("actor.c").await).await.unwrap();
    let uri = registry.name("team/my-actor:v1");
    let pulled = user.json(&["pull", &uri]).await;
    let link = user.bin().join("kubectl-my_actor");
    assert_eq!((&pulled["name"], &pulled["source"]), (&json!("my-actor"), &json!(uri)));
    assert_eq!((&pulled["link"], &pulled["onPath"]), (&json!(link), &json!(true)));

    let listed = user.kubectl_prints(&["plugin", "list"]).await;
    assert!(listed.lines().any(|line| line == link.to_str().unwrap()), "{listed}");
    let printed = user.kubectl_prints(&["my-actor", "args", "say", "-n", "exit", "0"]).await;
    assert_eq!(printed, "kubectl-my-actor\nargs\nsay\n-n\nexit\n0\n-n\n");
    let failed = user.kubectl(&["my-actor", "say", "x", "exit", "42"]).await;
    assert_eq!((failed.status.code(), &*failed.stdout), (Some(42), &b"x\n"[..]));

    let list = user.json(&["list"]).await;
    assert_eq!(list["plugins"][0]["location"], json!(uri));
    let text = user.plugin(&["list"]).await;
    assert!(String::from_utf8_lossy(&text.stdout).starts_with("NAME      LOCATION\nmy-actor  "));
    let seen = user.json(&["inspect", "my-actor"]).await;
    assert_eq!(
        (&seen["kind"], &seen["access"], &seen["grants"]),
        (&json!("core-command"), &Value::Null, &json!([]))
    );

    user.json(&["rm", "my-actor"]).await;
    assert!(!user.home().join("data/kubewasm").exists());
    let mut modules = user.command(&node::program().unwrap());
    modules.args(["module", "ls", "-o", "json"]);
    let left: Value = serde_json::from_slice(&end(modules).await.stdout).unwrap();
    assert_eq!(left["images"], json!([]));
    let gone = user.fails(&["rm", "my-actor"]).await;
    assert!(gone.contains("there is no plugin my-actor") && gone.contains("kubewasm plugin pull"), "{gone}");
}

/// Others push plugins, too.
#[tokio::test]
async fn what_wkg_and_oras_push_is_a_plugin() {
    let (user, home) = (User::new().await, Home::temporary().unwrap());
    let registry = registry(&home, "registry").await;
    fs::write(user.work().join("hello.wasm"), guests::guest("hello-0.2.wat").await.unwrap()).unwrap();
    let run = async |mut command: Command| {
        command.current_dir(user.work()).env("HOME", user.home()).kill_on_drop(true);
        let output = tokio::time::timeout(SOON, command.output()).await.expect("an end").unwrap();
        assert!(output.status.success(), "{}", errors(&output));
    };
    let wkg = programs::build("tools/wkg/build.sh").await.unwrap().join("wkg");
    let mut command = Command::new(wkg);
    command.args(["oci", "push", &registry.name("of-wkg:v1"), "hello.wasm", "--insecure", &registry.host()]);
    run(command).await;
    let oras = programs::build("tools/oras/build.sh").await.unwrap().join("oras");
    let mut command = Command::new(oras);
    command.args(["push", "--plain-http", &registry.name("of-oras:v1"), "hello.wasm:application/wasm"]);
    run(command).await;
    for name in ["of-wkg", "of-oras"] {
        user.json(&["pull", &registry.name(&format!("{name}:v1"))]).await;
        assert!(!user.kubectl_prints(&[name]).await.is_empty(), "{name}");
    }
}

/// Two registries may have something of one name, and whoever wants both says what they are called. What is there is not
/// touched by what fails.
#[tokio::test]
async fn a_name_is_taken_once_and_only_what_is_whole_takes_it() {
    let (user, home) = (User::new().await, Home::temporary().unwrap());
    let (one, other) = (registry(&home, "one").await, registry(&home, "other").await);
    for registry in [&one, &other] {
        registry.push("actor:v1", &content("actor.c").await).await.unwrap();
    }
    let (first, second) = (one.name("actor:v1"), other.name("actor:v1"));
    user.json(&["pull", &first]).await;
    let refused = user.fails(&["pull", &second]).await;
    assert!(
        refused.contains("of the name actor is there already") && refused.contains("-f overwrites"),
        "{refused}"
    );
    assert!(refused.contains(&first), "{refused}");
    user.json(&["pull", &second, "--name", "other_actor"]).await;
    for name in ["actor", "other-actor"] {
        assert_eq!(user.kubectl_prints(&[name, "say", "hi"]).await, "hi\n");
    }
    // What is not there, and what is no command.
    user.plugin(&["pull", "-f", &one.name("gone:v1"), "--name", "actor"]).await;
    fs::write(user.work().join("http.wasm"), guests::guest("http-0.3.wat").await.unwrap()).unwrap();
    let refused = user.fails(&["pull", "-f", "./http.wasm", "--name", "actor"]).await;
    assert!(refused.contains("is no command"), "{refused}");
    assert_eq!(user.kubectl_prints(&["actor", "say", "still"]).await, "still\n");
    // One goes, and the other, which is the same module, stays.
    user.json(&["rm", "actor"]).await;
    assert_eq!(user.kubectl_prints(&["other-actor", "say", "still"]).await, "still\n");
    let replaced = user.json(&["pull", "-f", &first, "--name", "other-actor"]).await;
    assert_eq!(replaced["source"], json!(first));
}

/// A file is a plugin as long as it is the file that it was.
#[tokio::test]
async fn a_file_is_a_plugin_and_what_it_has_become_is_another() {
    let user = User::new().await;
    let module = guests::guest("actor.c").await.unwrap();
    fs::write(user.work().join("mine.wasm"), &module).unwrap();
    let either = user.plugin(&["pull", "mine.wasm"]).await;
    assert_eq!(either.status.code(), Some(2));
    assert!(errors(&either).contains("write ./mine.wasm for the file, oci://mine.wasm"), "{either:?}");
    user.json(&["pull", "./mine.wasm"]).await;
    assert_eq!(user.kubectl_prints(&["mine", "say", "a"]).await, "a\n");
    let text = user.plugin(&["list"]).await;
    let place = format!("{} (not in the store)", user.work().join("mine.wasm").display());
    assert!(String::from_utf8_lossy(&text.stdout).contains(&place), "{text:?}");
    fs::write(user.work().join("mine.wasm"), guests::with_section(&module, b"new")).unwrap();
    let changed = user.kubectl(&["mine", "say", "b"]).await;
    assert_eq!((changed.status.code(), changed.stdout.len()), (Some(1), 0));
    assert!(
        errors(&changed).contains("is not the file that it was") && errors(&changed).contains("-f"),
        "{changed:?}"
    );
    assert_eq!(user.json(&["upgrade"]).await["plugins"][0]["changed"], json!(true));
    assert_eq!(user.kubectl_prints(&["mine", "say", "b"]).await, "b\n");

    let run = user.plugin(&["run", "mine.wasm", "--", "args", "exit", "7"]).await;
    assert_eq!(run.status.code(), Some(7));
    assert_eq!(String::from_utf8_lossy(&run.stdout), "kubectl-mine\nargs\nexit\n7\n");
    user.json(&["rm", "mine"]).await;
    assert!(user.work().join("mine.wasm").exists());
}

/// Whatever leads to the link.
#[tokio::test]
async fn a_link_is_a_plugin_by_any_path() {
    let user = User::new().await;
    user.has("actor.c", "pod-tool", &[]).await;
    let bin = user.bin();
    symlink(bin.join("kubectl-pod_tool"), user.work().join("kubectl-pod_tool")).unwrap();
    for program in ["kubectl-pod_tool", "./kubectl-pod_tool", bin.join("kubectl-pod_tool").to_str().unwrap()]
    {
        let mut command = user.command(program.as_ref());
        // A bare name is looked for along PATH.
        command.args(["say", "here"]);
        let output = end(command).await;
        assert_eq!(output.stdout, b"here\n", "{program}: {}", errors(&output));
    }
    // A name that nothing was pulled for.
    symlink(node::program().unwrap(), bin.join("kubectl-gone")).unwrap();
    let gone = user.kubectl(&["gone"]).await;
    assert_eq!((gone.status.code(), gone.stdout.len()), (Some(1), 0));
    assert!(
        errors(&gone).contains("there is no plugin gone; pull it with `kubewasm plugin pull`"),
        "{gone:?}"
    );
    user.json(&["rm", "gone"]).await;
    assert!(node::program().unwrap().exists());
    // A module that somebody has tidied away.
    fs::remove_dir_all(user.home().join("cache")).unwrap();
    fs::remove_file(user.home().join("pod-tool.wasm")).unwrap();
    let lost = user.kubectl(&["pod-tool"]).await;
    assert_eq!((lost.status.code(), lost.stdout.len()), (Some(1), 0));
    assert!(errors(&lost).contains("pod-tool.wasm"), "{lost:?}");
}

/// A companion, which kubectl asks for completions.
#[tokio::test]
async fn a_plugin_that_knows_completions_has_a_companion() {
    let user = User::new().await;
    user.has("actor.c", "known", &["--completions"]).await;
    let companion = user.bin().join("kubectl_complete-known");
    let mut command = user.command(&companion);
    command.args(["args"]);
    let output = end(command).await;
    // The program under test takes the word for a verb that it does not know.
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    assert!(errors(&output).contains("__complete"), "{output:?}");
}

/// Modules of plugins are there for nobody's containers, and stay all the same.
#[tokio::test]
async fn who_tidies_the_store_leaves_plugins() {
    let (user, home) = (User::new().await, Home::temporary().unwrap());
    let registry = registry(&home, "registry").await;
    registry.push("actor:v1", &content("actor.c").await).await.unwrap();
    user.json(&["pull", &registry.name("actor:v1")]).await;
    let mut prune = user.command(&node::program().unwrap());
    prune.args(["module", "prune", "-o", "json"]);
    let pruned: Value = serde_json::from_slice(&end(prune).await.stdout).unwrap();
    assert_eq!(pruned["removed"], json!([]));
    assert_eq!(user.kubectl_prints(&["actor", "say", "still"]).await, "still\n");
}
