//! What the lifecycle needs to know of a pod's specification, in plain values.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{self as core, Pod};

use super::state::Finished;
use crate::pods::{container_resources::ContainerResources, ephemeral::plain, sidecar};

/// Annotation that names the source of a pod that does not come from the API server.
pub const CONFIG_SOURCE_ANNOTATION: &str = "kubernetes.io/config.source";

/// What it says of pods of a URL.
pub const HTTP_SOURCE: &str = "http";

/// The part of a pod's specification (and deletion request) that the lifecycle acts on.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Init containers and sidecars, in order.
    pub init: Vec<Container>,
    /// Regular containers, in order.
    pub containers: Vec<Container>,
    /// Ephemeral containers: each is run once, as soon as it is there, and nothing waits for it.
    pub ephemeral: Vec<Container>,
    /// `spec.restartPolicy`.
    pub restart_policy: RestartPolicy,
    /// `spec.terminationGracePeriodSeconds`, at least one second.
    pub grace: Duration,
    /// `spec.activeDeadlineSeconds`.
    pub active_deadline: Option<Duration>,
    /// Set while the pod is being deleted: the grace that the deletion left it.
    pub deletion: Option<Duration>,
    /// The pod comes from a file: its phase is not made terminal by its termination.
    pub is_static: bool,
    /// `status.startTime` as the API server has it: the deadline of an adopted pod counts from there.
    pub start_time: Option<Timestamp>,
}

/// What the lifecycle needs to know of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// Name, unique within the pod.
    pub name: String,
    /// `image`, as written.
    pub image: String,
    /// Its part in the pod.
    pub kind: ContainerKind,
    /// What it is to have of memory and processors.
    pub resources: ContainerResources,
    /// Resources whose change asks for a restart of it.
    pub restarts_for: RestartsFor,
    /// When it is restarted after it has ended.
    pub restart: Restart,
    /// It has a postStart hook.
    pub post_start: bool,
    /// It has a preStop hook.
    pub pre_stop: bool,
    /// Startup probe.
    pub startup: Option<Probe>,
    /// Readiness probe.
    pub readiness: Option<Probe>,
    /// Liveness probe.
    pub liveness: Option<Probe>,
}

/// Resources with the `resizePolicy` `RestartContainer`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestartsFor {
    /// Of the processors.
    pub cpu: bool,
    /// Of memory.
    pub memory: bool,
}

/// The part that a container plays in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerKind {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: runs beside the pod's regular containers.
    Sidecar,
    /// One of `spec.containers`.
    Regular,
    /// One of `spec.ephemeralContainers`.
    Ephemeral,
}

/// `restartPolicy` of a pod or container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Restarted whatever its exit code.
    Always,
    /// Restarted after an exit code other than 0.
    OnFailure,
    /// Never restarted.
    Never,
}

/// The rules by which one container is restarted.
#[derive(Clone, Debug, PartialEq)]
pub struct Restart {
    /// `restartPolicyRules`, the first match decides.
    pub rules: Vec<RestartRule>,
    /// The container's own policy, or else the pod's.
    pub policy: RestartPolicy,
}

/// One of a container's `restartPolicyRules`.
#[derive(Clone, Debug, PartialEq)]
pub struct RestartRule {
    /// Exit codes that the rule speaks of.
    pub values: Vec<i32>,
    /// True for `In`, false for `NotIn`.
    pub within: bool,
    /// True for `RestartAllContainers`, false for `Restart`.
    pub all: bool,
}

/// What is to be done about a container that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterExit {
    /// It stays as it is.
    Stay,
    /// It is started again.
    Restart,
    /// The whole pod is started again, in place.
    RestartAll,
}

impl Restart {
    /// Rules first, in order, then the policy.
    #[must_use]
    pub fn after(&self, exit_code: i32) -> AfterExit {
        for rule in &self.rules {
            if rule.values.contains(&exit_code) == rule.within {
                return if rule.all { AfterExit::RestartAll } else { AfterExit::Restart };
            }
        }
        match (self.policy, exit_code) {
            (RestartPolicy::Always, _) => AfterExit::Restart,
            (RestartPolicy::OnFailure, code) if code != 0 => AfterExit::Restart,
            (RestartPolicy::OnFailure | RestartPolicy::Never, _) => AfterExit::Stay,
        }
    }
}

