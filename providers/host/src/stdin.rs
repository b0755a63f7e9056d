//! Standard input of a guest.
//!
//! WASI has no signals. A guest that wants to know when it is to end reads its standard input, on which
//! nothing ever comes until it ends: that is the notice. Everybody else's is at its end from the beginning.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use wasmtime_wasi::cli::{IsTerminal, StdinStream};

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

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
}
