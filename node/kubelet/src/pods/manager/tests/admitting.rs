//! Pods in which others have a say.

use k8s_openapi::api::core::v1::PodCondition;

use super::*;
use crate::admitter::{Admission, PodAdmitter};

const CONDITION: &str = "kubewasm.dev/AdmittedByPolicies";

/// Answers what it is told to, and remembers who was asked about.
#[derive(Debug)]
struct Doorkeeper {
    answer: watch::Sender<Admission>,
    asked: watch::Sender<Vec<String>>,
    /// Who has it holds up the answers.
    holding: tokio::sync::Mutex<()>,
}

#[async_trait]
impl PodAdmitter for Doorkeeper {
    async fn admit(&self, pod: &Pod) -> Admission {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        self.asked.send_modify(|asked| asked.push(uid));
        let _turn = self.holding.lock().await;
        self.answer.borrow().clone()
    }
}

fn world(answer: Admission) -> (World, Arc<Doorkeeper>) {
    let doorkeeper = Arc::new(Doorkeeper {
        answer: watch::Sender::new(answer),
        asked: watch::Sender::new(Vec::new()),
        holding: tokio::sync::Mutex::default(),
    });
    let admitter = Some(Arc::clone(&doorkeeper) as Arc<dyn PodAdmitter>);
    let world = World::build(&[], false, PodAddresses::shared(), admitter);
    // Nothing but the doorkeeper holds a pod up.
    *world.api.services.lock().unwrap() = Some(Vec::new());
    (world, doorkeeper)
}

/// Waits until the status of a pod has the condition with these; returns its message.
async fn condition(world: &mut World, uid: &str, status: &str, reason: Option<&str>) -> String {
    let found = |written: &Vec<(String, PodStatus)>| -> Option<PodCondition> {
        let (_, newest) = written.iter().rev().find(|(to, _)| to == uid)?;
        let condition = newest.conditions.iter().flatten().find(|condition| condition.type_ == CONDITION)?;
        (condition.status == status && condition.reason.as_deref() == reason).then(|| condition.clone())
    };
    let reached = tokio::time::timeout(PATIENCE, world.written.wait_for(|written| found(written).is_some()));
    let written = reached.await.expect("the condition").unwrap().clone();
    found(&written).unwrap().message.unwrap_or_default()
}

#[tokio::test]
async fn a_pod_that_is_refused_fails_and_nothing_of_it_begins() {
    let (mut world, _) = world(Admission::Refused("policy says no".to_owned()));
    world.set(pod("p", "u", json!({}))).await;
    world.told("u", "Failed").await;
    let message = condition(&mut world, "u", "False", Some("PolicyViolation")).await;
    assert_eq!(message, "Pod was rejected: policy says no");
    assert_eq!(world.event("p", "PolicyViolation").await, "policy says no");
    assert_eq!(*world.runtime.started.lock().unwrap(), Vec::<String>::new());
    assert!(!world.records.dir("u").join("volumes").exists());
    // The next agent knows that, and asks nobody.
    let state = world.records.load("u", clock::now()).unwrap().unwrap();
    assert_eq!(state.verdict.unwrap().reason, "PolicyViolation");
}

#[tokio::test]
async fn a_pod_waits_as_long_as_it_cannot_be_judged() {
    let (mut world, doorkeeper) = world(Admission::Later("it is away".to_owned()));
    world.set(pod("p", "u", json!({}))).await;
    let message = condition(&mut world, "u", "False", Some("PoliciesNotReady")).await;
    assert_eq!(message, "it is away");
    assert!(!world.records.knows("u"), "the next agent has to ask again");
    doorkeeper.answer.send_replace(Admission::Admitted);
    world.runs(&["u"]).await;
    condition(&mut world, "u", "True", None).await;
    assert!(world.records.load("u", clock::now()).unwrap().unwrap().is_admitted);
    assert!(doorkeeper.asked.borrow().len() >= 2);
}

#[tokio::test]
async fn a_pod_that_waits_can_be_deleted() {
    let (mut world, _) = world(Admission::Later("it is away".to_owned()));
    let waiting = pod("p", "u", json!({}));
    world.set(waiting.clone()).await;
    condition(&mut world, "u", "False", Some("PoliciesNotReady")).await;
    world.delete(waiting).await;
    world.let_go().await;
    assert_eq!(*world.runtime.started.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_pod_that_has_begun_is_not_judged() {
    let (world, doorkeeper) = world(Admission::Refused("policy says no".to_owned()));
    world.remember("begun");
    world.set(pod("p", "begun", json!({}))).await;
    world.runs(&["begun"]).await;
    assert_eq!(*doorkeeper.asked.borrow(), Vec::<String>::new());
}

/// What was let in is the pod as it was when it was asked about.
#[tokio::test]
async fn a_pod_that_changes_meanwhile_is_judged_again() {
    let (mut world, doorkeeper) = world(Admission::Admitted);
    // It is changed before the answer is there.
    let held = doorkeeper.holding.lock().await;
    world.set(pod("p", "u", json!({}))).await;
    let mut asked = doorkeeper.asked.subscribe();
    asked.wait_for(|asked| asked.len() == 1).await.unwrap();
    let mut changed = pod("p", "u", json!({"other": "yes"}));
    changed["metadata"]["generation"] = json!(2);
    world.set(changed).await;
    let is_seen = |written: &Vec<(String, PodStatus)>| {
        written.iter().any(|(_, status)| status.observed_generation == Some(2))
    };
    world.written.wait_for(is_seen).await.unwrap();
    drop(held);
    world.runs(&["u"]).await;
    assert_eq!(doorkeeper.asked.borrow().len(), 2);
}
