//! When something was last sent or received, and whether anything can be.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    StreamTimes,
    stream::{Outbox, Outgoing},
};

/// A connection's clock.
#[derive(Debug)]
pub(crate) struct Activity {
    begun: Instant,
    /// Milliseconds after `begun`.
    last: AtomicU64,
    /// What has come waits for somebody to take it, and nothing else is read meanwhile.
    is_held_up: AtomicBool,
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), last: AtomicU64::new(0), is_held_up: AtomicBool::new(false) }
    }

    /// Something has come, or gone.
    pub(crate) fn note(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Waits until somebody has taken what has come.
    pub(crate) async fn hand_on(&self, taken: impl Future<Output = ()>) {
        self.is_held_up.store(true, Ordering::Relaxed);
        taken.await;
        self.is_held_up.store(false, Ordering::Relaxed);
    }

    /// Pings the client every `time` while nothing of it is read. That it has gone is then noticed by the write; the end of what
    /// it has sent is behind what nobody takes.
    async fn ping_unheard(&self, time: Duration, outbox: &Outbox) {
        loop {
            tokio::time::sleep(time).await;
            // With others on their way, one of those is the test.
            if self.is_held_up.load(Ordering::Relaxed)
                && let Some(permit) = outbox.free_permit()
            {
                outbox.send_with(permit, Outgoing::Ping);
            }
        }
    }

    /// Returns when nothing has happened for too long. A client that cannot be heard is pinged meanwhile.
    pub(crate) async fn idle(&self, times: StreamTimes, outbox: &Outbox) {
        tokio::select! {
            () = self.idle_for(times.idle) => {}
            () = self.ping_unheard(times.unheard, outbox) => {}
        }
    }

    /// Returns when nothing has happened for `time`; never, when that is zero.
    async fn idle_for(&self, time: Duration) {
        if time.is_zero() {
            return std::future::pending().await;
        }
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let Some(until) = self.begun.checked_add(last).and_then(|last| last.checked_add(time)) else {
                return std::future::pending().await;
            };
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}
