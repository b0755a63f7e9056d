//! The provider as a kubelet uses it: from a file of WebAssembly to an exit that is observed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod modules;
#[path = "../support/mod.rs"]
mod support;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use kubewasm_kubelet::runtime::{
    ContainerSpec, ContainerState, ExecError, ExecIo, Exit, ExitReason, ImageError, Presence, Runtime,
    StartError,
};
use kubewasm_modules::{Store, StoreOptions};
use kubewasm_wasi::{
    protocol::Versions,
    provider::{WasiOptions, WasiRuntime},
};

const PATIENCE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(30);

struct Node {
    dir: tempfile::TempDir,
    runtime: WasiRuntime,
}

impl Node {
    async fn new() -> Self {
        Self::with(|options| options.allow_paths = true).await
    }

    async fn with(change: impl FnOnce(&mut WasiOptions)) -> Self {
        // The store's client for registries wants one, used or not.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("modules"), StoreOptions::default()).unwrap();
        let mut options = WasiOptions::new(store, dir.path().join("workers"), support::program());
        options.with_parent = true;
        change(&mut options);
        Self { runtime: WasiRuntime::new(options).await.unwrap(), dir }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn module(&self, name: &str, wat: &str) -> PathBuf {
        self.file(name, &wat::parse_str(wat).unwrap())
    }

    fn spec(&self, id: &str, image: &Path) -> ContainerSpec {
        ContainerSpec {
            id: id.into(),
            pod_uid: format!("pod-{id}"),
            pod_namespace: "default".into(),
            pod_name: id.into(),
            name: "main".into(),
            runtime_handler: String::new(),
            image: image.display().to_string(),
            argv: vec!["main".into()],
            env: Vec::new(),
            annotations: BTreeMap::new(),
            labels: BTreeMap::new(),
            service_account: String::new(),
            pod_containers: Vec::new(),
            objects: Default::default(),
            working_dir: None,
            scratch: self.dir.path().join("scratch").join(id),
            read_only_root: false,
            mounts: Vec::new(),
            log_path: self.dir.path().join(format!("{id}.log")),
            pod_ips: Vec::new(),
            network_slot: None,
            host_network: false,
            tcp_ports: Vec::new(),
            exposed_ports: Vec::new(),
            name_files: None,
            stdin: false,
            stdin_once: false,
            tty: false,
            memory_limit_bytes: 0,
            memory_volumes: Vec::new(),
            pod_memory_limit_bytes: 0,
            cpu_limit_millis: 0,
            cpu_request_millis: 0,
        }
    }

    async fn exit(&self, id: &str) -> Exit {
        let ended = || match self.runtime.observe(id) {
            Presence::Known(ContainerState::Exited(exit)) => Some(exit),
            _ => None,
        };
        support::until(&format!("the end of container {id}"), PATIENCE, ended).await
    }
}

fn runs(runtime: &WasiRuntime, id: &str) -> bool {
    matches!(runtime.observe(id), Presence::Known(ContainerState::Running { .. }))
}

fn exits(code: u32) -> String {
    format!(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
             (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const {code}))))"#
    )
}

const SPINS: &str = r#"(module (func (export "_start") (loop $for_ever (br $for_ever))))"#;

#[tokio::test]
async fn a_file_becomes_a_container_that_ends() {
    let node = Node::new().await;
    let path = node.module("hello.wasm", &exits(42));
    let image = node.runtime.pull(&path.display().to_string(), &[]).await.unwrap().image;
    assert!(image.id.starts_with("hello.wasm@sha256:"), "{}", image.id);
    assert_eq!(node.runtime.images().await.len(), 1);

    let mut wakeups = node.runtime.wakeups().unwrap();
    let started_at = node.runtime.start(&node.spec("a", &path)).await.unwrap();
    assert!(matches!(node.runtime.observe("a"), Presence::Known(_)));
    let exit = node.exit("a").await;
    assert_eq!(exit.started_at, started_at, "one start, one time");
    assert_eq!((exit.exit_code, exit.reason), (42, ExitReason::Exited));
    assert!(exit.finished_at >= exit.started_at);
    assert_eq!(wakeups.recv().await.unwrap(), "pod-a");
    let list = node.runtime.containers();
    assert_eq!((list.containers.len(), list.is_complete), (1, true));
    node.runtime.remove("a").await.unwrap();
    assert!(node.runtime.containers().containers.is_empty());
    assert_eq!(node.runtime.observe("a"), Presence::Absent);
    assert_eq!(node.runtime.version(), "wasmtime://48.0.8");
}

