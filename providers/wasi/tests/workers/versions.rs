//! Agents and workers of different ages.

use kubewasm_host::exit::ExitReason;
use kubewasm_wasi::{
    protocol::Versions,
    supervisor::{Supervisor, SupervisorOptions},
};

use super::{AN_HOUR, NOW, Node, SOON, exit_of, gone, runs, sleeps, support::program_of, until};

/// Workers of `worker`, and an agent that speaks `agent`.
async fn agent(node: &Node, agent: Versions, worker: Versions) -> Supervisor {
    let options = SupervisorOptions {
        versions: agent,
        program: program_of(worker),
        linger: std::time::Duration::from_millis(20),
        ..node.options()
    };
    Supervisor::open(options).await.unwrap()
}

const BEFORE: Versions = Versions { min: Versions::OURS.min, max: Versions::OURS.max - 1 };
const AFTER: Versions = Versions { min: Versions::OURS.max, max: Versions::OURS.max + 1 };
const FOREIGN: Versions = Versions { min: Versions::OURS.max + 1, max: Versions::OURS.max + 2 };

/// Everything works between a version and the one before or after it: starts, stops, exits that nobody saw,
/// adoption, and the end of a worker that nobody needs.
#[tokio::test]
async fn neighbouring_versions_understand_each_other() {
    for (old, new) in [(BEFORE, Versions::OURS), (Versions::OURS, BEFORE), (AFTER, Versions::OURS)] {
        let node = Node::new();
        let first = agent(&node, old, old).await;
        first.start("a", &node.spec("long", &sleeps(AN_HOUR, 0))).await.unwrap();
        first.start("a", &node.spec("short", &sleeps(50, 7))).await.unwrap();
        let pid = node.worker_of("a").unwrap();
        drop(first);
        let second = agent(&node, new, new).await;
        assert!(runs(second.observe("long")) && !gone(pid), "{old} is adopted by {new}");
        assert_eq!(exit_of(&second, "short").await, (7, ExitReason::Exited));
        second.start("a", &node.spec("another", &sleeps(1, 3))).await.unwrap();
        assert_eq!(node.worker_of("a"), Some(pid), "no other worker was started");
        assert_eq!(exit_of(&second, "another").await, (3, ExitReason::Exited));
        second.stop("long", SOON).await.unwrap();
        assert_eq!(exit_of(&second, "long").await, (143, ExitReason::Stopped));
        for id in ["long", "short", "another"] {
            second.remove(id).await.unwrap();
        }
        until("the end of the worker", || gone(pid)).await;
    }
}

/// A worker that cannot be spoken to ends, and its containers with it, which are told why; what comes next
/// gets another worker.
#[tokio::test]
async fn a_worker_of_another_age_is_replaced() {
    let node = Node::new();
    let foreigner = agent(&node, FOREIGN, FOREIGN).await;
    foreigner.start("a", &node.spec("running", &sleeps(AN_HOUR, 0))).await.unwrap();
    foreigner.start("a", &node.spec("ended", &sleeps(1, 5))).await.unwrap();
    exit_of(&foreigner, "ended").await;
    let pid = node.worker_of("a").unwrap();
    drop(foreigner);

    let agent = node.agent().await;
    assert!(gone(pid), "the worker has ended when the agent is there");
    assert_eq!(exit_of(&agent, "running").await, (137, ExitReason::Lost));
    let message = agent.observe("running").unwrap().end.unwrap().exit.message;
    let expected =
        format!("speaks protocol {FOREIGN}, and this version of kubewasm speaks {}", Versions::OURS);
    assert!(message.contains(&expected), "{message}");
    assert_eq!(exit_of(&agent, "ended").await, (5, ExitReason::Exited), "an exit is kept as it was");
    agent.start("a", &node.spec("next", &sleeps(1, 6))).await.unwrap();
    assert_eq!(exit_of(&agent, "next").await, (6, ExitReason::Exited));
    agent.shutdown(NOW).await;
}

/// A program that starts workers which it cannot speak to says so, and leaves none behind.
#[tokio::test]
async fn a_program_that_does_not_fit_itself_is_found_out() {
    let node = Node::new();
    let agent = agent(&node, Versions::OURS, FOREIGN).await;
    let error = agent.start("a", &node.spec("a", &sleeps(1, 0))).await.unwrap_err().to_string();
    assert!(error.contains("install kubewasm again"), "{error}");
    let pid = node.worker_of("a").unwrap();
    until("the end of the worker", || gone(pid)).await;
}
