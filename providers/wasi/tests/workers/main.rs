//! Agents and workers in processes of their own: everything that a single process cannot show.
//!
//! Workers and compilers are a small program, see [`support`].

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod confinement;
mod groups;
mod memory;
mod silence;
mod starts;
#[path = "../support/mod.rs"]
mod support;
mod versions;

use std::time::{Duration, Instant};

use kubewasm_host::{engine, exit::ExitReason, inspect, program::Program};
use kubewasm_wasi::{
    instance::Instance,
    spec::{InstanceSpec, RootSpec},
    supervisor::{Supervisor, SupervisorError, SupervisorOptions},
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use support::program;

/// What is awaited must come; how long it takes on a busy machine is not what these tests are about.
const PATIENCE: Duration = Duration::from_secs(60);
const NOW: Duration = Duration::ZERO;
const SOON: Duration = Duration::from_secs(30);

struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn options(&self) -> SupervisorOptions {
        SupervisorOptions::new(self.dir.path().join("workers"), program())
    }

    async fn agent(&self) -> Supervisor {
        Supervisor::open(self.options()).await.unwrap()
    }

    fn spec(&self, id: &str, wat: &str) -> InstanceSpec {
        let bytes = wat::parse_str(wat).unwrap();
        let kind = inspect::inspect(&bytes).unwrap();
        let code = engine::precompile(&engine::new(kind.generation()).unwrap(), kind, &bytes).unwrap();
        let module = self.dir.path().join(format!("{id}.module"));
        std::fs::write(&module, code).unwrap();
        InstanceSpec {
            pod_uid: format!("pod-{id}"),
            name: format!("default/{id}/main"),
            argv: vec!["guest".into()],
            terminal: true,
            label: format!("label-{id}"),
            ..InstanceSpec::new(id, module, kind, self.dir.path().join(format!("{id}.log")))
        }
    }

    fn log(&self, id: &str) -> String {
        let log = std::fs::read_to_string(self.dir.path().join(format!("{id}.log"))).unwrap_or_default();
        log.lines().map(|line| line.split_once(' ').unwrap().1.to_owned() + "\n").collect()
    }

    /// Process id of the worker of group `node`.
    fn worker(&self) -> Pid {
        self.worker_of("node").unwrap()
    }

    /// Process id of the worker that a group has or had, while its files are there.
    fn worker_of(&self, group: &str) -> Option<Pid> {
        let lock = self.dir.path().join("workers").join(group).join("worker.lock");
        Pid::from_raw(std::fs::read_to_string(lock).ok()?.trim().parse().ok()?)
    }
}

impl Drop for Node {
    /// No worker outlives its test, however that ends.
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.dir.path().join("workers")).into_iter().flatten().flatten() {
            let pid = self.worker_of(&entry.file_name().to_string_lossy());
            let command_line = |pid: Pid| std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid()));
            if let Some(pid) = pid
                && command_line(pid).is_ok_and(|text| {
                    String::from_utf8_lossy(&text).contains(&*self.dir.path().to_string_lossy())
                })
            {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    support::until(what, PATIENCE, || condition().then_some(())).await;
}

/// Stops a process, and returns when none of its threads runs any more: the signal only asks for that.
async fn halt(pid: Pid) {
    kill_process(pid, Signal::STOP).unwrap();
    let tasks = format!("/proc/{}/task", pid.as_raw_pid());
    let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
        let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
        // The name, in parentheses, may hold anything; the state comes behind it.
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
    };
    until("the end of all its threads' work", || std::fs::read_dir(&tasks).unwrap().all(is_stopped)).await;
}

async fn exit_of(agent: &Supervisor, id: &str) -> (i32, ExitReason) {
    until("the end of an instance", || agent.observe(id).is_some_and(|instance| instance.end.is_some()))
        .await;
    let exit = agent.observe(id).unwrap().end.unwrap().exit;
    (exit.code, exit.reason)
}

fn runs(instance: Option<Instance>) -> bool {
    instance.is_some_and(|instance| instance.end.is_none())
}

fn gone(pid: Pid) -> bool {
    test_kill_process(pid).is_err()
}

const SPINS: &str = r#"(module (func (export "_start") (loop $for_ever (br $for_ever))))"#;

