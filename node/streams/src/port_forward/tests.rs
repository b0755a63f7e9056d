//! Ports behind which each test puts what it wants: 7 echoes, 1 greets and hangs up, the others are closed.

use std::time::Duration;

use futures::SinkExt as _;
use tokio::{io::DuplexStream, task::JoinHandle};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::*;
use crate::{
    spdy::Frame,
    testing::{SpdyClient, TIMES},
    websocket::Tunnel,
};

struct Ports;

impl Forwarded for Ports {
    type Connection = DuplexStream;
    type Error = String;

    async fn connect(&self, port: u16) -> Result<DuplexStream, String> {
        let (near, mut far) = tokio::io::duplex(1024);
        match port {
            7 => drop(tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(far);
                tokio::io::copy(&mut reader, &mut writer).await.unwrap();
                writer.write_all(b"!").await.unwrap();
                writer.shutdown().await.unwrap();
            })),
            1 => far.write_all(b"hello").await.unwrap(),
            _ => return Err("connection refused".to_owned()),
        }
        Ok(near)
    }

    fn failure(&self, port: u16, error: &dyn Display) -> String {
        format!("error forwarding port {port}: {error}")
    }
}

fn start(
    protocol: PortForwardProtocol,
    ports: &'static [u16],
    times: StreamTimes,
) -> (DuplexStream, JoinHandle<Result<(), ConnectionError>>) {
    let (client, server) = tokio::io::duplex(64 * 1024);
    (client, tokio::spawn(async move { serve(server, protocol, ports, times, &Ports).await }))
}

async fn open<T: AsyncRead + AsyncWrite + Unpin>(
    client: &mut SpdyClient<T>,
    first: u32,
    port: &str,
    request: &str,
) {
    for (id, kind) in [(first, "error"), (first + 2, "data")] {
        client.open(id, &[("streamtype", kind), ("port", port), ("requestid", request)]).await;
        client.is_accepted(id).await;
    }
    client.data(first, b"", true).await;
}

