//! SPDY/3.1 as Kubernetes' clients speak it: the server's side of
//! [the protocol](https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/), and what `moby/spdystream` makes of it.
//!
//! ```text
//! bytes ─► Decoder (frames, headers inflated) ─► Table (which streams there are) ─► Stream
//! bytes ◄─ Encoder ◄──────────────────────── one queue ◄──────────────────────────── Stream
//! ```
//!
//! Clients open all streams; a server of Kubernetes opens none. Window updates and settings are read and mean nothing: no
//! client of Kubernetes heeds or sends any that count.

mod connection;
mod dictionary;
mod frame;
mod headers;
mod table;
#[cfg(test)]
mod tests;

pub use connection::{IncomingStream, IncomingStreams, serve};
pub use frame::{Decoder, Encoder, Frame, FrameError};
pub use headers::{HeaderError, Headers};