/// Prints a line, then sleeps for this many milliseconds, then exits with a code.
fn sleeps(millis: u64, code: u32) -> String {
    format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") 1)
          (data (i32.const 512) "hello\0a")
          (func (export "_start")
            (i32.store (i32.const 256) (i32.const 512))
            (i32.store (i32.const 260) (i32.const 6))
            (drop (call $write (i32.const 1) (i32.const 256) (i32.const 1) (i32.const 264)))
            (i32.store (i32.const 16) (i32.const 1))
            (i64.store (i32.const 24) (i64.const {}))
            (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))
            (call $exit (i32.const {code}))))"#,
        millis * 1_000_000
    )
}

const AN_HOUR: u64 = 3_600_000;

#[tokio::test]
async fn an_instance_runs_to_its_end() {
    let node = Node::new();
    let agent = node.agent().await;
    let mut wakeups = agent.wakeups().unwrap();
    let started_at = agent.start("node", &node.spec("a", &sleeps(1, 42))).await.unwrap();
    assert!(agent.observe("a").is_some(), "known as soon as start has returned");
    assert_eq!(exit_of(&agent, "a").await, (42, ExitReason::Exited));
    assert_eq!(agent.observe("a").unwrap().started_at, started_at, "one start, one time");
    assert_eq!(node.log("a"), "stdout F hello\n");
    assert_eq!(wakeups.recv().await.unwrap(), "pod-a");
    agent.remove("a").await.unwrap();
    assert_eq!(agent.observe("a"), None);
    agent.shutdown(SOON).await;
}

#[tokio::test]
async fn a_trap_is_in_the_exit_and_in_the_log() {
    let node = Node::new();
    let agent = node.agent().await;
    let wat = r#"(module $crasher (func (export "_start") unreachable))"#;
    agent.start("node", &node.spec("a", wat)).await.unwrap();
    assert_eq!(exit_of(&agent, "a").await, (134, ExitReason::Trapped));
    let message = agent.observe("a").unwrap().end.unwrap().exit.message;
    assert!(message.starts_with("wasm trap: wasm `unreachable` instruction executed\n"), "{message}");
    assert!(node.log("a").starts_with("stderr F wasm trap: wasm `unreachable` instruction executed\n"));
    agent.shutdown(SOON).await;
}

#[tokio::test]
async fn output_is_in_the_log_while_the_guest_runs() {
    let node = Node::new();
    let agent = node.agent().await;
    agent.start("node", &node.spec("a", &sleeps(AN_HOUR, 0))).await.unwrap();
    until("the first line", || node.log("a") == "stdout F hello\n").await;
    assert!(runs(agent.observe("a")));
    agent.shutdown(NOW).await;
}

#[tokio::test]
async fn guests_are_stopped_whatever_they_do() {
    let node = Node::new();
    let agent = node.agent().await;
    for (id, wat, grace, code) in [
        ("sleeps", &sleeps(AN_HOUR, 0)[..], SOON, 143),
        ("spins", SPINS, SOON, 143),
        ("sleeps-killed", &sleeps(AN_HOUR, 0), NOW, 137),
        ("spins-killed", SPINS, NOW, 137),
    ] {
        agent.start("node", &node.spec(id, wat)).await.unwrap();
        let asked = Instant::now();
        agent.stop(id, grace).await.unwrap();
        assert_eq!(exit_of(&agent, id).await, (code, ExitReason::Stopped), "{id}");
        assert!(asked.elapsed() < SOON, "{id} is not kept for its grace");
        agent.stop(id, grace).await.unwrap();
    }
    agent.stop("unknown", NOW).await.unwrap();
    agent.shutdown(NOW).await;
}

#[tokio::test]
async fn removing_a_running_instance_kills_it() {
    let node = Node::new();
    let agent = node.agent().await;
    agent.start("node", &node.spec("a", SPINS)).await.unwrap();
    agent.remove("a").await.unwrap();
    assert_eq!(agent.observe("a"), None);
    agent.remove("a").await.unwrap();
    // The id is free again, as far as the worker is concerned.
    agent.start("node", &node.spec("a", &sleeps(1, 3))).await.unwrap();
    assert_eq!(exit_of(&agent, "a").await, (3, ExitReason::Exited));
    agent.shutdown(NOW).await;
}

