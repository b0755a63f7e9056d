//! Streams of a kubelet's exec, attach and port-forward: SPDY/3.1 and WebSocket.
//!
//! ```text
//!                          ┌─ spdy ──────┐                ┌─ remote_command ─► stdin, stdout, stderr, sizes, status
//! upgraded connection ─────┤             ├─► Stream … ────┤
//!                          └─ websocket ─┘                └─ port_forward ───► a connection for each pair of streams
//!                             │      ▲
//!                             └ tunnel ┘  (SPDY inside of WebSocket messages)
//! ```
//!
//! What clients ask for is read by pure functions ([`negotiation`]), and so are the frames of SPDY ([`spdy::Decoder`]). A
//! connection is one future that reads and writes; its streams are ordinary [`AsyncRead`](tokio::io::AsyncRead)s and
//! [`AsyncWrite`](tokio::io::AsyncWrite)s with bounded buffers. Kubernetes' own SPDY has no flow control: clients send no
//! window updates and heed none. So a stream whose reader is slow holds up what its connection reads, and TCP tells the client.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod activity;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub mod negotiation;
pub mod port_forward;
pub mod remote_command;
pub mod spdy;
mod stream;
#[cfg(test)]
mod testing;
pub mod websocket;

use std::time::Duration;

pub use stream::Stream;

/// How long what may take.
#[derive(Clone, Copy, Debug)]
pub struct StreamTimes {
    /// For the client to open the streams that it has asked for.
    pub creation: Duration,
    /// A connection on which nothing has come and nothing has gone for that long is ended.
    pub idle: Duration,
    /// For the client to take what is under way, and to close the connection, once all streams have ended. The server does not
    /// close first: what the client still sends would make the system throw away what it has not yet read.
    pub farewell: Duration,
    /// So often a client that cannot be heard, because nobody takes what it has sent before, is sent a ping: to one that is gone
    /// it cannot be written.
    pub unheard: Duration,
}

impl StreamTimes {
    /// Upstream's, with an idle timeout from the configuration (`streamingConnectionIdleTimeout`); none when that is zero.
    #[must_use]
    pub fn new(idle: Duration) -> Self {
        Self {
            creation: Duration::from_secs(30),
            idle,
            farewell: Duration::from_mins(15),
            unheard: Duration::from_secs(10),
        }
    }
}

/// How a connection ended. None of it is anybody's fault but the client's.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The client does not speak the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// The connection did nothing for too long.
    #[error("nothing has come or gone for too long")]
    Idle,
    /// The client has not opened the streams that it asked for.
    #[error("timed out waiting for client to create streams")]
    NoStreams,
    /// The client has not closed the connection after the end of its streams.
    #[error("the client has not closed the connection after its end")]
    Lingering,
}
