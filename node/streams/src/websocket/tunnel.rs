//! Bytes in binary messages, wherever the messages begin and end.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use futures::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, error::ProtocolError},
};

use super::accept;
use crate::stream::CHUNK;

/// A connection of bytes inside of one of messages.
#[derive(Debug)]
pub struct Tunnel<T> {
    messages: WebSocketStream<T>,
    /// What is left of a message.
    message: Bytes,
}

/// Bytes on a connection whose WebSocket handshake is done.
pub async fn tunnel<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> Tunnel<T> {
    Tunnel::of(accept(io).await)
}

impl<T> Tunnel<T> {
    /// Bytes in these messages.
    pub(crate) fn of(messages: WebSocketStream<T>) -> Self {
        Self { messages, message: Bytes::new() }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.message.is_empty() {
            match ready!(Pin::new(&mut self.messages).poll_next(context)) {
                Some(Ok(Message::Binary(message))) => self.message = message,
                Some(Ok(Message::Text(_))) => {
                    let error = "a text message in a tunnel of bytes";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(io_result(error)),
                None => return Poll::Ready(Ok(())),
            }
        }
        let length = self.message.len().min(into.remaining());
        into.put_slice(&self.message[..length]);
        self.message.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.messages).poll_ready(context)).or_else(io_result)?;
        let length = from.len().min(CHUNK);
        let message = Message::Binary(Bytes::copy_from_slice(&from[..length]));
        Pin::new(&mut self.messages).start_send(message).map_err(io_error)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.messages).poll_flush(context).map_err(io_error)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(ready!(Pin::new(&mut self.messages).poll_close(context)).or_else(io_result))
    }
}

/// A connection that is closed is at its end.
fn io_result(error: tungstenite::Error) -> io::Result<()> {
    match error {
        tungstenite::Error::ConnectionClosed
        | tungstenite::Error::AlreadyClosed
        | tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Ok(()),
        error => Err(io_error(error)),
    }
}

fn io_error(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        error => io::Error::other(error),
    }
}
