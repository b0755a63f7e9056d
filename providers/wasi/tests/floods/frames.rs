//! A client of HTTP/2 that sends what it wants to, frame by frame (RFC 9113, 4.1).

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp::OwnedWriteHalf},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};

use super::world::PATIENCE;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// Codes of errors (RFC 9113, 7).
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The bytes of a frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&size[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The fields of a request for a path: those of HPACK's static table, and two values.
pub(crate) fn fields(method: u8, path: &str) -> Vec<u8> {
    const SCHEME_HTTP: u8 = 0x86;
    let literal =
        |name: u8, value: &str| [&[name, u8::try_from(value.len()).unwrap()], value.as_bytes()].concat();
    [&[method, SCHEME_HTTP], &literal(0x04, path)[..], &literal(0x01, "test")].concat()
}

pub(crate) const GET: u8 = 0x82;
pub(crate) const POST: u8 = 0x83;

/// A whole request.
pub(crate) fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &fields(GET, path))
}

/// The head of a request that goes on.
pub(crate) fn post(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &fields(POST, path))
}

/// Takes a request back: CANCEL.
pub(crate) fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// A connection on which anything may be sent.
pub(crate) struct FrameClient {
    to: OwnedWriteHalf,
    /// What is read; nothing where it does not read.
    heard: watch::Receiver<Heard>,
    reads: JoinHandle<()>,
}

/// What the server has said.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Heard {
    /// The code with which it says goodbye.
    pub(crate) goaway: Option<u32>,
    pub(crate) is_ended: bool,
}

impl FrameClient {
    /// One that reads and forgets what it is sent.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::open(address, true).await
    }

    /// One that reads nothing at all.
    pub(crate) async fn deaf(address: SocketAddr) -> Self {
        Self::open(address, false).await
    }

    async fn open(address: SocketAddr, reads: bool) -> Self {
        let (mut from, to) = TcpStream::connect(address).await.unwrap().into_split();
        let (says, heard) = watch::channel(Heard::default());
        let reads = tokio::spawn(async move {
            if !reads {
                // It stays open.
                std::future::pending::<()>().await;
            }
            let mut head = [0; 9];
            while from.read_exact(&mut head).await.is_ok() {
                let size = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let mut payload = vec![0; size as usize];
                if from.read_exact(&mut payload).await.is_err() {
                    break;
                }
                if head[3] == GOAWAY {
                    let code = payload[4..8].try_into().unwrap();
                    says.send_modify(|heard| heard.goaway = Some(u32::from_be_bytes(code)));
                }
            }
            says.send_modify(|heard| heard.is_ended = true);
        });
        let mut client = Self { to, heard, reads };
        client.send(PREFACE).await;
        client.send(&frame(SETTINGS, 0, 0, &[])).await;
        client
    }

    /// Sends bytes; false where the server has ended the connection.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        timeout(PATIENCE, self.to.write_all(bytes)).await.expect("the server takes it, or goes").is_ok()
    }

    /// Sends a piece again and again, with its number, until the server ends the connection.
    pub(crate) async fn flood(&mut self, mut piece: impl FnMut(u32) -> Vec<u8>) {
        const AT_ONCE: u32 = 64;
        let mut number = 0;
        loop {
            let pieces: Vec<u8> = (number..number + AT_ONCE).flat_map(&mut piece).collect();
            number += AT_ONCE;
            if !self.send(&pieces).await {
                return;
            }
        }
    }

    /// Waits until the server has ended the connection, and returns what it had said.
    pub(crate) async fn ended(mut self) -> Heard {
        let ended = self.heard.wait_for(|heard| heard.is_ended);
        *timeout(PATIENCE, ended).await.expect("the end of the connection").unwrap()
    }
}

impl Drop for FrameClient {
    fn drop(&mut self) {
        self.reads.abort();
    }
}
