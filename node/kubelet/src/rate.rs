//! How much may be done in a while.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// A token bucket: so many things at once, and so many a second in the long run.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    per_second: f64,
    burst: f64,
    state: Mutex<TokenState>,
}

#[derive(Debug)]
struct TokenState {
    /// Below zero where some wait for what is not there yet.
    left: f64,
    at: Instant,
}

impl TokenBucket {
    /// A full one; without `per_second`, there is no limit and no bucket.
    pub(crate) fn new(per_second: u32, burst: u32) -> Option<Self> {
        let burst = f64::from(burst.max(1));
        let state = Mutex::new(TokenState { left: burst, at: Instant::now() });
        (per_second > 0).then(|| Self { per_second: f64::from(per_second), burst, state })
    }

    /// Takes a token in any case, and says how long to wait before it may be used: who comes first goes first.
    pub(crate) fn take(&self, now: Instant) -> Duration {
        let left = self.change(now, |left| left - 1.0);
        Duration::from_secs_f64((-left).max(0.0) / self.per_second)
    }

    /// Takes a token if there is one.
    pub(crate) fn try_take(&self, now: Instant) -> bool {
        let mut is_there = false;
        self.change(now, |left| {
            is_there = left >= 1.0;
            if is_there { left - 1.0 } else { left }
        });
        is_there
    }

    fn change(&self, now: Instant, change: impl FnOnce(f64) -> f64) -> f64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(state.at).as_secs_f64();
        let refilled = (state.left + self.per_second * passed).min(self.burst);
        state.left = change(refilled);
        state.at = state.at.max(now);
        state.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_bucket_lets_a_burst_through_and_then_a_rate() {
        let bucket = TokenBucket::new(10, 2).unwrap();
        let start = Instant::now();
        assert_eq!(bucket.take(start), Duration::ZERO);
        assert_eq!(bucket.take(start), Duration::ZERO);
        assert_eq!(bucket.take(start), SECOND / 10);
        assert_eq!(bucket.take(start), SECOND / 5, "one after the other");
        assert_eq!(bucket.take(start + 60 * SECOND), Duration::ZERO);
        assert!(TokenBucket::new(0, 5).is_none(), "no limit");
    }

    #[test]
    fn who_does_not_wait_gets_what_is_there() {
        let bucket = TokenBucket::new(1, 2).unwrap();
        let start = Instant::now();
        assert_eq!([(); 3].map(|()| bucket.try_take(start)), [true, true, false]);
        assert!(!bucket.try_take(start + SECOND / 2));
        assert!(bucket.try_take(start + SECOND), "a refusal costs nothing");
        assert!(!bucket.try_take(start), "time does not go back");
    }
}
