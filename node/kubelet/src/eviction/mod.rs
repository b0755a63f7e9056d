//! The node's memory and disk: who may take how much of them, and what is done when they run short.
//!
//! ```text
//!            ┌─ observe: meminfo, statvfs ─► PressureTracker (pure): which thresholds, for how long ─► conditions
//! Watcher ───┼─ measure: accounts, trees ──► limits (pure): who is beyond its own limit ──────┐
//!            │                               ranking (pure): who goes first, with which words ─┼─► EvictionDesk ─► pod task
//!            └─ images, files ◄──── reclaim: what nobody uses goes before any pod does ───────┘
//! ```
//!
//! One loop does all of it, so that nothing is measured twice and two reclaims never meet. It looks at the memory and the
//! file systems, which is a few system calls, as often as the room that is left demands ([`pace`]); pods are measured when
//! a limit or a threshold may have been passed. A pod's own task evicts it: the loop only leaves an order on the
//! [`EvictionDesk`]. Rules, texts and order are those of upstream's `pkg/kubelet/eviction` and
//! `pkg/kubelet/images`.

mod candidate;
mod collector;
mod desk;
mod images;
mod limits;
mod measure;
mod pace;
mod pressure;
mod ranking;
mod reclaim;
mod signal;
mod watcher;

pub(crate) use self::desk::Orders;
pub use self::{
    candidate::{Candidate, ContainerClaims, DiskUsage, PodDiskUsage, PodMemoryUsage, StatedAmount},
    desk::{EvictionCause, EvictionDesk, EvictionOrder},
    pressure::Pressure,
    watcher::{CandidateSource, Watcher, WatcherParts},
};
