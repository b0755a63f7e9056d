//! Groups: who shares a worker, and how long there is one.

use std::{sync::Arc, time::Duration};

use kubewasm_host::exit::ExitReason;
use kubewasm_wasi::{
    spec::InstanceSpec,
    supervisor::{Supervisor, SupervisorOptions},
};
use rustix::process::{Signal, kill_process};

use super::{AN_HOUR, NOW, Node, SOON, exit_of, gone, runs, sleeps, until};

/// Workers of these are stopped as soon as nothing needs them.
fn short_lived(node: &Node) -> SupervisorOptions {
    SupervisorOptions { linger: Duration::from_millis(20), ..node.options() }
}

/// A worker that dies takes its own group with it and nobody else.
#[tokio::test]
async fn neighbours_of_a_dead_worker_run_on() {
    let node = Node::new();
    let agent = node.agent().await;
    for group in ["a", "b"] {
        agent.start(group, &node.spec(group, &sleeps(AN_HOUR, 0))).await.unwrap();
    }
    let (a, b) = (node.worker_of("a").unwrap(), node.worker_of("b").unwrap());
    assert_ne!(a, b);
    kill_process(a, Signal::KILL).unwrap();
    assert_eq!(exit_of(&agent, "a").await, (137, ExitReason::Lost));
    assert!(runs(agent.observe("b")) && !gone(b));
    // Workers that die young are started later and later, in their group alone.
    for expected in ["", "died 2 times in a row"] {
        let again = node.spec(&format!("a-{expected}"), &sleeps(AN_HOUR, 0));
        match agent.start("a", &again).await {
            Ok(_) => {
                kill_process(node.worker_of("a").unwrap(), Signal::KILL).unwrap();
                assert_eq!(exit_of(&agent, &again.id).await, (137, ExitReason::Lost));
            }
            Err(error) => assert!(!expected.is_empty() && error.to_string().contains(expected), "{error}"),
        }
    }
    agent.start("b", &node.spec("b-2", &sleeps(1, 3))).await.unwrap();
    assert_eq!(exit_of(&agent, "b-2").await, (3, ExitReason::Exited));
    agent.shutdown(NOW).await;
}

/// Nothing is left of a group whose last instance is gone; it comes back when it is needed.
#[tokio::test]
async fn a_worker_that_nobody_needs_ends_and_leaves_nothing() {
    let node = Node::new();
    let agent = Supervisor::open(short_lived(&node)).await.unwrap();
    for round in 0..2 {
        let id = format!("round-{round}");
        agent.start("a", &node.spec(&id, &sleeps(1, 7))).await.unwrap();
        let pid = node.worker_of("a").unwrap();
        assert_eq!(exit_of(&agent, &id).await, (7, ExitReason::Exited));
        agent.remove(&id).await.unwrap();
        until("the end of the worker", || gone(pid)).await;
        until("the end of its files", || !node.dir.path().join("workers/a").exists()).await;
    }
}

/// An exit that nobody has noted is not thrown away with its worker.
#[tokio::test]
async fn a_worker_waits_until_its_last_exit_is_noted() {
    let node = Node::new();
    let agent = Supervisor::open(short_lived(&node)).await.unwrap();
    agent.start("a", &node.spec("a", &sleeps(1, 7))).await.unwrap();
    assert_eq!(exit_of(&agent, "a").await, (7, ExitReason::Exited));
    // Another group comes and goes meanwhile: time enough for this one to go, too.
    agent.start("b", &node.spec("b", &sleeps(1, 0))).await.unwrap();
    exit_of(&agent, "b").await;
    let (a, b) = (node.worker_of("a").unwrap(), node.worker_of("b").unwrap());
    agent.remove("b").await.unwrap();
    until("the end of the other worker", || gone(b)).await;
    assert!(!gone(a));
    drop(agent);
    let next = Supervisor::open(short_lived(&node)).await.unwrap();
    assert_eq!(exit_of(&next, "a").await, (7, ExitReason::Exited));
    next.remove("a").await.unwrap();
    until("the end of the worker", || gone(a)).await;
}

/// A worker that lost its last instance while no agent was there is stopped by the next one.
#[tokio::test]
async fn an_adopted_worker_that_nobody_needs_ends() {
    let node = Node::new();
    let first = node.agent().await;
    first.start("a", &node.spec("a", &sleeps(1, 0))).await.unwrap();
    exit_of(&first, "a").await;
    let pid = node.worker_of("a").unwrap();
    first.remove("a").await.unwrap();
    drop(first);
    assert!(!gone(pid), "the usual linger is long");
    let _second = Supervisor::open(short_lived(&node)).await.unwrap();
    until("the end of the worker", || gone(pid)).await;
}

/// However starts and the end of an idle worker fall together, every start finds a worker, and no instance is
/// lost to a worker's end.
#[tokio::test(flavor = "multi_thread")]
async fn starts_and_ends_of_workers_do_not_race() {
    const LANES: usize = 4;
    const ROUNDS: usize = 40;
    let node = Node::new();
    let options = SupervisorOptions { linger: Duration::from_millis(1), ..node.options() };
    let agent = Arc::new(Supervisor::open(options).await.unwrap());
    let spec = node.spec("spec", &sleeps(1, 9));
    let lanes = (0..LANES).map(|lane| {
        let (agent, spec, dir) = (Arc::clone(&agent), spec.clone(), node.dir.path().to_owned());
        tokio::spawn(async move {
            for round in 0..ROUNDS {
                let id = format!("{lane}-{round}");
                let spec =
                    InstanceSpec { id: id.clone(), log_path: dir.join(format!("{id}.log")), ..spec.clone() };
                agent.start("a", &spec).await.unwrap();
                assert_eq!(exit_of(&agent, &id).await, (9, ExitReason::Exited), "{id}");
                agent.remove(&id).await.unwrap();
                // By turns all lanes at once, and one after the other with pauses between them.
                if round % 2 == lane % 2 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        })
    });
    for lane in futures::future::join_all(lanes).await {
        lane.unwrap();
    }
    until("the end of all files", || !node.dir.path().join("workers/a").exists()).await;
    agent.shutdown(SOON).await;
}

/// What an agent wants to know again of an instance outlives it.
#[tokio::test]
async fn labels_come_back() {
    let node = Node::new();
    let first = node.agent().await;
    first.start("a", &node.spec("a", &sleeps(AN_HOUR, 0))).await.unwrap();
    drop(first);
    let second = node.agent().await;
    assert_eq!(second.observe("a").unwrap().label, "label-a");
    second.shutdown(NOW).await;
}
