//! Pods: from what the API server wants to what runs, and back.
//!
//! ```text
//! source, static_pods ─► manager ─► task, one per UID
//!                                         ┬─ lifecycle::step   what to do now           (pure)
//!                        │   ▲            ├─ status::of        what the API should say  (pure)
//!                        │   │            ├─ environment       env, argv, host name     (pure)
//!                        ▼   │            └─ publisher         what to write when       (pure)
//!       pull, launch, handlers, api, records, runtime          the edges
//! ```
//!
//! Static pods come from [`crate::static_pods`], which is above this module; what it needs to keep their mirrors
//! is on the manager's [`board`].
//!
//! Everything is keyed by UID: a pod that is deleted and made again under its old name is another pod.
//! A task goes on for as long as its pod exists, finished or not, and cleans up when it is gone.

pub(crate) mod addresses;
pub mod admission;
mod adopt;
mod allocation;
pub mod api;
mod api_error;
pub mod board;
mod cleanup;
pub(crate) mod clock;
pub mod container_id;
mod container_resources;
mod credentials;
pub mod environment;
mod ephemeral;
mod eviction_candidates;
pub mod files;
mod handlers;
mod host_ports;
pub mod image_access;
mod index;
mod launch;
pub mod lifecycle;
pub mod log_files;
pub mod manager;
mod objects;
mod panics;
mod probe_metrics;
mod provider_objects;
mod publisher;
pub(crate) mod pull;
pub mod reason;
mod records;
mod refusal;
mod request_failures;
mod reserve;
mod resize_metrics;
mod sandbox;
mod shared;
pub(crate) mod sidecar;
pub mod source;
pub mod status;
mod status_patch;
pub(crate) mod task;
mod termination;
pub mod volumes;

pub use self::{
    addresses::PodAddresses,
    credentials::pull_secret_credentials,
    environment::NodeFacts,
    eviction_candidates::EvictionCandidates,
    host_ports::HostPorts,
    image_access::ImageAccess,
    index::PodIndex,
    lifecycle::spec::is_static,
    log_files::{LogKeeper, LogLinks},
    manager::{PodManager, Update},
    probe_metrics::ProbeMetrics,
    pull::PullLimit,
    records::Records,
    resize_metrics::ResizeMetrics,
    shared::Shared,
    volumes::Volumes,
};
pub(crate) use self::{request_failures::RequestFailureWatch, task::reference as pod_reference};
