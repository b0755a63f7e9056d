//! Resources of containers that change while they run.
//!
//! What a pod has been given ([`Allocation`]) is decided by the manager, which knows what else is on the node. Here each running
//! container is brought to it: by new limits while it runs, or by a restart where its `resizePolicy` asks for one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    action::{Action, Step},
    clock::{Moment, Now},
    spec::{Container, Spec},
    state::{ContainerRecord, PodState, Stage},
};
use crate::pods::{allocation::Allocation, container_resources::ContainerResources, reason::EventReason};

/// How soon new limits that a container could not be given are tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Where the resize of a pod is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeState {
    /// The pod asks for resources that it has not been given: condition `PodResizePending`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<PendingResize>,
    /// It has been given resources that its containers do not have yet: condition `PodResizeInProgress`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_progress: Option<ResizeInProgress>,
}

/// A resize that the node has not agreed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingResize {
    /// It never will; otherwise it may later, when there is room.
    pub is_infeasible: bool,
    /// Why.
    pub message: String,
    /// `metadata.generation` of the pod that asked for it.
    pub generation: Option<i64>,
}

/// A resize that the node has agreed to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeInProgress {
    /// `metadata.generation` of the pod that asked for it.
    pub generation: Option<i64>,
    /// Why a container has not got its new limits at the last try; stays until all have theirs.
    pub error: Option<String>,
}

/// A container is being given new limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeTry {
    /// The provider has been asked.
    Asked,
    /// It did not do it. Next: [`ResizeTry::Asked`].
    Failed {
        /// When it is asked again.
        until: Moment,
    },
}

impl PodState {
    /// Takes in what the pod has been given. What follows from it is the business of [`step`](super::step).
    pub fn record_allocation(&mut self, allocation: Allocation, generation: Option<i64>) {
        match &self.allocation {
            Some(before) if !before.agrees_with(&allocation) => {
                self.resize = ResizeState {
                    pending: None,
                    in_progress: Some(ResizeInProgress { generation, error: None }),
                };
                self.resize_begins = true;
            }
            _ => {}
        }
        self.allocation = Some(allocation);
    }

    /// Takes in whether a resize has to wait. True when people have not been told so yet.
    pub fn record_pending_resize(&mut self, pending: Option<PendingResize>) -> bool {
        let known = |p: &Option<PendingResize>| p.as_ref().map(|p| (p.is_infeasible, p.generation));
        let is_news = pending.is_some() && known(&pending) != known(&self.resize.pending);
        self.resize.pending = pending;
        is_news
    }

    /// Takes in whether the container has got the limits that were asked for. Returns what people have not been told yet
    /// of what went wrong.
    pub fn record_resized(
        &mut self,
        name: &str,
        attempt: u32,
        wanted: ContainerResources,
        outcome: Result<(), String>,
        now: Now,
    ) -> Option<String> {
        let record = self.container(name);
        let is_newest = record.newest_attempt() == attempt;
        let Stage::Running(running) = &mut record.stage else { return None };
        if !is_newest {
            return None;
        }
        let error = match outcome {
            Ok(()) => {
                running.resize = None;
                record.given = Some(wanted);
                return None;
            }
            Err(error) => error,
        };
        running.resize = Some(ResizeTry::Failed { until: now.steady.after(RETRY) });
        let progress =
            self.resize.in_progress.get_or_insert(ResizeInProgress { generation: None, error: None });
        let is_news = progress.error.as_ref() != Some(&error);
        progress.error = Some(error.clone());
        is_news.then_some(error)
    }
}

/// A container runs with resources whose change asks for a restart of it.
pub(super) fn asks_for_restart(container: &Container, record: &ContainerRecord) -> bool {
    let Some(given) = &record.given else { return false };
    let wanted = &container.resources;
    (container.restarts_for.cpu && !given.has_cpu_of(wanted))
        || (container.restarts_for.memory && !given.has_memory_of(wanted))
}

/// Asks for new limits of the containers that run with others; tells when a resize begins and when all have theirs.
pub(super) fn advance(spec: &Spec, state: &mut PodState, now: Moment, step: &mut Step) {
    if std::mem::take(&mut state.resize_begins) {
        let generation = state.resize.in_progress.as_ref().and_then(|p| p.generation);
        step.event(None, EventReason::ResizeStarted, summary("Pod resize started", spec, generation, None));
    }
    let mut complete = true;
    for container in spec.all() {
        let Some(record) = state.containers.get_mut(&container.name) else { continue };
        complete &= bring_up_to_date(container, record, now, step);
    }
    if let Some(progress) = state.resize.in_progress.take_if(|_| complete) {
        let message = summary("Pod resize completed", spec, progress.generation, None);
        step.event(None, EventReason::ResizeCompleted, message);
    }
}

/// True when nothing of the container runs with other resources than it is to have.
fn bring_up_to_date(
    container: &Container,
    record: &mut ContainerRecord,
    now: Moment,
    step: &mut Step,
) -> bool {
    let attempt = record.newest_attempt();
    let wanted = &container.resources;
    if !record.is_active() {
        return true;
    }
    // One that an agent has started which noted none of this was given what its pod says: that could not change.
    let given = record.given.get_or_insert_with(|| wanted.clone());
    let is_held_to_the_same = given.limits == wanted.limits;
    let Stage::Running(running) = &mut record.stage else { return is_held_to_the_same };
    if is_held_to_the_same {
        given.clone_from(wanted);
        running.resize = None;
        return true;
    }
    // One that is being stopped has them when it is started again.
    if running.stop.is_some() {
        return false;
    }
    match running.resize {
        Some(ResizeTry::Asked) => {}
        Some(ResizeTry::Failed { until }) if until > now => step.wake(until),
        Some(ResizeTry::Failed { .. }) | None => {
            running.resize = Some(ResizeTry::Asked);
            let wanted = wanted.clone();
            step.push(Action::Resize { container: container.name.clone(), attempt, wanted });
        }
    }
    false
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<ContainerSummary<'a>>,
    containers: Vec<ContainerSummary<'a>>,
    generation: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct ContainerSummary<'a> {
    name: &'a str,
    resources: &'a k8s_openapi::api::core::v1::ResourceRequirements,
}

impl<'a> ContainerSummary<'a> {
    fn of(containers: &'a [Container]) -> Vec<Self> {
        let summary = |c: &'a Container| Self { name: &c.name, resources: &c.resources.requirements };
        containers.iter().map(summary).collect()
    }
}

/// The message of an Event about a resize, in upstream's form: the resources of all containers, as JSON.
#[must_use]
pub fn summary(what: &str, spec: &Spec, generation: Option<i64>, error: Option<&str>) -> String {
    let summary = Summary {
        init_containers: ContainerSummary::of(&spec.init),
        containers: ContainerSummary::of(&spec.containers),
        generation: generation.unwrap_or(0),
        error,
    };
    match serde_json::to_string(&summary) {
        Ok(json) => format!("{what}: {json}"),
        Err(_) => what.to_owned(),
    }
}
