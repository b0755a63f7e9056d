//! `kubewasm run`: the same pod without a cluster.

use std::{
    fs,
    path::Path,
    process::{Output, Stdio},
};

use kubewasm_tests::{guests, node, registry::image::Content};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::suite::{SOON, suite};

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

/// Volumes that need nothing but this machine are there: scratch space, the pod's own fields, an image's files, and
/// folders of the machine that the user has allowed.
#[tokio::test]
async fn volumes_of_this_machine_are_mounted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    fs::create_dir(path.join("shared")).unwrap();
    fs::write(path.join("shared/note"), "of the machine").unwrap();
    let registry = &suite().await.registry;
    let words = Content::Image {
        files: vec![("words".to_owned(), b"one two".to_vec())],
        entrypoint: Vec::new(),
        cmd: Vec::new(),
        env: Vec::new(),
    };
    let words = registry.push("run-words:v1", &words).await.unwrap();
    let volumes = json!([
        { "name": "disk", "emptyDir": {} },
        { "name": "memory", "emptyDir": { "medium": "Memory" } },
        { "name": "pod", "downwardAPI": { "items": [{ "path": "name", "fieldRef": { "fieldPath": "metadata.name" } }] } },
        { "name": "image", "image": { "reference": words.tagged } },
        { "name": "host", "hostPath": { "path": path.join("shared"), "type": "Directory" } },
    ]);
    let mounts = ["disk", "memory", "pod", "image", "host"]
        .map(|name| json!({ "name": name, "mountPath": format!("/{name}") }));
    let args = json!([
        "write",
        "/disk/a",
        "x",
        "write",
        "/memory/a",
        "x",
        "same",
        "/pod/name",
        "alone",
        "same",
        "/image/words",
        "one two",
        "same",
        "/host/note",
        "of the machine",
        "write",
        "/host/answer",
        "of the guest",
    ]);
    write_pod_with(folder.path(), json!({ "args": args, "volumeMounts": mounts }), volumes).await;
    let allow = format!("--allow-host-path={}", path.join("shared").display());
    let output = command(folder.path()).arg(allow).output();
    let output = tokio::time::timeout(SOON, output).await.expect("an end").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::read_to_string(path.join("shared/answer")).unwrap(), "of the guest");
}

/// What only a cluster has is refused by name, and so is a folder of the machine that nobody has allowed.
#[tokio::test]
async fn volumes_of_a_cluster_are_refused_by_name() {
    let token = json!({ "sources": [{ "serviceAccountToken": { "path": "token" } }] });
    for (volume, part) in [
        (json!({ "configMap": { "name": "c" } }), "it takes a ConfigMap, and there is no cluster here"),
        (json!({ "secret": { "secretName": "s" } }), "it takes a Secret, and there is no cluster here"),
        (json!({ "projected": token }), "it takes a token of a ServiceAccount"),
        (json!({ "persistentVolumeClaim": { "claimName": "c" } }), "it takes a PersistentVolumeClaim"),
        (json!({ "nfs": { "server": "192.0.2.1", "path": "/" } }), "volumes of type nfs"),
        (json!({ "hostPath": { "path": "/etc" } }), "the path /etc of the node is not among those"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mounts = json!([{ "name": "v", "mountPath": "/v" }]);
        let mut named = volume.clone();
        named["name"] = json!("v");
        let container = json!({ "args": ["say", "never"], "volumeMounts": mounts });
        write_pod_with(folder.path(), container, json!([named])).await;
        let mut child = command(folder.path()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let told = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.contains("volume \"v\" cannot be mounted at /v: ") {
                    return line;
                }
            }
            String::new()
        };
        let line = tokio::time::timeout(SOON, told).await.unwrap_or_else(|_| panic!("nothing of {volume}"));
        assert!(line.contains(part), "{line}");
        child.kill().await.unwrap();
    }
}

/// Writes a pod that runs the actor guest from a file beside it.
async fn write_pod(folder: &Path, args: Value) {
    write_pod_with(folder, json!({ "args": args }), json!([])).await;
}

/// The same with more of its container, and with volumes.
async fn write_pod_with(folder: &Path, mut container: Value, volumes: Value) {
    fs::write(folder.join("actor.wasm"), guests::guest("actor.c").await.unwrap()).unwrap();
    container["name"] = json!("main");
    container["image"] = json!("./actor.wasm");
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "alone" },
        "spec": { "restartPolicy": "Never", "containers": [container], "volumes": volumes },
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
