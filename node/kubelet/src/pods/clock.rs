//! The clocks that pod tasks read. All of them have one steady clock.

use std::{sync::LazyLock, time::Instant};

use jiff::Timestamp;

use super::lifecycle::{Moment, Now};

/// What the wall clock showed when the steady clock was first read.
static BEGINNING: LazyLock<(Instant, Moment)> =
    LazyLock::new(|| (Instant::now(), Moment::new(Timestamp::now())));

/// Reads both clocks.
pub(crate) fn now() -> Now {
    let (beginning, reading) = *BEGINNING;
    Now { steady: reading.after(beginning.elapsed()), wall: Timestamp::now() }
}
