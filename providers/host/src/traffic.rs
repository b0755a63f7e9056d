//! What goes through the sockets of a container, and through its files, counted where it does.
//!
//! Guests of several pods share network namespaces and the processes in them, so that no interface could tell whose bytes it has
//! passed on; and no device could tell whose file a block is of. Each socket and each file adds to the account of the container
//! that it is of: relaxed additions for each read and write.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasmtime_wasi::{
    async_trait,
    p2::{
        DynInputStream, DynOutputStream, InputStream, OutputStream, Pollable, StreamResult,
        pipe::{ClosedInputStream, ClosedOutputStream},
    },
};

/// Counts the bytes of a container's sockets, or of its files.
#[derive(Debug, Default)]
pub struct Traffic {
    received: AtomicU64,
    sent: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
    has_uncounted: AtomicBool,
}

/// What has gone through the sockets of a container since it started: of TCP what was read and written, of UDP what was in
/// datagrams. Headers are the kernel's, and not in it; nor is what names took to be looked up. Or what its guests have read from
/// files and written to them, wherever these are: in its root, in volumes, on a disk, in the page cache or in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrafficUsage {
    /// Bytes that guests have read.
    pub received_bytes: u64,
    /// Bytes that guests have written.
    pub sent_bytes: u64,
    /// Reads that have brought something.
    pub reads: u64,
    /// Writes that have taken something.
    pub writes: u64,
    /// Some have gone through a connection, or a file, that cannot be counted: a socket of TCP or a file of WASI 0.3, whose
    /// streams are wasmtime-wasi's alone.
    pub has_uncounted: bool,
}

impl Traffic {
    /// Takes note of bytes that were read.
    pub(crate) fn received(&self, bytes: usize) {
        if bytes > 0 {
            self.received.fetch_add(bytes as u64, Ordering::Relaxed);
            self.reads.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes note of bytes that were written.
    pub(crate) fn sent(&self, bytes: usize) {
        if bytes > 0 {
            self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes note of a connection, or a file, whose bytes are not known.
    pub(crate) fn is_not_counted(&self) {
        self.has_uncounted.store(true, Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn usage(&self) -> TrafficUsage {
        TrafficUsage {
            received_bytes: self.received.load(Ordering::Relaxed),
            sent_bytes: self.sent.load(Ordering::Relaxed),
            reads: self.reads.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
            has_uncounted: self.has_uncounted.load(Ordering::Relaxed),
        }
    }
}

/// A connection, or one direction of it or of a file, whose bytes are counted.
#[derive(Debug)]
pub(crate) struct Counted<S> {
    inner: S,
    traffic: Arc<Traffic>,
}

impl<S> Counted<S> {
    pub(crate) fn new(inner: S, traffic: &Arc<Traffic>) -> Self {
        Self { inner, traffic: Arc::clone(traffic) }
    }
}

/// Has counted what is read from a stream from now on.
pub(crate) fn count_input(stream: &mut DynInputStream, traffic: &Arc<Traffic>) {
    let inner = std::mem::replace(stream, Box::new(ClosedInputStream));
    *stream = Box::new(Counted::new(inner, traffic));
}

/// Has counted what is written to a stream from now on.
pub(crate) fn count_output(stream: &mut DynOutputStream, traffic: &Arc<Traffic>) {
    let inner = std::mem::replace(stream, Box::new(ClosedOutputStream));
    *stream = Box::new(Counted::new(inner, traffic));
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.traffic.received(buffer.filled().len().saturating_sub(before));
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.note_sent(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, slices);
        self.note_sent(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

impl<S> Counted<S> {
    fn note_sent(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.traffic.sent(*bytes);
        }
        written
    }
}

// The streams of WASI 0.2. What else these traits have is made of what is here.

#[async_trait]
impl Pollable for Counted<DynInputStream> {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

#[async_trait]
impl InputStream for Counted<DynInputStream> {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let read = self.inner.read(size)?;
        self.traffic.received(read.len());
        Ok(read)
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

#[async_trait]
impl Pollable for Counted<DynOutputStream> {
    async fn ready(&mut self) {
        self.inner.ready().await;
    }
}

#[async_trait]
impl OutputStream for Counted<DynOutputStream> {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        let size = bytes.len();
        self.inner.write(bytes)?;
        self.traffic.sent(size);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.inner.flush()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.inner.check_write()
    }

    async fn cancel(&mut self) {
        self.inner.cancel().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};

    use super::*;

    fn usage(traffic: &Arc<Traffic>) -> (u64, u64) {
        let TrafficUsage { received_bytes, sent_bytes, .. } = traffic.usage();
        (received_bytes, sent_bytes)
    }

    #[tokio::test]
    async fn what_is_read_and_written_is_counted_and_nothing_else() {
        let traffic = Arc::default();
        let (near, mut far) = tokio::io::duplex(16);
        let mut near = Counted::new(near, &traffic);
        far.write_all(b"hello").await.unwrap();
        let mut buffer = [0; 3];
        near.read_exact(&mut buffer).await.unwrap();
        assert_eq!((buffer, usage(&traffic)), (*b"hel", (3, 0)));
        // There is room for less than that: what waits is not sent yet.
        assert_eq!(near.write(&[0; 20]).await.unwrap(), 16);
        assert_eq!(usage(&traffic), (3, 16));
        drop(far);
        assert_eq!(near.read_to_end(&mut Vec::new()).await.unwrap(), 2);
        near.write(b"x").await.unwrap_err();
        assert_eq!(usage(&traffic), (5, 16));
        let TrafficUsage { reads, writes, .. } = traffic.usage();
        assert_eq!((reads, writes), (2, 1), "what brings nothing is none");
        assert!(!traffic.usage().has_uncounted);
        traffic.is_not_counted();
        assert!(traffic.usage().has_uncounted);
    }

    #[tokio::test]
    async fn streams_of_guests_are_counted() {
        let traffic = Arc::default();
        let input: DynInputStream = Box::new(MemoryInputPipe::new("hello"));
        let mut input: DynInputStream = Box::new(Counted::new(input, &traffic));
        assert_eq!(input.blocking_read(3).await.unwrap(), "hel");
        assert_eq!(input.skip(9).unwrap(), 2);
        let sink = MemoryOutputPipe::new(8);
        let output: DynOutputStream = Box::new(sink.clone());
        let mut output: DynOutputStream = Box::new(Counted::new(output, &traffic));
        output.blocking_write_and_flush("abc".into()).await.unwrap();
        output.write_zeroes(2).unwrap();
        output.write("too much for it".into()).unwrap_err();
        assert_eq!((usage(&traffic), sink.contents()), ((5, 5), "abc\0\0".into()));
    }
}
