//! Callers in numbers who want to keep others out.

use futures::{StreamExt as _, stream};
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

/// More than there may be strangers, and than the system's queue of a port holds.
const MANY: usize = 1_100;
const LOCAL: [u8; 4] = [127, 0, 0, 1];
const ELSEWHERE: [u8; 4] = [127, 0, 0, 2];

/// Room for both ends of many connections in one process.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

async fn silent(server: &Running) -> Vec<TcpStream> {
    let connect = |_| async { TcpStream::connect(("127.0.0.1", server.port)).await.unwrap() };
    stream::iter(0..MANY).map(connect).buffer_unordered(64).collect().await
}

/// Waits until the other side has closed it.
async fn closed(mut stream: impl tokio::io::AsyncRead + Unpin) {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
}

/// A second of nothing to say closes no port: not to callers from another address, nor to those from the same one,
/// nor to those that were there before.
#[tokio::test]
async fn connections_that_say_nothing_keep_nobody_out() {
    raise_file_limit();
    // Nothing but newcomers ends them here.
    let patient = Times { first_byte: PATIENCE, ..Times::default() };
    let server = Running::start_with(SECURE, patient);
    server.allow("admin get proxy");
    let admin = || Some(server.authority.client("admin", "g"));
    let mut known = server.connect(LOCAL, admin()).await;
    assert_eq!(send(&mut known, Method::GET, None, "/pods").await.status(), StatusCode::OK);

    let silent = silent(&server).await;
    for from in [LOCAL, ELSEWHERE] {
        let mut newcomer = server.connect(from, admin()).await;
        assert_eq!(send(&mut newcomer, Method::GET, None, "/pods").await.status(), StatusCode::OK);
    }
    assert_eq!(send(&mut known, Method::GET, None, "/pods").await.status(), StatusCode::OK);
    // All but those that one address may have were closed for others.
    let mut closing: stream::FuturesUnordered<_> = silent.into_iter().map(closed).collect();
    for _ in 0..MANY - 256 {
        closing.next().await.unwrap();
    }
}

/// Nor do those that have shaken hands, by HTTP/1 or HTTP/2, and ask nothing.
#[tokio::test]
async fn connections_that_ask_nothing_keep_nobody_out() {
    let server = Running::start(SECURE);
    server.allow("admin get proxy");
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(server.handshake(LOCAL, None).await);
    }
    let (status, _) = server.get(server.by_certificate("admin", "g"), "/pods").await;
    assert_eq!(status, StatusCode::OK);
}

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(600);

fn soon(times: impl FnOnce(&mut Times)) -> Times {
    let mut short = Times { first_byte: PATIENCE, handshake: PATIENCE, probation: PATIENCE, head: PATIENCE };
    times(&mut short);
    short
}

const SHORT: std::time::Duration = std::time::Duration::from_millis(100);

/// Each step has its time: the first byte, the handshake, and the first request that is let through.
#[tokio::test]
async fn who_dawdles_is_shown_out() {
    let nothing = Running::start_with(SECURE, soon(|times| times.first_byte = SHORT));
    closed(TcpStream::connect(("127.0.0.1", nothing.port)).await.unwrap()).await;

    let greeting = Running::start_with(SECURE, soon(|times| times.handshake = SHORT));
    let mut stream = TcpStream::connect(("127.0.0.1", greeting.port)).await.unwrap();
    stream.write_all(&[22, 3, 1]).await.unwrap();
    closed(stream).await;

    let asking = Running::start_with(SECURE, soon(|times| times.probation = SHORT));
    // Headers without end, a few bytes at a time.
    let (reader, mut writer) = tokio::io::split(asking.handshake(LOCAL, None).await);
    let dripping = async {
        let mut sent = writer.write_all(b"GET /pods HTTP/1.1\r\n").await;
        while sent.is_ok() {
            sent = writer.write_all(b"x: y\r\n").await;
            let flushed = writer.flush().await;
            sent = sent.and(flushed);
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    tokio::select! {
        () = closed(reader) => {}
        () = dripping => {}
    }
    // A refusal is no request that was let through.
    let mut refused = asking.connect(LOCAL, None).await;
    assert_eq!(send(&mut refused, Method::GET, None, "/pods").await.status(), StatusCode::UNAUTHORIZED);
    while !refused.is_closed() {
        tokio::task::yield_now().await;
    }
}

/// Who was let in stays: a log that is followed goes on beyond the time that strangers have.
#[tokio::test]
async fn who_was_let_in_stays() {
    let server = Running::start_with(SECURE, soon(|times| times.probation = SHORT));
    server.set_pod(&json!({ "running": {} }));
    let path = server.write_log("2026-01-02T00:00:00Z stdout F one\n");
    server.allow("admin get proxy");
    let admin = server.by_certificate("admin", "g");
    let response = server.request(admin, Method::GET, "/containerLogs/ns/p/c?follow=true").await;
    let mut body = response.into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "one\n");
    // A stranger that came later is shown out meanwhile.
    closed(server.handshake(LOCAL, None).await).await;
    append(&path, "2026-01-02T00:00:01Z stdout F two\n");
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "two\n");
}

