//! Who may use a processor, and for how long.
//!
//! ```text
//!   guest woken ─► [budget] empty? ──yes──► parked until the next period that pays
//!                      │ no
//!                      ▼
//!                  [queue] turn free, or first in line? ──no──► waits for its turn
//!                      │ yes
//!                      ▼
//!                  [turn] polls the guest, to its next tick or the one after; its processor time goes to the
//!                      │   container's account, which moves it back in the line and empties its budget
//!                      └──► hands the turn to whoever is first now
//! ```
//!
//! There are as many turns as processors. The line is ordered by virtual time: processor time used, divided
//! by the container's weight. A guest that slept comes in at the front of it, so that one that answers
//! requests is not held up by those that compute, however many these are. While somebody stands in it, ticks come
//! sooner ([`crowd`]).
//!
//! [`share`], [`budget`] and [`queue`] are plain values; [`turn`] joins them to the guest's future.

mod began;
mod budget;
mod crowd;
mod instantiations;
mod queue;
mod share;
mod turn;

pub(super) use began::TurnStart;
pub(super) use budget::CpuBudget;
pub(super) use crowd::{Crowd, Pace};
pub use instantiations::{INSTANTIATION_BUCKETS_MICROS, InstantiationStats};
pub(super) use queue::Arrival;
pub(super) use share::Weight;
pub(super) use turn::{Scheduler, Turns};

/// What a container may use of the processors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuShare {
    /// Thousandths of a core that it gets at most; 0 for no limit.
    pub limit_millis: u64,
    /// Thousandths of a core that it asked for, which decide between containers when there is not enough.
    pub request_millis: u64,
}