/// Timing of a probe; what it does is looked up in the pod when it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// `initialDelaySeconds`, counted from the start of the container.
    pub initial_delay: Duration,
    /// `periodSeconds`.
    pub period: Duration,
    /// `timeoutSeconds`.
    pub timeout: Duration,
    /// `successThreshold`.
    pub success_threshold: u32,
    /// `failureThreshold`.
    pub failure_threshold: u32,
    /// Grace of a container that this probe kills, where the probe has one of its own.
    pub grace: Option<Duration>,
}

impl Spec {
    /// Reads the pod. Fields that the API server always fills have upstream's defaults here too, so
    /// that a pod from a file means the same.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let empty = core::PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let restart_policy = policy(spec.restart_policy.as_deref()).unwrap_or(RestartPolicy::Always);
        let grace = seconds(spec.termination_grace_period_seconds.unwrap_or(30)).max(Duration::from_secs(1));
        // A regular init container that has succeeded is done, also where the pod says Always.
        let init_policy = match restart_policy {
            RestartPolicy::Always => RestartPolicy::OnFailure,
            other => other,
        };
        let deletion = pod.metadata.deletion_timestamp.as_ref().map(|_| {
            pod.metadata.deletion_grace_period_seconds.map_or(grace, seconds).max(Duration::from_secs(1))
        });
        Self {
            init: spec
                .init_containers
                .iter()
                .flatten()
                .map(|c| {
                    let sidecar = sidecar::is_sidecar(c.restart_policy.as_deref());
                    Container::of(
                        pod,
                        c,
                        if sidecar { ContainerKind::Sidecar } else { ContainerKind::Init },
                        init_policy,
                    )
                })
                .collect(),
            containers: spec
                .containers
                .iter()
                .map(|c| Container::of(pod, c, ContainerKind::Regular, restart_policy))
                .collect(),
            ephemeral: spec
                .ephemeral_containers
                .iter()
                .flatten()
                .map(|c| Container::of(pod, &plain(c), ContainerKind::Ephemeral, RestartPolicy::Never))
                .collect(),
            restart_policy,
            grace,
            active_deadline: spec.active_deadline_seconds.map(seconds),
            deletion,
            is_static: is_static(pod),
            start_time: pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0),
        }
    }

    /// All containers that make up the pod, which the ephemeral ones do not: init containers first, each group in
    /// its order.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &Container> {
        self.init.iter().chain(&self.containers)
    }

    /// Sidecars, in order.
    pub fn sidecars(&self) -> impl DoubleEndedIterator<Item = &Container> {
        self.init.iter().filter(|c| c.kind == ContainerKind::Sidecar)
    }

    /// The container of that name, an ephemeral one among them.
    #[must_use]
    pub fn container(&self, name: &str) -> Option<&Container> {
        self.all().chain(&self.ephemeral).find(|c| c.name == name)
    }
}

/// True for a pod that comes from a file or a URL rather than from the API server.
#[must_use]
pub fn is_static(pod: &Pod) -> bool {
    pod.metadata
        .annotations
        .as_ref()
        .and_then(|a| a.get(CONFIG_SOURCE_ANNOTATION))
        .is_some_and(|source| source != "api")
}

impl Container {
    /// What is to be done now that an attempt of it has ended in that way.
    #[must_use]
    pub fn after(&self, finished: &Finished) -> AfterExit {
        // An init container that has succeeded is done, whatever its rules say of other exits.
        let done = self.kind == ContainerKind::Init && finished.exit.exit_code == 0;
        match self.restart.after(finished.exit.exit_code) {
            _ if finished.again => AfterExit::Restart,
            AfterExit::Restart if done => AfterExit::Stay,
            AfterExit::Stay if self.kind == ContainerKind::Sidecar => AfterExit::Restart,
            other => other,
        }
    }