#[tokio::test]
async fn connections_are_forwarded_with_their_ends() {
    let (client, served) = start(PortForwardProtocol::Spdy, &[], TIMES);
    let mut client = SpdyClient::new(client);
    open(&mut client, 1, "7", "0").await;
    client.data(3, b"there and back", true).await;
    assert_eq!(client.read_to_end(3).await, b"there and back!");
    // It has not sent anything, and is sent everything.
    open(&mut client, 5, "1", "1").await;
    assert_eq!(client.read_to_end(7).await, b"hello");
    drop(client);
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_closed_port_is_told_on_the_stream_of_errors() {
    let (client, _served) = start(PortForwardProtocol::Spdy, &[], TIMES);
    let mut client = SpdyClient::new(client);
    open(&mut client, 1, "9", "0").await;
    let told = client.read_to_end(1).await;
    assert_eq!(String::from_utf8(told).unwrap(), "error forwarding port 9: connection refused");
    // The others are not disturbed.
    open(&mut client, 5, "7", "1").await;
    client.data(7, b"x", true).await;
    assert_eq!(client.read_to_end(7).await, b"x!");
}

#[tokio::test]
async fn a_client_that_has_had_enough_is_told_of_no_error() {
    let (client, _served) = start(PortForwardProtocol::Spdy, &[], TIMES);
    let mut client = SpdyClient::new(client);
    open(&mut client, 1, "7", "0").await;
    client.data(3, b"x", false).await;
    assert_eq!(client.read_exact(3, 1).await, b"x");
    client.send(Frame::RstStream { id: 3, status: 5 }).await;
    assert_eq!(client.read_to_end(1).await, b"");
}

#[tokio::test]
async fn pairs_that_cannot_be_are_told_so() {
    let (client, _served) = start(PortForwardProtocol::Spdy, &[], TIMES);
    let mut client = SpdyClient::new(client);
    client.open(1, &[("streamtype", "error"), ("port", "7"), ("requestid", "5")]).await;
    client.is_accepted(1).await;
    client.open(3, &[("streamtype", "error"), ("port", "7"), ("requestid", "5")]).await;
    let expected = "error processing stream for request 5: error stream already assigned";
    let told = client.read_exact(1, expected.len()).await;
    assert_eq!(String::from_utf8(told).unwrap(), expected);
    assert_eq!(client.next().await, Some(Frame::RstStream { id: 3, status: 3 }));
    client.open(5, &[("streamtype", "data"), ("port", "0")]).await;
    assert_eq!(client.next().await, Some(Frame::RstStream { id: 5, status: 3 }));
}

#[tokio::test]
async fn half_a_pair_is_not_waited_for() {
    let times = StreamTimes { creation: Duration::from_millis(10), ..TIMES };
    let (client, _served) = start(PortForwardProtocol::Spdy, &[], times);
    let mut client = SpdyClient::new(client);
    client.open(1, &[("streamtype", "error"), ("port", "7"), ("requestid", "5")]).await;
    let told = client.read_to_end(1).await;
    assert_eq!(String::from_utf8(told).unwrap(), "request 5 timed out waiting for streams");
}

/// Old clients do not say which streams belong together.
#[tokio::test]
async fn streams_without_a_request_are_pairs_by_their_numbers() {
    let (client, _served) = start(PortForwardProtocol::Spdy, &[], TIMES);
    let mut client = SpdyClient::new(client);
    for (id, kind) in [(1, "error"), (3, "data")] {
        client.open(id, &[("streamtype", kind), ("port", "1")]).await;
    }
    assert_eq!(client.read_to_end(3).await, b"hello");
}

#[tokio::test]
async fn spdy_goes_through_a_tunnel_of_websocket() {
    let (client, served) = start(PortForwardProtocol::Tunnel, &[], TIMES);
    let messages = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    let mut client = SpdyClient::new(Tunnel::of(messages));
    let large = vec![b'x'; 200_000];
    open(&mut client, 1, "7", "0").await;
    let (mut sent, mut received) = (0, Vec::new());
    // As much as there is room for, in both directions.
    while sent < large.len() {
        client.data(3, &large[sent..sent + 1000], false).await;
        sent += 1000;
        received.extend(client.read_exact(3, sent - received.len()).await);
    }
    client.data(3, b"", true).await;
    assert_eq!(client.read_to_end(3).await, b"!");
    assert!(received == large);
    client.io.shutdown().await.unwrap();
    while client.next().await.is_some() {}
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn channels_of_websocket_begin_with_their_ports() {
    let (client, served) = start(PortForwardProtocol::WebSocket(ChannelEncoding::Binary), &[7, 9], TIMES);
    let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
    client.send(Message::binary(&b"\0ping"[..])).await.unwrap();
    let mut channels = vec![Vec::new(); 4];
    let refused = b"\x09\0error forwarding port 9: connection refused";
    while channels[0] != b"\x07\0ping" || channels[3] != refused {
        match client.next().await.unwrap().unwrap() {
            Message::Binary(message) => channels[usize::from(message[0])].extend_from_slice(&message[1..]),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((&channels[1][..], &channels[2][..]), (&b"\x07\0"[..], &b"\x09\0"[..]));
    client.close(None).await.unwrap();
    while client.next().await.is_some() {}
    served.await.unwrap().unwrap();
}

#[test]
fn streams_without_a_port_or_a_kind_are_refused() {
    let of = |pairs: &[(&str, &str)]| kind(&pairs.iter().copied().collect());
    assert_eq!(of(&[("port", "80"), ("streamtype", "data")]), Ok((80, true)));
    assert_eq!(of(&[("port", "65535"), ("streamtype", "error")]), Ok((65535, false)));
    for pairs in [
        &[("streamtype", "data")][..],
        &[("port", "0"), ("streamtype", "data")],
        &[("port", "65536"), ("streamtype", "data")],
        &[("port", "http"), ("streamtype", "data")],
        &[("port", "80"), ("streamtype", "stdin")],
        &[("port", "80")],
    ] {
        assert!(of(pairs).is_err(), "{pairs:?}");
    }
}
