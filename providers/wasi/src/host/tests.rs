//! Guests in text, run in this process.

mod limits;

use std::{io::Write, time::Duration};

use tokio::time::timeout;

use super::*;
use crate::{
    exit::ExitReason,
    inspect,
    logs::{Log, LogOptions},
    spec::{Network, RootSpec},
};

/// What is awaited must come; how long it takes on a busy machine is not what these tests are about.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of output that are kept of a guest.
const CAPTURE: usize = 1 << 20;

struct Bench {
    dir: tempfile::TempDir,
    host: Arc<Host>,
}

impl Bench {
    fn new() -> Self {
        Self::with_turns(processors())
    }

    /// Runs so many guests at a time.
    fn with_turns(turns: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options =
            HostOptions { default_memory_limit: DEFAULT_MEMORY_LIMIT, empty_root: dir.path().join("empty") };
        let mut host = Host::new(options).unwrap();
        host.scheduler = Arc::new(cpu::Scheduler::new(turns));
        Self { host: Arc::new(host), dir }
    }

    /// Compiles a guest and describes an instance of it.
    fn guest(&self, wat: &str) -> InstanceSpec {
        let bytes = wat::parse_str(wat).unwrap();
        let kind = inspect::inspect(&bytes).unwrap();
        let code = match kind {
            Kind::CoreCommand => self.host.engine().precompile_module(&bytes),
            Kind::CliComponent => self.host.engine().precompile_component(&bytes),
        };
        // A name of its own: a precompiled file must never change while it is mapped.
        let (mut file, module) = tempfile::NamedTempFile::new_in(&self.dir).unwrap().keep().unwrap();
        file.write_all(&code.unwrap()).unwrap();
        InstanceSpec {
            id: "id".into(),
            pod_uid: "uid".into(),
            name: "ns/pod/c".into(),
            module,
            kind,
            argv: vec!["guest".into()],
            env: Vec::new(),
            working_dir: None,
            root: RootSpec::default(),
            log_path: self.dir.path().join("0.log"),
            network: Network::Outgoing,
            memory_limit_bytes: 0,
            cpu: CpuShare::default(),
            stop_notice: false,
            label: String::new(),
        }
    }

    async fn instance(&self, spec: &InstanceSpec, output: &Output) -> Instance {
        let loaded = self.host.load(&spec.module, spec.kind).await.unwrap();
        let account = self.host.account(spec);
        self.host.prepare(loaded, setup(spec, &preopens(spec), output, &account)).unwrap()
    }

    async fn run(&self, spec: &InstanceSpec) -> (Exit, String) {
        let capture = Capture::new(CAPTURE);
        let instance = self.instance(spec, &Output::Capture(capture.clone())).await;
        let exit = timeout(PATIENCE, instance.run()).await.expect("the guest ends");
        (exit, String::from_utf8(capture.take()).unwrap())
    }

    async fn run_wat(&self, wat: &str) -> (Exit, String) {
        self.run(&self.guest(wat)).await
    }
}

/// The files of its image, or none.
fn preopens(spec: &InstanceSpec) -> Vec<Preopen> {
    let preopen =
        |image: &std::path::PathBuf| Preopen { host: image.clone(), guest: "/".into(), writable: false };
    spec.root.image.iter().map(preopen).collect()
}

fn setup<'a>(
    spec: &'a InstanceSpec,
    preopens: &'a [Preopen],
    output: &'a Output,
    account: &'a Arc<Account>,
) -> Setup<'a> {
    Setup { spec, preopens, has_volumes: false, argv: &spec.argv, output, account, notice: None }
}

fn exits(code: u32) -> String {
    format!(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
             (func (export "_start") (call $exit (i32.const {code})) unreachable) (memory (export "memory") 1))"#
    )
}

