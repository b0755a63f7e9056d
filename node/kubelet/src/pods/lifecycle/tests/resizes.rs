//! Resources that change while a pod runs.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use super::super::{
    Action, LifecycleLimits, Moment, Now, PodName, PodState, Spec, Step,
    resize::PendingResize,
    state::{Running, Stage},
    step,
};
use crate::pods::{allocation::Allocation, reason::EventReason};

fn at(second: i64) -> Now {
    let wall = Timestamp::from_second(1_700_000_000 + second).unwrap();
    Now { steady: Moment::new(wall), wall }
}

fn pod(generation: i64, cpu: &str, memory: &str, policy: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "uid": "u", "generation": generation},
        "spec": {"containers": [{
            "name": "c", "image": "i",
            "resources": {"limits": {"cpu": cpu, "memory": memory}, "requests": {"cpu": cpu, "memory": memory}},
            "resizePolicy": [{"resourceName": "memory", "restartPolicy": policy}],
        }]},
    }))
    .unwrap()
}

struct Life {
    state: PodState,
    spec: Spec,
}

impl Life {
    /// A pod whose container runs with what this one says.
    fn of(pod: &Pod) -> Self {
        let mut life = Self { state: PodState::default(), spec: Spec::of(pod) };
        life.state.record_allocation(Allocation::of(pod), pod.metadata.generation);
        assert!(life.step(0).actions.iter().any(|action| matches!(action, Action::Pull { .. })));
        life.state.record_pull("c", Ok(Default::default()), at(0));
        assert!(life.step(0).actions.iter().any(|action| matches!(action, Action::Start { .. })));
        life.state.record_start(&life.spec, "c", Ok(at(0).wall), at(0));
        assert_eq!(life.step(0).actions, []);
        life
    }

    fn become_(&mut self, pod: &Pod) {
        self.spec = Spec::of(pod);
        self.state.record_allocation(Allocation::of(pod), pod.metadata.generation);
    }

    fn step(&mut self, second: i64) -> Step {
        let name = PodName { name: "p".into(), namespace: "n".into(), uid: "u".into() };
        step(&name, &self.spec, &mut self.state, LifecycleLimits::default(), at(second))
    }

    fn running(&self) -> &Running {
        let Stage::Running(running) = &self.state.containers["c"].stage else { panic!("it does not run") };
        running
    }
}

fn events(step: &Step) -> Vec<(EventReason, &str)> {
    let notes = step.actions.iter().filter_map(|action| match action {
        Action::Event(note) => Some((note.reason, note.message.as_str())),
        _ => None,
    });
    notes.collect()
}

fn wanted(step: &Step) -> Option<u64> {
    step.actions.iter().find_map(|action| match action {
        Action::Resize { wanted, .. } => Some(wanted.limits.memory_limit_bytes),
        _ => None,
    })
}

#[test]
fn a_container_is_given_other_limits_while_it_runs() {
    let mut life = Life::of(&pod(1, "1", "64Mi", "NotRequired"));
    life.become_(&pod(2, "2", "128Mi", "NotRequired"));
    let first = life.step(1);
    let json = "{\"containers\":[{\"name\":\"c\",\"resources\":{\"limits\":{\"cpu\":\"2\",\"memory\":\"128Mi\"},\
                \"requests\":{\"cpu\":\"2\",\"memory\":\"128Mi\"}}}],\"generation\":2}";
    assert_eq!(
        events(&first),
        [(EventReason::ResizeStarted, format!("Pod resize started: {json}").as_str())]
    );
    assert_eq!(wanted(&first), Some(128 << 20));
    assert_eq!(life.step(2), Step::default(), "it was asked for");
    let record = &life.state.containers["c"];
    assert_eq!(record.given.as_ref().unwrap().limits.memory_limit_bytes, 64 << 20);

    let resources = life.spec.containers[0].resources.clone();
    assert_eq!(life.state.record_resized("c", 0, resources, Ok(()), at(3)), None);
    let last = life.step(3);
    assert_eq!(
        events(&last),
        [(EventReason::ResizeCompleted, format!("Pod resize completed: {json}").as_str())]
    );
    assert_eq!(life.state.resize, Default::default());
    assert_eq!(life.running().started_at, at(0).wall);
}

