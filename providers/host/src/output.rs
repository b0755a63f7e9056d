//! Where a guest's output goes: a trait for the embedder, and a buffer for those who want to keep it.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures::future::BoxFuture;

/// Most bytes of one write, 64 KiB. A guest that writes more does so in pieces.
pub const LARGEST_WRITE: usize = 64 << 10;

/// One of the two output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Takes what a guest writes to standard output and standard error.
///
/// A guest is asked for output only while there is [`room`](Output::room), and waits for [`ready`](Output::ready) when there
/// is none: that is the back-pressure. Nothing here may block; a disk is written to on another thread.
pub trait Output: fmt::Debug + Send + Sync + 'static {
    /// Bytes that it may hold for the guest at most; they count as the guest's memory.
    fn held(&self) -> u64;

    /// How many bytes may be pushed now, at most [`LARGEST_WRITE`].
    fn room(&self) -> usize;

    /// Takes bytes, at most [`LARGEST_WRITE`]. False when it holds too much already, and nothing was taken; that is for
    /// guests that have several handles of a stream, each with its own leave to write.
    fn push(&self, stream: Stream, bytes: Bytes) -> bool;

    /// Is done when there is room again.
    fn ready(&self) -> BoxFuture<'_, ()>;

    /// Whether a guest is told that this stream is a terminal. `None`: as [`Setup::terminal`](crate::Setup::terminal) says of
    /// both.
    fn is_terminal(&self, stream: Stream) -> Option<bool> {
        let _ = stream;
        None
    }
}

/// The first bytes of a guest's output, both streams as they came. What is beyond the limit is dropped.
#[derive(Clone, Debug)]
pub struct Capture {
    bytes: Arc<Mutex<Vec<u8>>>,
    limit: usize,
}

impl Capture {
    /// An empty capture of at most `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { bytes: Arc::default(), limit }
    }

    /// Takes what was captured.
    #[must_use]
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Output for Capture {
    fn held(&self) -> u64 {
        self.limit as u64
    }

    fn room(&self) -> usize {
        LARGEST_WRITE
    }

    fn push(&self, _: Stream, bytes: Bytes) -> bool {
        let mut kept = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let room = self.limit.saturating_sub(kept.len()).min(bytes.len());
        kept.extend(bytes.iter().take(room));
        true
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_keeps_the_beginning() {
        let capture = Capture::new(5);
        for piece in ["abc", "defg", "h"] {
            assert!(capture.push(Stream::Stdout, piece.into()));
        }
        assert_eq!(capture.take(), b"abcde");
    }
}
