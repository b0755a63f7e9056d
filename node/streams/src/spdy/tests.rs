//! Connections and their clients, good and bad.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinHandle,
};

use super::*;
use crate::{
    ConnectionError, Stream, StreamTimes,
    testing::{SpdyClient, TIMES, settle},
};

type Served = JoinHandle<Result<(), ConnectionError>>;

fn connect(times: StreamTimes) -> (SpdyClient, IncomingStreams, Served) {
    let (client, server) = tokio::io::duplex(1024);
    let (incoming, connection) = serve(server, times);
    (SpdyClient::new(client), incoming, tokio::spawn(connection))
}

async fn stream(client: &mut SpdyClient, incoming: &mut IncomingStreams, id: u32) -> Stream {
    client.open(id, &[("streamtype", "data")]).await;
    let stream = incoming.next().await.unwrap();
    assert_eq!((stream.id(), stream.headers().get("streamtype")), (id, Some("data")));
    let stream = stream.accept();
    client.is_accepted(id).await;
    stream
}

#[tokio::test]
async fn both_directions_of_a_stream_end_by_themselves() {
    let (mut client, mut incoming, served) = connect(TIMES);
    let mut stream = stream(&mut client, &mut incoming, 1).await;
    client.data(1, b"all ", false).await;
    client.data(1, b"of it", true).await;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "all of it");
    stream.write_all(b"answer").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(stream.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(client.read_to_end(1).await, b"answer");
    drop(incoming);
    drop(stream);
    settle().await;
    assert!(!served.is_finished(), "the client closes");
    drop(client);
    served.await.unwrap().unwrap();
}

/// What has ended in order is not taken back.
#[tokio::test]
async fn a_stream_that_is_dropped_ends_after_what_was_written() {
    let (mut client, mut incoming, _served) = connect(TIMES);
    let mut stream = stream(&mut client, &mut incoming, 1).await;
    let large = vec![7; 300_000];
    let write = async {
        stream.write_all(&large).await.unwrap();
        drop(stream);
    };
    let (read, ()) = tokio::join!(client.read_to_end(1), write);
    assert!(read == large);
    // The client has not ended its side.
    assert_eq!(client.next().await, Some(Frame::RstStream { id: 1, status: 5 }));
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_writers_with_bounded_buffers() {
    let (mut client, mut incoming, _served) = connect(TIMES);
    let mut stream = stream(&mut client, &mut incoming, 1).await;
    let written = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&written);
    tokio::spawn(async move {
        while let Ok(length) = stream.write(&[0; 4096]).await {
            counted.fetch_add(length, Ordering::Relaxed);
        }
    });
    settle().await;
    let stuck = written.load(Ordering::Relaxed);
    settle().await;
    assert_eq!(written.load(Ordering::Relaxed), stuck, "it waits");
    assert!(stuck <= 512 * 1024, "{stuck}");
    while written.load(Ordering::Relaxed) < 4 * stuck {
        client.next().await.unwrap();
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_up_the_client_and_then_gets_it_all() {
    let (mut client, mut incoming, _served) = connect(TIMES);
    let mut stream = stream(&mut client, &mut incoming, 1).await;
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    const ALL: usize = 1_000_000;
    let sending = tokio::spawn(async move {
        for part in (0..ALL).collect::<Vec<_>>().chunks(1000) {
            let bytes: Vec<u8> = part.iter().map(|at| u8::try_from(at % 251).unwrap()).collect();
            client.data(1, &bytes, false).await;
            counted.fetch_add(bytes.len(), Ordering::Relaxed);
        }
        client.data(1, b"", true).await;
        client
    });
    settle().await;
    let stuck = sent.load(Ordering::Relaxed);
    settle().await;
    assert_eq!(sent.load(Ordering::Relaxed), stuck, "it waits");
    assert!(stuck <= 128 * 1024, "{stuck}");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert!(all.len() == ALL && all.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at % 251));
    sending.await.unwrap();
}

#[tokio::test]
async fn what_is_sent_to_a_reader_that_has_gone_is_thrown_away() {
    let (mut client, mut incoming, _served) = connect(TIMES);
    let mut kept = stream(&mut client, &mut incoming, 1).await;
    drop(stream(&mut client, &mut incoming, 3).await);
    for _ in 0..1000 {
        client.data(3, &[0; 1000], false).await;
    }
    client.data(1, b"still here", true).await;
    let mut text = String::new();
    kept.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "still here");
}

