//! Waiting between attempts.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// Waits that double up to a limit, each with up to a fifth on top, so that nodes do not come in step.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    limit: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, next: first }
    }

    /// How long to wait now.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.next;
        self.next = wait.saturating_mul(2).min(self.limit);
        jittered(wait, 0.2)
    }

    /// It worked: the next failure begins from the first wait.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// `duration`, up to `fraction` of it longer.
pub(crate) fn jittered(duration: Duration, fraction: f64) -> Duration {
    duration.mul_f64(1.0 + fraction * rand::random::<f64>())
}

/// Waits; false when the work was cancelled meanwhile.
pub(crate) async fn sleep(duration: Duration, cancel: &CancellationToken) -> bool {
    cancel.run_until_cancelled(tokio::time::sleep(duration)).await.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

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
