//! Statuses of containers.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    Pod, ResourceRequirements, VolumeMountStatus,
};

use super::{
    phase::Phase,
    readiness::{is_ready, is_started},
    seconds,
};
use crate::{
    duration,
    pods::{
        container_id::container_id,
        ephemeral,
        lifecycle::{
            AfterExit, ContainerKind, ContainerRecord, Finished, PodName, PodState, Spec, Stage,
            spec::Container,
        },
        reason::{TerminatedReason, WaitingReason},
    },
};

/// All that the status of one container is computed from.
pub(super) struct Statuses<'a> {
    pub(super) pod: &'a PodName,
    pub(super) uid: &'a str,
    pub(super) spec: &'a Spec,
    pub(super) state: &'a PodState,
    pub(super) phase: Phase,
    pub(super) runtime: &'a str,
}

impl Statuses<'_> {
    pub(super) fn of(&self, pod: &Pod, container: &Container) -> ContainerStatus {
        let none = ContainerRecord::default();
        let record = self.state.containers.get(&container.name).unwrap_or(&none);
        let (state, last) = self.states(container, record);
        // An attempt that is only being started does not count yet.
        let attempt = record.newest_run();
        let image = match record.running() {
            Some(_) => record.image.as_ref().map(|i| (i.reference.clone(), i.id.clone())),
            None => record.finished.last().and_then(|f| f.image.clone()),
        };
        let (image, image_id) = image.unwrap_or_else(|| (container.image.clone(), String::new()));
        let over = self.phase.is_terminal();
        let started = !over && is_started(container, self.state);
        let ready = match container.kind {
            ContainerKind::Init => record.ended(self.state.round).is_some_and(|f| f.exit.exit_code == 0),
            ContainerKind::Sidecar | ContainerKind::Regular => !over && is_ready(container, self.state),
            ContainerKind::Ephemeral => false,
        };
        let started = (container.kind != ContainerKind::Ephemeral).then_some(started);
        ContainerStatus {
            name: container.name.clone(),
            state: Some(state),
            last_state: last.map(|f| terminated(self.runtime, self.uid, &container.name, f)),
            ready,
            started,
            restart_count: i32::try_from(attempt.unwrap_or(0)).unwrap_or(i32::MAX),
            image,
            image_id,
            container_id: attempt.map(|n| self.id(&container.name, n)),
            volume_mounts: volume_mounts(pod, &container.name),
            allocated_resources: attempt.and_then(|_| container.resources.requirements.requests.clone()),
            resources: attempt.and_then(|_| resources(container, record)),
            ..ContainerStatus::default()
        }
    }

    fn id(&self, container: &str, attempt: u32) -> String {
        format!("{}://{}", self.runtime, container_id(self.uid, container, attempt))
    }

    /// `state`, and what `lastState` is made of.
    fn states<'r>(
        &self,
        container: &Container,
        record: &'r ContainerRecord,
    ) -> (ContainerState, Option<&'r Finished>) {
        let newest = record.finished.last();
        if let Some(running) = record.up() {
            let started_at = Some(seconds(running.started_at));
            let state = ContainerState {
                running: Some(ContainerStateRunning { started_at }),
                ..ContainerState::default()
            };
            return (state, newest);
        }
        if self.state.is_over() {
            return self.states_at_the_end(container, record);
        }
        if let Stage::BackOff { .. } = record.stage {
            let message = format!(
                "back-off {} restarting failed container={} pod={}",
                duration::format(record.crash.delay()),
                container.name,
                self.pod
            );
            return (waiting(WaitingReason::CrashLoopBackOff, message), newest);
        }
        // What has ended and is not started again, by its policy or because its pod ends, waits for nothing.
        let ending = self.state.ending.is_some();
        let ended = record.ended(self.state.round);
        let stays = ended.is_some_and(|f| ending || container.after(f) == AfterExit::Stay);
        if let Some(trouble) = record.trouble.as_ref().filter(|_| !stays) {
            return (waiting(trouble.reason, trouble.message.clone()), newest);
        }
        // One that was stopped in order to be started again is not shown as terminated: where its policy
        // would leave it there, the API server lets no container out of that state.
        let again = newest.is_some_and(|f| f.again && !ending);
        match newest {
            // Until its postStart hook is done, a container is shown as one that waits.
            Some(finished) if finished.round == self.state.round && record.running().is_none() && !again => {
                let before = record.finished.iter().rev().nth(1);
                (terminated(self.runtime, self.uid, &container.name, finished), before)
            }
            _ => (self.waiting_default(container.kind, newest), newest),
        }
    }

    /// Nothing will run any more, so nothing is shown as waiting to run that could have.
    fn states_at_the_end<'r>(
        &self,
        container: &Container,
        record: &'r ContainerRecord,
    ) -> (ContainerState, Option<&'r Finished>) {
        let newest = record.finished.last();
        // It was never to run, and says why.
        let is_refused = record.trouble.as_ref().is_some_and(|t| t.reason == WaitingReason::PolicyViolation);
        match newest.filter(|finished| finished.round == self.state.round) {
            Some(finished) => {
                let before = record.finished.iter().rev().nth(1);
                (terminated(self.runtime, self.uid, &container.name, finished), before)
            }
            None if self.state.initialized && container.kind == ContainerKind::Regular && !is_refused => {
                let terminated = ContainerStateTerminated {
                    exit_code: 137,
                    reason: Some(TerminatedReason::ContainerStatusUnknown.to_string()),
                    message: Some(
                        "The container could not be located when the pod was terminated".to_owned(),
                    ),
                    ..ContainerStateTerminated::default()
                };
                (ContainerState { terminated: Some(terminated), ..ContainerState::default() }, newest)
            }
            None => match &record.trouble {
                Some(trouble) => (waiting(trouble.reason, trouble.message.clone()), newest),
                None => (self.waiting_default(container.kind, newest), newest),
            },
        }
    }

    /// The waiting state of a container for which no error is recorded; `newest` is its newest end.
    fn waiting_default(&self, kind: ContainerKind, newest: Option<&Finished>) -> ContainerState {
        let initializing =
            kind != ContainerKind::Ephemeral && !self.spec.init.is_empty() && !self.state.initialized;
        let (reason, message) = if newest.is_some_and(|finished| finished.round < self.state.round) {
            (WaitingReason::RestartingAllContainers, "it waits for its turn: the whole pod is started again")
        } else if initializing {
            (WaitingReason::PodInitializing, "")
        } else {
            (WaitingReason::ContainerCreating, "")
        };
        waiting(reason, message.to_owned())
    }
}