    fn of(pod: &Pod, c: &core::Container, kind: ContainerKind, inherited: RestartPolicy) -> Self {
        let rules = c
            .restart_policy_rules
            .iter()
            .flatten()
            .filter_map(|rule| {
                let codes = rule.exit_codes.as_ref()?;
                Some(RestartRule {
                    values: codes.values.clone().unwrap_or_default(),
                    within: codes.operator == "In",
                    all: rule.action == "RestartAllContainers",
                })
            })
            .collect();
        let lifecycle = c.lifecycle.as_ref();
        let restarts_for = |resource: &str| {
            let policy = c.resize_policy.iter().flatten().find(|policy| policy.resource_name == resource);
            policy.is_some_and(|policy| policy.restart_policy == "RestartContainer")
        };
        Self {
            resources: ContainerResources::of(pod, c),
            restarts_for: RestartsFor { cpu: restarts_for("cpu"), memory: restarts_for("memory") },
            name: c.name.clone(),
            image: c.image.clone().unwrap_or_default(),
            kind,
            restart: Restart { rules, policy: policy(c.restart_policy.as_deref()).unwrap_or(inherited) },
            post_start: lifecycle.is_some_and(|l| l.post_start.is_some()),
            pre_stop: lifecycle.is_some_and(|l| l.pre_stop.is_some()),
            startup: c.startup_probe.as_ref().map(Probe::of),
            readiness: c.readiness_probe.as_ref().map(Probe::of),
            liveness: c.liveness_probe.as_ref().map(Probe::of),
        }
    }
}

impl Probe {
    fn of(p: &core::Probe) -> Self {
        let or = |value: Option<i32>, default: i32| value.filter(|v| *v > 0).unwrap_or(default);
        Self {
            initial_delay: seconds(i64::from(p.initial_delay_seconds.unwrap_or(0))),
            period: seconds(i64::from(or(p.period_seconds, 10))),
            timeout: seconds(i64::from(or(p.timeout_seconds, 1))),
            success_threshold: or(p.success_threshold, 1).unsigned_abs(),
            failure_threshold: or(p.failure_threshold, 3).unsigned_abs(),
            grace: p.termination_grace_period_seconds.map(seconds),
        }
    }
}

fn policy(name: Option<&str>) -> Option<RestartPolicy> {
    match name? {
        "Always" => Some(RestartPolicy::Always),
        "OnFailure" => Some(RestartPolicy::OnFailure),
        "Never" => Some(RestartPolicy::Never),
        _ => None,
    }
}

/// Negative numbers, which the API server does not let through, are zero.
fn seconds(value: i64) -> Duration {
    Duration::from_secs(u64::try_from(value).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_come_before_the_policy() {
        let rule = |values: &[i32], within, all| RestartRule { values: values.to_vec(), within, all };
        let table: &[(&[RestartRule], RestartPolicy, i32, AfterExit)] = &[
            (&[], RestartPolicy::Always, 0, AfterExit::Restart),
            (&[], RestartPolicy::OnFailure, 0, AfterExit::Stay),
            (&[], RestartPolicy::OnFailure, 1, AfterExit::Restart),
            (&[], RestartPolicy::Never, 1, AfterExit::Stay),
            (&[rule(&[42], true, false)], RestartPolicy::Never, 42, AfterExit::Restart),
            (&[rule(&[42], true, false)], RestartPolicy::Never, 41, AfterExit::Stay),
            (&[rule(&[0], false, false)], RestartPolicy::Never, 7, AfterExit::Restart),
            (&[rule(&[0], false, false)], RestartPolicy::Never, 0, AfterExit::Stay),
            (
                &[rule(&[9], true, true), rule(&[9], true, false)],
                RestartPolicy::Never,
                9,
                AfterExit::RestartAll,
            ),
        ];
        for (rules, policy, code, expected) in table {
            let restart = Restart { rules: rules.to_vec(), policy: *policy };
            assert_eq!(restart.after(*code), *expected, "{restart:?} after {code}");
        }
    }
}
