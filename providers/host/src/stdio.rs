//! Output streams of a guest, as WASI sees them.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamError, StreamResult},
};

use crate::{
    output::{LARGEST_WRITE, Output, Stream},
    waiting::Waiting,
};

/// One output stream of one guest, and every handle of it.
#[derive(Clone)]
pub(super) struct GuestStream {
    output: Arc<dyn Output>,
    stream: Stream,
    terminal: bool,
}

impl GuestStream {
    pub(super) fn stdout(output: &Arc<dyn Output>, terminal: bool) -> Self {
        Self::new(output, Stream::Stdout, terminal)
    }

    pub(super) fn stderr(output: &Arc<dyn Output>, terminal: bool) -> Self {
        Self::new(output, Stream::Stderr, terminal)
    }

    fn new(output: &Arc<dyn Output>, stream: Stream, terminal: bool) -> Self {
        let terminal = output.is_terminal(stream).unwrap_or(terminal);
        Self { output: Arc::clone(output), stream, terminal }
    }
}

impl IsTerminal for GuestStream {
    fn is_terminal(&self) -> bool {
        self.terminal
    }
}

impl StdoutStream for GuestStream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(AsyncGuestStream { stream: self.clone(), waiting: Waiting::default() })
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
        if bytes.len() > LARGEST_WRITE || !self.output.push(self.stream, bytes) {
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
    waiting: Waiting,
}

impl AsyncGuestStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let output = &self.stream.output;
        self.waiting.poll(cx, || {
            let output = Arc::clone(output);
            Box::pin(async move { output.ready().await })
        })
    }
}

impl AsyncWrite for AsyncGuestStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_ready(cx));
        let (now, _) = bytes.split_at(bytes.len().min(LARGEST_WRITE));
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
    use std::sync::Mutex;

    use futures::future::BoxFuture;
    use tokio::{io::AsyncWriteExt, sync::Semaphore};

    use super::*;

    /// Has room for one write, and again when a task of its own has taken that.
    #[derive(Debug)]
    struct OneAtATime {
        taken: Arc<Mutex<Vec<u8>>>,
        room: Arc<Semaphore>,
    }

    impl Output for OneAtATime {
        fn held(&self) -> u64 {
            LARGEST_WRITE as u64
        }

        fn room(&self) -> usize {
            if self.room.available_permits() == 0 { 0 } else { LARGEST_WRITE }
        }

        fn push(&self, _: Stream, bytes: Bytes) -> bool {
            let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else { return false };
            let taken = Arc::clone(&self.taken);
            tokio::spawn(async move {
                taken.lock().unwrap().extend(bytes);
                drop(permit);
            });
            true
        }

        fn ready(&self) -> BoxFuture<'_, ()> {
            Box::pin(async { drop(self.room.acquire().await) })
        }
    }

    #[tokio::test]
    async fn polled_writes_wait_for_room() {
        let taken = Arc::default();
        let output = OneAtATime { taken: Arc::clone(&taken), room: Arc::new(Semaphore::new(1)) };
        let output: Arc<dyn Output> = Arc::new(output);
        let mut stream = Box::into_pin(GuestStream::stdout(&output, true).async_stream());
        let text = "0123456\n".repeat(3 * LARGEST_WRITE / 8);
        stream.write_all(text.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        assert!(*taken.lock().unwrap() == text.as_bytes());
    }
}
