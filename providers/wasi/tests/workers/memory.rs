//! Workers that the kernel kills for want of memory.

use kubewasm_host::exit::ExitReason;
use kubewasm_wasi::{
    spec::InstanceSpec,
    supervisor::{Place, Supervisor, SupervisorOptions},
};

use super::{AN_HOUR, NOW, Node, exit_of, gone, runs, sleeps, until};

/// Takes 256 MiB of memory and writes to each page.
const TAKES_MEMORY: &str = r#"(module
  (memory (export "memory") 1)
  (func (export "_start")
    (local $at i32)
    (drop (memory.grow (i32.const 4096)))
    (loop $next
      (i32.store (local.get $at) (i32.const 1))
      (local.set $at (i32.add (local.get $at) (i32.const 4096)))
      (br_if $next (i32.lt_u (local.get $at) (i32.const 268435456))))
    (loop $for_ever (br $for_ever))))"#;

/// Whether cgroups can be made here; not in most containers, nor without root.
fn has_cgroups() -> bool {
    let made = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].iter().find_map(|top| {
        let dir = std::path::Path::new(top).join(format!("kubewasm-test-{}", std::process::id()));
        let limit = ["memory.limit_in_bytes", "memory.max"];
        std::fs::create_dir(&dir).ok()?;
        let has_limit = limit.iter().any(|file| dir.join(file).exists());
        std::fs::remove_dir(&dir).ok()?;
        has_limit.then_some(())
    });
    made.is_some()
}

/// Who shares a worker with nobody has a cgroup with a limit. A worker that is killed for it says so, the worker
/// beside it runs on, and nothing is left of the cgroup.
#[tokio::test]
async fn a_worker_that_was_killed_for_want_of_memory_is_recognised() {
    if !has_cgroups() {
        eprintln!("skipped: this machine lets nobody make memory cgroups");
        return;
    }
    let node = Node::new();
    let options =
        SupervisorOptions { cgroups: true, linger: std::time::Duration::from_millis(20), ..node.options() };
    let agent = Supervisor::open(options).await.unwrap();
    let place = |group: &str| Place { group: group.into(), alone: true, memory_limit: Some(32 << 20) };
    agent.start(place("small"), &node.spec("small", &sleeps(AN_HOUR, 0))).await.unwrap();
    // The guest may have more than the cgroup: what its worker holds it to is not what is asked here.
    let greedy = InstanceSpec { memory_limit_bytes: 1 << 30, ..node.spec("greedy", TAKES_MEMORY) };
    agent.start(place("greedy"), &greedy).await.unwrap();
    let worker = node.worker_of("greedy").unwrap();
    let membership =
        std::fs::read_to_string(format!("/proc/{}/cgroup", worker.as_raw_pid())).unwrap_or_default();
    assert_eq!(exit_of(&agent, "greedy").await, (137, ExitReason::OutOfMemory), "{membership}");
    let message = agent.observe("greedy").unwrap().end.unwrap().exit.message;
    assert!(message.contains("was killed by the kernel, which had no memory left for it"), "{message}");
    assert!(gone(worker) && runs(agent.observe("small")));

    let small = node.worker_of("small").unwrap();
    agent.remove("small").await.unwrap();
    until("the end of the other worker", || gone(small)).await;
    until("the end of its files", || !node.dir.path().join("workers/small").exists()).await;
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let tops =
        text.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    let left: Vec<_> = tops
        .flat_map(|top| std::fs::read_dir(top).into_iter().flatten().flatten())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("kubewasm-"))
        .filter(|entry| entry.path().join("small").exists())
        .collect();
    assert!(left.is_empty(), "{left:?}");
    agent.shutdown(NOW).await;
}
