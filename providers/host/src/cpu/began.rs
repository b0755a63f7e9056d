//! When a guest's turn has begun.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use wasmtime::UpdateDeadline;

use crate::{account::Account, engine::SHORT_TICK};

/// When a guest's turn has begun. One per guest.
///
/// Ticks come by the clock, and the first one after a guest has slept comes at once. A guest that has just begun its turn is
/// not made to give it up for that: it would have to be woken again, on whatever thread, to do a moment's work.
#[derive(Debug)]
pub(crate) struct TurnStart {
    begun: Mutex<Instant>,
    /// Its container's, for what is counted.
    account: Arc<Account>,
}

impl TurnStart {
    pub(crate) fn new(account: Arc<Account>) -> Self {
        Self { begun: Mutex::new(Instant::now()), account }
    }

    /// The turn begins, or goes on after others could have had one.
    pub(crate) fn begin(&self) {
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// What becomes of the turn at a tick.
    pub(crate) fn at_tick(&self) -> UpdateDeadline {
        let lasted = self.begun.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        if lasted < SHORT_TICK / 2 {
            return UpdateDeadline::Continue(1);
        }
        self.account.has_yielded();
        UpdateDeadline::Yield(1)
    }
}
