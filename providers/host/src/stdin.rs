//! Standard input of a guest.
//!
//! WASI has no signals. A guest that wants to know when it is to end reads its standard input, on which
//! nothing ever comes until it ends: that is the notice. Others have what their embedder gives them, or an input that is at its end
//! from the beginning.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use wasmtime_wasi::{
    cli::{IsTerminal, StdinStream},
    p2::{InputStream, Pollable, StreamError, StreamResult},
};

use crate::{
    input::{Chunk, InputSource},
    waiting::Waiting,
};

/// Most bytes that are read at once, 64 KiB.
const LARGEST_READ: usize = 64 << 10;

/// Input that ends when the token is cancelled, and holds nothing until then.
#[derive(Clone, Debug)]
pub(super) struct Notice(pub(super) CancellationToken);

impl IsTerminal for Notice {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for Notice {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(Silence(Some(Box::pin(self.0.clone().cancelled_owned()))))
    }
}

/// One reader of it; nothing is left in it once it has ended.
struct Silence(Option<Pin<Box<WaitForCancellationFutureOwned>>>);

impl AsyncRead for Silence {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(end) = &mut self.0 {
            ready!(end.as_mut().poll(cx));
            self.0 = None;
        }
        Poll::Ready(Ok(()))
    }
}

/// Input from an embedder's source.
#[derive(Clone, Debug)]
pub(super) struct GuestInput(Arc<dyn InputSource>);

impl GuestInput {
    pub(super) fn new(source: &Arc<dyn InputSource>) -> Self {
        Self(Arc::clone(source))
    }
}

impl IsTerminal for GuestInput {
    fn is_terminal(&self) -> bool {
        self.0.is_terminal()
    }
}

impl StdinStream for GuestInput {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(AsyncInput { source: Arc::clone(&self.0), waiting: Waiting::default() })
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for GuestInput {
    async fn ready(&mut self) {
        self.0.ready().await;
    }
}

impl InputStream for GuestInput {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if size == 0 {
            return Ok(Bytes::new());
        }
        match self.0.read(size.min(LARGEST_READ)) {
            Chunk::Bytes(bytes) => Ok(bytes),
            Chunk::NothingYet => Ok(Bytes::new()),
            // It is not remembered: there may be more the next time.
            Chunk::End => Err(StreamError::Closed),
        }
    }
}

/// The same for those who poll.
struct AsyncInput {
    source: Arc<dyn InputSource>,
    waiting: Waiting,
}

impl AsyncRead for AsyncInput {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            match self.source.read(buffer.remaining().min(LARGEST_READ)) {
                Chunk::Bytes(bytes) => {
                    // A source that gives more than it was asked for would lose the rest here.
                    let (now, _) = bytes.split_at(bytes.len().min(buffer.remaining()));
                    buffer.put_slice(now);
                    return Poll::Ready(Ok(()));
                }
                Chunk::End => return Poll::Ready(Ok(())),
                Chunk::NothingYet => {}
            }
            let this = &mut *self;
            let source = &this.source;
            ready!(this.waiting.poll(cx, || {
                let source = Arc::clone(source);
                Box::pin(async move { source.ready().await })
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, time::Duration};

    use futures::future::BoxFuture;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn it_ends_when_it_is_time_and_stays_at_its_end() {
        let token = CancellationToken::new();
        let mut input = Box::into_pin(Notice(token.clone()).async_stream());
        let mut buffer = [0; 8];
        let early = tokio::time::timeout(Duration::from_millis(10), input.read(&mut buffer)).await;
        assert!(early.is_err(), "nothing comes before");
        token.cancel();
        assert_eq!(input.read(&mut buffer).await.unwrap(), 0);
        assert_eq!(input.read(&mut buffer).await.unwrap(), 0);
        let mut late = Box::into_pin(Notice(token).async_stream());
        assert_eq!(late.read(&mut buffer).await.unwrap(), 0);
    }

    /// Text that comes in pieces, and an end after each.
    #[derive(Debug, Default)]
    struct Pieces {
        left: Mutex<Vec<Chunk>>,
        more: tokio::sync::Notify,
    }

    impl Pieces {
        fn push(&self, chunk: Chunk) {
            self.left.lock().unwrap().push(chunk);
            self.more.notify_one();
        }
    }

    impl InputSource for Pieces {
        fn is_terminal(&self) -> bool {
            true
        }

        fn read(&self, most: usize) -> Chunk {
            let mut left = self.left.lock().unwrap();
            match left.first_mut() {
                None => Chunk::NothingYet,
                Some(Chunk::Bytes(bytes)) if bytes.len() > most => Chunk::Bytes(bytes.split_to(most)),
                Some(_) => left.remove(0),
            }
        }

        fn ready(&self) -> BoxFuture<'_, ()> {
            Box::pin(async {
                while self.left.lock().unwrap().is_empty() {
                    self.more.notified().await;
                }
            })
        }
    }

    #[tokio::test]
    async fn a_source_is_read_as_it_comes_and_beyond_its_ends() {
        let pieces = Arc::new(Pieces::default());
        let source: Arc<dyn InputSource> = Arc::<Pieces>::clone(&pieces);
        let input = GuestInput::new(&source);
        assert!(input.is_terminal());
        let (mut stream, mut polled) = (input.p2_stream(), Box::into_pin(input.async_stream()));
        assert_eq!(stream.read(8).unwrap(), "", "nothing yet");
        pieces.push(Chunk::Bytes("abc".into()));
        pieces.push(Chunk::End);
        assert_eq!(stream.blocking_read(2).await.unwrap(), "ab");
        let mut buffer = [0; 8];
        assert_eq!(polled.read(&mut buffer).await.unwrap(), 1, "both handles read one source");
        assert!(matches!(stream.read(8), Err(StreamError::Closed)));
        let later = tokio::spawn({
            let pieces = Arc::clone(&pieces);
            async move {
                pieces.push(Chunk::Bytes("d".into()));
                pieces.push(Chunk::End);
            }
        });
        assert_eq!(stream.blocking_read(8).await.unwrap(), "d");
        assert_eq!(polled.read(&mut buffer).await.unwrap(), 0);
        later.await.unwrap();
    }
}
