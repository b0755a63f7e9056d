//! Conditions of a pod, after upstream's `pkg/kubelet/status/generate.go`.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};

use super::{
    phase::Phase,
    readiness::{is_ready, is_started},
    seconds,
};
use crate::pods::{
    lifecycle::{
        ContainerKind, PodState, Spec,
        resize::{PendingResize, ResizeInProgress},
        restarts_all,
        spec::Container,
    },
    reason::{ConditionReason, PodReason},
};

/// What the condition of a pod says that has made room for another one.
const PREEMPTED: &str = "Pod was preempted by Kubelet to accommodate a critical pod.";
/// The condition that tells whether a pod was let in by the policies of its node.
const ADMITTED: &str = "kubewasm.dev/AdmittedByPolicies";

/// A condition before it is compared with the previous one.
struct ComputedCondition {
    kind: &'static str,
    status: bool,
    reason: Option<ConditionReason>,
    message: String,
    /// Of the pod that it is about, where that is not the present one.
    generation: Option<i64>,
}

impl ComputedCondition {
    fn new(kind: &'static str, status: bool) -> Self {
        Self { kind, status, reason: None, message: String::new(), generation: None }
    }

    fn of_generation(self, generation: Option<i64>) -> Self {
        Self { generation, ..self }
    }

    fn because(self, reason: impl Into<Option<ConditionReason>>, message: String) -> Self {
        Self { reason: reason.into(), message, ..self }
    }
}

/// All conditions that are the node's to set, in the order in which upstream lists them.
pub(super) fn of(
    pod: &Pod,
    spec: &Spec,
    state: &PodState,
    phase: Phase,
    previous: &[PodCondition],
    now: Timestamp,
) -> Vec<PodCondition> {
    // A pod that the node has given up takes no traffic, also while its containers are being stopped.
    let given_up = if state.verdict.is_some() { Phase::Failed } else { phase };
    let containers_ready = containers_ready(spec, state, given_up);
    let resize = (!phase.is_terminal()).then_some(&state.resize);
    let conditions = [
        resize.and_then(|resize| resize.pending.as_ref()).map(resize_pending),
        resize.and_then(|resize| resize.in_progress.as_ref()).map(resize_in_progress),
        Some(ComputedCondition::new(
            "PodReadyToStartContainers",
            !state.addresses.is_empty() && (state.ending.is_none() || !state.all_stopped()),
        )),
        Some(initialized(spec, state, phase, previous)),
        Some(ready(pod, &containers_ready)),
        Some(containers_ready),
        Some(ComputedCondition::new("PodScheduled", true)),
        admitted(state),
        spec.all()
            .any(|c| c.restart.rules.iter().any(|rule| rule.all))
            .then(|| restarting(spec, state, phase)),
        state.verdict.as_ref().filter(|verdict| verdict.disrupts).map(|verdict| {
            // Upstream has other words here for those that make room.
            let is_preempted = verdict.reason == PodReason::Preempting.as_str();
            let message = if is_preempted { PREEMPTED.to_owned() } else { verdict.message.clone() };
            ComputedCondition::new("DisruptionTarget", true)
                .because(ConditionReason::TerminationByKubelet, message)
        }),
    ];
    conditions
        .into_iter()
        .flatten()
        .map(|condition| {
            let status = if condition.status { "True" } else { "False" };
            let unchanged = previous.iter().find(|p| p.type_ == condition.kind && p.status == status);
            let since =
                unchanged.and_then(|p| p.last_transition_time.clone()).unwrap_or_else(|| seconds(now));
            PodCondition {
                type_: condition.kind.to_owned(),
                status: status.to_owned(),
                reason: condition.reason.map(|reason| reason.to_string()),
                message: (!condition.message.is_empty()).then_some(condition.message),
                last_probe_time: None,
                last_transition_time: Some(since),
                observed_generation: condition.generation.or(pod.metadata.generation),
            }
        })
        .collect()
}

/// What those have said of the pod who have a say in it besides the kubelet; only where there are any.
fn admitted(state: &PodState) -> Option<ComputedCondition> {
    let condition = |status| ComputedCondition::new(ADMITTED, status);
    let refused = PodReason::PolicyViolation.as_str();
    if let Some(verdict) = state.verdict.as_ref().filter(|verdict| verdict.reason == refused) {
        return Some(condition(false).because(ConditionReason::PolicyViolation, verdict.message.clone()));
    }
    if let Some(message) = &state.admission_waits_for {
        return Some(condition(false).because(ConditionReason::PoliciesNotReady, message.clone()));
    }
    state.is_admitted.then(|| condition(true))
}

