//! Processor time of threads.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Processor time that the calling thread has used so far, in the kernel as well.
#[must_use]
pub fn thread_time() -> Duration {
    // Never before the start of the thread, and never out of range: the default is for the types only.
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}
