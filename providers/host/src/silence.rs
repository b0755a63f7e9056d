//! How long somebody is waited for.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

/// Passes when something was waited for in vain for too long. It takes a timer when it is first asked.
#[derive(Debug)]
pub(crate) struct Silence {
    patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    is_running: bool,
}

impl Silence {
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience, timer: None, is_running: false }
    }

    /// Nothing has come: ready when that has been so for too long. The time begins with the first such call after one of the
    /// others. Must be called within a tokio runtime.
    pub(crate) fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let end = Instant::now() + self.patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(end)));
        if !std::mem::replace(&mut self.is_running, true) {
            timer.as_mut().reset(end);
        }
        timer.as_mut().poll(context)
    }

    /// Something has come, and more is expected: a time that runs begins anew at once.
    pub(crate) fn begin_again(&mut self) {
        if let Some(timer) = &mut self.timer {
            timer.as_mut().reset(Instant::now() + self.patience);
        }
    }

    /// Something has come. Nothing is waited for until it is said again.
    pub(crate) fn stop(&mut self) {
        self.is_running = false;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn time_runs_from_when_something_is_waited_for_or_has_come() {
        let mut silence = Silence::new(PATIENCE);
        let began = Instant::now();
        poll_fn(|cx| silence.poll_over(cx)).await;
        assert_eq!(began.elapsed(), PATIENCE);

        let mut silence = Silence::new(PATIENCE);
        let waits = async |silence: &mut Silence, time| {
            let over = tokio::time::timeout(time, poll_fn(|cx| silence.poll_over(cx))).await;
            over.is_ok()
        };
        assert!(!waits(&mut silence, PATIENCE / 2).await);
        silence.stop();
        tokio::time::sleep(PATIENCE * 2).await;
        assert!(!waits(&mut silence, PATIENCE / 2).await, "it had stopped");
        silence.begin_again();
        assert!(!waits(&mut silence, PATIENCE / 4 * 3).await, "it has begun again");
        assert!(waits(&mut silence, PATIENCE / 2).await);
    }
}