fn resize_pending(pending: &PendingResize) -> ComputedCondition {
    let reason = if pending.is_infeasible { ConditionReason::Infeasible } else { ConditionReason::Deferred };
    let condition = ComputedCondition::new("PodResizePending", true).because(reason, pending.message.clone());
    condition.of_generation(pending.generation)
}

fn resize_in_progress(progress: &ResizeInProgress) -> ComputedCondition {
    let condition = ComputedCondition::new("PodResizeInProgress", true).of_generation(progress.generation);
    match &progress.error {
        Some(error) => condition.because(ConditionReason::Error, error.clone()),
        None => condition,
    }
}

/// Whether the whole pod is on its way to be started again in place; only where a rule may ask for it.
fn restarting(spec: &Spec, state: &PodState, phase: Phase) -> ComputedCondition {
    let condition = |status| ComputedCondition::new("AllContainersRestarting", status);
    match phase {
        Phase::Succeeded => condition(false).because(ConditionReason::PodCompleted, String::new()),
        Phase::Failed => condition(false).because(ConditionReason::PodFailed, String::new()),
        Phase::Pending | Phase::Running if state.ending.is_none() && restarts_all(spec, state) => {
            condition(true).because(
                ConditionReason::RestartAllContainersStarted,
                "container exited with restart policy rule".to_owned(),
            )
        }
        Phase::Pending | Phase::Running => condition(false),
    }
}

fn initialized(spec: &Spec, state: &PodState, phase: Phase, previous: &[PodCondition]) -> ComputedCondition {
    let condition = |status| ComputedCondition::new("Initialized", status);
    if phase == Phase::Succeeded {
        return condition(true).because(ConditionReason::PodCompleted, String::new());
    }
    // A pod that is started again in place stays initialized.
    let before = state.round > 0 && previous.iter().any(|c| c.type_ == "Initialized" && c.status == "True");
    if state.initialized || before {
        return condition(true);
    }
    let incomplete: Vec<&str> =
        spec.init.iter().filter(|c| !is_initialized(c, state)).map(|c| c.name.as_str()).collect();
    if incomplete.is_empty() {
        return condition(true);
    }
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    condition(false).because(ConditionReason::ContainersNotInitialized, message)
}

fn is_initialized(container: &Container, state: &PodState) -> bool {
    let Some(record) = state.containers.get(&container.name) else { return false };
    match container.kind {
        ContainerKind::Sidecar => is_started(container, state),
        ContainerKind::Init | ContainerKind::Regular | ContainerKind::Ephemeral => {
            record.ended(state.round).is_some_and(|f| f.exit.exit_code == 0)
        }
    }
}

fn containers_ready(spec: &Spec, state: &PodState, phase: Phase) -> ComputedCondition {
    let condition = |status| ComputedCondition::new("ContainersReady", status);
    match phase {
        Phase::Succeeded => return condition(false).because(ConditionReason::PodCompleted, String::new()),
        Phase::Failed => return condition(false).because(ConditionReason::PodFailed, String::new()),
        Phase::Pending | Phase::Running => {}
    }
    let unready: Vec<&str> = spec
        .sidecars()
        .chain(&spec.containers)
        .filter(|c| !is_ready(c, state))
        .map(|c| c.name.as_str())
        .collect();
    if unready.is_empty() {
        return condition(true);
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    condition(false).because(ConditionReason::ContainersNotReady, message)
}

fn ready(pod: &Pod, containers_ready: &ComputedCondition) -> ComputedCondition {
    let condition = |status| ComputedCondition::new("Ready", status);
    if !containers_ready.status {
        return condition(false).because(containers_ready.reason, containers_ready.message.clone());
    }
    let present = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let gates = pod.spec.as_ref().and_then(|s| s.readiness_gates.as_deref()).unwrap_or_default();
    let unmet: Vec<String> = gates
        .iter()
        .filter_map(|gate| {
            let name = &gate.condition_type;
            match present.iter().find(|c| c.type_ == *name) {
                None => {
                    Some(format!("corresponding condition of pod readiness gate \"{name}\" does not exist."))
                }
                Some(c) if c.status != "True" => Some(format!(
                    "the status of pod readiness gate \"{name}\" is not \"True\", but {}",
                    c.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if unmet.is_empty() {
        return condition(true);
    }
    condition(false).because(ConditionReason::ReadinessGatesNotReady, unmet.join(", "))
}
