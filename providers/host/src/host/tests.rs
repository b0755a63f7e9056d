//! Guests in text, run in this process.

mod features;
mod limits;
mod lookups;
mod p3;
mod plugins;
mod turns;

use std::{io::Write, sync::Mutex, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::time::timeout;

use super::*;
use crate::{
    Capture, CpuShare, DeniedNetworks, LARGEST_WRITE, Network, Output, Preopen, Stream,
    exit::{Exit, ExitReason},
    inspect,
};

/// What is awaited must come; how long it takes on a busy machine is not what these tests are about.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of output that are kept of a guest.
const CAPTURE: usize = 1 << 20;

/// A guest, and what it is given.
#[derive(Clone)]
struct GuestSpec {
    module: PathBuf,
    kind: ModuleKind,
    argv: Vec<String>,
    env: Vec<(String, String)>,
    preopens: Vec<Preopen>,
    memory_limit_bytes: u64,
    cpu: CpuShare,
    stack: Stack,
    terminal: bool,
}

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
        let mut bench = Self::with(|_| {});
        let host = Arc::get_mut(&mut bench.host).unwrap();
        host.scheduler = Arc::new(cpu::Scheduler::new(turns, host.scheduler.crowd()));
        bench
    }

    /// With other options than the defaults.
    fn with(change: impl FnOnce(&mut HostOptions)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut options = HostOptions::new(dir.path().join("empty"));
        change(&mut options);
        Self { host: Arc::new(Host::new(options).unwrap()), dir }
    }

    /// Compiles a guest and describes an instance of it.
    fn guest(&self, wat: &str) -> GuestSpec {
        self.program(&wat::parse_str(wat).unwrap())
    }

    /// The same with a module.
    fn program(&self, bytes: &[u8]) -> GuestSpec {
        let kind = inspect::inspect(bytes).unwrap();
        let engine = self.host.engine(kind.generation()).unwrap();
        let code = engine::precompile(&engine, kind, bytes);
        // A name of its own: a precompiled file must never change while it is mapped.
        let (mut file, module) = tempfile::NamedTempFile::new_in(&self.dir).unwrap().keep().unwrap();
        file.write_all(&code.unwrap()).unwrap();
        GuestSpec {
            module,
            kind,
            argv: vec!["guest".into()],
            env: Vec::new(),
            preopens: Vec::new(),
            memory_limit_bytes: 0,
            cpu: CpuShare::default(),
            stack: Stack::DEFAULT,
            terminal: true,
        }
    }

    fn account(&self, spec: &GuestSpec) -> Arc<Account> {
        self.host.account(GuestLimits { memory_bytes: spec.memory_limit_bytes, cpu: spec.cpu })
    }

    async fn instance(&self, spec: &GuestSpec, output: &Arc<dyn Output>) -> Guest {
        let loaded = self.host.load(&spec.module, spec.kind, spec.stack).await.unwrap();
        let account = self.account(spec);
        self.host.prepare(loaded, setup(spec, output, &account)).unwrap()
    }

    async fn run(&self, spec: &GuestSpec) -> (Exit, String) {
        let capture = Capture::new(CAPTURE);
        let output: Arc<dyn Output> = Arc::new(capture.clone());
        let instance = self.instance(spec, &output).await;
        let exit = timeout(PATIENCE, instance.run()).await.expect("the guest ends");
        (exit, String::from_utf8(capture.take()).unwrap())
    }

    async fn run_wat(&self, wat: &str) -> (Exit, String) {
        self.run(&self.guest(wat)).await
    }
}

/// Keeps every write.
#[derive(Debug, Default)]
struct Recorder(Mutex<Vec<(Stream, Bytes)>>);

impl Output for Recorder {
    fn held(&self) -> u64 {
        0
    }

    fn room(&self) -> usize {
        LARGEST_WRITE
    }

