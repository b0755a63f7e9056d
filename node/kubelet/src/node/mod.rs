//! The Node object: registered, kept true, and kept alive.
//!
//! ```text
//! machine (reads /proc) ─┐
//! address, config ───────┼─ object (pure) ─► wanted Node ─┬─ register: POST, or reconcile an existing one
//! readiness (Handle) ────┤                                ├─ status:   PATCH what differs, or every 5 minutes
//! runtime's images ──────┘                                └─ lease:    PUT every 10 seconds
//!                                        own Node ◄─ watch ◄─ API server
//! ```
//!
//! [`NodeAgent::run`] drives three loops that share nothing but the watched Node: the lease, the status with the
//! registration, and the watch. Each looks at what is and does what is missing, so that it does not matter
//! what was missed: a Node that was deleted is registered again, under its new UID, and its lease is given
//! its new owner.

pub mod address;
mod agent;
mod conditions;
mod images;
mod lease;
mod machine;
mod object;
mod patch;
mod register;
mod resources;
mod status;

pub(crate) use self::resources::reserved_memory;
pub use self::{
    agent::{NodeAgent, NodeHandle, NodeParts},
    machine::Machine,
    object::KUBELET_VERSION,
    resources::allocatable_memory,
};