#[test]
fn what_fails_is_told_once_and_tried_again() {
    let mut life = Life::of(&pod(1, "1", "64Mi", "NotRequired"));
    life.become_(&pod(2, "1", "32Mi", "NotRequired"));
    let resources = life.spec.containers[0].resources.clone();
    assert_eq!(wanted(&life.step(0)), Some(32 << 20));
    let told = life.state.record_resized("c", 0, resources.clone(), Err("too much".into()), at(1));
    assert_eq!(told.as_deref(), Some("too much"));
    let step = life.step(1);
    assert_eq!((&step.actions[..], step.wake_at), (&[][..], Some(at(11).steady)));
    assert_eq!(wanted(&life.step(11)), Some(32 << 20));
    assert_eq!(life.state.record_resized("c", 0, resources, Err("too much".into()), at(11)), None);
    let progress = life.state.resize.in_progress.clone().unwrap();
    assert_eq!((progress.generation, progress.error.as_deref()), (Some(2), Some("too much")));
    // Whoever takes it back has what runs already.
    life.become_(&pod(3, "1", "64Mi", "NotRequired"));
    assert!(events(&life.step(12)).iter().any(|(reason, _)| *reason == EventReason::ResizeCompleted));
    assert_eq!(life.state.resize, Default::default());
}

#[test]
fn a_policy_may_ask_for_a_restart() {
    let mut life = Life::of(&pod(1, "1", "64Mi", "RestartContainer"));
    // Not for the processors.
    life.become_(&pod(2, "2", "64Mi", "RestartContainer"));
    assert_eq!(wanted(&life.step(0)), Some(64 << 20));
    let resources = life.spec.containers[0].resources.clone();
    life.state.record_resized("c", 0, resources, Ok(()), at(0));
    life.step(0);
    life.become_(&pod(3, "2", "65Mi", "RestartContainer"));
    let step = life.step(1);
    assert!(
        events(&step).contains(&(EventReason::Killing, "Container c resize requires restart")),
        "{step:?}"
    );
    assert_eq!(wanted(&step), None);
    assert!(step.actions.iter().any(|action| matches!(action, Action::Stop { .. })));
    assert!(life.running().stop.as_ref().is_some_and(|stop| stop.again));
    assert!(life.state.resize.in_progress.is_some());
}

/// An agent that has started anew asks again, because nobody may have heard.
#[test]
fn a_resize_goes_on_after_a_restart_of_the_agent() {
    let mut life = Life::of(&pod(1, "1", "64Mi", "NotRequired"));
    life.become_(&pod(2, "1", "128Mi", "NotRequired"));
    life.step(1);
    let text = serde_json::to_string(&life.state.durable()).unwrap();
    life.state = serde_json::from_str(&text).unwrap();
    assert_eq!(life.state.allocation, Some(Allocation::of(&pod(2, "1", "128Mi", "NotRequired"))));
    let step = life.step(2);
    assert_eq!((wanted(&step), events(&step)), (Some(128 << 20), vec![]));
}

/// A container that an earlier kubewasm has started is taken to have what its pod says.
#[test]
fn what_was_started_before_there_were_resizes_stays_as_it_is() {
    let mut life = Life::of(&pod(1, "1", "64Mi", "RestartContainer"));
    (life.state.allocation, life.state.container("c").given) = (None, None);
    life.become_(&pod(1, "1", "64Mi", "RestartContainer"));
    assert_eq!(life.step(1), Step::default());
    assert!(life.state.containers["c"].given.is_some());
}

#[test]
fn who_waits_is_told_once() {
    let mut state = PodState::default();
    let pending = |message: &str, generation| {
        Some(PendingResize { is_infeasible: false, message: message.into(), generation: Some(generation) })
    };
    assert!(state.record_pending_resize(pending("used: 1", 2)));
    assert!(!state.record_pending_resize(pending("used: 2", 2)));
    assert!(state.record_pending_resize(pending("used: 2", 3)));
    assert!(!state.record_pending_resize(None));
    assert_eq!(state.resize, Default::default());
}
