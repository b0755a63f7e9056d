//! What a policy writes, as far as it is kept.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use kubewasm_host::{LARGEST_WRITE, Output, Stream};
use tokio_util::sync::CancellationToken;

/// Most bytes of an answer, 16 MiB: an API server takes no object of more than 3.
pub(crate) const MOST_OUTPUT: usize = 16 << 20;
/// Most bytes of what is written to standard error that are kept, 16 KiB. The rest is dropped.
pub(crate) const MOST_ERROR: usize = 16 << 10;

/// Both streams of one call.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    kept: Arc<Mutex<Kept>>,
    /// Cancelled when an answer has become too long.
    too_long: CancellationToken,
}

#[derive(Debug, Default)]
struct Kept {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Answer {
    pub(crate) fn new() -> Self {
        Self { kept: Arc::default(), too_long: CancellationToken::new() }
    }

    /// Is done when the answer has become too long, and never otherwise.
    pub(crate) async fn too_long(&self) {
        self.too_long.cancelled().await;
    }

    pub(crate) fn is_too_long(&self) -> bool {
        self.too_long.is_cancelled()
    }

    /// All of standard output.
    pub(crate) fn stdout(&self) -> Vec<u8> {
        std::mem::take(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner).stdout)
    }

    /// What is kept of standard error, without blanks around it.
    pub(crate) fn stderr(&self) -> String {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept.stderr).trim().to_owned()
    }
}

impl Output for Answer {
    fn held(&self) -> u64 {
        MOST_ERROR as u64
    }

    fn room(&self) -> usize {
        LARGEST_WRITE
    }

    fn push(&self, stream: Stream, bytes: Bytes) -> bool {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        match stream {
            Stream::Stdout if kept.stdout.len() + bytes.len() > MOST_OUTPUT => {
                kept.stdout = Vec::new();
                self.too_long.cancel();
            }
            Stream::Stdout if self.is_too_long() => {}
            Stream::Stdout => kept.stdout.extend_from_slice(&bytes),
            Stream::Stderr => {
                let room = MOST_ERROR.saturating_sub(kept.stderr.len()).min(bytes.len());
                kept.stderr.extend(bytes.iter().take(room));
            }
        }
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
    fn streams_are_kept_apart() {
        let answer = Answer::new();
        for (stream, text) in [(Stream::Stdout, "{"), (Stream::Stderr, " boom\n"), (Stream::Stdout, "}")] {
            assert!(answer.push(stream, text.into()));
        }
        assert_eq!((answer.stdout(), answer.stderr()), (b"{}".to_vec(), "boom".to_owned()));
    }

    #[test]
    fn an_answer_that_is_too_long_is_not_kept() {
        let answer = Answer::new();
        let piece = Bytes::from(vec![b'x'; LARGEST_WRITE]);
        for _ in 0..MOST_OUTPUT / LARGEST_WRITE {
            assert!(answer.push(Stream::Stdout, piece.clone()));
        }
        assert!(!answer.is_too_long());
        for _ in 0..2 {
            assert!(answer.push(Stream::Stdout, "x".into()));
            assert!(answer.is_too_long());
        }
        assert!(answer.stdout().is_empty());
    }

    #[test]
    fn the_beginning_of_standard_error_is_kept() {
        let answer = Answer::new();
        for _ in 0..3 {
            answer.push(Stream::Stderr, vec![b'x'; MOST_ERROR].into());
        }
        assert_eq!(answer.stderr().len(), MOST_ERROR);
    }
}
