//! What of a container's limits can change while it runs.

use serde::{Deserialize, Serialize};

use super::RuntimeError;

/// The limits of a container, in the units of [`super::ContainerSpec`]. Zero is no limit, as there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerLimits {
    /// Bytes that it may have.
    pub memory_limit_bytes: u64,
    /// Bytes that all containers of its pod may have together.
    pub pod_memory_limit_bytes: u64,
    /// Thousandths of a core that it gets at most.
    pub cpu_limit_millis: u64,
    /// Thousandths of a core that it asked for.
    pub cpu_request_millis: u64,
}

/// Why a container has the limits that it had.
#[derive(Debug, thiserror::Error)]
pub enum ResizeError {
    /// It has more memory than the new limit. May pass.
    #[error("attempting to set {whose} memory limit ({limit}) below current usage ({used})", whose = whose(.container))]
    BelowUse {
        /// Its name; `None` where it is the pod as a whole.
        container: Option<String>,
        /// Bytes of the new limit.
        limit: u64,
        /// Bytes that are used.
        used: u64,
    },
    /// Limits of this container cannot change while it runs. For people: why, and what to do.
    #[error("{0}")]
    Unsupported(String),
    /// The provider could not be reached; try again.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}

fn whose(container: &Option<String>) -> String {
    container.as_ref().map_or_else(|| "pod".to_owned(), |name| format!("container \"{name}\""))
}
