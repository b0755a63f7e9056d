//! What a guest may ask of a back end, and how long it waits for it.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

/// What a guest may ask of one back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long an operation may take, the wait for its turn included. Of a stream, each piece.
    pub deadline: Duration,
    /// Operations under way at a time; one more waits for its turn. Streams of blobs count as one each for as long as they are
    /// open, separately from these.
    pub in_flight: usize,
    /// Bytes of a key, or of an object's name.
    pub key_bytes: usize,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Keys of one page, and of one call with many.
    pub page_keys: usize,
    /// Bytes of a blob.
    pub blob_bytes: u64,
    /// Bytes that a back end in memory keeps, all buckets together.
    pub memory_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(5),
            in_flight: 64,
            key_bytes: 1024,
            value_bytes: 8 << 20,
            page_keys: 1000,
            blob_bytes: 32 << 30,
            memory_bytes: 64 << 20,
        }
    }
}

/// Holds operations to their [`Limits`].
#[derive(Clone, Debug)]
pub(super) struct Turns {
    limits: Limits,
    operations: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

/// Is held by a stream.
pub(super) type StreamTurn = OwnedSemaphorePermit;

/// An operation did not end in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Late {
    deadline: Duration,
    began: bool,
}

impl std::fmt::Display for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.deadline.as_secs_f64();
        match self.began {
            true => write!(
                f,
                "the back end did not answer within {seconds} s; whether it did what was asked is not known"
            ),
            false => {
                write!(f, "too many operations are under way: this one did not begin within {seconds} s")
            }
        }
    }
}

impl Turns {
    pub(super) fn new(limits: Limits) -> Self {
        let turns = || Arc::new(Semaphore::new(limits.in_flight.clamp(1, Semaphore::MAX_PERMITS)));
        Self { limits, operations: turns(), streams: turns() }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Does this when it is its turn, and no longer than it may take.
    pub(super) async fn run<T>(&self, operation: impl Future<Output = T>) -> Result<T, Late> {
        let until = Instant::now() + self.limits.deadline;
        let _turn = self.turn(&self.operations, until).await?;
        timeout_at(until, operation).await.map_err(|_| self.late(true))
    }

    /// Waits for a stream's turn.
    pub(super) async fn stream(&self) -> Result<StreamTurn, Late> {
        self.turn(&self.streams, Instant::now() + self.limits.deadline).await
    }

    /// One piece of a stream that has its turn.
    pub(super) async fn piece<T>(&self, piece: impl Future<Output = T>) -> Result<T, Late> {
        tokio::time::timeout(self.limits.deadline, piece).await.map_err(|_| self.late(true))
    }

    async fn turn(&self, turns: &Arc<Semaphore>, until: Instant) -> Result<OwnedSemaphorePermit, Late> {
        let turn = timeout_at(until, Arc::clone(turns).acquire_owned()).await;
        turn.ok().and_then(Result::ok).ok_or_else(|| self.late(false))
    }

    fn late(&self, began: bool) -> Late {
        Late { deadline: self.limits.deadline, began }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(in_flight: usize) -> Turns {
        Turns::new(Limits { in_flight, deadline: Duration::from_secs(5), ..Limits::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_answered_ends() {
        let turns = turns(1);
        let late = turns.run(std::future::pending::<()>()).await.unwrap_err();
        assert!(late.began, "{late}");
        assert_eq!(turns.run(async { 7 }).await, Ok(7), "the turn is free again");
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_no_turn_ends() {
        let turns = turns(1);
        let held = turns.stream().await.unwrap();
        let late = turns.stream().await.unwrap_err();
        assert!(!late.began, "{late}");
        assert_eq!(turns.run(async { 7 }).await, Ok(7), "operations have turns of their own");
        drop(held);
        assert!(turns.stream().await.is_ok());
    }
}