    fn push(&self, stream: Stream, bytes: Bytes) -> bool {
        self.0.lock().unwrap().push((stream, bytes));
        true
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Keeps so many bytes of output.
fn capture(limit: usize) -> Arc<dyn Output> {
    Arc::new(Capture::new(limit))
}

/// A root directory that may be read.
fn root(dir: &Path) -> Vec<Preopen> {
    vec![Preopen { host: dir.to_owned(), guest: "/".into(), writable: false }]
}

fn setup<'a>(spec: &'a GuestSpec, output: &'a Arc<dyn Output>, account: &'a Arc<Account>) -> Setup<'a> {
    Setup {
        argv: &spec.argv,
        env: &spec.env,
        preopens: &spec.preopens,
        egress: None,
        terminal: spec.terminal,
        ..Setup::isolated(output, account)
    }
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

/// A mangled C++ name that stands for `pair<pair<…>, pair<…>>`, twice as long with each level.
fn doubling_name(levels: usize) -> String {
    let mut name = String::from("_Z1fSt4pairIiiE");
    let mut last = "S0_".to_owned();
    for level in 1..levels {
        name.push_str(&format!("S_I{last}{last}E"));
        last = format!("S{}_", radix_36(level + 1));
    }
    name
}

fn radix_36(number: usize) -> String {
    const DIGITS: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let digit = char::from(DIGITS[number % 36]);
    if number < 36 { digit.to_string() } else { radix_36(number / 36) + &digit.to_string() }
}

#[tokio::test]
async fn a_name_in_a_backtrace_is_not_made_longer_than_it_is() {
    let bench = Bench::new();
    let name = doubling_name(50);
    let (exit, _) = bench
        .run_wat(&format!(r#"(module (func ${name} unreachable) (func (export "_start") (call ${name})))"#))
        .await;
    assert_eq!(exit.reason, ExitReason::Trapped);
    assert!(exit.message.contains("<unknown>!_Z1fSt4pairIiiES_I"), "{}", exit.message);
}

#[tokio::test]
async fn line_tables_are_not_part_of_machine_code() {
    let bench = Bench::new();
    let guest = |lines: &str| {
        bench.guest(&format!(r#"(module (func (export "_start")) (@custom ".debug_line" "{lines}"))"#))
    };
    let size = |spec: &GuestSpec| std::fs::metadata(&spec.module).unwrap().len();
    assert_eq!(size(&guest("")), size(&guest(&"\\01".repeat(1 << 20))));
}

#[tokio::test]
async fn a_deep_backtrace_is_bounded() {
    let bench = Bench::new();
    let (exit, _) = bench.run_wat(r#"(module (func $f (export "_start") (call $f)))"#).await;
    assert_eq!(exit.reason, ExitReason::Trapped);
    let text = "wasm trap: call stack exhausted: the guest has a stack of 512 KiB\n";
    assert!(exit.message.starts_with(text), "{}", exit.message);
    assert!(exit.message.len() <= crate::exit::MESSAGE_LIMIT);
}

/// A guest that calls itself so many times.
fn recurses(depth: u32) -> String {
    format!(
        r#"(module
          (func $f (param i32) (if (local.get 0) (then (call $f (i32.sub (local.get 0) (i32.const 1))))))
          (func (export "_start") (call $f (i32.const {depth}))))"#
    )
}

#[tokio::test]
async fn a_guest_has_the_stack_that_it_asks_for() {
    let bench = Bench::new();
    let spec = bench.guest(&recurses(100_000));
    assert_eq!(bench.run(&spec).await.0.reason, ExitReason::Trapped);
    let large = GuestSpec { stack: Stack::of_bytes(16 << 20).unwrap(), ..spec };
    let (exit, _) = bench.run(&large).await;
    assert_eq!(exit.code, 0, "{}", exit.message);
}

#[tokio::test]
async fn sockets_are_asked_for_by_descriptors_that_exist() {
    let bench = Bench::new();
    // Exits with the error of shutting down a descriptor.
    for (descriptor, errno) in [(3, 57), (77, 8), (-1, 8)] {
        let wat = format!(
            r#"(module
              (import "wasi_snapshot_preview1" "sock_shutdown" (func $shutdown (param i32 i32) (result i32)))
              (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
              (memory (export "memory") 1)
              (func (export "_start")
                (call $exit (call $shutdown (i32.const {descriptor}) (i32.const 1)))))"#
        );
        let (exit, _) = bench.run_wat(&wat).await;
        assert_eq!(exit.code, errno, "{descriptor}: ENOTSOCK is 57, EBADF is 8; {}", exit.message);
    }
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
    let dir = bench.dir.path().join("root");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("file"), "x").unwrap();
    let (exit, _) = bench.run(&GuestSpec { preopens: root(&dir), ..spec.clone() }).await;
    assert_eq!(exit.code, 0);
    assert!(!dir.join("fil").exists());
    let (exit, _) = bench.run(&spec).await;
    assert_eq!(exit.code, 4, "without a root of its own the guest sees an empty directory");
}

#[tokio::test]
async fn a_root_that_is_gone_is_an_error() {
    let bench = Bench::new();
    let spec = GuestSpec { preopens: root(Path::new("/nonexistent/root")), ..bench.guest(SPINS) };
    let loaded = bench.host.load(&spec.module, spec.kind, spec.stack).await.unwrap();
    let account = bench.account(&spec);
    let output = capture(0);
    let error = bench.host.prepare(loaded, setup(&spec, &output, &account)).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/root"), "{error}");
}

#[tokio::test]
async fn output_streams_are_terminals_if_so_told() {
    let bench = Bench::new();
    // Exits with 10 * filetype of stdout + filetype of stderr; a character device is 2, and 0 is unknown.
    let spec = bench.guest(
            r#"(module
              (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $stat (param i32 i32) (result i32)))
              (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
              (memory (export "memory") 1)
              (func (export "_start")
                (drop (call $stat (i32.const 1) (i32.const 0)))
                (drop (call $stat (i32.const 2) (i32.const 32)))
                (call $exit (i32.add (i32.mul (i32.const 10) (i32.load8_u (i32.const 0))) (i32.load8_u (i32.const 32))))))"#,
    );
    for (terminal, expected) in [(true, 22), (false, 0)] {
        let (exit, _) = bench.run(&GuestSpec { terminal, ..spec.clone() }).await;
        assert_eq!(exit.code, expected, "{terminal}");
    }
}

#[tokio::test]
async fn output_of_both_streams_arrives_in_order() {
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
    let output = Arc::new(Recorder::default());
    let taken = Arc::clone(&output);
    let output: Arc<dyn Output> = output;
    let exit = bench.instance(&spec, &output).await.run().await;
    assert_eq!(exit.code, 0);
    let taken = taken.0.lock().unwrap();
    let (tail, lines) = taken.split_last().unwrap();
    assert_eq!(*tail, (Stream::Stdout, "line\ntail".into()));
    assert_eq!(lines.len(), 40);
    for pair in lines.chunks_exact(2) {
        assert_eq!(pair, [(Stream::Stdout, "line\n".into()), (Stream::Stderr, "line\n".into())]);
    }
}

#[tokio::test]
async fn a_spinning_guest_ends_when_it_is_dropped_and_starves_nobody() {
    let bench = Bench::new();
    let spec = bench.guest(SPINS);
    let output = capture(0);
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
    let guest = bench.instance(&spec, &capture(0)).await.run();
    assert!(timeout(Duration::from_millis(200), guest).await.is_err());
}

#[tokio::test]
async fn instances_of_one_module_share_its_code_while_there_are_any() {
    let bench = Bench::new();
    let spec = bench.guest(SPINS);
    let first = bench.host.load(&spec.module, spec.kind, spec.stack).await.unwrap();
    let second = bench.host.load(&spec.module, spec.kind, spec.stack).await.unwrap();
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
    let error = bench.host.load(&spec.module, spec.kind, spec.stack).await.unwrap_err().to_string();
    assert!(error.contains("fd_teleport"), "{error}");
    let spec = bench.guest(r#"(module (func (export "_start") (param i32)))"#);
    let error = bench.host.load(&spec.module, spec.kind, spec.stack).await.unwrap_err().to_string();
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
    let guest = bench.instance(&spec, &capture(0)).await.run();
    assert!(timeout(Duration::from_millis(200), guest).await.is_err());
}
