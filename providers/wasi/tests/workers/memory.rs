//! Workers that the kernel kills for want of memory.

use kubewasm_host::exit::ExitReason;
use kubewasm_wasi::{
    spec::InstanceSpec,
    supervisor::{CgroupOptions, InstancePlace, Supervisor, SupervisorOptions},
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

/// An agent whose workers have cgroups, below one with this limit.
async fn agent(node: &Node, memory: Option<u64>) -> Supervisor {
    let cgroups = Some(CgroupOptions { memory });
    let linger = std::time::Duration::from_millis(20);
    Supervisor::open(SupervisorOptions { cgroups, linger, ..node.options() }).await.unwrap()
}

/// The cgroups of all nodes of this machine.
fn nodes() -> Vec<std::path::PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let tops =
        text.lines().filter(|line| line.contains(" - cgroup")).filter_map(|line| line.split(' ').nth(4));
    tops.flat_map(|top| std::fs::read_dir(top).into_iter().flatten().flatten())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("kubewasm-"))
        .map(|entry| entry.path())
        .collect()
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
    let agent = agent(&node, None).await;
    let place = |group: &str| InstancePlace {
        group: group.into(),
        alone: true,
        memory_limit: Some(32 << 20),
        namespace: None,
    };
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
    let left: Vec<_> = nodes().into_iter().filter(|dir| dir.join("small").exists()).collect();
    assert!(left.is_empty(), "{left:?}");
    agent.shutdown(NOW).await;
}

/// All workers together have what the node has to give. When that is not enough the kernel ends one of them, which says
/// so, and its neighbours run on. A worker that an agent without cgroups has started is taken in by the next one.
#[tokio::test]
async fn workers_are_limited_together() {
    if !has_cgroups() {
        eprintln!("skipped: this machine lets nobody make memory cgroups");
        return;
    }
    let node = Node::new();
    let before = node.agent().await;
    before.start("calm-neighbour", &node.spec("calm", &sleeps(AN_HOUR, 0))).await.unwrap();
    drop(before);
    let agent = agent(&node, Some(128 << 20)).await;
    assert!(runs(agent.observe("calm")));
    let parent = nodes().into_iter().find(|dir| dir.join("calm-neighbour").exists()).unwrap();
    let limits = ["memory.limit_in_bytes", "memory.max"];
    let limit = limits.iter().find_map(|file| std::fs::read_to_string(parent.join(file)).ok()).unwrap();
    assert_eq!(limit.trim(), (128 << 20).to_string());
    let calm = node.worker_of("calm-neighbour").unwrap().as_raw_pid().to_string();
    let members = std::fs::read_to_string(parent.join("calm-neighbour/cgroup.procs")).unwrap();
    assert!(members.lines().any(|pid| pid == calm), "{calm} is not among {members:?}");

    let greedy = InstanceSpec { memory_limit_bytes: 1 << 30, ..node.spec("greedy", TAKES_MEMORY) };
    agent.start("greedy-ones", &greedy).await.unwrap();
    assert_eq!(exit_of(&agent, "greedy").await, (137, ExitReason::OutOfMemory));
    assert!(runs(agent.observe("calm")));

    for id in ["greedy", "calm"] {
        agent.remove(id).await.unwrap();
    }
    until("the end of the cgroups", || !parent.exists()).await;
    agent.shutdown(NOW).await;
}
