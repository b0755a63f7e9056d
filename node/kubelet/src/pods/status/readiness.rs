//! Whether a container counts as started and as ready, by its probes.

use crate::pods::lifecycle::{PodState, spec::Container};

/// Whether the container counts as ready: it runs and its readiness probe, if any, says so.
pub(super) fn is_ready(container: &Container, state: &PodState) -> bool {
    state.containers.get(&container.name).and_then(|r| r.up()).is_some_and(|r| r.probes.ready(container))
}

/// Whether the container counts as started: it runs and its startup probe, if any, has succeeded.
pub(super) fn is_started(container: &Container, state: &PodState) -> bool {
    state.containers.get(&container.name).and_then(|r| r.up()).is_some_and(|r| r.probes.started(container))
}
