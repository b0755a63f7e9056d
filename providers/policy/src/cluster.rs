//! Policies of a cluster: objects of the API become policies that are served, and webhooks that ask them.
//!
//! Several replicas serve the same policies behind one Service. Each follows the policies and loads them; one of them, which holds a
//! Lease, is the controller besides: it alone writes webhook configurations, certificates and statuses.
//!
//! ```text
//!   policies ─[follow]─► Snapshot ─[loader]─► PolicyRegistry ─► Progress ─[report]─► Lease of the replica
//!                           │                                                              │
//!            leader: [elector]    Snapshot, reports, webhook configurations, Secret ─[controller]─► the next step
//!                                                                                          │
//!                              [webhook] configuration ◄── [status] what became of it ◄────┴────► [rotation] of certificates
//! ```
//!
//! All is level-triggered: the controller looks at how things are and does what is next; whoever becomes the leader goes on from
//! what is written in the cluster.

pub mod address;
pub mod certificate;
pub mod controller;
pub mod identity;
pub mod loader;
pub mod plan;
pub mod policy;
pub mod report;
pub mod resource;
pub mod rotation;
pub mod run;
pub mod secret;
pub mod status;
pub mod webhook;

/// Who writes, to the API server: the manager of fields.
pub const FIELD_MANAGER: &str = "kubewasm-policy";
/// On a policy: it is not gone before its webhook is. Kubewarden's name for it, so that its tools know what it is.
pub const FINALIZER: &str = "kubewarden.io/finalizer";
/// Label of everything that is ours: the name of the policy server.
pub const SERVER_LABEL: &str = "kubewasm.dev/policy-server";
/// Label of everything that is ours: who manages it.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY: &str = "kubewasm-policy";

/// Selects what is ours.
#[must_use]
pub fn selector(server: &str) -> String {
    format!("{MANAGED_BY_LABEL}={MANAGED_BY},{SERVER_LABEL}={server}")
}

/// The labels of what is ours.
pub(crate) fn labels(server: &str) -> std::collections::BTreeMap<String, String> {
    let own = [(MANAGED_BY_LABEL, MANAGED_BY), (SERVER_LABEL, server)];
    own.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
