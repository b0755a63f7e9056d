//! Starts that take long, whose answers are lost, and that are given up.

use std::{sync::Arc, time::Duration};

use kubewasm_host::exit::ExitReason;
use kubewasm_wasi::{
    spec::InstanceSpec,
    supervisor::{Sighting, Supervisor, SupervisorError, SupervisorOptions},
};
use rustix::process::{Signal, kill_process};

use super::{AN_HOUR, NOW, Node, exit_of, gone, halt, runs, sleeps, until};

/// A connection on which nothing comes back is dead after this and as long again.
const KEEP_ALIVE: Duration = Duration::from_millis(400);

/// An agent that takes a connection for dead soon, and does not wait long for workers that it finds.
async fn impatient(node: &Node) -> Arc<Supervisor> {
    let adopt = Duration::from_millis(50);
    let options = SupervisorOptions { adopt, keep_alive: KEEP_ALIVE, ..node.options() };
    Arc::new(Supervisor::open(options).await.unwrap())
}

/// A spec whose start takes as long as nobody opens the other end of a pipe: its module is one.
fn endless(node: &Node, id: &str) -> InstanceSpec {
    let spec = node.spec(id, &sleeps(1, 0));
    std::fs::remove_file(&spec.module).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &spec.module, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    spec
}

/// Lets the worker's thread go that waits for the other end.
fn let_go(node: &Node, id: &str) {
    let pipe = node.dir.path().join(format!("{id}.module"));
    drop(std::fs::OpenOptions::new().read(true).write(true).open(pipe).unwrap());
}

type Start = tokio::task::JoinHandle<Result<jiff::Timestamp, SupervisorError>>;

fn start(agent: &Arc<Supervisor>, group: &'static str, spec: InstanceSpec) -> Start {
    let agent = Arc::clone(agent);
    tokio::spawn(async move { agent.start(group, &spec).await })
}

async fn until_starting(agent: &Supervisor, id: &str) {
    until("the start", || agent.sighting(id) == Sighting::Starting).await;
}

/// Asks for a removal until it is confirmed: a connection may have died meanwhile.
async fn until_removed(agent: &Supervisor, id: &str) {
    while let Err(error) = agent.remove(id).await {
        eprintln!("asking again: {error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A worker that is held up again and again, for longer than any connection lasts, starts once what it was asked to, however
/// often that was; and to be held up is no failure of a start.
#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_are_asked_for_again_and_start_nothing_twice() {
    const STARTS: usize = 8;
    let node = Node::new();
    let agent = impatient(&node).await;
    agent.start("a", &node.spec("first", &sleeps(AN_HOUR, 0))).await.unwrap();
    let pid = node.worker_of("a").unwrap();
    let specs: Vec<_> = (0..STARTS).map(|n| node.spec(&format!("slow-{n}"), &sleeps(1, 7))).collect();
    let held_up = tokio::spawn(async move {
        loop {
            halt(pid).await;
            // Longer than it takes to find a connection dead, of which nothing is to be seen from here.
            tokio::time::sleep(KEEP_ALIVE * 3).await;
            kill_process(pid, Signal::CONT).unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    });
    let starts: Vec<_> = specs.iter().map(|spec| start(&agent, "a", spec.clone())).collect();
    let mut times = Vec::new();
    for start in starts {
        times.push(start.await.unwrap().unwrap());
    }
    held_up.abort();
    let _ = held_up.await;
    kill_process(pid, Signal::CONT).unwrap();
    for (spec, started_at) in specs.iter().zip(times) {
        assert_eq!(exit_of(&agent, &spec.id).await, (7, ExitReason::Exited));
        assert_eq!(agent.observe(&spec.id).unwrap().started_at, started_at);
        assert_eq!(node.log(&spec.id), "stdout F hello\n", "it has run once");
        until_removed(&agent, &spec.id).await;
    }
    assert_eq!(node.worker_of("a"), Some(pid));
    agent.shutdown(NOW).await;
}

/// A start that is given up does not come later, whatever the worker was doing: when the removal has succeeded, its id is
/// free, and its guest has not run.
#[tokio::test]
async fn a_start_that_was_given_up_does_not_come_later() {
    let node = Node::new();
    let agent = impatient(&node).await;
    agent.start("a", &node.spec("first", &sleeps(AN_HOUR, 0))).await.unwrap();
    let pid = node.worker_of("a").unwrap();
    // The worker is at work on it.
    let slow = start(&agent, "a", endless(&node, "endless"));
    until_starting(&agent, "endless").await;
    until_removed(&agent, "endless").await;
    assert!(matches!(slow.await.unwrap(), Err(SupervisorError::GivenUp)));
    assert_eq!(agent.sighting("endless"), Sighting::Absent);
    let_go(&node, "endless");
    // The worker has not come to read of it.
    for round in 0..5 {
        let id = format!("unread-{round}");
        let spec = node.spec(&id, &sleeps(1, 7));
        halt(pid).await;
        let slow = start(&agent, "a", spec.clone());
        until_starting(&agent, &id).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        agent.stop(&id, NOW).await.unwrap();
        assert!(!slow.is_finished(), "the worker has not confirmed it");
        kill_process(pid, Signal::CONT).unwrap();
        match slow.await.unwrap() {
            Err(SupervisorError::GivenUp) => {}
            other => panic!("{other:?}"),
        }
        let first = node.log(&id);
        agent.start("a", &spec).await.unwrap();
        assert_eq!(exit_of(&agent, &id).await, (7, ExitReason::Exited));
        assert_eq!(node.log(&id), format!("{first}stdout F hello\n"), "nothing else has run meanwhile");
    }
    agent.shutdown(NOW).await;
}

/// An agent that was killed in the midst of a start has left it to its worker: the next one waits for it, or ends it, and
/// knows in any case.
#[tokio::test]
async fn the_next_agent_takes_over_a_start() {
    let node = Node::new();
    let first = impatient(&node).await;
    first.start("a", &node.spec("first", &sleeps(AN_HOUR, 0))).await.unwrap();
    let pid = node.worker_of("a").unwrap();
    let slow = start(&first, "a", endless(&node, "endless"));
    until_starting(&first, "endless").await;
    // So that the worker has begun.
    first.start("a", &node.spec("second", &sleeps(1, 0))).await.unwrap();
    slow.abort();
    drop(slow.await);
    drop(first);

    let second = impatient(&node).await;
    until("the picture", || second.sighting("endless") != Sighting::CannotTell).await;
    assert!(runs(second.observe("first")) && !gone(pid));
    assert!(matches!(second.sighting("endless"), Sighting::Starting | Sighting::Absent));
    until_removed(&second, "endless").await;
    assert_eq!(second.sighting("endless"), Sighting::Absent);
    let_go(&node, "endless");
    second.shutdown(NOW).await;
}
