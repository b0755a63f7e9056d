//! Extensions of a cluster: objects of the API become resources that Envoys get, and statuses that say what has become of them.
//!
//! Every replica follows the extensions and publishes them; one of them, which holds a Lease, is the controller besides: it alone
//! writes statuses and Events.
//!
//! ```text
//!   WasmExtensions ─────────────┐
//!   Secrets, ConfigMaps         ├─[loader]─► module of the store ─[publish]─► ExtensionTable ─► Envoys
//!     that they name [references]                  │                                              │ ACK, NACK
//!   ReferenceGrants [grants] ───┘            LoadProgress ◄───────────────────────────────── Subscribers
//!                                                  └──────[report]─► Lease of the replica
//!                                                                          │
//!                            leader: LoadProgress, reports of all ─[controller]─► [status] and [events]
//! ```
//!
//! All is level-triggered: what is published and what is said follows from how things are, and whoever becomes the leader goes on
//! from what is written in the cluster.

pub mod controller;
pub mod events;
pub mod grants;
pub mod loader;
pub mod publish;
pub mod references;
pub mod report;
pub mod resolve;
pub mod run;
pub mod status;

use std::collections::BTreeMap;

/// Who writes, to the API server: the manager of fields.
pub const FIELD_MANAGER: &str = "kubewasm-extension";
/// Label of everything that is ours: who manages it.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

/// The labels of what is ours.
fn labels() -> BTreeMap<String, String> {
    [(MANAGED_BY_LABEL.to_owned(), FIELD_MANAGER.to_owned())].into()
}

/// Selects what is ours.
fn selector() -> String {
    format!("{MANAGED_BY_LABEL}={FIELD_MANAGER}")
}
