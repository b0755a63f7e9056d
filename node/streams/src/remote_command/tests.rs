//! Commands that do as each test wants, and clients of both protocols.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    task::JoinHandle,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::*;
use crate::{
    negotiation::ChannelEncoding,
    spdy::Frame,
    testing::{SpdyClient, TIMES},
};

const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };
const V4: RemoteCommandProtocol = RemoteCommandProtocol::Spdy(ChannelVersion::V4);

type Served = JoinHandle<Result<(), ConnectionError>>;

fn start<F: Future<Output = Outcome> + Send + 'static>(
    protocol: RemoteCommandProtocol,
    wanted: Wanted,
    times: StreamTimes,
    run: impl FnOnce(Streams) -> F + Send + 'static,
) -> (DuplexStream, Served) {
    let (client, server) = tokio::io::duplex(64 * 1024);
    (client, tokio::spawn(serve(server, protocol, wanted, times, run)))
}

/// Sends back what comes, says something on stderr, and exits with 3.
async fn echo(streams: Streams) -> Outcome {
    let (mut stdin, mut stdout) = (streams.stdin.unwrap(), streams.stdout.unwrap());
    tokio::io::copy(&mut stdin, &mut stdout).await.unwrap();
    if let Some(mut stderr) = streams.stderr {
        stderr.write_all(b"done").await.unwrap();
    }
    Outcome::Exit { code: 3, message: "exit code 3".to_owned() }
}

fn status(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap()
}