#[tokio::test]
async fn a_container_is_stopped() {
    let node = Node::new().await;
    let path = node.module("spins.wasm", SPINS);
    node.runtime.start(&node.spec("a", &path)).await.unwrap();
    let argv = ["probe".to_owned()];
    let exec = || node.runtime.exec("a", &argv, ExecIo::Collect { limit: 100 });
    assert!(tokio::time::timeout(Duration::from_millis(50), exec()).await.is_err());
    node.runtime.stop("a", SOON).await.unwrap();
    let exit = node.exit("a").await;
    assert_eq!((exit.exit_code, exit.reason), (143, ExitReason::Stopped));
    assert!(matches!(exec().await, Err(ExecError::NotRunning(_))));
}

/// The image of a container that runs stays, although another agent started the container.
#[tokio::test]
async fn images_of_adopted_containers_are_held() {
    let node = Node::with(|options| {
        options.allow_paths = true;
        options.with_parent = false;
    })
    .await;
    let path = node.module("spins.wasm", SPINS);
    node.runtime.start(&node.spec("a", &path)).await.unwrap();
    let Node { dir, runtime: first } = node;
    drop(first);

    let store = Store::open(&dir.path().join("modules"), StoreOptions::default()).unwrap();
    let mut options = WasiOptions::new(store.clone(), dir.path().join("workers"), support::program());
    options.allow_paths = true;
    let second = WasiRuntime::new(options).await.unwrap();
    assert!(runs(&second, "a"));
    let name = path.display().to_string().parse().unwrap();
    let error = store.remove(&name).unwrap_err().to_string();
    assert!(error.contains("in use"), "{error}");
    second.remove("a").await.unwrap();
    store.remove(&name).unwrap();
    second.shutdown(SOON).await;
}

/// Names of the groups that have workers, or had them a moment ago.
fn workers(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("workers")).unwrap().map(Result::unwrap);
    // Beside them are the mounter's log and the claims.
    let workers = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    let names = workers.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| !name.starts_with('.')).collect()
}

/// After an upgrade, what runs goes on in the worker that it is in, whose code and protocol are those of before.
/// What starts does so in a worker of today's; the one of before ends with the last container in it.
#[tokio::test]
async fn an_upgrade_leaves_running_containers_alone_and_starts_others_elsewhere() {
    let before = Versions { min: Versions::OURS.min, max: Versions::OURS.max - 1 };
    let node = Node::with(|options| {
        options.allow_paths = true;
        options.with_parent = false;
        options.program = support::program_of(before);
        options.versions = before;
    })
    .await;
    let path = node.module("spins.wasm", SPINS);
    node.runtime.start(&node.spec("a", &path)).await.unwrap();
    let Node { dir, runtime } = node;
    drop(runtime);
    let old = workers(dir.path());
    assert_eq!(old.len(), 1, "{old:?}");

    let store = Store::open(&dir.path().join("modules"), StoreOptions::default()).unwrap();
    let mut options = WasiOptions::new(store, dir.path().join("workers"), support::program());
    options.allow_paths = true;
    let node = Node { runtime: WasiRuntime::new(options).await.unwrap(), dir };
    assert!(runs(&node.runtime, "a"));
    node.runtime.start(&node.spec("b", &path)).await.unwrap();
    let workers = || workers(node.dir.path());
    assert_eq!(workers().len(), 2, "{:?}", workers());
    node.runtime.stop("a", Duration::ZERO).await.unwrap();
    node.exit("a").await;
    assert!(runs(&node.runtime, "b"));
    node.runtime.remove("a").await.unwrap();
    let is_gone = || (!workers().contains(&old[0])).then_some(());
    support::until("the end of the old worker", PATIENCE, is_gone).await;
    assert!(runs(&node.runtime, "b"));
    node.runtime.shutdown(SOON).await;
}

