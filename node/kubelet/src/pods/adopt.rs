//! A pod's memory, made from what the API server still knows of it.
//!
//! Used when a pod that ran here before has no record on disk: what its last published status tells is
//! enough to keep restart counts from falling and finished containers from running again.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};

use super::{
    ephemeral,
    lifecycle::{
        ContainerRecord, Ending, EndingCause, Finished, Hook, Now, PodState, Running, Stage, Verdict,
        probe::Probes,
    },
    reason::TerminatedReason,
    status::is_terminal,
};
use crate::runtime::{Exit, ExitReason, Image};

/// What the pod's status tells. A pod that nothing was ever said of has the default.
#[must_use]
pub(super) fn state_of(pod: &Pod, now: Now) -> PodState {
    let Some(status) = &pod.status else { return PodState::default() };
    let start_time = status.start_time.as_ref().map(|t| t.0);
    let terminal = is_terminal(Some(status));
    let initialized = status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "Initialized" && condition.status == "True");
    let all =
        [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    let all = all.into_iter().flatten().flatten();
    let containers: std::collections::BTreeMap<_, _> =
        all.filter_map(|container| Some((container.name.clone(), record_of(pod, container, now)?))).collect();
    let addresses = status.pod_ips.iter().flatten().filter_map(|pod_ip| pod_ip.ip.parse().ok()).collect();
    PodState {
        start_time,
        began: start_time.map(|at| now.moment_of(at)),
        addresses,
        host_ports: Vec::new(),
        // The condition is also set where nothing has run yet.
        initialized: initialized && !containers.is_empty(),
        round: 0,
        ending: terminal.then_some(Ending {
            cause: EndingCause::Completed,
            since: now.steady,
            overdue: false,
        }),
        verdict: terminal
            .then(|| Some(Verdict::new(status.reason.as_ref()?, status.message.as_ref()?)))
            .flatten(),
        containers,
        ..PodState::default()
    }
}

fn record_of(pod: &Pod, status: &ContainerStatus, now: Now) -> Option<ContainerRecord> {
    // Without an id no attempt was ever started.
    status.container_id.as_ref().filter(|id| !id.is_empty())?;
    let restarts = u32::try_from(status.restart_count).unwrap_or(0);
    let image = Image { id: status.image_id.clone(), reference: status.image.clone(), ..Image::default() };
    let state = status.state.as_ref();
    // A container that waits shows its newest attempt as the last state, any other the one before.
    let waits = state.is_none_or(|s| s.running.is_none() && s.terminated.is_none());
    let last = if waits { restarts } else { restarts.saturating_sub(1) };
    let finished = [
        (last, status.last_state.as_ref().and_then(|s| s.terminated.as_ref())),
        (restarts, state.and_then(|s| s.terminated.as_ref())),
    ];
    let running = state.and_then(|s| s.running.as_ref());
    let stage = match running {
        Some(running) => {
            let started_at = running.started_at.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
            Stage::Running(Running {
                started_at,
                since: now.moment_of(started_at),
                post_start: Hook::Done,
                stop: None,
                probes: Probes::default(),
                resize: None,
            })
        }
        None => Stage::Idle,
    };
    let spec_image = ephemeral::container(pod, &status.name).and_then(|c| c.image).unwrap_or_default();
    Some(ContainerRecord {
        stage,
        attempts: restarts + 1,
        spec_image,
        finished: finished
            .into_iter()
            .filter_map(|(attempt, terminated)| Some(finished_of(attempt, &image, terminated?, now)))
            .collect(),
        image: Some(image),
        ..ContainerRecord::default()
    })
}

fn finished_of(attempt: u32, image: &Image, terminated: &ContainerStateTerminated, now: Now) -> Finished {
    let at = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        time.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0)
    };
    let said = terminated.reason.as_deref();
    let reason = match TerminatedReason::ALL.iter().find(|reason| said == Some(reason.as_str())) {
        Some(TerminatedReason::OOMKilled) => ExitReason::OutOfMemory,
        Some(TerminatedReason::StartError) => ExitReason::StartFailed,
        Some(TerminatedReason::ContainerStatusUnknown) => ExitReason::Lost,
        Some(TerminatedReason::RestartingAllContainers) => ExitReason::Stopped,
        Some(TerminatedReason::Completed | TerminatedReason::Error) | None => ExitReason::Exited,
    };
    let message = terminated.message.clone().unwrap_or_default();
    let finished_at = at(&terminated.finished_at);
    Finished {
        attempt,
        round: 0,
        image: Some((image.reference.clone(), image.id.clone())),
        exit: Exit {
            started_at: at(&terminated.started_at),
            finished_at,
            exit_code: terminated.exit_code,
            reason,
            message: message.clone(),
        },
        ended: now.moment_of(finished_at),
        message,
        again: false,
        for_all: said == Some(TerminatedReason::RestartingAllContainers.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::clock;

    #[test]
    fn restart_counts_and_exits_come_from_the_status() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "spec": {"containers": [{"name": "a", "image": "img"}, {"name": "new", "image": "img"}]},
            "status": {
                "phase": "Running",
                "startTime": "2026-01-01T00:00:00Z",
                "conditions": [{"type": "Initialized", "status": "True"}],
                "containerStatuses": [
                    {
                        "name": "a", "image": "img", "imageID": "img@sha256:1", "ready": false, "restartCount": 4,
                        "containerID": "wasmtime://x",
                        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                        "lastState": {"terminated": {"exitCode": 3, "reason": "Error"}},
                    },
                    {"name": "new", "image": "img", "imageID": "", "ready": false, "restartCount": 0},
                ],
            },
        }))
        .unwrap();
        let mut state = state_of(&pod, clock::now());
        assert!(state.initialized && state.ending.is_none());
        assert!(!state.containers.contains_key("new"));
        let record = state.container("a");
        assert_eq!((record.newest_attempt(), record.stage.clone()), (4, Stage::Idle));
        assert_eq!(
            record.finished.iter().map(|f| (f.attempt, f.exit.exit_code)).collect::<Vec<_>>(),
            [(4, 3)]
        );
    }

    #[test]
    fn a_terminal_pod_stays_so() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "spec": {"containers": []},
            "status": {"phase": "Failed", "reason": "Evicted", "message": "why"},
        }))
        .unwrap();
        let state = state_of(&pod, clock::now());
        assert!(state.is_over());
        assert_eq!(state.verdict.map(|v| v.reason).as_deref(), Some("Evicted"));
    }
}
