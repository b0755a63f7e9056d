//! `kubewasm run`: the same pod without a cluster.

use std::{
    fs,
    path::Path,
    process::{Output, Stdio},
};

use kubewasm_tests::{guests, node};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::suite::SOON;

/// The guest's output is the command's, and its exit code, too.
#[tokio::test]
async fn output_and_exit_code_are_the_guests() {
    for (args, code) in [(json!(["say", "hello"]), 0), (json!(["say", "hello", "exit", "42"]), 42)] {
        let folder = tempfile::tempdir().unwrap();
        write_pod(folder.path(), args).await;
        let output = run(folder.path()).await;
        let stdout = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(stdout.lines().any(|line| line.ends_with("hello")), "{stdout:?}");
    }
}

/// Ctrl-C ends a guest that would never end.
#[tokio::test]
async fn an_interrupt_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    write_pod(folder.path(), json!(["tick", "100"])).await;
    let mut child = command(folder.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = tokio::time::timeout(SOON, lines.next_line()).await.expect("a first line").unwrap();
    assert!(first.unwrap().contains("tick 1"));
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let status = tokio::time::timeout(SOON, child.wait()).await.expect("an end").unwrap();
    assert!(!status.success(), "{status}");
}

/// What a run that was killed has left is removed by the next one.
#[tokio::test]
async fn a_killed_run_leaves_nothing_for_long() {
    let folder = tempfile::tempdir().unwrap();
    write_pod(folder.path(), json!(["tick", "100"])).await;
    let mut child = command(folder.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    tokio::time::timeout(SOON, lines.next_line()).await.expect("a first line").unwrap();
    child.kill().await.unwrap();
    let left = || {
        let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("kubewasm-run-")).count()
    };
    assert_eq!(left(), 1);
    write_pod(folder.path(), json!(["say", "hello"])).await;
    assert!(run(folder.path()).await.status.success());
    assert_eq!(left(), 0);
}

/// The demo's pod file is one that this command takes.
#[tokio::test]
async fn the_demo_runs() {
    let folder = tempfile::tempdir().unwrap();
    let module = guests::build("demos/hello-wasm/hello-wasm.c").await.unwrap();
    fs::write(folder.path().join("hello-wasm.wasm"), module).unwrap();
    fs::copy(guests::repository().join("demos/hello-wasm/pod.yaml"), folder.path().join("pod.yaml")).unwrap();
    let mut child = command(folder.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let read = async {
        let mut text = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            text.push(line);
            if text.last().is_some_and(|line| line.contains("Waiting 10 seconds (1)...")) {
                break;
            }
        }
        text.join("\n")
    };
    let text = tokio::time::timeout(SOON, read).await.expect("the lines up to the first wait");
    for part in ["Hello from wasi on wasm32!", "from", "HOSTNAME=hello-wasm"] {
        assert!(text.contains(part), "{part:?} in {text:?}");
    }
}

/// Writes a pod that runs the actor guest from a file beside it.
async fn write_pod(folder: &Path, args: Value) {
    fs::write(folder.join("actor.wasm"), guests::guest("actor.c").await.unwrap()).unwrap();
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "alone" },
        "spec": {
            "restartPolicy": "Never",
            "containers": [{ "name": "main", "image": "./actor.wasm", "args": args }],
        },
    });
    fs::write(folder.join("pod.yaml"), serde_yaml_ng::to_string(&pod).unwrap()).unwrap();
}

/// The command in `folder`, which also gets what it leaves behind when it is killed.
fn command(folder: &Path) -> Command {
    let mut command = Command::new(node::program().unwrap());
    command
        .args(["run", "pod.yaml", "--root-dir=root"])
        .current_dir(folder)
        .env("TMPDIR", folder)
        .kill_on_drop(true);
    command
}

async fn run(folder: &Path) -> Output {
    tokio::time::timeout(SOON, command(folder).output()).await.expect("an end").unwrap()
}
