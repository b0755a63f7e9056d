//! Handlers that want it all, beside one of another pod that is answered all the time.

use std::cell::Cell;

use super::world::{OF_PYTHON, Server};

/// Asks a hostile server on some connections at once, for as long as it takes for a neighbour to have this many answers.
async fn beside(hostile: &Server, path: &str) {
    const ANSWERS: usize = 20;
    const CLIENTS: usize = 8;
    let neighbour = Server::new("").await;
    let asked = Cell::new(0);
    let asks = futures::future::join_all((0..CLIENTS).map(|_| async {
        loop {
            let mut client = hostile.connect().await;
            client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")).await;
            asked.set(asked.get() + 1);
            client.forget().await;
        }
    }));
    let answers = async {
        let mut client = neighbour.connect().await;
        hostile.until("it is at work", |stats| stats.in_flight > 0 || stats.failures > 0).await;
        for _ in 0..ANSWERS {
            assert_eq!(client.get("/").await.text(), "hello\n", "beside {path}");
        }
    };
    tokio::select! {
        _ = asks => {}
        () = answers => {}
    }
    assert!(asked.get() >= CLIENTS);
    assert_eq!(neighbour.stats().failures, 0);
    hostile.until("the end of all", |stats| stats.connections == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_is_answered_beside_handlers_that_want_it_all() {
    for (settings, path) in [
        ("request-timeout=2s", "/loop"),
        ("", "/endless"),
        // Each request leaves a little more behind.
        ("max-requests=1000000", "/grow?1"),
        ("max-requests=1000000", "/every?100"),
    ] {
        let hostile = Server::with_memory(settings, 64 << 20).await;
        beside(&hostile, path).await;
    }
}

/// Far more requests of a handler's own than it may have connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_is_answered_beside_a_handler_that_asks_without_end() {
    let target = Server::new("").await;
    let hostile = Server::of(OF_PYTHON, "request-timeout=20s", 256 << 20).await;
    beside(&hostile, &format!("/ask?2000,{}", target.address)).await;
}