/// What a container has, if it runs, and what it will have, if it does not.
fn resources(container: &Container, record: &ContainerRecord) -> Option<ResourceRequirements> {
    if container.kind == ContainerKind::Ephemeral {
        return None;
    }
    let given = record.given.as_ref().filter(|_| record.is_active());
    Some(given.unwrap_or(&container.resources).requirements.clone())
}

fn waiting(reason: WaitingReason, message: String) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_string()),
            message: (!message.is_empty()).then_some(message),
        }),
        ..ContainerState::default()
    }
}

fn terminated(runtime: &str, uid: &str, container: &str, finished: &Finished) -> ContainerState {
    let exit = &finished.exit;
    let reason =
        if finished.for_all { TerminatedReason::RestartingAllContainers } else { TerminatedReason::of(exit) };
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: exit.exit_code,
            reason: Some(reason.to_string()),
            message: (!finished.message.is_empty()).then(|| finished.message.clone()),
            started_at: Some(seconds(exit.started_at)),
            finished_at: Some(seconds(exit.finished_at)),
            container_id: Some(format!("{runtime}://{}", container_id(uid, container, finished.attempt))),
            signal: None,
        }),
        ..ContainerState::default()
    }
}

fn volume_mounts(pod: &Pod, container: &str) -> Option<Vec<VolumeMountStatus>> {
    let container = ephemeral::container(pod, container)?;
    let mounts: Vec<_> = container
        .volume_mounts
        .iter()
        .flatten()
        .map(|mount| VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: mount.read_only,
            recursive_read_only: mount.read_only.unwrap_or(false).then(|| "Disabled".to_owned()),
            volume_status: None,
        })
        .collect();
    (!mounts.is_empty()).then_some(mounts)
}
