//! A pod in a line, as `kubectl get pods` has it (`printPod` of `k8s.io/kubernetes/pkg/printers/internalversion`). Pure.

use kubectl_plugin::k8s_openapi::{
    api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kubectl_plugin::{Timestamp, age};

/// What is told of a pod. Ages are counted when it is printed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodRow {
    namespace: String,
    name: String,
    ready: usize,
    containers: usize,
    status: String,
    restarts: i32,
    last_restart: Option<Time>,
    created: Option<Time>,
    node: Option<String>,
    address: Option<String>,
}

/// What a pod's containers are at.
#[derive(Default)]
struct Progress {
    status: String,
    ready: usize,
    restarts: i32,
    last_restart: Option<Time>,
}

impl Progress {
    fn count(&mut self, container: &ContainerStatus) {
        self.restarts = self.restarts.saturating_add(container.restart_count);
        let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        if let Some(finished) = last.and_then(|terminated| terminated.finished_at.clone()) {
            self.last_restart = match self.last_restart.take() {
                Some(known) if known.0 >= finished.0 => Some(known),
                _ => Some(finished),
            };
        }
    }
}

impl PodRow {
    pub(crate) const COLUMNS: usize = 8;
    /// The place of the state among them.
    pub(crate) const STATUS: usize = 3;

    pub(crate) fn heading() -> [String; Self::COLUMNS] {
        ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "NODE", "IP"].map(str::to_owned)
    }

    pub(crate) fn of(pod: &Pod) -> Self {
        let spec = pod.spec.as_ref();
        let status = pod.status.as_ref();
        let sidecars = sidecars(pod);
        let progress = progress(pod, &sidecars);
        let address =
            status.and_then(|status| status.pod_ips.as_deref()?.first().map(|address| address.ip.clone()));
        Self {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            ready: progress.ready,
            containers: spec.map_or(0, |spec| spec.containers.len()) + sidecars.len(),
            status: progress.status,
            restarts: progress.restarts,
            last_restart: progress.last_restart,
            created: pod.metadata.creation_timestamp.clone(),
            node: spec.and_then(|spec| spec.node_name.clone()),
            address,
        }
    }

    pub(crate) fn cells(&self, now: Timestamp) -> [String; Self::COLUMNS] {
        let given = |text: &Option<String>| {
            text.clone().filter(|text| !text.is_empty()).unwrap_or_else(|| "<none>".to_owned())
        };
        let restarts = match &self.last_restart {
            Some(last) if self.restarts != 0 => format!("{} ({} ago)", self.restarts, age(Some(last), now)),
            _ => self.restarts.to_string(),
        };
        [
            self.namespace.clone(),
            self.name.clone(),
            format!("{}/{}", self.ready, self.containers),
            self.status.clone(),
            restarts,
            age(self.created.as_ref(), now),
            given(&self.node),
            given(&self.address),
        ]
    }
}

/// Init containers that go on beside the others.
fn sidecars(pod: &Pod) -> Vec<&str> {
    let init = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let is_sidecar = |policy: Option<&str>| policy == Some("Always");
    init.iter()
        .filter(|container| is_sidecar(container.restart_policy.as_deref()))
        .map(|container| container.name.as_str())
        .collect()
}

fn progress(pod: &Pod, sidecars: &[&str]) -> Progress {
    let nothing = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&nothing);
    let phase = status.phase.as_deref().unwrap_or_default();
    let mut begun = status.reason.as_deref().filter(|reason| !reason.is_empty()).unwrap_or(phase).to_owned();
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let has =
        |kind: &str| conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True");
    if conditions.iter().any(|condition| {
        condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("SchedulingGated")
    }) {
        begun = "SchedulingGated".to_owned();
    }

    let (mut all, of_sidecars, is_initializing) = initialization(pod, status, sidecars, begun);
    if !is_initializing || has("Initialized") {
        all.restarts = of_sidecars.restarts;
        all.last_restart = of_sidecars.last_restart;
        main_containers(&mut all, status, has("Ready"));
    }
    if pod.metadata.deletion_timestamp.is_some() {
        if status.reason.as_deref() == Some("NodeLost") {
            all.status = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            all.status = "Terminating".to_owned();
        }
    }
    all
}

/// What init containers are at: all of them, the sidecars among them, and whether they are not done.
fn initialization(
    pod: &Pod,
    status: &PodStatus,
    sidecars: &[&str],
    begun: String,
) -> (Progress, Progress, bool) {
    let total = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref()).map_or(0, Vec::len);
    let mut all = Progress { status: begun, ..Progress::default() };
    let mut of_sidecars = Progress::default();
    for (index, container) in status.init_container_statuses.as_deref().unwrap_or_default().iter().enumerate()
    {
        all.count(container);
        let is_sidecar = sidecars.contains(&container.name.as_str());
        if is_sidecar {
            of_sidecars.count(container);
        }
        let state = container.state.as_ref();
        let terminated = state.and_then(|state| state.terminated.as_ref());
        let waiting = state.and_then(|state| state.waiting.as_ref()?.reason.as_deref());
        match (terminated, waiting) {
            (Some(terminated), _) if terminated.exit_code == 0 => continue,
            _ if is_sidecar && container.started == Some(true) => {
                all.ready += usize::from(container.ready);
                continue;
            }
            (Some(terminated), _) => all.status = format!("Init:{}", end(terminated)),
            (None, Some(reason)) if !reason.is_empty() && reason != "PodInitializing" => {
                all.status = format!("Init:{reason}");
            }
            (None, _) => all.status = format!("Init:{index}/{total}"),
        }
        return (all, of_sidecars, true);
    }
    (all, of_sidecars, false)
}

fn main_containers(all: &mut Progress, status: &PodStatus, is_ready: bool) {
    let mut has_running = false;
    let mut failed = None;
    for container in status.container_statuses.as_deref().unwrap_or_default().iter().rev() {
        all.count(container);
        let state = container.state.as_ref();
        let waiting = state.and_then(|state| state.waiting.as_ref()?.reason.as_deref());
        let terminated = state.and_then(|state| state.terminated.as_ref());
        if let Some(reason) = waiting.filter(|reason| !reason.is_empty()) {
            all.status = reason.to_owned();
        } else if let Some(terminated) = terminated {
            all.status = end(terminated);
            if terminated.exit_code != 0 {
                failed = Some(all.status.clone());
            }
        } else if container.ready && state.is_some_and(|state| state.running.is_some()) {
            has_running = true;
            all.ready += 1;
        }
    }
    if all.status == "Completed" {
        match (has_running, failed) {
            (true, _) if is_ready => all.status = "Running".to_owned(),
            (_, Some(failed)) => all.status = failed,
            (true, None) => all.status = "NotReady".to_owned(),
            (false, None) => {}
        }
    }
}

fn end(terminated: &ContainerStateTerminated) -> String {
    match (terminated.reason.as_deref(), terminated.signal) {
        (Some(reason), _) if !reason.is_empty() => reason.to_owned(),
        (_, Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", terminated.exit_code),
    }
}

#[cfg(test)]
mod tests;
