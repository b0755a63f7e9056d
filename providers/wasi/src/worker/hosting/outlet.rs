//! What a guest has written, on its way to one caller.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use kubewasm_host::{LARGEST_WRITE, Output, Stream};
use tokio::{sync::Notify, time::Instant};

/// Bytes with which there is no more room.
const PLENTY: usize = 2 * LARGEST_WRITE;
/// Bytes at most. More than a guest is given leave for, because a component can hold several handles of one stream, each with
/// its own leave to write.
const LIMIT: usize = PLENTY + 4 * LARGEST_WRITE;
/// What each piece is counted for besides its bytes.
const PIECE: usize = size_of::<(Stream, Bytes)>();
/// For so long one that is full may hold up whoever writes there, if nothing is taken meanwhile.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// What waits for one caller. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(in crate::worker) struct Outlet(Arc<OutletInner>);

#[derive(Debug, Default)]
struct OutletInner {
    state: Mutex<OutletState>,
    /// Notified whenever something of that has changed.
    change: Notify,
}

#[derive(Debug, Default)]
struct OutletState {
    pieces: VecDeque<(Stream, Bytes)>,
    held: usize,
    /// Since when there is no room and nothing was taken.
    full_since: Option<Instant>,
    is_closed: bool,
    given_up: bool,
}

impl OutletState {
    fn is_full(&self) -> bool {
        self.held >= PLENTY && !self.is_closed
    }

    fn take(&mut self) -> Option<(Stream, Bytes)> {
        let (stream, first) = self.pop()?;
        let follows = |state: &Self, have: usize| {
            let next = state.pieces.front();
            next.is_some_and(|(of, next)| *of == stream && have + next.len() <= LARGEST_WRITE)
        };
        if !follows(self, first.len()) {
            return Some((stream, first));
        }
        // Many are a few bytes, and each would be a message.
        let mut joined = BytesMut::from(&first[..]);
        while follows(self, joined.len())
            && let Some((_, next)) = self.pop()
        {
            joined.extend_from_slice(&next);
        }
        Some((stream, joined.freeze()))
    }

    fn pop(&mut self) -> Option<(Stream, Bytes)> {
        let (stream, bytes) = self.pieces.pop_front()?;
        self.held = self.held.saturating_sub(bytes.len() + PIECE);
        Some((stream, bytes))
    }
}

impl Outlet {
    /// Waits for something and takes it: of what waits, as much of one stream as makes a write. Nothing when it is closed and
    /// empty.
    pub(in crate::worker) async fn next(&self) -> Option<(Stream, Bytes)> {
        let piece = self
            .until(|state| match state.take() {
                Some(piece) => {
                    state.full_since = state.is_full().then(Instant::now);
                    Some(Some(piece))
                }
                None => state.is_closed.then_some(None),
            })
            .await;
        self.0.change.notify_waiters();
        piece
    }

    /// Nothing more is taken in; what waits can be taken.
    pub(in crate::worker) fn close(&self) {
        self.state().is_closed = true;
        self.0.change.notify_waiters();
    }

    /// Drops what waits for a caller that does not take it, and takes in nothing more.
    pub(super) fn give_up(&self) {
        let mut state = self.state();
        state.pieces.clear();
        state.held = 0;
        state.is_closed = true;
        state.given_up = true;
        drop(state);
        self.0.change.notify_waiters();
    }

    /// The caller was given up.
    pub(in crate::worker) fn was_given_up(&self) -> bool {
        self.state().given_up
    }

    /// Until when it may hold up who writes, while it is full.
    pub(super) fn full_until(&self) -> Option<Instant> {
        let state = self.state();
        state.full_since.filter(|_| state.is_full()).map(|since| since + PATIENCE)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().is_closed
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    async fn until<T>(&self, mut look: impl FnMut(&mut OutletState) -> Option<T>) -> T {
        loop {
            let mut change = std::pin::pin!(self.0.change.notified());
            change.as_mut().enable();
            let found = look(&mut self.state());
            if let Some(found) = found {
                return found;
            }
            change.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, OutletState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Output for Outlet {
    fn held(&self) -> u64 {
        PLENTY as u64
    }

    fn room(&self) -> usize {
        if self.state().is_full() { 0 } else { LARGEST_WRITE }
    }

    /// What comes when it is closed is dropped.
    fn push(&self, stream: Stream, bytes: Bytes) -> bool {
        let mut state = self.state();
        if state.is_closed || bytes.is_empty() {
            return true;
        }
        let cost = bytes.len() + PIECE;
        if state.held + cost > LIMIT {
            return false;
        }
        state.held += cost;
        state.pieces.push_back((stream, bytes));
        if state.is_full() && state.full_since.is_none() {
            state.full_since = Some(Instant::now());
        }
        drop(state);
        self.0.change.notify_waiters();
        true
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.until(|state| (!state.is_full()).then_some(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn large() -> Bytes {
        vec![b'x'; LARGEST_WRITE].into()
    }

    #[tokio::test]
    async fn what_was_written_is_taken_in_order_and_then_it_ends() {
        let outlet = Outlet::default();
        for (stream, text) in
            [(Stream::Stdout, "a"), (Stream::Stdout, "b"), (Stream::Stderr, "c"), (Stream::Stdout, "d")]
        {
            assert!(outlet.push(stream, text.into()));
        }
        outlet.close();
        assert!(outlet.push(Stream::Stdout, "late".into()));
        assert_eq!(outlet.next().await, Some((Stream::Stdout, "ab".into())));
        assert_eq!(outlet.next().await, Some((Stream::Stderr, "c".into())));
        assert_eq!(outlet.next().await, Some((Stream::Stdout, "d".into())));
        assert_eq!(outlet.next().await, None);
        assert!(!outlet.was_given_up());
    }

    #[tokio::test]
    async fn who_writes_waits_while_it_is_full() {
        let outlet = Outlet::default();
        assert_eq!((outlet.room(), outlet.full_until()), (LARGEST_WRITE, None));
        assert!(outlet.push(Stream::Stdout, large()) && outlet.push(Stream::Stdout, large()));
        assert_eq!(outlet.room(), 0);
        assert!(outlet.full_until().is_some());
        let ready = outlet.ready();
        outlet.next().await;
        ready.await;
        assert_eq!((outlet.room(), outlet.full_until()), (LARGEST_WRITE, None));
    }

    #[tokio::test]
    async fn it_holds_no_more_than_its_limit_and_nothing_once_it_was_given_up() {
        let outlet = Outlet::default();
        let pushed = (0..100).take_while(|_| outlet.push(Stream::Stdout, large())).count();
        assert_eq!(pushed, 5);
        outlet.give_up();
        assert_eq!(outlet.next().await, None);
        assert!(outlet.was_given_up() && outlet.room() > 0);
    }
}
