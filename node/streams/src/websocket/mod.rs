//! WebSocket: channels, whose number is in front of each message, or a tunnel for bytes.

mod channels;
mod connection;
mod tunnel;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::protocol::{Role, WebSocketConfig},
};

#[cfg(any(fuzzing, test))]
pub(crate) use channels::read;
pub use channels::{Channel, Codec};
pub use connection::serve;
pub use tunnel::{Tunnel, tunnel};

use crate::stream::CHUNK;

/// Bytes that a message of a client may have. client-go writes what its caller gives it at once as one message.
const MESSAGE: usize = 16 * 1024 * 1024;

/// WebSocket on a connection whose handshake is done, with bounds.
async fn accept<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> WebSocketStream<T> {
    let config = WebSocketConfig::default()
        .read_buffer_size(CHUNK)
        .write_buffer_size(CHUNK)
        .max_write_buffer_size(16 * CHUNK)
        .max_message_size(Some(MESSAGE))
        .max_frame_size(Some(MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}