#[tokio::test]
async fn a_command_over_spdy() {
    let (client, served) = start(V4, ALL, TIMES, echo);
    let mut client = SpdyClient::new(client);
    // In no order, and one that nobody knows.
    for (id, kind) in [(1, "stdout"), (3, "error"), (5, "stdin"), (7, "stdmore"), (9, "stderr")] {
        client.open(id, &[("streamtype", kind)]).await;
        match kind {
            "stdmore" => assert_eq!(client.next().await, Some(Frame::RstStream { id, status: 3 })),
            _ => client.is_accepted(id).await,
        }
    }
    client.data(5, b"over and over", true).await;
    assert_eq!(client.read_to_end(1).await, b"over and over");
    let told = client.read_to_end(3).await;
    assert_eq!(status(&told)["details"]["causes"][0]["message"], "3");
    drop(client);
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn old_clients_get_text() {
    let only_output = Wanted { stdin: false, stderr: false, ..ALL };
    for (version, expected) in [
        (ChannelVersion::V1, "Internal error occurred: no"),
        (ChannelVersion::V3, "Internal error occurred: no"),
    ] {
        let protocol = RemoteCommandProtocol::Spdy(version);
        let run = |_| async { Outcome::Failed("no".to_owned()) };
        let (client, _served) = start(protocol, only_output, TIMES, run);
        let mut client = SpdyClient::new(client);
        client.open(1, &[("streamtype", "error")]).await;
        client.open(3, &[("streamtype", "stdout")]).await;
        assert_eq!(String::from_utf8(client.read_to_end(1).await).unwrap(), expected);
    }
}

#[tokio::test]
async fn a_command_ends_with_its_client() {
    let (told, mut ended) = tokio::sync::oneshot::channel::<()>();
    let run = |streams: Streams| async move {
        let _told = told;
        drop(streams.stdin);
        std::future::pending().await
    };
    let (client, served) = start(V4, Wanted { stdout: false, stderr: false, ..ALL }, TIMES, run);
    let mut client = SpdyClient::new(client);
    client.open(1, &[("streamtype", "error")]).await;
    client.open(3, &[("streamtype", "stdin")]).await;
    client.is_accepted(1).await;
    client.is_accepted(3).await;
    assert!(ended.try_recv().is_err_and(|error| error == tokio::sync::oneshot::error::TryRecvError::Empty));
    drop(client);
    assert!(ended.await.is_err());
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn streams_that_never_come_are_not_waited_for() {
    let times = StreamTimes { creation: Duration::from_millis(10), ..TIMES };
    let run = |_| async { panic!("nothing is to run") };
    let (client, served) = start(V4, ALL, times, run);
    let mut client = SpdyClient::new(client);
    client.open(1, &[("streamtype", "error")]).await;
    let error = served.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "timed out waiting for client to create streams");
}

/// A terminal that says its size when it changes, and how it was told.
async fn terminal(mut streams: Streams) -> Outcome {
    let mut stdout = streams.stdout.unwrap();
    while streams.size.changed().await.is_ok() {
        let size = streams.size.borrow_and_update().unwrap();
        stdout.write_all(format!("{}x{};", size.cols, size.rows).as_bytes()).await.unwrap();
        if size.cols == 0 {
            return Outcome::Success;
        }
    }
    Outcome::Failed("no more sizes".to_owned())
}

#[tokio::test]
async fn a_terminal_is_told_its_size() {
    let wanted = Wanted { stdin: false, stderr: false, tty: true, ..ALL };
    let (client, _served) = start(V4, wanted, TIMES, terminal);
    let mut client = SpdyClient::new(client);
    for (id, kind) in [(1, "error"), (3, "stdout"), (5, "resize")] {
        client.open(id, &[("streamtype", kind)]).await;
        client.is_accepted(id).await;
    }
    client.data(5, b"{\"Width\":80,\"Hei", false).await;
    client.data(5, b"ght\":24}\n", false).await;
    assert_eq!(client.read_exact(3, 6).await, b"80x24;");
    client.data(5, b"{\"Width\":0,\"Height\":0}", false).await;
    assert_eq!(client.read_to_end(3).await, b"0x0;");
    assert_eq!(status(&client.read_to_end(1).await), json!({ "metadata": {}, "status": "Success" }));
}

async fn websocket(io: DuplexStream) -> WebSocketStream<DuplexStream> {
    WebSocketStream::from_raw_socket(io, Role::Client, None).await
}

async fn binary(client: &mut WebSocketStream<DuplexStream>) -> Bytes {
    match client.next().await.unwrap().unwrap() {
        Message::Binary(message) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_command_over_websocket_whose_input_ends() {
    let protocol = RemoteCommandProtocol::WebSocket(ChannelVersion::V5, ChannelEncoding::Binary);
    let (client, served) = start(protocol, ALL, TIMES, echo);
    let mut client = websocket(client).await;
    assert_eq!(&binary(&mut client).await[..], b"\x01", "it is connected");
    let large = vec![b'x'; 100_000];
    client.send(Message::Binary([&[0][..], &large].concat().into())).await.unwrap();
    // Of no channel, and of one that nobody reads.
    client.send(Message::binary(&b"\x09what"[..])).await.unwrap();
    client.send(Message::binary(&b"\x01what"[..])).await.unwrap();
    client.send(Message::binary(&b"\xff\x00"[..])).await.unwrap();
    let (mut stdout, mut stderr, mut told) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        match client.next().await.unwrap().unwrap() {
            Message::Binary(message) => match message[0] {
                1 => stdout.extend_from_slice(&message[1..]),
                2 => stderr.extend_from_slice(&message[1..]),
                3 => told.extend_from_slice(&message[1..]),
                other => panic!("channel {other}"),
            },
            Message::Close(close) => break assert_eq!(u16::from(close.unwrap().code), 1000),
            other => panic!("{other:?}"),
        }
    }
    assert!(stdout == large);
    assert_eq!(stderr, b"done");
    assert_eq!(status(&told)["reason"], "NonZeroExitCode");
    // The library answers the close.
    assert!(client.next().await.is_none());
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_command_over_websocket_in_base64() {
    let protocol = RemoteCommandProtocol::WebSocket(ChannelVersion::V1, ChannelEncoding::Base64);
    let wanted = Wanted { stdout: false, stderr: false, ..ALL };
    let run = |streams: Streams| async move {
        let mut read = [0; 5];
        streams.stdin.unwrap().read_exact(&mut read).await.unwrap();
        Outcome::Failed(String::from_utf8(read.to_vec()).unwrap())
    };
    let (client, _served) = start(protocol, wanted, TIMES, run);
    let mut client = websocket(client).await;
    let text = |message: Option<Result<Message, _>>| message.unwrap().unwrap().into_text().unwrap();
    assert_eq!(text(client.next().await).as_str(), "3");
    client.send(Message::text("0aGVsbG8=")).await.unwrap();
    // "Internal error occurred: hello"
    assert_eq!(text(client.next().await).as_str(), "3SW50ZXJuYWwgZXJyb3Igb2NjdXJyZWQ6IGhlbGxv");
}

#[tokio::test]
async fn a_websocket_that_breaks_the_rules_is_ended() {
    for message in [&b"\xff"[..], b"\xff\x09"] {
        let protocol = RemoteCommandProtocol::WebSocket(ChannelVersion::V5, ChannelEncoding::Binary);
        let (client, served) = start(protocol, ALL, TIMES, |_| std::future::pending());
        let mut client = websocket(client).await;
        client.send(Message::binary(message)).await.unwrap();
        assert!(matches!(served.await.unwrap(), Err(ConnectionError::Protocol(_))));
    }
}

#[tokio::test]
async fn a_websocket_that_goes_ends_its_command() {
    for is_polite in [false, true] {
        let protocol = RemoteCommandProtocol::WebSocket(ChannelVersion::V4, ChannelEncoding::Binary);
        let (client, served) = start(protocol, ALL, TIMES, |_| std::future::pending());
        let mut client = websocket(client).await;
        binary(&mut client).await;
        if is_polite {
            client.close(None).await.unwrap();
            while client.next().await.is_some() {}
        } else {
            drop(client);
        }
        served.await.unwrap().unwrap();
    }
}

/// A ping that cannot be written tells that the client has gone, while nobody takes what it has sent.
#[tokio::test]
async fn a_client_of_websocket_that_cannot_be_heard_is_pinged() {
    let protocol = RemoteCommandProtocol::WebSocket(ChannelVersion::V5, ChannelEncoding::Binary);
    let times = StreamTimes { unheard: Duration::from_millis(10), ..TIMES };
    let (client, served) = start(protocol, ALL, times, |streams| async move {
        let _unread = streams;
        std::future::pending::<Outcome>().await
    });
    let mut client = websocket(client).await;
    for _ in 0..6 {
        client.send(Message::Binary(vec![0; 16 * 1024].into())).await.unwrap();
    }
    loop {
        match client.next().await.unwrap().unwrap() {
            // That it is connected.
            Message::Binary(_) => {}
            Message::Ping(_) => break,
            other => panic!("{other:?}"),
        }
    }
    drop(client);
    assert!(matches!(served.await.unwrap(), Err(ConnectionError::Io(_))));
}