#[tokio::test]
async fn a_small_memory_limit_is_met() {
    let node = Node::new().await;
    let path = node.module("big.wasm", r#"(module (memory 100) (func (export "_start")))"#);
    let spec = ContainerSpec { memory_limit_bytes: 1 << 20, ..node.spec("a", &path) };
    node.runtime.start(&spec).await.unwrap();
    let exit = node.exit("a").await;
    assert_eq!((exit.exit_code, exit.reason), (137, ExitReason::OutOfMemory));
}

#[tokio::test]
async fn what_cannot_run_is_refused_with_the_reason() {
    let node = Node::new().await;
    for (name, wat, expected) in [
        ("library.wasm", "(module)", "has no `_start` function"),
        (
            "browser.wasm",
            r#"(module (import "wbg" "x" (func)) (func (export "_start")))"#,
            "imports `wbg::x`, which is not part of WASI 0.1",
        ),
        (
            "service.wasm",
            r#"(component (instance $i) (export "wasi:http/incoming-handler@0.2.0" (instance $i)))"#,
            "does not have export `handle`",
        ),
        ("invalid.wasm", r#"(module (func (export "_start") i32.add drop))"#, "does not compile"),
        (
            "import.wasm",
            r#"(module (import "wasi_snapshot_preview1" "fd_teleport" (func)) (func (export "_start")))"#,
            "fd_teleport",
        ),
    ] {
        let error = node.runtime.start(&node.spec(name, &node.module(name, wat))).await.unwrap_err();
        assert!(
            matches!(&error, StartError::Create(why) if why.to_string().contains(expected)),
            "{name}: {error}"
        );
        assert_eq!(node.runtime.observe(name), Presence::Absent, "{name}");
    }
}

#[tokio::test]
async fn files_that_are_no_modules_are_bad_images() {
    let node = Node::new().await;
    for (path, expected) in [
        (node.dir.path().join("missing.wasm"), "o such file"),
        (node.file("t.wasm", b"just text"), "not a WebAssembly module"),
        (node.file("empty.wasm", b""), "is empty (0 bytes)"),
    ] {
        let image = path.display().to_string();
        assert_eq!(node.runtime.image(&image).await.unwrap(), None, "{image}");
        let error = node.runtime.pull(&image, &[]).await.unwrap_err();
        assert!(matches!(&error, ImageError::Pull(why) if why.to_string().contains(expected)), "{error}");
        let error = node.runtime.start(&node.spec("a", &path)).await.unwrap_err();
        assert!(matches!(&error, StartError::Create(why) if why.to_string().contains(expected)), "{error}");
    }
}

#[tokio::test]
async fn images_that_are_not_there_or_not_allowed() {
    let node = Node::with(|options| options.allow_paths = false).await;
    let path = node.module("hello.wasm", &exits(0)).display().to_string();
    let error = node.runtime.image(&path).await.unwrap_err();
    assert!(
        matches!(&error, ImageError::InvalidName(why) if why.to_string().contains("`kubewasm run`")),
        "{error}"
    );
    let error = node.runtime.pull("r.io/UPPER", &[]).await.unwrap_err();
    assert!(matches!(error, ImageError::InvalidName(_)), "{error}");
    assert_eq!(node.runtime.image("r.io/web:v1").await.unwrap(), None);
    let error = node.runtime.start(&node.spec("a", Path::new("r.io/web:v1"))).await.unwrap_err();
    assert!(
        matches!(&error, StartError::Create(why) if why.to_string().contains("is not on this node")),
        "{error}"
    );
}

/// Calls itself a hundred thousand times.
const RECURSES: &str = r#"(module
  (func $f (param i32) (if (local.get 0) (then (call $f (i32.sub (local.get 0) (i32.const 1))))))
  (func (export "_start") (call $f (i32.const 100000))))"#;

/// Exits with the file type of its standard output: 2 is a terminal's.
const ASKS: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $stat (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $stat (i32.const 1) (i32.const 0)))
    (call $exit (i32.load8_u (i32.const 0)))))"#;

#[tokio::test]
async fn a_pod_asks_for_more_stack() {
    let node = Node::new().await;
    let path = node.module("recurses.wasm", RECURSES);
    node.runtime.start(&node.spec("small", &path)).await.unwrap();
    let exit = node.exit("small").await;
    assert_eq!((exit.exit_code, exit.reason), (134, ExitReason::Trapped));
    let advice = "stack of 512 KiB; ask for more with the pod's annotation stack.kubewasm.dev/<container>";
    assert!(exit.message.contains(advice), "{}", exit.message);
    let annotations =
        |value: &str| BTreeMap::from([("stack.kubewasm.dev/main".to_owned(), value.to_owned())]);
    let spec = ContainerSpec { annotations: annotations("16Mi"), ..node.spec("large", &path) };
    node.runtime.start(&spec).await.unwrap();
    assert_eq!(node.exit("large").await.exit_code, 0);
    for value in ["65Mi", "much", ""] {
        let spec = ContainerSpec { annotations: annotations(value), ..node.spec("wrong", &path) };
        let error = node.runtime.start(&spec).await.unwrap_err();
        assert!(matches!(error, StartError::Config(_)), "{error}");
        assert!(error.to_string().contains("stack.kubewasm.dev/main is"), "{error}");
    }
}

#[tokio::test]
async fn a_pod_says_that_its_output_is_no_terminal() {
    let node = Node::new().await;
    let path = node.module("asks.wasm", ASKS);
    for (id, value, expected) in [("a", None, 2), ("b", Some("true"), 2), ("c", Some("false"), 0)] {
        let annotations =
            value.map(|value: &str| ("terminal.kubewasm.dev/main".to_owned(), value.to_owned()));
        let spec = ContainerSpec { annotations: annotations.into_iter().collect(), ..node.spec(id, &path) };
        node.runtime.start(&spec).await.unwrap();
        assert_eq!(node.exit(id).await.exit_code, expected, "{value:?}");
    }
    let annotations = BTreeMap::from([("terminal.kubewasm.dev/main".to_owned(), "no".to_owned())]);
    let spec = ContainerSpec { annotations, ..node.spec("wrong", &path) };
    let error = node.runtime.start(&spec).await.unwrap_err().to_string();
    assert!(error.contains("terminal.kubewasm.dev/main is \"no\""), "{error}");
}