#[tokio::test]
async fn an_agent_that_comes_back_learns_what_happened_meanwhile() {
    let node = Node::new();
    let first = node.agent().await;
    first.start("node", &node.spec("short", &sleeps(100, 7))).await.unwrap();
    first.start("node", &node.spec("long", &sleeps(AN_HOUR, 0))).await.unwrap();
    let started_at = first.observe("long").unwrap().started_at;
    drop(first);
    until("the first line of both", || !node.log("short").is_empty() && !node.log("long").is_empty()).await;

    let second = node.agent().await;
    assert!(runs(second.observe("long")), "known as soon as the agent is there");
    assert_eq!(second.observe("long").unwrap().started_at, started_at);
    assert_eq!(exit_of(&second, "short").await, (7, ExitReason::Exited));
    let end = second.observe("short").unwrap().end.unwrap();
    assert!(end.finished_at > started_at);
    second.stop("long", SOON).await.unwrap();
    assert_eq!(exit_of(&second, "long").await, (143, ExitReason::Stopped));
    second.shutdown(NOW).await;
}

#[tokio::test]
async fn what_a_dead_worker_hosted_is_lost_and_the_next_start_works() {
    let node = Node::new();
    let agent = node.agent().await;
    agent.start("node", &node.spec("ended", &sleeps(1, 5))).await.unwrap();
    assert_eq!(exit_of(&agent, "ended").await, (5, ExitReason::Exited));
    agent.start("node", &node.spec("running", &sleeps(AN_HOUR, 0))).await.unwrap();
    let pid = node.worker();
    kill_process(pid, Signal::KILL).unwrap();
    assert_eq!(exit_of(&agent, "running").await, (137, ExitReason::Lost));
    let message = agent.observe("running").unwrap().end.unwrap().exit.message;
    assert!(message.contains(&pid.to_string()) && message.contains("SIGKILL"), "{message}");
    assert_eq!(exit_of(&agent, "ended").await, (5, ExitReason::Exited));

    agent.start("node", &node.spec("next", &sleeps(1, 6))).await.unwrap();
    assert_eq!(exit_of(&agent, "next").await, (6, ExitReason::Exited));
    assert_eq!(
        exit_of(&agent, "running").await,
        (137, ExitReason::Lost),
        "the successor does not make it forgotten"
    );
    agent.remove("running").await.unwrap();
    assert_eq!(agent.observe("running"), None);
    agent.shutdown(NOW).await;
}

#[tokio::test]
async fn a_worker_ignores_what_is_meant_for_the_agent_and_ends_on_sigterm() {
    let node = Node::new();
    let agent = node.agent().await;
    agent.start("node", &node.spec("a", &sleeps(AN_HOUR, 0))).await.unwrap();
    let pid = node.worker();
    kill_process(pid, Signal::INT).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    agent.start("node", &node.spec("b", &sleeps(1, 0))).await.unwrap();
    assert_eq!(exit_of(&agent, "b").await, (0, ExitReason::Exited));
    assert!(runs(agent.observe("a")));
    kill_process(pid, Signal::TERM).unwrap();
    until("the end of the worker", || gone(pid)).await;
    let (code, reason) = exit_of(&agent, "a").await;
    assert!(
        matches!((code, reason), (143, ExitReason::Stopped) | (137, ExitReason::Lost)),
        "{code} {reason:?}"
    );
}

#[tokio::test]
async fn a_worker_can_be_told_to_end_with_its_parent() {
    let node = Node::new();
    let agent = Supervisor::open(SupervisorOptions { with_parent: true, ..node.options() }).await.unwrap();
    agent.start("node", &node.spec("a", &sleeps(AN_HOUR, 0))).await.unwrap();
    let pid = node.worker();
    drop(agent);
    until("the end of the worker", || gone(pid)).await;
}

#[tokio::test]
async fn shutdown_ends_guests_and_workers() {
    let node = Node::new();
    let agent = node.agent().await;
    agent.start("node", &node.spec("a", SPINS)).await.unwrap();
    let pid = node.worker();
    agent.shutdown(SOON).await;
    until("the end of the worker", || gone(pid)).await;
}

#[tokio::test]
async fn exec_runs_one_more_instance() {
    let node = Node::new();
    let agent = node.agent().await;
    let spec = node.spec("a", &sleeps(300, 9));
    let id = spec.id.clone();
    let exec = async || agent.exec(&id, &["again".to_owned()], None, 1000).await;
    assert!(matches!(exec().await, Err(SupervisorError::NotRunning(_))), "not started");
    agent.start("node", &InstanceSpec { argv: vec!["first".into()], ..spec.clone() }).await.unwrap();
    assert_eq!(exit_of(&agent, "a").await, (9, ExitReason::Exited));
    assert!(matches!(exec().await, Err(SupervisorError::NotRunning(_))), "ended");

    agent.start("node", &node.spec("b", PRINTS_OR_SLEEPS)).await.unwrap();
    let output = agent.exec("b", &["x".into(), "y".into()], None, 1000).await.unwrap();
    assert_eq!((output.exit_code, output.output.as_slice()), (2, &b"hello\n"[..]));
    let output = agent.exec("b", &["x".into(), "y".into()], None, 3).await.unwrap();
    assert_eq!(output.output, b"hel");
    agent.shutdown(NOW).await;
}