/// The head of a request is bounded, by HTTP/1 and by HTTP/2.
#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = Running::start(SECURE);
    let large = "x".repeat(64 * 1024);
    let mut connection = server.connect(LOCAL, None).await;
    let request = Request::get("/pods").header("host", "edge").header("x", &large);
    let answer = connection.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);

    let stream = server.handshake(LOCAL, None).await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://edge/pods").header("x", &large);
    let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await;
    assert!(answer.map_or(true, |answer| answer.status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
}

/// Any number of tokens that nobody knows takes nothing from callers who are known, also while the API server does
/// not answer about them; nor from those of other addresses whose tokens are new.
#[tokio::test]
async fn tokens_that_nobody_knows_keep_nobody_out() {
    let server = Running::start(SECURE);
    {
        let mut reviewer = lock(&server.reviewer);
        reviewer.silent_about = Some("silent");
        for (token, user) in [("good", "prometheus"), ("fresh", "grafana")] {
            reviewer.tokens.insert(token.to_owned(), user.to_owned());
        }
    }
    for question in ["prometheus get metrics", "grafana get metrics", "admin get metrics"] {
        server.allow(question);
    }
    let mut known = server.connect(LOCAL, None).await;
    assert_eq!(send(&mut known, Method::GET, Some("good"), "/metrics").await.status(), StatusCode::OK);

    // One connection of many streams, and each stream another token.
    let stream = TokioIo::new(server.handshake(ELSEWHERE, None).await);
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    let ask = |token: String| {
        let mut sender = sender.clone();
        let request = Request::get("https://edge/metrics").header("authorization", format!("Bearer {token}"));
        async move { sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap().status() }
    };
    // More than are remembered, answered with no.
    let answered: Vec<_> =
        stream::iter(0..1_100).map(|n| ask(format!("bad-{n}"))).buffer_unordered(4).collect().await;
    assert!(answered.iter().all(|status| *status == StatusCode::UNAUTHORIZED));
    // As many as one address may ask about are not answered; the others are sent away.
    let mut flood = stream::iter(0..90).map(|n| ask(format!("silent-{n}"))).buffer_unordered(90);
    for _ in 0..90 - 4 {
        assert_eq!(flood.next().await.unwrap(), StatusCode::TOO_MANY_REQUESTS);
    }

    assert_eq!(send(&mut known, Method::GET, Some("good"), "/metrics").await.status(), StatusCode::OK);
    let is_about_good = |review: &&Value| review["spec"]["token"] == "good";
    assert_eq!(
        lock(&server.reviewer).asked.iter().filter(is_about_good).count(),
        1,
        "it is still remembered"
    );
    let (status, _) = server.get(server.by_certificate("admin", "g"), "/metrics").await;
    assert_eq!(status, StatusCode::OK, "certificates need nobody's word");
    let fresh = Caller { token: Some("fresh"), ..Caller::default() };
    assert_eq!(server.get(fresh, "/metrics").await.0, StatusCode::OK);
}

/// Callers with one token share one question.
#[tokio::test]
async fn a_question_is_asked_once() {
    let server = Running::start(SECURE);
    lock(&server.reviewer).tokens.insert("good".to_owned(), "prometheus".to_owned());
    server.allow("prometheus get metrics");
    let ask = |_| server.get(Caller { token: Some("good"), ..Caller::default() }, "/metrics");
    let answers: Vec<_> = stream::iter(0..32).map(ask).buffer_unordered(32).collect().await;
    assert!(answers.iter().all(|(status, _)| *status == StatusCode::OK));
    let reviewer = lock(&server.reviewer);
    assert_eq!(reviewer.asked.iter().filter(|review| review["kind"] == "TokenReview").count(), 1);
}
