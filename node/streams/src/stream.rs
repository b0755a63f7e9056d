//! One stream of a connection, whichever protocol carries it.
//!
//! What comes in is a short queue of chunks, which the connection fills and waits for. What goes out is one queue for all
//! streams of a connection; a chunk holds one of few permits until it has been written to the socket, and permits are given
//! in the order in which they are asked for, so that no stream starves another. Ends and replies need no permit: there are no
//! more of them than streams.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_util::sync::{CancellationToken, PollSemaphore};

/// Bytes that one chunk has at most: a TLS record.
pub(crate) const CHUNK: usize = 16 * 1024;
/// Chunks that a stream takes in before anybody has read them.
const INBOUND: usize = 4;
/// Chunks of all streams of a connection that are on their way out.
const OUTBOUND: usize = 16;

/// What a connection is to send.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// The stream is accepted: with SPDY, a reply; with WebSocket, a message without bytes.
    Reply(u32),
    /// Bytes of the stream.
    Data(u32, Bytes),
    /// The stream is at its end in this direction.
    Fin(u32),
    /// Nobody wants any more of the stream. It was refused, if it was not accepted.
    Reset { id: u32, is_refusal: bool },
    /// A stream is not even looked at.
    Refused { id: u32, status: u32 },
    /// A ping is answered.
    Pong(u32),
    /// The client is pinged. What it answers means nothing; that it can be written does.
    Ping,
    /// The client is told that nothing more comes. With SPDY, because of an error, and with the last stream that was heeded.
    GoAway(u32),
}

/// The same in its queue, with the permit that it holds until it has been written.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) outgoing: Outgoing,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Queued {
    /// It is nothing that anybody does.
    pub(crate) fn is_ping(&self) -> bool {
        matches!(self.outgoing, Outgoing::Ping)
    }
}

/// The sending end of a connection. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    queue: mpsc::UnboundedSender<Queued>,
    permits: Arc<Semaphore>,
}

impl Outbox {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Queued>) {
        let (queue, outgoing) = mpsc::unbounded_channel();
        (Self { queue, permits: Arc::new(Semaphore::new(OUTBOUND)) }, outgoing)
    }

    /// Sends what needs no permit. Nothing comes of it when the connection is gone.
    pub(crate) fn send(&self, outgoing: Outgoing) {
        let _ = self.queue.send(Queued { outgoing, _permit: None });
    }

    /// Sends what needs one.
    pub(crate) fn send_with(&self, permit: OwnedSemaphorePermit, outgoing: Outgoing) {
        let _ = self.queue.send(Queued { outgoing, _permit: Some(permit) });
    }

    /// Waits for a permit; `None` when the connection is gone.
    pub(crate) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// A permit, if there is one.
    pub(crate) fn free_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// What closes it with the connection.
    pub(crate) fn closer(&self) -> OutboxCloser {
        OutboxCloser(Arc::clone(&self.permits))
    }
}

/// What is left of a connection for its owner: it is over when the last of these has been dropped.
#[derive(Debug)]
pub(crate) struct Life(CancellationToken);

impl Life {
    /// One, and what is cancelled at its end.
    pub(crate) fn begin() -> (Arc<Self>, CancellationToken) {
        let over = CancellationToken::new();
        (Arc::new(Self(over.clone())), over)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Lets all who wait for permits fail when it is dropped.
#[derive(Debug)]
pub(crate) struct OutboxCloser(Arc<Semaphore>);

impl Drop for OutboxCloser {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// What the ends of a stream know of each other.
#[derive(Debug, Default)]
struct Ends {
    /// The client has sent everything.
    received: AtomicBool,
    /// The client wants no more of the stream.
    reset: AtomicBool,
}

/// The connection's end of a stream.
#[derive(Debug)]
pub(crate) struct Feed {
    chunks: mpsc::Sender<Bytes>,
    ends: Arc<Ends>,
}

impl Feed {
    /// Waits until there is room. What nobody reads any more is thrown away.
    pub(crate) async fn push(&self, chunk: Bytes) {
        if !chunk.is_empty() {
            let _ = self.chunks.send(chunk).await;
        }
    }

    /// What comes next is nothing.
    pub(crate) fn end(self) {
        self.ends.received.store(true, Ordering::Release);
    }

    /// The client has taken the stream back.
    pub(crate) fn reset(self) {
        self.ends.reset.store(true, Ordering::Release);
    }
}

/// One stream of a connection.
///
/// Reading ends where the client has closed its side, and fails with [`io::ErrorKind::ConnectionReset`] where the client has
/// taken the stream back or is gone. Writes wait while the client does not read, and fail with
/// [`io::ErrorKind::BrokenPipe`] then. Whoever drops it closes both directions, in order, after what was written.
#[derive(Debug)]
pub struct Stream {
    id: u32,
    chunks: mpsc::Receiver<Bytes>,
    /// What is left of the chunk that is read.
    chunk: Bytes,
    ends: Arc<Ends>,
    outbox: Outbox,
    permits: PollSemaphore,
    is_accepted: bool,
    has_ended: bool,
    _life: Arc<Life>,
}

impl Stream {
    pub(crate) fn new(id: u32, outbox: &Outbox, life: Arc<Life>) -> (Self, Feed) {
        let (chunks, inbound) = mpsc::channel(INBOUND);
        let ends = Arc::<Ends>::default();
        let stream = Self {
            id,
            chunks: inbound,
            chunk: Bytes::new(),
            ends: Arc::clone(&ends),
            permits: PollSemaphore::new(Arc::clone(&outbox.permits)),
            outbox: outbox.clone(),
            is_accepted: false,
            has_ended: false,
            _life: life,
        };
        (stream, Feed { chunks, ends })
    }

    /// The number by which the protocol knows it.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The client has taken it back: it wants no more of it.
    pub(crate) fn was_reset(&self) -> bool {
        self.ends.reset.load(Ordering::Acquire)
    }

    /// Tells the client that it may be used.
    pub(crate) fn accept(&mut self) {
        self.is_accepted = true;
        self.outbox.send(Outgoing::Reply(self.id));
    }

    /// It may be used, and nobody has to be told.
    pub(crate) fn open(mut self) -> Self {
        self.is_accepted = true;
        self
    }

    fn finish(&mut self) {
        if !self.has_ended {
            self.has_ended = true;
            self.outbox.send(Outgoing::Fin(self.id));
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.chunk.is_empty() {
            match ready!(self.chunks.poll_recv(context)) {
                Some(chunk) => self.chunk = chunk,
                None if self.ends.received.load(Ordering::Acquire) => return Poll::Ready(Ok(())),
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            }
        }
        let length = self.chunk.len().min(into.remaining());
        into.put_slice(&self.chunk[..length]);
        self.chunk.advance(length);
        if self.chunk.is_empty() {
            // The allocation is not held on to while nothing comes.
            self.chunk = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.has_ended || self.was_reset() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if from.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let Some(permit) = ready!(self.permits.poll_acquire(context)) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let length = from.len().min(CHUNK);
        self.outbox.send_with(permit, Outgoing::Data(self.id, Bytes::copy_from_slice(&from[..length])));
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.is_accepted {
            self.finish();
        }
        if !self.is_accepted || !self.ends.received.load(Ordering::Acquire) {
            self.outbox.send(Outgoing::Reset { id: self.id, is_refusal: !self.is_accepted });
        }
    }
}