/// Prints the strings that a call of this type (`args_get` or `environ_get`) hands out, one a line.
fn prints(what: &str) -> String {
    format!(
        r#"(module
          (import "wasi_snapshot_preview1" "{what}_sizes_get" (func $sizes (param i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "{what}_get" (func $get (param i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (func (export "_start") (local $at i32)
            (drop (call $sizes (i32.const 0) (i32.const 4)))
            (drop (call $get (i32.const 1024) (i32.const 4096)))
            ;; NULs become newlines
            (loop $next
              (if (i32.eqz (i32.load8_u (i32.add (i32.const 4096) (local.get $at))))
                (then (i32.store8 (i32.add (i32.const 4096) (local.get $at)) (i32.const 10))))
              (local.set $at (i32.add (local.get $at) (i32.const 1)))
              (br_if $next (i32.lt_u (local.get $at) (i32.load (i32.const 4)))))
            (i32.store (i32.const 16) (i32.const 4096))
            (i32.store (i32.const 20) (local.get $at))
            (drop (call $write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24)))))"#
    )
}

const SPINS: &str = r#"(module (func (export "_start") (loop $for_ever (br $for_ever))))"#;

/// Sleeps for an hour.
const SLEEPS: &str = r#"(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 16) (i32.const 1))            ;; monotonic clock
    (i64.store (i32.const 24) (i64.const 3600000000000)) ;; nanoseconds
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))"#;

#[tokio::test]
async fn exit_codes_come_through() {
    let bench = Bench::new();
    for (code, expected) in
        [(0, 0), (1, 1), (42, 42), (125, 125), (126, 126), (127, 127), (255, 255), (256 + 3, 3)]
    {
        let (exit, _) = bench.run_wat(&exits(code)).await;
        assert_eq!((exit.code, exit.reason), (expected, ExitReason::Exited), "proc_exit({code})");
        assert_eq!(exit.message, "");
    }
    let (exit, _) = bench.run_wat(r#"(module (func (export "_start")))"#).await;
    assert_eq!(exit.code, 0, "a guest that returns");
}

#[tokio::test]
async fn a_trap_is_134_with_a_backtrace() {
    let bench = Bench::new();
    let (exit, _) = bench
        .run_wat(r#"(module $crasher (func $inner unreachable) (func (export "_start") (call $inner)))"#)
        .await;
    assert_eq!((exit.code, exit.reason), (134, ExitReason::Trapped));
    assert!(
        exit.message.starts_with("wasm trap: wasm `unreachable` instruction executed\n"),
        "{}",
        exit.message
    );
    assert!(exit.message.contains("crasher!inner"), "{}", exit.message);
}

#[tokio::test]
async fn a_deep_backtrace_is_bounded() {
    let bench = Bench::new();
    let (exit, _) = bench.run_wat(r#"(module (func $f (export "_start") (call $f)))"#).await;
    assert_eq!(exit.reason, ExitReason::Trapped);
    assert!(exit.message.starts_with("wasm trap: call stack exhausted"), "{}", exit.message);
    assert!(exit.message.len() <= crate::exit::MESSAGE_LIMIT);
}

#[tokio::test]
async fn argv_is_exactly_what_was_given() {
    let bench = Bench::new();
    let mut spec = bench.guest(&prints("args"));
    spec.argv = vec!["/bin/tool".into(), "--flag".into(), String::new(), "ü b".into()];
    let (exit, output) = bench.run(&spec).await;
    assert_eq!(exit.code, 0);
    assert_eq!(output, "/bin/tool\n--flag\n\nü b\n");
}

#[tokio::test]
async fn the_environment_is_exactly_what_was_given() {
    let bench = Bench::new();
    let mut spec = bench.guest(&prints("environ"));
    spec.env = vec![("B".into(), "2".into()), ("A".into(), "x=y".into())];
    assert_eq!(bench.run(&spec).await.1, "B=2\nA=x=y\n");
}

#[tokio::test]
async fn the_only_preopen_is_the_root_and_it_is_read_only() {
    let bench = Bench::new();
    // Exits with: 10 * errno of fd_prestat_get(4) + errno of creating a directory in fd 3.
    let spec = bench.guest(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "path_filestat_get" (func $stat (param i32 i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") 1)
          (data (i32.const 0) "file")
          (func (export "_start")
            (if (call $prestat (i32.const 3) (i32.const 64)) (then (call $exit (i32.const 1))))
            (if (i32.ne (i32.load (i32.const 68)) (i32.const 1)) (then (call $exit (i32.const 2))))
            (if (i32.eqz (call $prestat (i32.const 4) (i32.const 64))) (then (call $exit (i32.const 3))))
            (if (call $stat (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 128))
              (then (call $exit (i32.const 4))))
            (if (i32.eqz (call $mkdir (i32.const 3) (i32.const 0) (i32.const 3))) (then (call $exit (i32.const 5))))))"#,
    );
    let root = bench.dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("file"), "x").unwrap();
    let image = RootSpec { image: Some(root.clone()), ..RootSpec::default() };
    let (exit, _) = bench.run(&InstanceSpec { root: image, ..spec.clone() }).await;
    assert_eq!(exit.code, 0);
    assert!(!root.join("fil").exists());
    let (exit, _) = bench.run(&spec).await;
    assert_eq!(exit.code, 4, "without a root of its own the guest sees an empty directory");
}

#[tokio::test]
async fn a_root_that_is_gone_is_an_error() {
    let bench = Bench::new();
    let image = RootSpec { image: Some("/nonexistent/root".into()), ..RootSpec::default() };
    let spec = InstanceSpec { root: image, ..bench.guest(SPINS) };
    let loaded = bench.host.load(&spec.module, spec.kind).await.unwrap();
    let account = bench.host.account(&spec);
    let output = Output::Capture(Capture::new(0));
    let error = bench.host.prepare(loaded, setup(&spec, &preopens(&spec), &output, &account)).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/root"), "{error}");
}

#[tokio::test]
async fn output_streams_are_terminals() {
    let bench = Bench::new();
    // Exits with 10 * filetype of stdout + filetype of stderr; a character device is 2.
    let (exit, _) = bench
        .run_wat(
            r#"(module
              (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $stat (param i32 i32) (result i32)))
              (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
              (memory (export "memory") 1)
              (func (export "_start")
                (drop (call $stat (i32.const 1) (i32.const 0)))
                (drop (call $stat (i32.const 2) (i32.const 32)))
                (call $exit (i32.add (i32.mul (i32.const 10) (i32.load8_u (i32.const 0))) (i32.load8_u (i32.const 32))))))"#,
        )
        .await;
    assert_eq!(exit.code, 22);
}

#[tokio::test]
async fn output_of_both_streams_is_in_the_log_in_order() {
    let bench = Bench::new();
    let spec = bench.guest(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          (memory (export "memory") 1)
          (data (i32.const 64) "line\0atail")
          (func $say (param $fd i32) (param $length i32)
            (i32.store (i32.const 0) (i32.const 64))
            (i32.store (i32.const 4) (local.get $length))
            (drop (call $write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
          (func (export "_start") (local $n i32)
            (loop $again
              (call $say (i32.const 1) (i32.const 5))
              (call $say (i32.const 2) (i32.const 5))
              (local.set $n (i32.add (local.get $n) (i32.const 1)))
              (br_if $again (i32.lt_u (local.get $n) (i32.const 20))))
            (call $say (i32.const 1) (i32.const 9))))"#,
    );
    let log = Log::open(
        &spec.log_path,
        LogOptions::default(),
        &tokio::runtime::Handle::current(),
        Box::new(|_| {}),
    )
    .unwrap();
    let exit = bench.instance(&spec, &Output::Log(log.clone())).await.run().await;
    assert_eq!(exit.code, 0);
    let read = || {
        let text = std::fs::read_to_string(&spec.log_path).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    let lines = read();
    assert_eq!(lines.len(), 41, "a write that has returned is in the file");
    for pair in lines.chunks_exact(2) {
        assert_eq!(pair, ["stdout F line", "stderr F line"]);
    }
    log.finish("").await;
    assert_eq!(read().last().unwrap(), "stdout P tail");
}

#[tokio::test]
async fn a_spinning_guest_ends_when_it_is_dropped_and_starves_nobody() {
    let bench = Bench::new();
    let spec = bench.guest(SPINS);
    let output = Output::Capture(Capture::new(0));
    // On this test's only thread: if the guest did not yield, nothing below would ever run.
    let guest = tokio::spawn(bench.instance(&spec, &output).await.run());
    let other = bench.guest(&exits(7));
    assert_eq!(bench.run(&other).await.0.code, 7);
    assert!(!guest.is_finished());
    guest.abort();
    assert!(timeout(PATIENCE, guest).await.unwrap().unwrap_err().is_cancelled());
}

#[tokio::test]
async fn a_sleeping_guest_ends_when_it_is_dropped() {
    let bench = Bench::new();
    let spec = bench.guest(SLEEPS);
    let guest = bench.instance(&spec, &Output::Capture(Capture::new(0))).await.run();
    assert!(timeout(Duration::from_millis(200), guest).await.is_err());
}

#[tokio::test]
async fn instances_of_one_module_share_its_code_while_there_are_any() {
    let bench = Bench::new();
    let spec = bench.guest(SPINS);
    let first = bench.host.load(&spec.module, spec.kind).await.unwrap();
    let second = bench.host.load(&spec.module, spec.kind).await.unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    let weak = Arc::downgrade(&first);
    drop((first, second));
    assert!(weak.upgrade().is_none(), "a module that nobody runs is not kept");
}

#[tokio::test]
async fn imports_that_do_not_exist_are_named() {
    let bench = Bench::new();
    let spec = bench
        .guest(r#"(module (import "wasi_snapshot_preview1" "fd_teleport" (func)) (func (export "_start")))"#);
    let error = bench.host.load(&spec.module, spec.kind).await.unwrap_err().to_string();
    assert!(error.contains("fd_teleport"), "{error}");
    let spec = bench.guest(r#"(module (func (export "_start") (param i32)))"#);
    let error = bench.host.load(&spec.module, spec.kind).await.unwrap_err().to_string();
    assert!(error.contains("`_start` is not a function without"), "{error}");
}

/// A component whose `run` does as it is told.
fn component(imports: &str, core_imports: &str, with: &str, run: &str) -> String {
    format!(
        r#"(component
          {imports}
          (core module $m {core_imports} (func (export "run") (result i32) {run}))
          (core instance $i (instantiate $m {with}))
          (func $run (result (result)) (canon lift (core func $i "run")))
          (instance $cli (export "run" (func $run)))
          (export "wasi:cli/run@0.2.0" (instance $cli)))"#
    )
}

#[tokio::test]
async fn components_run_and_their_result_is_the_exit_code() {
    let bench = Bench::new();
    for (run, code, reason) in [
        ("(i32.const 0)", 0, ExitReason::Exited),
        ("(i32.const 1)", 1, ExitReason::Exited),
        ("unreachable", 134, ExitReason::Trapped),
    ] {
        let (exit, _) = bench.run_wat(&component("", "", "", run)).await;
        assert_eq!((exit.code, exit.reason), (code, reason), "{run}");
    }
}

#[tokio::test]
async fn components_exit_with_the_code_they_give() {
    let bench = Bench::new();
    let wat = component(
        r#"(import "wasi:cli/exit@0.2.12" (instance $exit (export "exit-with-code" (func (param "status-code" u8)))))
           (core func $exit_core (canon lower (func $exit "exit-with-code")))"#,
        r#"(import "exit" "code" (func $exit (param i32)))"#,
        r#"(with "exit" (instance (export "code" (func $exit_core))))"#,
        "(call $exit (i32.const 127)) (i32.const 0)",
    );
    let (exit, _) = bench.run_wat(&wat).await;
    assert_eq!((exit.code, exit.reason), (127, ExitReason::Exited));
}

#[tokio::test]
async fn a_spinning_component_ends_when_it_is_dropped() {
    let bench = Bench::new();
    let spec = bench.guest(&component("", "", "", "(loop $for_ever (br $for_ever)) unreachable"));
    let guest = bench.instance(&spec, &Output::Capture(Capture::new(0))).await.run();
    assert!(timeout(Duration::from_millis(200), guest).await.is_err());
}
