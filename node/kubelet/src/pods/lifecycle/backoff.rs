//! Delays between restarts, kept over restarts of the agent and forgotten after a long run, as upstream's
//! `flowcontrol.Backoff` does it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::clock::Moment;
use crate::retry::RetryDelays;

/// First delay.
pub const INITIAL: Duration = Duration::from_secs(10);

/// Longest delay, where nothing else is configured.
pub const MAXIMUM: Duration = Duration::from_secs(300);

/// The delay of one container or image. Its default is that nothing has failed yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackoffRecord {
    delay: Duration,
    updated: Option<Moment>,
}

impl BackoffRecord {
    /// When a container that `ended` then may be started again; `None` is at once. The first
    /// restart is at once, and so is one after a run of more than twice `maximum`.
    #[must_use]
    pub fn blocked_until(&self, ended: Moment, maximum: Duration) -> Option<Moment> {
        let updated = self.updated?;
        if ended > updated.after(maximum * 2) {
            return None;
        }
        Some(ended.after(self.delay))
    }

    /// Notes a restart at `now` of what `ended` then.
    pub fn next(&mut self, ended: Moment, now: Moment, maximum: Duration) {
        let forgotten = self.updated.is_none_or(|updated| ended > updated.after(maximum * 2));
        let last = if forgotten { Duration::ZERO } else { self.delay };
        self.delay = RetryDelays::new(INITIAL, maximum).next_after(last);
        self.updated = Some(now);
    }

    /// Notes a failure at `now`, and tells when to try again: 10 s later, then twice as long each time.
    pub fn fail(&mut self, now: Moment) -> Moment {
        self.next(now, now, MAXIMUM);
        now.after(self.delay)
    }

    /// Puts the moment that it remembers onto another clock.
    pub(super) fn translate(&mut self, translate: &impl Fn(Moment) -> Moment) {
        self.updated = self.updated.map(translate);
    }

    /// The present delay.
    #[must_use]
    pub fn delay(&self) -> Duration {
        self.delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Moment {
        Moment::default().after(Duration::from_secs(1_700_000_000 + second))
    }

    #[test]
    fn first_restart_is_at_once_then_ten_seconds_doubling_to_the_maximum() {
        let mut backoff = BackoffRecord::default();
        let mut now = 0;
        let mut delays = Vec::new();
        for _ in 0..8 {
            let until = backoff.blocked_until(at(now), MAXIMUM);
            delays.push(until.map_or(0, |u| u.since(at(now)).as_secs()));
            let restarted = until.map_or(at(now), |u| u);
            backoff.next(at(now), restarted, MAXIMUM);
            now = restarted.since(at(0)).as_secs() + 1;
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn a_long_run_is_forgiven() {
        let mut backoff = BackoffRecord::default();
        for _ in 0..5 {
            backoff.next(at(0), at(0), MAXIMUM);
        }
        assert!(backoff.blocked_until(at(600), MAXIMUM).is_some());
        assert_eq!(backoff.blocked_until(at(601), MAXIMUM), None);
        backoff.next(at(601), at(601), MAXIMUM);
        assert_eq!(backoff.delay(), INITIAL);
    }

    #[test]
    fn a_small_maximum_holds_from_the_first_delay_on() {
        let mut backoff = BackoffRecord::default();
        let maximum = Duration::from_secs(2);
        backoff.next(at(0), at(0), maximum);
        assert_eq!(backoff.blocked_until(at(1), maximum), Some(at(3)));
    }
}
