//! Clients of HTTP/2 that want to wear a server out: they are cut off or bounded, and others are answered meanwhile.

use super::{
    LITTLE, alone,
    frames::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, FrameClient, GET,
        HEADERS, NO_ERROR, PING, PRIORITY, SETTINGS, WINDOW_UPDATE, fields, frame, get, post, reset,
    },
    resident,
    world::Server,
};

/// Floods a server, as often as it takes for clients of it and of another pod's to have some answers each.
async fn beside(server: &Server, mut flood: impl AsyncFnMut()) {
    const ANSWERS: usize = 5;
    let other = Server::new("").await;
    let answered = std::cell::Cell::new(0);
    let asks = async {
        loop {
            for neighbour in [server, &other] {
                assert_eq!(neighbour.get("/").await.text(), "hello\n");
            }
            answered.set(answered.get() + 1);
        }
    };
    let floods = async {
        while answered.get() < ANSWERS {
            flood().await;
        }
    };
    tokio::select! {
        () = floods => {}
        () = asks => {}
    }
    server.until("the end of all", |stats| stats.instances == 0 && stats.connections == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_taken_back_ends_its_instance() {
    let _alone = alone().await;
    let server = Server::new("").await;
    let mut client = FrameClient::connect(server.address).await;
    let paths = ["/sleep?60000", "/loop", "/late-loop", "/endless"];
    for (stream, path) in (1..).step_by(2).zip(paths) {
        client.send(&get(stream, path)).await;
        server.until("an instance", |stats| stats.instances == 1).await;
        client.send(&reset(stream)).await;
        server.until("the end of it", |stats| stats.instances == 0 && stats.in_flight == 0).await;
    }
    client.send(&post(101, "/echo")).await;
    server.until("one that waits for a body", |stats| stats.instances == 1).await;
    client.send(&reset(101)).await;
    server.until("the end of it", |stats| stats.instances == 0 && stats.in_flight == 0).await;
    assert_eq!(server.stats().connections, 1, "the connection goes on");
}

/// CVE-2023-44487.
#[tokio::test(flavor = "multi_thread")]
async fn who_takes_all_requests_back_is_cut_off() {
    let _alone = alone().await;
    let server = Server::new("max-instances=8").await;
    beside(&server, async || {
        let mut client = FrameClient::connect(server.address).await;
        client.flood(|number| [get(2 * number + 1, "/sleep?60000"), reset(2 * number + 1)].concat()).await;
        assert!(server.stats().instances <= 8);
        // Either it was too fast to be looked at, or it has had the requests of a connection.
        let heard = client.ended().await;
        assert!(matches!(heard.goaway, None | Some(ENHANCE_YOUR_CALM | NO_ERROR)), "{heard:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_at_a_time_than_there_may_be_are_refused() {
    let _alone = alone().await;
    let server = Server::new("max-streams=16").await;
    beside(&server, async || {
        let mut client = FrameClient::connect(server.address).await;
        client.flood(|number| get(2 * number + 1, "/sleep?60000")).await;
        // And one of a neighbour.
        assert!(server.stats().instances <= 17);
        client.ended().await;
    })
    .await;
}

/// Heads that do not end, that have far more fields than bytes, and a window beyond all bounds.
#[tokio::test(flavor = "multi_thread")]
async fn heads_and_windows_without_bounds_end_the_connection() {
    let _alone = alone().await;
    let server = Server::new("").await;
    let before = resident();
    let head = fields(GET, "/");
    // A field that is kept in the table, and as often as there are bytes: 4,000 bytes each.
    let kept = [&[0x40, 1, b'a', 0x7f, 0xa1, 0x1e], &[b'b'; 4000][..]].concat();
    let bomb = [&head[..], &kept, &vec![0xbe; 12_000]].concat();
    let first = frame(HEADERS, END_STREAM, 1, &head);
    for (name, beginning, piece, code) in [
        ("a head that goes on", first.clone(), frame(CONTINUATION, 0, 1, &[0x40, 1, b'a', 1, b'b']), None),
        ("a head that goes on with nothing", first, frame(CONTINUATION, 0, 1, &[]), None),
        (
            "a head that is large where it is kept",
            frame(HEADERS, END_STREAM | END_HEADERS, 1, &bomb),
            frame(PRIORITY, 0, 1, &[0; 4]),
            None,
        ),
        (
            "a window that overflows",
            Vec::new(),
            frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()),
            Some(FLOW_CONTROL_ERROR),
        ),
    ] {
        let answers = server.stats().answers;
        let mut client = FrameClient::connect(server.address).await;
        client.send(&beginning).await;
        client.flood(|_| piece.clone()).await;
        let heard = client.ended().await;
        assert!(code.is_none() || heard.goaway.is_none() || heard.goaway == code, "{name}: {heard:?}");
        assert_eq!(server.stats().answers[1], answers[1], "{name}: the guest has not heard of it");
        assert!(resident().saturating_sub(before) < LITTLE, "{name}");
    }
    beside(&server, async || {
        let mut client = FrameClient::connect(server.address).await;
        client.send(&frame(HEADERS, END_STREAM, 1, &head)).await;
        client.flood(|_| frame(CONTINUATION, 0, 1, &[])).await;
    })
    .await;
}

/// What is about no request is answered for as long as a connection may have none.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_requests_ends_whatever_else_is_sent() {
    let _alone = alone().await;
    let server = Server::new("header-timeout=2s,keep-alive=1s,send-timeout=1s").await;
    let before = resident();
    for piece in [
        frame(SETTINGS, 0, 0, &[]),
        frame(PING, 0, 0, &[0; 8]),
        frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 0]),
        frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()),
    ] {
        beside(&server, async || {
            let mut client = FrameClient::connect(server.address).await;
            client.flood(|_| piece.clone()).await;
        })
        .await;
    }
    assert!(resident().saturating_sub(before) < LITTLE);
}

