//! Why there is no worker to talk to.

use std::{io, time::Duration};

use kubewasm_network::NetworkError;

use super::{SupervisorError, WorkerFailure};
use crate::protocol::Versions;

/// Why there is no worker to talk to.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// None lives, and none was asked for.
    #[error("no worker runs for group {group}")]
    NoWorker {
        /// The group.
        group: String,
    },
    /// Workers die one after the other; wait.
    #[error(
        "the worker of group {group} died {deaths} times in a row; the next one is started in {} s (see {log})",
        .pause.as_secs() + 1
    )]
    Backoff {
        /// The group.
        group: String,
        /// How many.
        deaths: u32,
        /// Until the next attempt.
        pause: Duration,
        /// Where the dead ones said why.
        log: String,
    },
    /// The process could not be started.
    #[error("cannot start a worker for group {group}: {source}")]
    Spawn {
        /// The group.
        group: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Its network namespace cannot be made.
    #[error("cannot set up the network of group {group}: {source}")]
    Network {
        /// The group.
        group: String,
        /// Why not.
        #[source]
        source: NetworkError,
    },
    /// Its network namespace is another agent's to make: this one gives pods no addresses.
    #[error("group {group} needs a network namespace, and this node makes none")]
    NoNetwork {
        /// The group.
        group: String,
    },
    /// It ended instead of answering.
    #[error("the worker of group {group} ended while it started ({status}); see {log}")]
    EndedEarly {
        /// The group.
        group: String,
        /// How it ended.
        status: String,
        /// Where it said why.
        log: String,
    },
    /// It lives and does not answer.
    #[error("the worker of group {group} does not answer: {reason}")]
    NoAnswer {
        /// The group.
        group: String,
        /// What was tried last.
        reason: String,
    },
    /// A worker that was just started is of another age than this program.
    #[error(
        "the worker that was started for group {group} speaks protocol {theirs}, and this program {ours}: their files do not belong together; install kubewasm again"
    )]
    Protocol {
        /// The group.
        group: String,
        /// What it speaks.
        theirs: String,
        /// What this program speaks.
        ours: Versions,
    },
    /// A worker of another age was to be replaced and lives on.
    #[error("the worker of group {group} (process {pid}) cannot be spoken to, and does not end; kill it")]
    Stays {
        /// The group.
        group: String,
        /// Its process id.
        pid: String,
    },
}

impl From<GroupError> for SupervisorError {
    fn from(error: GroupError) -> Self {
        Self::Worker(WorkerFailure::Group(error))
    }
}
