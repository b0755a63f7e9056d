//! Waiting between attempts.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How the waits between tries grow: they double, from the first up to the longest. Every back-off of the node is one
/// of these, with a policy on top that says when it begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryDelays {
    first: Duration,
    longest: Duration,
}

impl RetryDelays {
    /// Waits of `first`, twice `first`, and so on, none above `longest`.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// The wait that follows one of `previous`; zero stands for none so far.
    #[must_use]
    pub fn next_after(self, previous: Duration) -> Duration {
        previous.saturating_mul(2).max(self.first).min(self.longest)
    }

    /// The wait after so many failures in a row; zero after none.
    #[must_use]
    pub fn after_failures(self, failures: u32) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else { return Duration::ZERO };
        self.first.saturating_mul(2_u32.saturating_pow(doublings)).min(self.longest)
    }
}

/// The waits between the tries of one operation, each with up to 20 % of jitter on top, so that nodes do not retry in
/// step.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    delays: RetryDelays,
    last: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { delays: RetryDelays::new(first, longest), last: Duration::ZERO }
    }

    /// How long to wait now.
    pub(crate) fn next(&mut self) -> Duration {
        self.last = self.delays.next_after(self.last);
        jittered(self.last, 0.2)
    }

    /// It worked: the next failure begins from the first wait.
    pub(crate) fn reset(&mut self) {
        self.last = Duration::ZERO;
    }
}

/// `duration`, up to `fraction` of it longer.
pub(crate) fn jittered(duration: Duration, fraction: f64) -> Duration {
    duration.mul_f64(1.0 + share(fraction))
}

/// A share between none and `most`, by chance.
pub(crate) fn share(most: f64) -> f64 {
    most * rand::random::<f64>()
}

/// Waits; false when the work was cancelled meanwhile.
pub(crate) async fn sleep(duration: Duration, cancel: &CancellationToken) -> bool {
    cancel.run_until_cancelled(tokio::time::sleep(duration)).await.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_by_count_and_by_the_last_one_are_the_same() {
        for (first, longest) in [(100, 350), (1000, 60_000), (500, 200)] {
            let delays = RetryDelays::new(Duration::from_millis(first), Duration::from_millis(longest));
            let mut last = Duration::ZERO;
            for failures in 0..100 {
                assert_eq!(delays.after_failures(failures), last, "{delays:?} after {failures}");
                last = delays.next_after(last);
            }
        }
    }

    #[test]
    fn waits_double_up_to_the_limit() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        for expected in [100, 200, 350, 350] {
            let wait = backoff.next().as_millis();
            assert!((expected..=expected * 6 / 5).contains(&wait), "{wait} for {expected}");
        }
        backoff.reset();
        assert!(backoff.next() < Duration::from_millis(121));
    }

    #[tokio::test]
    async fn a_cancelled_wait_is_over_at_once() {
        let cancel = CancellationToken::new();
        assert!(sleep(Duration::ZERO, &cancel).await);
        cancel.cancel();
        assert!(!sleep(Duration::from_secs(3600), &cancel).await);
    }
}