#[tokio::test]
async fn a_stream_that_the_client_takes_back_fails() {
    let (mut client, mut incoming, _served) = connect(TIMES);
    let mut stream = stream(&mut client, &mut incoming, 1).await;
    client.data(1, b"x", false).await;
    client.send(Frame::RstStream { id: 1, status: 5 }).await;
    let mut all = Vec::new();
    let error = stream.read_to_end(&mut all).await.unwrap_err();
    assert_eq!((error.kind(), &all[..]), (io::ErrorKind::ConnectionReset, &b"x"[..]));
    assert_eq!(stream.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn streams_fail_when_the_client_has_gone_or_the_connection_is_dropped() {
    for is_dropped in [false, true] {
        let (mut client, mut incoming, served) = connect(TIMES);
        let mut stream = stream(&mut client, &mut incoming, 1).await;
        if is_dropped {
            served.abort();
        } else {
            drop(client);
        }
        assert_eq!(stream.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(served.await.is_err(), is_dropped);
        assert_eq!(stream.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert!(incoming.next().await.is_none());
    }
}

/// Its end is behind what nobody takes; a ping that cannot be written is not.
#[tokio::test]
async fn a_client_that_has_gone_is_noticed_while_nobody_takes_what_it_has_sent() {
    let unheard = Duration::from_millis(10);
    let (mut client, mut incoming, served) = connect(StreamTimes { unheard, ..TIMES });
    let _unread = stream(&mut client, &mut incoming, 1).await;
    let fill = async {
        loop {
            client.data(1, &[0; 1000], false).await;
        }
    };
    tokio::select! {
        () = fill => {}
        () = settle() => {}
    }
    assert_eq!(client.next().await, Some(Frame::Ping { id: 2 }), "it is asked");
    assert!(!served.is_finished(), "and lives");
    drop(client);
    assert!(matches!(served.await.unwrap(), Err(ConnectionError::Io(_))));
}

#[tokio::test]
async fn pings_of_the_client_are_answered_and_what_means_nothing_is_not() {
    let (mut client, _incoming, _served) = connect(TIMES);
    client.send(Frame::Settings).await;
    client.send(Frame::WindowUpdate { id: 1, delta: 1 }).await;
    client.send(Frame::Ping { id: 2 }).await;
    client.data(99, b"of no stream", true).await;
    client.send(Frame::RstStream { id: 99, status: 1 }).await;
    client.send(Frame::Ping { id: 7 }).await;
    assert_eq!(client.next().await, Some(Frame::Ping { id: 7 }));
}

#[tokio::test]
async fn numbers_of_streams_that_cannot_be_are_refused() {
    let (mut client, mut incoming, _served) = connect(TIMES);
    let _kept = stream(&mut client, &mut incoming, 5).await;
    for id in [5, 3, 6] {
        client.open(id, &[]).await;
        assert_eq!(client.next().await, Some(Frame::RstStream { id, status: 1 }));
    }
    client.open(7, &[]).await;
    drop(incoming.next().await.unwrap());
    assert_eq!(client.next().await, Some(Frame::RstStream { id: 7, status: 3 }));
    drop(incoming);
    client.open(9, &[]).await;
    assert_eq!(client.next().await, Some(Frame::RstStream { id: 9, status: 3 }), "nobody wants it");
}

#[tokio::test]
async fn a_client_that_speaks_something_else_is_told_to_go() {
    let (mut client, _incoming, served) = connect(TIMES);
    let bomb = [("a", "x".repeat(1 << 20))].into_iter().collect();
    client.send(Frame::SynStream { id: 1, fin: false, unidirectional: false, headers: bomb }).await;
    assert_eq!(client.next().await, Some(Frame::GoAway { last: 0, status: 1 }));
    assert_eq!(client.next().await, None);
    assert!(matches!(served.await.unwrap(), Err(ConnectionError::Protocol(_))));
}

#[tokio::test]
async fn a_client_that_says_goodbye_is_gone() {
    let (mut client, _incoming, served) = connect(TIMES);
    client.send(Frame::GoAway { last: 0, status: 0 }).await;
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn nothing_lasts_without_an_end() {
    let soon = Duration::from_millis(10);
    let (_client, _incoming, served) = connect(StreamTimes { idle: soon, ..TIMES });
    assert!(matches!(served.await.unwrap(), Err(ConnectionError::Idle)));
    let (_client, incoming, served) = connect(StreamTimes { farewell: soon, ..TIMES });
    drop(incoming);
    assert!(matches!(served.await.unwrap(), Err(ConnectionError::Lingering)));
}
