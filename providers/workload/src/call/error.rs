//! Why a call has come to nothing.

use std::{sync::Arc, time::Duration};

use kubewasm_host::exit::Exit;

/// A call of a component has come to nothing. A component that has called it is ended by a trap with this text, since its
/// interface has no place for it; a host interface may try again later where it is [`is_temporary`](Self::is_temporary).
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no instance for it: its memory is used up by others, or it fails while it is made.
    #[error("component `{component}` has no instance for a call: {reason}")]
    NoInstance {
        /// Which component.
        component: Arc<str>,
        /// Why not.
        reason: String,
    },
    /// It has not returned in time. Its instance is gone.
    #[error("component `{component}` has not returned from `{function}` within {deadline:?}")]
    Deadline {
        /// Which component.
        component: Arc<str>,
        /// Interface and function.
        function: String,
        /// The time that it had.
        deadline: Duration,
    },
    /// It has trapped or exited, or the values had another type. Its instance is gone.
    #[error("component `{component}` has failed in `{function}`: {reason}")]
    Failed {
        /// Which component.
        component: Arc<str>,
        /// Interface and function.
        function: String,
        /// How.
        reason: String,
    },
    /// It has no such function.
    #[error("component `{component}` has no function `{function}`")]
    NoFunction {
        /// Which component.
        component: Arc<str>,
        /// Interface and function.
        function: String,
    },
    /// Its workload has ended.
    #[error("component `{component}` has ended")]
    Ended {
        /// Which component.
        component: Arc<str>,
    },
    /// The resource is in an instance that has failed since.
    #[error("component `{component}` has lost the resource, with an instance that has failed")]
    Lost {
        /// Which component.
        component: Arc<str>,
    },
    /// Resources of two instances of a component were handed to one call.
    #[error(
        "the resources are of different instances of a component, and only one of these can be called with them"
    )]
    TwoInstances,
}

impl CallError {
    pub(crate) fn failed(component: &Arc<str>, function: &str, exit: Exit) -> Self {
        let reason = match exit.message {
            message if message.is_empty() => format!("it exited with {}", exit.code),
            message => message,
        };
        Self::Failed { component: Arc::clone(component), function: function.to_owned(), reason }
    }

    /// Whether the same call may come to something later.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::NoInstance { .. } | Self::Deadline { .. })
    }
}
