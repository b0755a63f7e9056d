//! Tests of statuses: what is published of a pod that is in a certain state.

mod conditions;
mod containers;
mod phases;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use serde_json::{Value, json};

use super::{StatusContext, of};
use crate::{
    pods::lifecycle::{
        ContainerRecord, Ending, EndingCause, Finished, Hook, Moment, PodName, PodState, Running, Spec,
        Stage, Trouble, Verdict,
        probe::{ProbeKind, Probes},
    },
    pods::reason::WaitingReason,
    runtime::{Exit, ExitReason, Image},
};

fn moment(second: i64) -> Moment {
    Moment::new(at(second))
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// A pod from the `spec` of its manifest.
fn pod(spec: Value) -> Pod {
    let metadata = json!({"name": "p", "namespace": "ns", "uid": "u", "generation": 3});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

/// A pod of plain containers; those whose names begin with `i` are init containers, with `s` sidecars.
fn plain(policy: &str, names: &[&str]) -> Pod {
    let container = |name: &&&str| {
        let mut container = json!({"name": name, "image": format!("{name}:v1")});
        if name.starts_with('s') {
            container["restartPolicy"] = json!("Always");
        }
        container
    };
    let is_init = |name: &&&str| name.starts_with(['i', 's']);
    pod(json!({
        "restartPolicy": policy,
        "initContainers": names.iter().filter(is_init).map(|n| container(&n)).collect::<Vec<_>>(),
        "containers": names.iter().filter(|n| !is_init(n)).map(|n| container(&n)).collect::<Vec<_>>(),
    }))
}

/// A state of an initialized pod, with these containers.
fn state(containers: &[(&str, ContainerRecord)]) -> PodState {
    PodState {
        start_time: Some(at(0)),
        initialized: true,
        containers: containers.iter().map(|(name, record)| ((*name).to_owned(), record.clone())).collect(),
        ..PodState::default()
    }
}

fn ending(cause: EndingCause) -> Option<Ending> {
    Some(Ending { cause, since: moment(50), overdue: false })
}

fn verdict() -> Option<Verdict> {
    Some(Verdict::new("Evicted", "The node was low on resource: memory."))
}

fn image() -> Image {
    Image { id: "r.io/c@sha256:0".to_owned(), reference: "r.io/c:v1".to_owned(), ..Image::default() }
}

/// A container whose attempts ended with these codes, one after another.
fn ended(codes: &[i32]) -> ContainerRecord {
    let finished = codes.iter().zip(0..).map(|(code, attempt)| Finished {
        attempt,
        round: 0,
        image: Some((image().reference, image().id)),
        exit: Exit {
            started_at: at(i64::from(attempt) * 10),
            finished_at: at(i64::from(attempt) * 10 + 5),
            exit_code: *code,
            reason: ExitReason::Exited,
            message: String::new(),
        },
        ended: moment(i64::from(attempt) * 10 + 5),
        message: String::new(),
        again: false,
        for_all: false,
    });
    let finished: Vec<_> = finished.collect();
    ContainerRecord {
        attempts: u32::try_from(codes.len()).unwrap(),
        finished: finished[finished.len().saturating_sub(2)..].to_vec(),
        image: Some(image()),
        ..ContainerRecord::default()
    }
}

/// A container that runs after its attempts before ended with these codes.
fn running(codes: &[i32]) -> ContainerRecord {
    let mut record = ended(codes);
    record.attempts += 1;
    record.stage = Stage::Running(Running {
        started_at: at(40),
        since: moment(40),
        post_start: Hook::Done,
        stop: None,
        probes: Probes::default(),
        resize: None,
    });
    record
}

/// The same, with its postStart hook there.
fn hooked(codes: &[i32], hook: Hook) -> ContainerRecord {
    let mut record = running(codes);
    if let Stage::Running(running) = &mut record.stage {
        running.post_start = hook;
    }
    record
}

/// The same, with a probe that has said this.
fn probed(pod: &Pod, name: &str, kind: ProbeKind, success: bool) -> ContainerRecord {
    let spec = Spec::of(pod);
    let mut record = running(&[]);
    if let Stage::Running(running) = &mut record.stage {
        for _ in 0..3 {
            running.probes.record(kind, spec.container(name).unwrap(), success);
        }
    }
    record
}

fn staged(stage: Stage, codes: &[i32]) -> ContainerRecord {
    ContainerRecord { stage, ..ended(codes) }
}

fn back_off(codes: &[i32]) -> ContainerRecord {
    let mut record = staged(Stage::BackOff { until: moment(60) }, codes);
    for _ in codes {
        record.crash.next(moment(0), moment(0), Duration::from_secs(300));
    }
    record
}

fn held(reason: &str, message: &str, codes: &[i32]) -> ContainerRecord {
    let mut record = staged(Stage::Held { since: moment(40), until: moment(60), image: false }, codes);
    record.trouble = Some(Trouble { reason: WaitingReason::named(reason), message: message.to_owned() });
    record
}

fn status(pod: &Pod, state: &PodState) -> PodStatus {
    status_after(pod, state, &[])
}

fn status_after(pod: &Pod, state: &PodState, previous: &[PodCondition]) -> PodStatus {
    let name = PodName { name: "p".to_owned(), namespace: "ns".to_owned(), uid: "u".to_owned() };
    let ips = ["10.0.0.9".parse().unwrap()];
    let context = StatusContext { host_ips: &ips, runtime: "wasm", previous };
    let state = PodState { addresses: ips.to_vec(), ..state.clone() };
    of(pod, &name, &Spec::of(pod), &state, context, at(100))
}

/// The status of one container.
fn container(status: &PodStatus, name: &str) -> ContainerStatus {
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    all.into_iter().find(|c| c.name == name).unwrap().clone()
}
