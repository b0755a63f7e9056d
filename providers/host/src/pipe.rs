//! Standard input that somebody writes while its guest runs.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::input::{Chunk, InputSource};

/// Bytes that wait for the guest at most, as in a pipe of the kernel's, but for one write.
const HELD: usize = 64 << 10;

/// A pipe to a guest's standard input, for all who write there. What they write waits until the guest reads.
#[derive(Debug)]
pub struct InputPipe {
    is_terminal: bool,
    /// Its end, from elsewhere.
    notice: Option<CancellationToken>,
    state: Mutex<PipeState>,
    /// Notified whenever something of that has changed.
    change: Notify,
}

#[derive(Debug, Default)]
struct PipeState {
    /// Never empty ones, but for ends that are read once.
    pieces: VecDeque<Bytes>,
    held: usize,
    has_ended: bool,
}

impl InputPipe {
    /// A pipe with nothing in it, which also ends with `notice`.
    #[must_use]
    pub fn new(is_terminal: bool, notice: Option<CancellationToken>) -> Arc<Self> {
        Arc::new(Self { is_terminal, notice, state: Mutex::default(), change: Notify::new() })
    }

    /// Writes bytes once there is room. What is written behind the end is dropped.
    pub async fn write(&self, bytes: Bytes) {
        self.until(|state| (state.held < HELD || state.has_ended).then_some(())).await;
        self.push(bytes);
    }

    /// Writes bytes if there is room now.
    pub fn offer(&self, bytes: Bytes) -> bool {
        let has_room = self.state().held < HELD;
        if has_room {
            self.push(bytes);
        }
        has_room
    }

    /// The guest reads that there is no more, once, behind what was written. What is written later follows.
    pub fn offer_end(&self) -> bool {
        let mut state = self.state();
        // So that they are no way to fill the memory.
        let has_room = state.pieces.len() < HELD && !state.has_ended;
        if has_room {
            state.pieces.push_back(Bytes::new());
        }
        drop(state);
        self.change.notify_waiters();
        has_room
    }

    /// Ends it, behind what was written.
    pub fn end(&self) {
        self.state().has_ended = true;
        self.change.notify_waiters();
    }

    fn push(&self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let mut state = self.state();
        if state.has_ended {
            return;
        }
        state.held += bytes.len();
        state.pieces.push_back(bytes);
        drop(state);
        self.change.notify_waiters();
    }

    fn is_over(&self, state: &PipeState) -> bool {
        state.has_ended || self.notice.as_ref().is_some_and(CancellationToken::is_cancelled)
    }

    async fn until<T>(&self, look: impl Fn(&PipeState) -> Option<T>) -> T {
        loop {
            let mut change = std::pin::pin!(self.change.notified());
            change.as_mut().enable();
            if let Some(found) = look(&self.state()) {
                return found;
            }
            change.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, PipeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InputSource for InputPipe {
    fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    fn read(&self, most: usize) -> Chunk {
        let mut state = self.state();
        let Some(piece) = state.pieces.front_mut() else {
            return if self.is_over(&state) { Chunk::End } else { Chunk::NothingYet };
        };
        let bytes = piece.split_to(most.min(piece.len()));
        if piece.is_empty() {
            state.pieces.pop_front();
        }
        state.held = state.held.saturating_sub(bytes.len());
        drop(state);
        self.change.notify_waiters();
        if bytes.is_empty() { Chunk::End } else { Chunk::Bytes(bytes) }
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let readable =
                self.until(|state| (!state.pieces.is_empty() || self.is_over(state)).then_some(()));
            match &self.notice {
                Some(notice) => {
                    tokio::select! {
                        () = readable => {}
                        () = notice.cancelled() => {}
                    }
                }
                None => readable.await,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pipe() -> Arc<InputPipe> {
        InputPipe::new(false, None)
    }

    #[tokio::test]
    async fn what_is_written_is_read_in_pieces_of_any_size() {
        let pipe = pipe();
        assert_eq!(pipe.read(8), Chunk::NothingYet);
        pipe.write("abc".into()).await;
        assert!(pipe.offer("d".into()));
        pipe.ready().await;
        assert_eq!(pipe.read(2), Chunk::Bytes("ab".into()));
        assert_eq!(pipe.read(8), Chunk::Bytes("c".into()));
        pipe.end();
        assert_eq!(pipe.read(8), Chunk::Bytes("d".into()));
        pipe.ready().await;
        assert_eq!([pipe.read(8), pipe.read(8)], [Chunk::End, Chunk::End]);
        pipe.write("late".into()).await;
        assert_eq!(pipe.read(8), Chunk::End);
    }

    #[tokio::test]
    async fn an_end_that_was_typed_is_read_once() {
        let pipe = pipe();
        assert!(pipe.offer("a".into()) && pipe.offer_end() && pipe.offer("b".into()));
        let read: Vec<_> = (0..4).map(|_| pipe.read(8)).collect();
        assert_eq!(read, [Chunk::Bytes("a".into()), Chunk::End, Chunk::Bytes("b".into()), Chunk::NothingYet]);
    }

    #[tokio::test]
    async fn who_writes_waits_for_who_reads() {
        let pipe = pipe();
        let large = Bytes::from(vec![b'x'; HELD]);
        pipe.write(large.clone()).await;
        assert!(!pipe.offer("more".into()));
        let second = pipe.write("more".into());
        tokio::pin!(second);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut second).await.is_err());
        assert_eq!(pipe.read(usize::MAX), Chunk::Bytes(large));
        second.await;
        assert_eq!(pipe.read(usize::MAX), Chunk::Bytes("more".into()));
    }

    #[tokio::test]
    async fn a_notice_ends_it() {
        let notice = CancellationToken::new();
        let pipe = InputPipe::new(true, Some(notice.clone()));
        let ready = pipe.ready();
        tokio::pin!(ready);
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut ready).await.is_err());
        notice.cancel();
        ready.await;
        assert_eq!(pipe.read(8), Chunk::End);
    }
}
