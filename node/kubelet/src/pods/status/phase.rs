//! The phase of a pod, after upstream's `getPhase`.

use k8s_openapi::api::core::v1::PodStatus;

use super::readiness::is_started;
use crate::pods::lifecycle::{AfterExit, ContainerKind, Finished, PodState, Spec, spec::Container};

/// `status.phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Something has yet to run for the first time.
    Pending,
    /// Everything was started, and something runs or will be started again.
    Running,
    /// Everything ended with exit code 0 for good.
    Succeeded,
    /// Everything ended for good, not all of it well.
    Failed,
}

impl Phase {
    /// Succeeded or Failed.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// A status tells of a terminal phase: the pod never runs again.
#[must_use]
pub fn is_terminal(status: Option<&PodStatus>) -> bool {
    matches!(status.and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        })
    }
}

/// A container as the phase sees it.
enum SeenContainer<'a> {
    /// It has never run.
    Waiting,
    Running,
    Stopped(&'a Finished),
}

fn seen<'a>(state: &'a PodState, container: &Container) -> SeenContainer<'a> {
    let Some(record) = state.containers.get(&container.name) else { return SeenContainer::Waiting };
    if record.up().is_some() {
        return SeenContainer::Running;
    }
    record.finished.last().map_or(SeenContainer::Waiting, SeenContainer::Stopped)
}

/// The phase to be published. A terminal one is published only when nothing runs any more, and then
/// stays, because a pod whose end has begun starts nothing again.
#[must_use]
pub(super) fn of(spec: &Spec, state: &PodState) -> Phase {
    let over = state.is_over();
    if over && state.verdict.is_some() {
        return Phase::Failed;
    }
    let phase = by_containers(spec, state);
    match (phase.is_terminal(), over) {
        (true, false) => {
            let started = spec.containers.iter().any(|c| !matches!(seen(state, c), SeenContainer::Waiting));
            if started { Phase::Running } else { Phase::Pending }
        }
        // No container has run, and none will. A static pod's phase is left as it was.
        (false, true) if !spec.is_static => Phase::Failed,
        _ => phase,
    }
}

fn by_containers(spec: &Spec, state: &PodState) -> Phase {
    let mut initializing = false;
    for container in spec.init.iter().filter(|c| c.kind == ContainerKind::Init) {
        match seen(state, container) {
            SeenContainer::Waiting | SeenContainer::Running => initializing = true,
            SeenContainer::Stopped(f) if f.exit.exit_code == 0 => {}
            SeenContainer::Stopped(f) => {
                if container.after(f) == AfterExit::Stay {
                    return Phase::Failed;
                }
            }
        }
    }
    let (mut waiting, mut running, mut succeeded, mut restartable, mut stopped) = (0, 0, 0, 0, 0);
    let mut begun = false;
    for container in &spec.containers {
        match seen(state, container) {
            SeenContainer::Waiting => waiting += 1,
            SeenContainer::Running => {
                running += 1;
                begun = true;
            }
            SeenContainer::Stopped(f) => {
                stopped += 1;
                begun |= f.round == state.round;
                if f.exit.exit_code == 0 && f.round == state.round {
                    succeeded += 1;
                }
                if container.after(f) != AfterExit::Stay {
                    restartable += 1;
                }
            }
        }
    }
    // Sidecars hold a pod in Pending only until its first regular container has run.
    let pending = |c: &Container| match seen(state, c) {
        SeenContainer::Waiting => true,
        SeenContainer::Running => !is_started(c, state),
        SeenContainer::Stopped(_) => false,
    };
    if initializing || waiting > 0 || (!begun && spec.sidecars().any(pending)) {
        return Phase::Pending;
    }
    // A static pod's phase is not made terminal by its termination.
    if running > 0 || (restartable > 0 && (state.ending.is_none() || spec.is_static)) {
        return Phase::Running;
    }
    match stopped {
        0 => Phase::Pending,
        n if n == succeeded => Phase::Succeeded,
        _ => Phase::Failed,
    }
}
