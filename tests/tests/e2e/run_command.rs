//! `kubewasm run`: the same pod without a cluster.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    process::{Output, Stdio},
};

use kubewasm_tests::{guests, node, ports, registry::image::Content, wait};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
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

/// Who looks for workers and the mounter finds them by name.
#[tokio::test]
async fn processes_go_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    write_pod(folder.path(), json!(["tick", "100"])).await;
    let mut child = command(folder.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    tokio::time::timeout(SOON, lines.next_line()).await.expect("a first line").unwrap();
    let own = folder.path().display().to_string();
    let named = |entry: fs::DirEntry| {
        let line =
            fs::read_to_string(entry.path().join("cmdline")).ok().filter(|line| line.contains(&own))?;
        let short = fs::read_to_string(entry.path().join("comm")).ok()?;
        let mut words = line.split('\0');
        Some(format!("{} {} ({})", words.next()?, words.next()?, short.trim()))
    };
    let mut found: Vec<_> = fs::read_dir("/proc").unwrap().filter_map(|entry| named(entry.ok()?)).collect();
    found.sort();
    found.dedup();
    assert_eq!(found, ["kubewasm mounter (kubewasm-mounts)", "kubewasm worker (kubewasm-worker)"]);
    child.kill().await.unwrap();
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

/// A folder of manifests is a pod with its objects: they are in its environment and its volumes.
#[tokio::test]
async fn objects_beside_the_pod_are_its_environment_and_its_volumes() {
    let folder = tempfile::tempdir().unwrap();
    let container = json!({
        "args": ["env", "cat", "/etc/app/file"],
        "env": [
            { "name": "GREETING", "valueFrom": { "configMapKeyRef": { "name": "settings", "key": "greeting" } } },
            { "name": "TOKEN", "valueFrom": { "secretKeyRef": { "name": "token", "key": "value" } } },
        ],
        "volumeMounts": [{ "name": "v", "mountPath": "/etc/app" }],
    });
    let volumes = json!([{ "name": "v", "configMap": { "name": "settings" } }]);
    write_pod_with(folder.path(), container, volumes).await;
    let objects = "kind: ConfigMap\nmetadata: {name: settings}\ndata: {greeting: hello, file: \"of the volume\\n\"}\n\
                   ---\nkind: Secret\nmetadata: {name: token}\nstringData: {value: t0ken}\n";
    fs::write(folder.path().join("objects.yaml"), objects).unwrap();
    let mut all = command_with(folder.path(), &["."]);
    let output = tokio::time::timeout(SOON, all.output()).await.expect("an end").unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for part in ["GREETING=hello", "TOKEN=t0ken", "of the volume"] {
        assert!(stdout.contains(part), "{part}: {stdout}");
    }

    let output = run(folder.path()).await;
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr
            .contains("pod.yaml: the Pod refers to the ConfigMap \"settings\", the Secret \"token\", which"),
        "{stderr}"
    );
}

/// A pod from standard input, whose port of the machine leads to the guest's.
#[tokio::test]
async fn a_published_port_leads_to_the_guest() {
    let folder = tempfile::tempdir().unwrap();
    write_pod(folder.path(), json!(["say", "unused"])).await;
    let module = guests::guest("http-0.2.c").await.unwrap();
    fs::write(folder.path().join("hello.wasm"), module).unwrap();
    let pod = "{kind: Pod, metadata: {name: web}, spec: {containers: [{name: web, image: ./hello.wasm, \
               ports: [{containerPort: 8080}]}]}}";
    let port = ports::free().unwrap();
    let mut command = command_with(folder.path(), &["-", "-p", &format!("{port}:8080")]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(pod.as_bytes()).await.unwrap();
    wait::until("the guest to answer", SOON, async || {
        let mut client =
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| error.to_string())?;
        client.write_all(b"GET / HTTP/1.0\r\nhost: test\r\n\r\n").await.map_err(|error| error.to_string())?;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.map_err(|error| error.to_string())?;
        if answer.ends_with("hello\n") { Ok(()) } else { Err(answer) }
    })
    .await
    .unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    tokio::time::timeout(SOON, child.wait()).await.expect("an end").unwrap();
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
    command_with(folder, &["pod.yaml"])
}

fn command_with(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(node::program().unwrap());
    command
        .args(["run", "--root-dir=root"])
        .args(arguments)
        .current_dir(folder)
        .env("TMPDIR", folder)
        .kill_on_drop(true);
    command
}

async fn run(folder: &Path) -> Output {
    tokio::time::timeout(SOON, command(folder).output()).await.expect("an end").unwrap()
}
