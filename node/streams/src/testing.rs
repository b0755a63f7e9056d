//! Clients, as tests need them.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};

use crate::{
    StreamTimes,
    spdy::{Decoder, Encoder, Frame},
};

/// Long enough never to be over.
pub(crate) const NEVER: Duration = Duration::from_hours(1);
pub(crate) const TIMES: StreamTimes =
    StreamTimes { creation: NEVER, idle: NEVER, farewell: NEVER, unheard: NEVER };

/// A client of SPDY, which sends and receives frames one by one.
pub(crate) struct SpdyClient<T = DuplexStream> {
    pub(crate) io: T,
    encoder: Encoder,
    decoder: Decoder,
    input: BytesMut,
}

impl<T: AsyncRead + AsyncWrite + Unpin> SpdyClient<T> {
    pub(crate) fn new(io: T) -> Self {
        Self { io, encoder: Encoder::default(), decoder: Decoder::default(), input: BytesMut::new() }
    }

    pub(crate) async fn send(&mut self, frame: Frame) {
        let mut output = BytesMut::new();
        self.encoder.encode(&frame, &mut output);
        self.io.write_all(&output).await.unwrap();
        self.io.flush().await.unwrap();
    }

    pub(crate) async fn open(&mut self, id: u32, headers: &[(&str, &str)]) {
        let headers = headers.iter().copied().collect();
        self.send(Frame::SynStream { id, fin: false, unidirectional: false, headers }).await;
    }

    pub(crate) async fn data(&mut self, id: u32, data: &[u8], fin: bool) {
        self.send(Frame::Data { id, fin, data: Bytes::copy_from_slice(data) }).await;
    }

    /// The next frame; `None` at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.input).unwrap() {
                return Some(frame);
            }
            if self.io.read_buf(&mut self.input).await.unwrap() == 0 {
                return None;
            }
        }
    }

    /// All that comes on a stream until it has ended; what comes on others is dropped.
    pub(crate) async fn read_to_end(&mut self, stream: u32) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(frame) = self.next().await {
            match frame {
                Frame::Data { id, fin, data } if id == stream => {
                    all.extend_from_slice(&data);
                    if fin {
                        break;
                    }
                }
                Frame::RstStream { id, .. } if id == stream => panic!("reset after {all:?}"),
                _ => {}
            }
        }
        all
    }

    /// Waits until a stream is accepted; what comes on others is dropped.
    pub(crate) async fn is_accepted(&mut self, stream: u32) {
        loop {
            match self.next().await {
                Some(Frame::SynReply { id, .. }) if id == stream => return,
                Some(Frame::RstStream { id, .. }) if id == stream => panic!("stream {stream} is refused"),
                Some(_) => {}
                None => panic!("the connection has ended"),
            }
        }
    }

    /// So many bytes of a stream, on which the next frames are.
    pub(crate) async fn read_exact(&mut self, stream: u32, length: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < length {
            match self.next().await {
                Some(Frame::Data { id, data, .. }) if id == stream => all.extend_from_slice(&data),
                other => panic!("{other:?} after {all:?}"),
            }
        }
        all
    }
}

/// Lets everything else on this thread run until it can go no further.
pub(crate) async fn settle() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}
