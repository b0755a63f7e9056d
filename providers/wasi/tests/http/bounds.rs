//! What guests and clients cannot do.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use kubewasm_host::{CpuShare, GuestLimits, http::HttpSettings};
use kubewasm_tests::wait;

use super::world::{OF_WASI_0_2, PATIENCE, Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_does_not_answer_in_time_is_given_up() {
    let server = Server::new("request-timeout=300ms,max-requests=100").await;
    for path in ["/sleep?60000", "/loop"] {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 504, "{path}");
        assert!(server.said().contains("did not answer in time"), "{path}");
        server.until("the end of the instance", |stats| stats.instances == 0).await;
    }
    assert_eq!(server.stats().timeouts, 2);
    assert_eq!(server.get("/count").await.text(), "1");
}

/// All instances of a container together have the processor time of its limit.
#[tokio::test(flavor = "multi_thread")]
async fn what_computes_has_the_limit_of_its_container() {
    let settings: HttpSettings = "request-timeout=60s".parse().unwrap();
    let limits =
        GuestLimits { memory_bytes: 64 << 20, cpu: CpuShare { limit_millis: 100, request_millis: 100 } };
    let server = Server::limited(OF_WASI_0_2, settings.into(), limits).await;
    let began = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = server.connect().await;
        client.send("GET /loop HTTP/1.1\r\nhost: test\r\n\r\n").await;
        clients.push(client);
    }
    // What each of the four was held back adds up.
    wait::until("a limit that is used up", PATIENCE, async || {
        let usage = server.account.usage();
        if usage.throttled >= Duration::from_secs(4) { Ok(()) } else { Err(format!("{usage:?}")) }
    })
    .await
    .unwrap();
    let (usage, wall) = (server.account.usage(), began.elapsed());
    // A tenth, and what their last turns were too long.
    assert!(usage.cpu <= wall / 4, "{usage:?} in {wall:?}");
    server.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_does_not_go_on_with_its_answer_is_given_up() {
    let server = Server::new("request-timeout=300ms").await;
    let mut client = server.connect().await;
    client.send("GET /late-loop HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(client.answer().await, None, "it breaks off");
    server.until("the end of the instance", |stats| stats.instances == 0).await;
    assert!(server.said().contains("did not go on"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_fails_is_one_answer_and_a_line() {
    let server = Server::new("").await;
    for (path, expected) in [
        ("/trap", "GET /trap: wasm trap: wasm `unreachable` instruction executed"),
        ("/nothing", "GET /nothing: the guest returned without an answer"),
        ("/error", "GET /error: the guest answered with an error: ErrorCode::ConfigurationError"),
    ] {
        assert_eq!(server.get(path).await.status, 500, "{path}");
        let said = server.said();
        assert!(said.contains(expected), "{path}: {said}");
    }
    for path in ["/late-trap", "/unfinished"] {
        let mut client = server.connect().await;
        client.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await;
        assert_eq!(client.answer().await, None, "{path} breaks off");
    }
    assert_eq!(server.get("/").await.text(), "hello\n");
    server.until("the end of all", |stats| stats.instances == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_in_a_bounded_queue() {
    let server = Server::new("max-instances=1,queue=1").await;
    let mut first = server.connect().await;
    first.send("GET /sleep?5000 HTTP/1.1\r\nhost: test\r\n\r\n").await;
    server.until("one that is worked on", |stats| stats.instances == 1).await;
    let mut second = server.connect().await;
    second.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    server.until("one that waits", |stats| stats.queued == 1).await;
    let third = server.get("/").await;
    assert_eq!(third.status, 503);
    assert!(third.head.contains("retry-after: 1"), "{}", third.head);
    assert_eq!(first.answer().await.unwrap().text(), "slept\n");
    assert_eq!(second.answer().await.unwrap().text(), "hello\n");
    assert_eq!(server.stats().rejected, 1);
}

/// There is memory for what is kept of the output, and for one instance at a time. Who comes second waits for the first.
#[tokio::test(flavor = "multi_thread")]
async fn what_memory_cannot_be_had_for_waits_or_is_refused() {
    let server = Server::with_memory("", 2 << 20).await;
    assert_eq!(server.get("/").await.status, 503);
    let said = server.said();
    assert!(said.contains("no instance for a request: out of memory"), "{said}");
    let server = Server::with_memory("", 3 << 20).await;
    let mut first = server.connect().await;
    first.send("GET /sleep?5000 HTTP/1.1\r\nhost: test\r\n\r\n").await;
    server.until("one that is worked on", |stats| stats.instances == 1).await;
    let mut second = server.connect().await;
    second.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    server.until("one that waits", |stats| stats.queued == 1).await;
    assert_eq!(first.answer().await.unwrap().status, 200);
    assert_eq!(second.answer().await.unwrap().text(), "hello\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_a_guest_may_not_have_is_not_had() {
    let server = Server::with_memory("", 16 << 20).await;
    let grown: u64 = server.get("/grow?100").await.text().parse().unwrap();
    assert!((8..16).contains(&grown), "{grown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_bounded_whether_they_say_their_length_or_not() {
    let server = Server::new("max-body=100").await;
    let mut client = server.connect().await;
    client.send("POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 101\r\n\r\n").await;
    let answer = client.answer().await.unwrap();
    assert!(answer.status == 413 && answer.closes(), "{}", answer.head);
    let mut client = server.connect().await;
    client.send("POST /echo HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n").await;
    client.send(format!("65\r\n{}\r\n0\r\n\r\n", "a".repeat(101))).await;
    // The guest may have begun its answer by then.
    let answer = client.answer().await;
    assert!(answer.is_none_or(|answer| answer.status == 413));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_send_too_slowly_are_given_up() {
    let server = Server::new("header-timeout=200ms,keep-alive=200ms,body-timeout=200ms").await;
    let mut silent = server.connect().await;
    assert!(silent.is_ended().await, "it sends nothing at all");
    let mut slow = server.connect().await;
    slow.send("GET / HTTP/1.1\r\nhost: te").await;
    assert!(slow.is_ended().await, "it does not finish its head");
    let mut slow = server.connect().await;
    slow.send("POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nab").await;
    let answer = slow.answer().await;
    assert!(answer.is_none_or(|answer| answer.status == 408), "it does not finish its body");
    server.until("the end of all", |stats| stats.instances == 0 && stats.connections == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_take_nothing_are_given_up() {
    let server = Server::new("send-timeout=300ms").await;
    let mut client = server.connect().await;
    client.send("GET /endless HTTP/1.1\r\nhost: test\r\n\r\n").await;
    server.until("an instance", |stats| stats.instances == 1).await;
    server.until("the end of it", |stats| stats.instances == 0).await;
    // It goes on as long as it is taken from.
    let mut client = server.connect().await;
    client.send("GET /endless HTTP/1.1\r\nhost: test\r\n\r\n").await;
    let (mut got, mut buffer) = (0, vec![0; 1 << 16]);
    while got < 32 << 20 {
        got += client.0.read(&mut buffer).await.unwrap();
    }
    drop(client);
    server.until("the end of what nobody wants", |stats| stats.instances == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_after_its_last_request_and_when_it_has_none() {
    let server = Server::new("keep-alive-requests=2,keep-alive=300ms").await;
    let mut client = server.connect().await;
    assert!(!client.get("/").await.closes());
    assert!(client.get("/").await.closes());
    assert!(client.is_ended().await);
    let mut client = server.connect().await;
    client.get("/").await;
    assert!(client.is_ended().await, "it has no further request");
    // One that is answered for longer than that is none.
    let mut client = server.connect().await;
    assert_eq!(client.get("/sleep?900").await.text(), "slept\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_too_many_wait() {
    let server = Server::new("max-connections=1").await;
    let mut first = server.connect().await;
    first.get("/").await;
    let mut second = server.connect().await;
    second.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(200), second.0.peek(&mut byte)).await;
    assert!(early.is_err(), "it is not served yet");
    drop(first);
    let answer = tokio::time::timeout(PATIENCE, second.answer()).await.unwrap();
    assert_eq!(answer.unwrap().status, 200);
}
