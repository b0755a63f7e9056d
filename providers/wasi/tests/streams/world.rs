//! A node, its guests, and callers that read and write.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use kubewasm_kubelet::runtime::{
    CallerStreams, ContainerSpec, ContainerState, Exit, Presence, Runtime as _, TerminalSize,
};
use kubewasm_modules::{Store, StoreOptions};
use kubewasm_wasi::provider::{WasiOptions, WasiRuntime};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::watch,
};

use super::support::{self, until};

/// What is awaited must come; how long it takes on a busy machine is not what these tests are about.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes between a caller and the provider.
const BUFFER: usize = 64 << 10;

pub(crate) struct Node {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) runtime: WasiRuntime,
}

impl Node {
    pub(crate) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut WasiOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(dir.path());
        options.with_parent = true;
        change(&mut options);
        Self { runtime: WasiRuntime::new(options).await.unwrap(), dir }
    }

    /// Takes a guest in, as a module of WASI 0.1 and as a component of 0.2.
    pub(crate) async fn both(&self, wat: &str) -> [String; 2] {
        let module = wat::parse_str(wat).unwrap();
        let component = kubewasm_tests::guests::rust::as_command_component(&module).unwrap();
        [self.have("core.wasm", &module).await, self.have("component.wasm", &component).await]
    }

    pub(crate) async fn have(&self, name: &str, bytes: &[u8]) -> String {
        let path: PathBuf = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let image = path.display().to_string();
        self.runtime.pull(&image, &[]).await.unwrap();
        image
    }

    pub(crate) fn spec(&self, id: &str, image: &str) -> ContainerSpec {
        spec(self.dir.path(), id, image)
    }

    pub(crate) async fn start(&self, spec: &ContainerSpec) {
        self.runtime.start(spec).await.unwrap();
    }

    pub(crate) async fn exit(&self, id: &str) -> Exit {
        let ended = || match self.runtime.observe(id) {
            Presence::Known(ContainerState::Exited(exit)) => Some(exit),
            _ => None,
        };
        until(&format!("the end of container {id}"), PATIENCE, ended).await
    }

    pub(crate) fn runs(&self, id: &str) -> bool {
        matches!(self.runtime.observe(id), Presence::Known(ContainerState::Running { .. }))
    }

    /// What a container has logged, without times.
    pub(crate) fn log(&self, id: &str) -> String {
        let log = std::fs::read_to_string(self.dir.path().join(format!("{id}.log"))).unwrap_or_default();
        log.lines().map(|line| line.split_once(' ').unwrap().1.to_owned() + "\n").collect()
    }

    pub(crate) async fn memory(&self, id: &str) -> u64 {
        self.runtime.stats().await.into_iter().find(|stats| stats.id == id).unwrap().memory_bytes
    }
}

pub(crate) fn options(dir: &Path) -> WasiOptions {
    // The store's client for registries wants one, used or not.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let store = Store::open(&dir.join("modules"), StoreOptions::default()).unwrap();
    let mut options = WasiOptions::new(store, dir.join("workers"), support::program());
    options.allow_paths = true;
    options
}

pub(crate) fn spec(dir: &Path, id: &str, image: &str) -> ContainerSpec {
    ContainerSpec {
        id: id.into(),
        pod_uid: format!("pod-{id}"),
        pod_namespace: "default".into(),
        pod_name: id.into(),
        name: "main".into(),
        runtime_handler: String::new(),
        image: image.into(),
        argv: vec!["main".into()],
        env: Vec::new(),
        annotations: BTreeMap::new(),
        labels: BTreeMap::new(),
        service_account: String::new(),
        pod_containers: Vec::new(),
        objects: Default::default(),
        working_dir: None,
        scratch: dir.join("scratch").join(id),
        read_only_root: false,
        mounts: Vec::new(),
        log_path: dir.join(format!("{id}.log")),
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

/// A caller's own ends of its streams.
pub(crate) struct Caller {
    pub(crate) stdin: DuplexStream,
    pub(crate) stdout: DuplexStream,
    pub(crate) stderr: DuplexStream,
}

/// A caller with all three streams.
pub(crate) fn caller() -> (Caller, CallerStreams) {
    let [(stdin, input), (stdout, output), (stderr, errors)] = [(); 3].map(|()| tokio::io::duplex(BUFFER));
    let streams = CallerStreams {
        stdin: Some(Box::new(input)),
        stdout: Some(Box::new(output)),
        stderr: Some(Box::new(errors)),
        tty: false,
        earlier: true,
        size: watch::channel(None).1,
    };
    (Caller { stdin, stdout, stderr }, streams)
}

/// A caller at a terminal of this size.
pub(crate) fn at_terminal(cols: u16, rows: u16) -> (Caller, CallerStreams) {
    let (caller, streams) = caller();
    let size = watch::channel(Some(TerminalSize { cols, rows })).1;
    (caller, CallerStreams { stderr: None, tty: true, size, ..streams })
}

impl Caller {
    pub(crate) async fn send(&mut self, text: &str) {
        self.stdin.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads exactly this from stdout.
    pub(crate) async fn expect(&mut self, text: &str) {
        let mut read = vec![0; text.len()];
        let come = tokio::time::timeout(PATIENCE, self.stdout.read_exact(&mut read)).await;
        come.unwrap_or_else(|_| panic!("waited in vain for {text:?}")).unwrap();
        assert_eq!(String::from_utf8_lossy(&read), text);
    }

    /// Reads all that is left of both outputs.
    pub(crate) async fn rest(&mut self) -> (String, String) {
        let (mut out, mut err) = (String::new(), String::new());
        let both = async {
            tokio::try_join!(self.stdout.read_to_string(&mut out), self.stderr.read_to_string(&mut err))
        };
        tokio::time::timeout(PATIENCE, both).await.unwrap().unwrap();
        (out, err)
    }
}

/// Writes what it reads, and at the end of it exits with 3.
pub(crate) const CAT: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 3)
  (func (export "_start")
    (local $at i32)
    (loop $next
      (i32.store (i32.const 0) (i32.const 65536))
      (i32.store (i32.const 4) (i32.const 65536))
      (if (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
      (if (i32.eqz (i32.load (i32.const 8))) (then (call $exit (i32.const 3))))
      (local.set $at (i32.const 0))
      (loop $more
        (i32.store (i32.const 0) (i32.add (i32.const 65536) (local.get $at)))
        (i32.store (i32.const 4) (i32.sub (i32.load (i32.const 8)) (local.get $at)))
        (if (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)) (then unreachable))
        (local.set $at (i32.add (local.get $at) (i32.load (i32.const 12))))
        (br_if $more (i32.lt_u (local.get $at) (i32.load (i32.const 8)))))
      (br $next))))"#;

/// Prints lines of 4 KiB for ever.
pub(crate) const YES: &str = r#"(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (memory.fill (i32.const 512) (i32.const 121) (i32.const 4095))
    (i32.store8 (i32.const 4607) (i32.const 10))
    (i32.store (i32.const 0) (i32.const 512))
    (i32.store (i32.const 4) (i32.const 4096))
    (loop $again
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br $again))))"#;

/// What [`CAT`] exits with: a component of WASI 0.2 says only that it has failed.
pub(crate) fn failed(id: &str) -> i32 {
    if id == "core" { 3 } else { 1 }
}
