//! What is known of an instance, by its worker and by the agent.

use jiff::Timestamp;
use kubewasm_host::{Usage, exit::Exit, http::HttpStats};

/// An instance at some moment: running, or ended and not yet removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Id from its specification.
    pub id: String,
    /// UID of the pod it belongs to.
    pub pod_uid: String,
    /// That of its specification; empty where the worker is too old to have kept it.
    pub label: String,
    /// Grows with every change of any instance of one worker.
    pub revision: u64,
    /// When it was started.
    pub started_at: Timestamp,
    /// How it ended; `None` while it runs.
    pub end: Option<End>,
}

/// The end of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// When it ended.
    pub finished_at: Timestamp,
    /// How.
    pub exit: Exit,
}

/// What an instance that runs has used, with those that were executed in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceStats {
    /// Id from its specification.
    pub id: String,
    /// UID of the pod it belongs to.
    pub pod_uid: String,
    /// When this was so.
    pub at: Timestamp,
    /// What it has used since it started, and has now.
    pub usage: Usage,
    /// Of one that serves HTTP.
    pub http: Option<HttpStats>,
}
