//! Workers that live and do not answer.

use std::time::Duration;

use kubewasm_host::exit::ExitReason;
use kubewasm_wasi::{
    spec::InstanceSpec,
    supervisor::{Sighting, Supervisor, SupervisorOptions},
};
use rustix::process::{Signal, kill_process};

use super::{AN_HOUR, NOW, Node, SOON, exit_of, halt, runs, sleeps, until};

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
    halt(pid).await;

    let second = impatient(&node).await;
    assert_eq!(second.sighting("runs"), Sighting::CannotTell);
    let (claims, is_complete) = second.claims();
    assert_eq!(
        (claims.len(), is_complete),
        (1, true),
        "it is known that it may run, and that nothing else does"
    );
    assert_eq!((claims[0].0.as_str(), claims[0].1.pod_uid.as_str()), ("runs", "pod-runs"));
    assert_eq!(second.sighting("unknown"), Sighting::Absent);
    let again = InstanceSpec { id: "runs".into(), ..node.spec("again", &sleeps(1, 0)) };
    let again = second.start("b", &again).await.unwrap_err().to_string();
    assert!(again.contains("was started in group a before"), "{again}");
    for result in [second.stop("runs", NOW).await, second.remove("runs").await] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("the worker of group a does not answer"), "{error}");
    }
    // Others go on meanwhile.
    second.start("b", &node.spec("other", &sleeps(1, 3))).await.unwrap();
    assert_eq!(exit_of(&second, "other").await, (3, ExitReason::Exited));

    kill_process(pid, Signal::CONT).unwrap();
    until("what the worker hosts", || second.sighting("runs") != Sighting::CannotTell).await;
    assert!(matches!(second.sighting("runs"), Sighting::Known(seen) if seen.started_at == started_at));
    second.stop("runs", SOON).await.unwrap();
    assert_eq!(exit_of(&second, "runs").await, (143, ExitReason::Stopped));
    second.shutdown(NOW).await;
}

/// A worker that an agent has left which kept no claims is adopted as it is; until it has told what it hosts, nothing can
/// be told of any id.
#[tokio::test]
async fn a_worker_without_claims_is_believed_once() {
    let node = Node::new();
    let first = node.agent().await;
    first.start("a", &node.spec("runs", &sleeps(AN_HOUR, 0))).await.unwrap();
    let pid = node.worker_of("a").unwrap();
    drop(first);
    let claims = node.dir.path().join("workers/.claims");
    std::fs::remove_dir_all(&claims).unwrap();
    halt(pid).await;
    let second = impatient(&node).await;
    assert_eq!(second.sighting("runs"), Sighting::CannotTell);
    assert_eq!(second.sighting("unknown"), Sighting::CannotTell);
    assert_eq!(second.claims(), (Vec::new(), false));
    kill_process(pid, Signal::CONT).unwrap();
    until("what the worker hosts", || second.sighting("unknown") == Sighting::Absent).await;
    assert!(runs(second.observe("runs")));
    until("its claim", || claims.join("a/runs").exists()).await;
    drop(second);
    let third = node.agent().await;
    assert!(runs(third.observe("runs")));
    third.shutdown(NOW).await;
}

/// Dead is what the kernel says is dead. Then, and not before, what a worker hosted that never answered is absent.
#[tokio::test]
async fn a_worker_that_dies_without_an_answer_leaves_nothing() {
    let node = Node::new();
    let first = node.agent().await;
    first.start("a", &node.spec("runs", &sleeps(AN_HOUR, 0))).await.unwrap();
    let pid = node.worker_of("a").unwrap();
    drop(first);
    halt(pid).await;
    let second = impatient(&node).await;
    assert_eq!(second.sighting("runs"), Sighting::CannotTell);
    kill_process(pid, Signal::KILL).unwrap();
    until("the end of the worker", || second.sighting("runs") == Sighting::Absent).await;
    assert_eq!(second.claims(), (Vec::new(), true));
    second.remove("runs").await.unwrap();
    second.shutdown(NOW).await;
}