/// It does not hear the answers to what it sends, nor that of a guest that sends without end into a window without bounds.
#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_is_cut_off_and_fills_no_memory() {
    let _alone = alone().await;
    let server = Server::new("send-timeout=500ms").await;
    let before = resident();
    for piece in [frame(SETTINGS, 0, 0, &[]), frame(PING, 0, 0, &[0; 8])] {
        let mut client = FrameClient::deaf(server.address).await;
        client.flood(|_| piece.clone()).await;
        server.until("the end of it", |stats| stats.connections == 0).await;
    }
    let mut client = FrameClient::deaf(server.address).await;
    let window = [[0, 4], 0x7fff_u16.to_be_bytes(), [0xff, 0xff]].concat();
    client.send(&frame(SETTINGS, 0, 0, &window)).await;
    client.send(&frame(WINDOW_UPDATE, 0, 0, &0x7fff_0000_u32.to_be_bytes())).await;
    client.send(&get(1, "/endless")).await;
    server.until("an instance", |stats| stats.instances == 1).await;
    server.until("the end of it", |stats| stats.instances == 0 && stats.connections == 0).await;
    assert!(resident().saturating_sub(before) < LITTLE);
}

/// A guest that does not look at its body has no heap of frames before it.
#[tokio::test(flavor = "multi_thread")]
async fn small_and_empty_pieces_of_bodies_are_not_heaped_up() {
    let _alone = alone().await;
    let server = Server::new("").await;
    let before = resident();
    let mut client = FrameClient::connect(server.address).await;
    client.send(&post(1, "/sleep?60000")).await;
    server.until("an instance", |stats| stats.instances == 1).await;
    client.flood(|_| frame(DATA, 0, 1, &[])).await;
    server.until("the end of it", |stats| stats.instances == 0 && stats.connections == 0).await;
    assert!(resident().saturating_sub(before) < LITTLE);
    beside(&server, async || {
        let mut client = FrameClient::connect(server.address).await;
        client.send(&post(1, "/sleep?60000")).await;
        client.flood(|_| frame(DATA, 0, 1, b"a")).await;
    })
    .await;
    assert!(resident().saturating_sub(before) < LITTLE);
}
