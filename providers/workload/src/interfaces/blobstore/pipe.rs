//! What goes from a guest's stream to the writer of a back end: a few bytes at a time.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::Notify;

/// Bytes that wait for a writer at most.
const WINDOW: usize = 256 << 10;
/// Bytes that one instance may write before it has said where to, all values together.
const EARLY: usize = 4 << 20;
/// Bytes of one write.
const WRITE: usize = 64 << 10;

/// Bytes that were written before it was said where to, of all values of one instance.
#[derive(Clone, Debug, Default)]
pub(super) struct EarlyBytes(Arc<AtomicUsize>);

/// Both ends of it.
#[derive(Debug)]
pub(super) struct Pipe {
    state: Mutex<PipeState>,
    /// There is more room, or nothing more to wait for.
    room: Notify,
    /// There are more bytes, or there will be none.
    more: Notify,
    early: EarlyBytes,
}

#[derive(Debug, Default)]
struct PipeState {
    queue: VecDeque<Bytes>,
    queued: usize,
    /// Of them, those that count as early.
    early: usize,
    has_writer: bool,
    end: Option<PipeEnd>,
    failure: Option<String>,
}

/// How a guest has ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PipeEnd {
    /// All is written.
    Finished,
    /// It is not to be kept.
    Dropped,
}

/// What is at the other end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piped {
    Bytes(Bytes),
    End(PipeEnd),
}

impl Pipe {
    pub(super) fn new(early: EarlyBytes) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), room: Notify::new(), more: Notify::new(), early })
    }

    fn state(&self) -> MutexGuard<'_, PipeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes may be written now, or why none ever will.
    pub(super) fn room(&self) -> Result<usize, String> {
        let state = self.state();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        if state.end.is_some() {
            return Err("the value is finished".to_owned());
        }
        if state.has_writer {
            return Ok(WINDOW.saturating_sub(state.queued).min(WRITE));
        }
        match EARLY.saturating_sub(self.early.0.load(Ordering::Relaxed)) {
            0 => Err(format!("more than {EARLY} bytes were written before write-data; call that first")),
            room => Ok(room.min(WRITE)),
        }
    }

    /// Waits until there is room, or never will be.
    pub(super) async fn has_room(&self) {
        loop {
            let changed = self.room.notified();
            if self.room() != Ok(0) {
                return;
            }
            changed.await;
        }
    }

    /// Takes bytes, of which there is room.
    pub(super) fn write(&self, bytes: Bytes) {
        let mut state = self.state();
        if bytes.is_empty() || state.end.is_some() || state.failure.is_some() {
            return;
        }
        state.queued += bytes.len();
        if !state.has_writer {
            state.early += bytes.len();
            self.early.0.fetch_add(bytes.len(), Ordering::Relaxed);
        }
        state.queue.push_back(bytes);
        drop(state);
        self.more.notify_one();
    }

    /// There is a writer now. False where there was one before.
    pub(super) fn attach(&self) -> bool {
        let mut state = self.state();
        let is_first = !state.has_writer;
        state.has_writer = true;
        self.forget_early(&mut state);
        drop(state);
        self.room.notify_one();
        is_first
    }

    /// The guest has ended it. The first time counts.
    pub(super) fn end(&self, end: PipeEnd) {
        let mut state = self.state();
        if *state.end.get_or_insert(end) == PipeEnd::Dropped {
            state.queue.clear();
            state.queued = 0;
            self.forget_early(&mut state);
        }
        drop(state);
        self.room.notify_one();
        self.more.notify_one();
    }

    /// The writer takes no more.
    pub(super) fn fail(&self, reason: String) {
        let mut state = self.state();
        state.failure.get_or_insert(reason);
        state.queue.clear();
        state.queued = 0;
        drop(state);
        self.room.notify_one();
    }

    /// What comes next.
    pub(super) async fn next(&self) -> Piped {
        loop {
            let changed = self.more.notified();
            {
                let mut state = self.state();
                if let Some(bytes) = state.queue.pop_front() {
                    state.queued -= bytes.len();
                    drop(state);
                    self.room.notify_one();
                    return Piped::Bytes(bytes);
                }
                if let Some(end) = state.end {
                    return Piped::End(end);
                }
            }
            changed.await;
        }
    }

    fn forget_early(&self, state: &mut PipeState) {
        self.early.0.fetch_sub(std::mem::take(&mut state.early), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(length: usize) -> Bytes {
        vec![7; length].into()
    }

    #[tokio::test]
    async fn a_guest_waits_for_its_writer() {
        let pipe = Pipe::new(EarlyBytes::default());
        assert!(pipe.attach() && !pipe.attach());
        let mut written = 0;
        while let Ok(room @ 1..) = pipe.room() {
            pipe.write(bytes(room));
            written += room;
        }
        assert_eq!(written, WINDOW);
        assert!(futures::poll!(std::pin::pin!(pipe.has_room())).is_pending());
        assert_eq!(pipe.next().await, Piped::Bytes(bytes(WRITE)));
        pipe.has_room().await;
        assert_eq!(pipe.room(), Ok(WRITE));
        pipe.fail("it is full".to_owned());
        pipe.has_room().await;
        assert_eq!(pipe.room(), Err("it is full".to_owned()));
    }

    #[tokio::test]
    async fn early_bytes_are_few_for_all_values() {
        let early = EarlyBytes::default();
        let (first, second) = (Pipe::new(early.clone()), Pipe::new(early.clone()));
        while let Ok(room) = first.room() {
            first.write(bytes(room));
        }
        assert!(second.room().unwrap_err().contains("write-data"), "the other one has none either");
        first.attach();
        assert_eq!(second.room(), Ok(WRITE));
        second.write(bytes(10));
        second.end(PipeEnd::Dropped);
        assert_eq!(early.0.load(Ordering::Relaxed), 0);
        assert_eq!(second.next().await, Piped::End(PipeEnd::Dropped));
    }

    #[tokio::test]
    async fn what_was_written_comes_before_the_end() {
        let pipe = Pipe::new(EarlyBytes::default());
        pipe.write(bytes(3));
        pipe.end(PipeEnd::Finished);
        pipe.end(PipeEnd::Dropped);
        assert_eq!(pipe.next().await, Piped::Bytes(bytes(3)));
        assert_eq!(pipe.next().await, Piped::End(PipeEnd::Finished));
    }
}
