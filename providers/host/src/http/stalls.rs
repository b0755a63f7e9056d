//! Clients that take nothing any more: of a connection, whose writes do not go on, and of one request of HTTP/2, whose
//! answer is not asked for.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::silence::Silence;

/// A stream whose writes fail when they could not go on for some time.
#[derive(Debug)]
pub(super) struct WithStalls<S> {
    stream: S,
    stall: Silence,
}

impl<S> WithStalls<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, stall: Silence::new(patience) }
    }

    /// What has come of a write.
    fn poll_stall<T>(&mut self, poll: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.stall.stop();
            return poll;
        }
        ready!(self.stall.poll_over(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing any more")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WithStalls<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WithStalls<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.poll_stall(poll, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.poll_stall(poll, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(cx);
        self.poll_stall(poll, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.poll_stall(poll, cx)
    }
}

/// Since when a piece of an answer is under way; nothing while the guest is waited for.
type HandedOn = Arc<Mutex<Option<Instant>>>;

tokio::task_local! {
    static HANDED_ON: HandedOn;
}

/// Takes note that the next piece of the answer is asked for, or that one was handed on. Of HTTP/1.1, whose connection says as
/// much, nothing is noted.
pub(super) fn is_handed_on(is_handed_on: bool) {
    // Outside of a stream's task there is none.
    let _ = HANDED_ON.try_with(|handed_on| {
        let since = is_handed_on.then(Instant::now);
        *handed_on.lock().unwrap_or_else(PoisonError::into_inner) = since;
    });
}

/// Does a stream's work, and gives it up when its client has taken nothing for so long. The stream is reset then.
pub(super) async fn until_stalled(work: impl Future<Output = ()>, patience: Duration) {
    let handed_on = HandedOn::default();
    let stalled = async {
        loop {
            let since = *handed_on.lock().unwrap_or_else(PoisonError::into_inner);
            match since.map(|since| since + patience) {
                Some(end) if end <= Instant::now() => return,
                Some(end) => tokio::time::sleep_until(end).await,
                None => tokio::time::sleep(patience).await,
            }
        }
    };
    tokio::select! {
        biased;
        () = HANDED_ON.scope(Arc::clone(&handed_on), work) => {}
        () = stalled => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_given_up_when_what_it_has_handed_on_is_not_taken() {
        const PATIENCE: Duration = Duration::from_secs(60);
        let began = Instant::now();
        until_stalled(
            async {
                for _ in 0..10 {
                    is_handed_on(true);
                    tokio::time::sleep(PATIENCE / 2).await;
                    is_handed_on(false);
                    tokio::time::sleep(PATIENCE * 3).await;
                }
            },
            PATIENCE,
        )
        .await;
        assert_eq!(began.elapsed(), PATIENCE * 35, "it has its time");
        let began = Instant::now();
        until_stalled(
            async {
                is_handed_on(true);
                std::future::pending().await
            },
            PATIENCE,
        )
        .await;
        assert!((PATIENCE..=PATIENCE * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_does_not_go_on_fails() {
        let (ours, theirs) = tokio::io::duplex(4);
        let mut stream = WithStalls::new(ours, Duration::from_secs(60));
        stream.write_all(b"1234").await.unwrap();
        let began = Instant::now();
        let error = stream.write_all(b"5").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 60);
        drop(theirs);
    }
}
