//! `kubewasm run -it` and `kubewasm exec`: a pod without a cluster, and who talks to it.

use std::{fs, path::Path, process::Stdio};

use kubewasm_tests::{guests, node};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
};

use crate::{
    sessions::{Session, Terminal, run},
    suite::SOON,
};

/// Writes what it reads, and at the end of it exits with 3.
const CAT: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "ready\0a")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 16))
    (i32.store (i32.const 4) (i32.const 6))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (loop $next
      (i32.store (i32.const 0) (i32.const 1024))
      (i32.store (i32.const 4) (i32.const 4096))
      (if (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
      (if (i32.eqz (i32.load (i32.const 8))) (then (call $exit (i32.const 3))))
      (i32.store (i32.const 4) (i32.load (i32.const 8)))
      (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
      (br $next))))"#;

/// A folder with a pod of this container.
fn pod(mut container: Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("cat.wasm"), wat::parse_str(CAT).unwrap()).unwrap();
    container["name"] = json!("main");
    container["image"] = json!("./cat.wasm");
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "talker" },
        "spec": { "restartPolicy": "Never", "containers": [container] },
    });
    fs::write(folder.path().join("pod.yaml"), serde_yaml_ng::to_string(&pod).unwrap()).unwrap();
    folder
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    prepared(Command::new(node::program().unwrap()), folder, arguments)
}

/// The same at a terminal of its own, which is what `script` is for.
fn at_terminal(folder: &Path, arguments: &[&str]) -> Command {
    let program = node::program().unwrap();
    let line = format!("{} {}", program.display(), arguments.join(" "));
    prepared(Command::new("script"), folder, &["--quiet", "--return", "--command", &line, "/dev/null"])
}

fn prepared(mut command: Command, folder: &Path, arguments: &[&str]) -> Command {
    command.args(arguments).current_dir(folder).env("TMPDIR", folder).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Sends this and the end of it, and reads all that comes: exit code, stdout and stderr.
async fn talk(command: Command, text: &str) -> (Option<i32>, String, String) {
    let ended = run(command, text.as_bytes()).await;
    (ended.code, ended.text(), ended.stderr)
}

/// What is sent to the command is sent to the guest, its end too, and nothing of what it says is missed.
#[tokio::test]
async fn standard_input_is_the_containers() {
    let folder = pod(json!({}));
    let (code, out, err) =
        talk(command(folder.path(), &["run", "--root-dir=root", "-i", "pod.yaml"]), "hello\n").await;
    assert_eq!((code, out.as_str()), (Some(3), "ready\nhello\n"), "{err}");
}

/// The pod's container waits for input, and does not end.
async fn running(folder: &Path) -> Child {
    let mut child = command(folder, &["run", "--root-dir=root", "pod.yaml"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    let first = tokio::time::timeout(SOON, lines.next_line()).await.expect("a first line").unwrap();
    assert_eq!(first.as_deref(), Some("ready"));
    child
}

#[tokio::test]
async fn a_command_in_a_pod_has_input_output_and_an_exit_code() {
    let folder = pod(json!({ "stdin": true }));
    let _run = running(folder.path()).await;
    let exec = |arguments: &[&str]| command(folder.path(), &[&["exec"], arguments].concat());
    let (code, out, err) = talk(exec(&["-i", "talker", "--", "cat"]), "hello\n").await;
    assert_eq!((code, out.as_str(), err.as_str()), (Some(3), "ready\nhello\n", ""));
    let (code, out, _) = talk(exec(&["-c", "main", "talker", "--", "cat"]), "not passed on").await;
    assert_eq!((code, out.as_str()), (Some(3), "ready\n"));
    for (arguments, expected) in [
        (&["other", "--", "cat"][..], "these do: talker"),
        (&["-c", "other", "talker", "--", "cat"], "the pod has no container \"other\"; it has: main"),
    ] {
        let (code, out, err) = talk(exec(arguments), "").await;
        assert_eq!((code, out.as_str()), (Some(1), ""));
        assert!(err.contains(expected), "{err}");
    }
    let nowhere = tempfile::tempdir().unwrap();
    let (code, _, err) = talk(command(nowhere.path(), &["exec", "talker", "--", "cat"]), "").await;
    assert!(code == Some(1) && err.contains("use kubectl exec"), "{err}");
}

/// Reads until this has come.
async fn until(from: &mut (impl tokio::io::AsyncRead + Unpin), text: &str) -> String {
    let read = async {
        let mut come = Vec::new();
        while !String::from_utf8_lossy(&come).contains(text) {
            let byte = from
                .read_u8()
                .await
                .unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&come)));
            come.push(byte);
        }
        String::from_utf8(come).unwrap()
    };
    tokio::time::timeout(SOON, read).await.unwrap_or_else(|_| panic!("waited in vain for {text:?}"))
}

/// A person types lines, sees them once, and ends what runs by Ctrl-C; the terminal is what it was.
#[tokio::test]
async fn a_terminal_is_the_containers_and_given_back() {
    let folder = pod(json!({ "stdin": true }));
    let _run = running(folder.path()).await;
    let alone = pod(json!({}));
    for (folder, arguments) in
        [(folder.path(), ["exec -it talker -- cat"]), (alone.path(), ["run --root-dir=root -it pod.yaml"])]
    {
        let after = [
            arguments[0],
            "; code=$?; stty -a | grep -wo -e '-echo' -e echo -e '-icanon' -e icanon; exit $code",
        ]
        .concat();
        let mut child = at_terminal(folder, &[&after]).spawn().unwrap();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        until(&mut stdout, "ready\r\n").await;
        stdin.write_all(b"hellp\x7fo\r").await.unwrap();
        until(&mut stdout, "hellp\x08 \x08o\r\nhello\r\n").await;
        stdin.write_all(b"\x03").await.unwrap();
        let rest = until(&mut stdout, "icanon").await + &until(&mut stdout, "echo").await;
        assert!(rest.contains("^C") && !rest.contains("-icanon") && !rest.contains("-echo"), "{rest:?}");
        let status = tokio::time::timeout(SOON, child.wait()).await.expect("an end").unwrap();
        assert_eq!(status.code(), Some(130), "{arguments:?}");
    }
}

/// A command is told how large its terminal is, and ends with the pod.
#[tokio::test]
async fn a_command_ends_with_its_pod() {
    let folder = tempfile::tempdir().unwrap();
    let toolbox = guests::guest("toolbox.c").await.unwrap();
    fs::write(folder.path().join("toolbox.wasm"), toolbox).unwrap();
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "host" },
        "spec": { "containers": [{
            "name": "main", "image": "./toolbox.wasm", "command": ["sh"], "env": [{ "name": "LINES", "value": "7" }],
        }] },
    });
    fs::write(folder.path().join("pod.yaml"), pod.to_string()).unwrap();
    let mut pod = Session::start(command(folder.path(), &["run", "--root-dir=root", "-i", "pod.yaml"]));
    pod.hears("ready").await;
    let mut terminal = Terminal::start(&command(folder.path(), &["exec", "-it", "host", "--", "sh"])).await;
    terminal.shows("ready").await;
    terminal.types("terminal\r").await;
    terminal.shows("a terminal, 77 columns, 7 lines").await;
    let mut other = Session::start(command(folder.path(), &["exec", "-i", "host", "--", "sh"]));
    other.hears("ready").await;
    pod.says("echo still here").await;
    pod.hears("still here").await;
    kill_process(Pid::from_raw(i32::try_from(pod.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    assert_ne!(terminal.ends().await.0, Some(0));
    assert_ne!(other.ends().await.code, Some(0));
    pod.ends().await;
}
