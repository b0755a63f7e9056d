//! Output streams of a guest: where they go, and how WASI sees them.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError, StreamResult},
};

use crate::logs::{Log, ROOM, Stream};

/// Where a guest's output goes.
#[derive(Clone, Debug)]
pub enum Output {
    /// To a log file.
    Log(Log),
    /// Into memory.
    Capture(Capture),
}

impl Output {
    /// Bytes that it may hold for the guest.
    pub(super) fn held(&self) -> u64 {
        match self {
            Self::Log(_) => ROOM as u64,
            Self::Capture(capture) => capture.limit as u64,
        }
    }

    fn room(&self) -> usize {
        match self {
            Self::Log(log) => log.room(),
            Self::Capture(_) => ROOM,
        }
    }

    fn push(&self, stream: Stream, bytes: Bytes) -> bool {
        match self {
            Self::Log(log) => log.push(stream, bytes),
            Self::Capture(capture) => {
                capture.push(&bytes);
                true
            }
        }
    }

    async fn ready(&self) {
        if let Self::Log(log) = self {
            log.ready().await;
        }
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

    fn push(&self, bytes: &[u8]) {
        let mut kept = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let room = self.limit.saturating_sub(kept.len()).min(bytes.len());
        kept.extend(bytes.iter().take(room));
    }
}

/// One output stream of one guest, and every handle of it.
#[derive(Clone)]
pub(super) struct GuestStream {
    output: Output,
    stream: Stream,
}

impl GuestStream {
    pub(super) fn stdout(output: &Output) -> Self {
        Self { output: output.clone(), stream: Stream::Stdout }
    }

    pub(super) fn stderr(output: &Output) -> Self {
        Self { output: output.clone(), stream: Stream::Stderr }
    }
}

impl IsTerminal for GuestStream {
    fn is_terminal(&self) -> bool {
        true
    }
}

impl StdoutStream for GuestStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(AsyncGuestStream { stream: self.clone(), waiting: Mutex::new(None) })
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for GuestStream {
    async fn ready(&mut self) {
        self.output.ready().await;
    }
}

impl OutputStream for GuestStream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > ROOM || !self.output.push(self.stream, bytes) {
            return Err(StreamError::trap("wrote more to an output stream than check-write allowed"));
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        // Everything is on its way already; there is no room before it has arrived.
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(self.output.room())
    }
}

/// The same stream for those who poll.
struct AsyncGuestStream {
    stream: GuestStream,
    /// In a mutex because the trait wants `Sync`, which the future is not.
    waiting: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl AsyncGuestStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let waiting = self.waiting.get_mut().unwrap_or_else(PoisonError::into_inner);
        let output = &self.stream.output;
        let future = waiting.get_or_insert_with(|| {
            let output = output.clone();
            Box::pin(async move { output.ready().await })
        });
        let poll = future.as_mut().poll(cx);
        if poll.is_ready() {
            *waiting = None;
        }
        poll
    }
}

impl AsyncWrite for AsyncGuestStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_ready(cx));
        let (now, _) = bytes.split_at(bytes.len().min(ROOM));
        let stream = &self.stream;
        if stream.output.push(stream.stream, Bytes::copy_from_slice(now)) {
            Poll::Ready(Ok(now.len()))
        } else {
            Poll::Ready(Err(io::Error::new(io::ErrorKind::StorageFull, "the log cannot keep up")))
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_ready(cx).map(Ok)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[test]
    fn a_capture_keeps_the_beginning() {
        let capture = Capture::new(5);
        capture.push(b"abc");
        capture.push(b"defg");
        capture.push(b"h");
        assert_eq!(capture.take(), b"abcde");
    }

    #[tokio::test]
    async fn polled_writes_arrive_in_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let log = Log::open(
            &path,
            crate::logs::LogOptions::default(),
            &tokio::runtime::Handle::current(),
            Box::new(|_| {}),
        )
        .unwrap();
        let mut stream = Box::into_pin(GuestStream::stdout(&Output::Log(log)).async_stream());
        let text = "0123456\n".repeat(3 * ROOM / 8);
        stream.write_all(text.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        let written = std::fs::read_to_string(&path).unwrap();
        assert_eq!(written.lines().count(), text.lines().count());
    }
}