/// With two arguments prints and exits with 2; with one it sleeps for an hour.
const PRINTS_OR_SLEEPS: &str = r#"(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 512) "hello\0a")
  (func (export "_start")
    (drop (call $sizes (i32.const 128) (i32.const 132)))
    (if (i32.eq (i32.load (i32.const 128)) (i32.const 2))
      (then
        (i32.store (i32.const 256) (i32.const 512))
        (i32.store (i32.const 260) (i32.const 6))
        (drop (call $write (i32.const 1) (i32.const 256) (i32.const 1) (i32.const 264)))
        (call $exit (i32.const 2))))
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 3600000000000))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 160)))))"#;

#[tokio::test]
async fn what_cannot_start_says_why_and_leaves_nothing() {
    let node = Node::new();
    let agent = node.agent().await;
    let good = node.spec("a", SPINS);
    let missing = InstanceSpec { module: "/nonexistent/module".into(), ..good.clone() };
    let import =
        r#"(module (import "wasi_snapshot_preview1" "fd_teleport" (func)) (func (export "_start")))"#;
    let import = node.spec("b", import);
    let image = RootSpec { image: Some("/nonexistent/root".into()), ..RootSpec::default() };
    let root = InstanceSpec { root: image, ..good.clone() };
    let log = InstanceSpec { log_path: "/nonexistent/0.log".into(), ..good };
    let error = agent.start("node", &missing).await.unwrap_err();
    assert!(
        matches!(&error, SupervisorError::Worker(why) if why.to_string().contains("/nonexistent/module")),
        "{error}"
    );
    let error = agent.start("node", &import).await.unwrap_err();
    assert!(matches!(&error, SupervisorError::Module(text) if text.contains("fd_teleport")), "{error}");
    let error = agent.start("node", &root).await.unwrap_err();
    assert!(
        matches!(&error, SupervisorError::Worker(why) if why.to_string().contains("/nonexistent/root")),
        "{error}"
    );
    let error = agent.start("node", &log).await.unwrap_err();
    assert!(
        matches!(&error, SupervisorError::Worker(why) if why.to_string().contains("of the log /nonexistent: No such file")),
        "{error}"
    );
    assert_eq!(agent.instances(), []);
    agent.shutdown(NOW).await;
}

#[tokio::test]
async fn a_worker_that_dies_at_once_is_not_started_over_and_over() {
    let node = Node::new();
    let options = SupervisorOptions { program: Program::new("/bin/false"), ..node.options() };
    let agent = Supervisor::open(options).await.unwrap();
    let spec = node.spec("a", SPINS);
    for expected in
        ["ended while it started (exit status: 1)", "ended while it started", "died 2 times in a row"]
    {
        let error = agent.start("node", &spec).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let options = SupervisorOptions { program: Program::new("/nonexistent/kubewasm"), ..node.options() };
    let agent = Supervisor::open(options).await.unwrap();
    let error = agent.start("node", &spec).await.unwrap_err().to_string();
    assert!(error.contains("cannot start a worker for group node: No such file"), "{error}");
}

#[tokio::test]
async fn many_guests_share_a_worker() {
    let node = Node::new();
    let agent = node.agent().await;
    let spec = node.spec("many", &sleeps(AN_HOUR, 0));
    let specs: Vec<_> = (0..200)
        .map(|n| InstanceSpec {
            id: n.to_string(),
            log_path: node.dir.path().join(format!("{n}.log")),
            ..spec.clone()
        })
        .collect();
    let starts = specs.iter().map(|spec| agent.start("node", spec));
    for start in futures::future::join_all(starts).await {
        start.unwrap();
    }
    until("all first lines", || specs.iter().all(|spec| !node.log(&spec.id).is_empty())).await;
    assert!(specs.iter().all(|spec| runs(agent.observe(&spec.id))));
    futures::future::join_all(specs.iter().map(|spec| agent.stop(&spec.id, SOON))).await;
    for spec in &specs {
        assert_eq!(exit_of(&agent, &spec.id).await, (143, ExitReason::Stopped));
    }
    agent.shutdown(NOW).await;
}
