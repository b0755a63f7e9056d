//! Workers that live and do not answer.

use std::time::Duration;

use kubewasm_host::exit::ExitReason;
use kubewasm_wasi::supervisor::{Sighting, Supervisor, SupervisorOptions};
use rustix::process::{Signal, kill_process};

use super::{AN_HOUR, NOW, Node, SOON, exit_of, sleeps, until};

/// An agent that does not wait for workers that do not answer.
async fn impatient(node: &Node) -> Supervisor {
    let options = SupervisorOptions { adopt: Duration::from_millis(50), ..node.options() };
    Supervisor::open(options).await.unwrap()
}

/// What a worker hosts that does not answer is not gone: nothing can be told of it, and nothing that was asked for is
/// said to be done, until it answers. Then all is as it was.
#[tokio::test]
async fn a_worker_that_does_not_answer_is_not_dead() {
    let node = Node::new();
    let first = node.agent().await;
    first.start("a", &node.spec("runs", &sleeps(AN_HOUR, 0))).await.unwrap();
    let started_at = first.observe("runs").unwrap().started_at;
    let pid = node.worker_of("a").unwrap();
    drop(first);
    kill_process(pid, Signal::STOP).unwrap();

    let second = impatient(&node).await;
    assert_eq!(second.sighting("runs"), Sighting::CannotTell);
    assert!(!second.ids().1, "there may be more");
    for result in [second.stop("runs", NOW).await, second.remove("runs").await] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("a worker does not answer"), "{error}");
    }
    // Others go on meanwhile.
    second.start("b", &node.spec("other", &sleeps(1, 3))).await.unwrap();
    assert_eq!(exit_of(&second, "other").await, (3, ExitReason::Exited));

    kill_process(pid, Signal::CONT).unwrap();
    until("what the worker hosts", || second.ids().1).await;
    assert!(matches!(second.sighting("runs"), Sighting::Known(seen) if seen.started_at == started_at));
    assert_eq!(second.sighting("unknown"), Sighting::Absent);
    second.stop("runs", SOON).await.unwrap();
    assert_eq!(exit_of(&second, "runs").await, (143, ExitReason::Stopped));
    second.shutdown(NOW).await;
}

/// Dead is what the kernel says is dead. Then, and not before, what a worker hosted that never answered is absent.
#[tokio::test]
async fn a_worker_that_dies_without_an_answer_leaves_nothing() {
    let node = Node::new();
    let first = node.agent().await;
    first.start("a", &node.spec("runs", &sleeps(AN_HOUR, 0))).await.unwrap();
    let pid = node.worker_of("a").unwrap();
    drop(first);
    kill_process(pid, Signal::STOP).unwrap();
    let second = impatient(&node).await;
    assert_eq!(second.sighting("runs"), Sighting::CannotTell);
    kill_process(pid, Signal::KILL).unwrap();
    until("the end of the worker", || second.sighting("runs") == Sighting::Absent).await;
    assert!(second.ids().1);
    second.remove("runs").await.unwrap();
    second.shutdown(NOW).await;
}
