//! When a worker may be started again. Pure: the clock is an argument.

use std::time::{Duration, Instant};

use kubewasm_kubelet::retry::RetryDelays;

/// A worker that lived this long was not the cause of its own death.
const HEALTHY: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
const PAUSES: RetryDelays = RetryDelays::new(Duration::from_secs(1), LONGEST_PAUSE);

/// Counts workers that died young.
#[derive(Debug, Default)]
pub(super) struct WorkerDeaths {
    deaths: u32,
    last: Option<Instant>,
}

impl WorkerDeaths {
    /// A worker that lived for `lived` has died, or did not even start.
    pub(super) fn died(&mut self, lived: Duration, now: Instant) {
        self.deaths = if lived < HEALTHY { self.deaths.saturating_add(1) } else { 1 };
        self.last = Some(now);
    }

    /// How long to wait before the next one is started; nothing after the first death.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        let pause = PAUSES.after_failures(self.deaths.saturating_sub(1));
        let since = now.saturating_duration_since(self.last?);
        pause.checked_sub(since).filter(|rest| !rest.is_zero())
    }

    /// No worker has died so lately that it would still matter.
    pub(super) fn is_calm(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.saturating_duration_since(last) >= LONGEST_PAUSE + HEALTHY)
    }

    /// Workers that died young, one after the other.
    pub(super) fn deaths(&self) -> u32 {
        self.deaths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute() {
        let mut backoff = WorkerDeaths::default();
        let now = Instant::now();
        assert_eq!(backoff.pause(now), None);
        let pauses: Vec<_> = (0..10)
            .map(|_| {
                backoff.died(Duration::ZERO, now);
                backoff.pause(now).map_or(0, |pause| pause.as_secs())
            })
            .collect();
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        for _ in 0..100 {
            backoff.died(Duration::ZERO, now);
        }
        assert_eq!(backoff.pause(now), Some(LONGEST_PAUSE));
    }

    #[test]
    fn deaths_are_forgotten_when_they_cannot_matter_any_more() {
        let mut backoff = WorkerDeaths::default();
        let now = Instant::now();
        assert!(backoff.is_calm(now));
        backoff.died(Duration::ZERO, now);
        assert!(!backoff.is_calm(now + LONGEST_PAUSE));
        assert!(backoff.is_calm(now + LONGEST_PAUSE + HEALTHY));
    }

    #[test]
    fn pauses_pass_and_health_is_rewarded() {
        let mut backoff = WorkerDeaths::default();
        let now = Instant::now();
        for _ in 0..4 {
            backoff.died(Duration::ZERO, now);
        }
        assert_eq!(backoff.pause(now + Duration::from_secs(3)), Some(Duration::from_secs(1)));
        assert_eq!(backoff.pause(now + Duration::from_secs(4)), None);
        backoff.died(HEALTHY, now);
        assert_eq!(backoff.pause(now), None);
    }
}
