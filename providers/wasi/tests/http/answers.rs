//! What is asked is answered.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Version};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kubewasm_tests::wait;
use tokio::{io::AsyncReadExt, net::TcpStream};

use super::world::{Client, OF_RUST, PATIENCE, Server};

#[tokio::test(flavor = "multi_thread")]
async fn each_request_has_a_fresh_instance_and_between_them_there_is_none() {
    let server = Server::new("").await;
    let mut client = server.connect().await;
    for _ in 0..3 {
        let answer = client.get("/count").await;
        assert_eq!((answer.status, answer.text()), (200, "1"));
    }
    server.until("no instance", |stats| stats.instances == 0 && stats.in_flight == 0).await;
    assert_eq!(server.stats().answers, [0, 3, 0, 0, 0]);
    drop(client);
    server.until("no connection", |stats| stats.connections == 0).await;
    let left = server.account.usage().memory_bytes;
    server.get("/bytes?1000000").await;
    server.until("the end of it", |stats| stats.instances == 0 && stats.connections == 0).await;
    assert_eq!(server.account.usage().memory_bytes, left, "all memory is given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_the_guests() {
    let server = Server::new("").await;
    assert_eq!(server.get("/").await.text(), "hello\n");
    assert_eq!(server.get("/status?404").await.status, 404);
    assert_eq!(server.get("/status?204").await.status, 204);
    let answer = server.get("/bytes?1000000").await;
    assert_eq!(answer.body.len(), 1_000_000);
    assert!(answer.head.contains("transfer-encoding: chunked"), "{}", answer.head);
    let answer = server.get("/length?100000").await;
    assert!(
        answer.body.len() == 100_000 && answer.head.contains("content-length: 100000"),
        "{}",
        answer.head
    );
    assert_eq!(server.get("/print").await.text(), "hello\n");
    assert_eq!(server.said(), "a line\n");
    let mut client = server.connect().await;
    client.send("HEAD /length?10 HTTP/1.1\r\nhost: test\r\n\r\nGET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
    client.send("").await;
    let mut both = vec![0; 4096];
    let mut text = String::new();
    while !text.contains("hello") {
        let read = client.0.read(&mut both).await.unwrap();
        assert!(read > 0, "{text}");
        text.push_str(std::str::from_utf8(&both[..read]).unwrap());
    }
    assert!(text.contains("content-length: 10\r\n") && !text.contains("abc"), "{text}");
    let mut old = server.connect().await;
    old.send("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.answer().await.unwrap().text(), "hello\n");
    assert!(old.is_ended().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_trailers_come_back_as_they_are_sent() {
    let server = Server::new("").await;
    let mut client = server.connect().await;
    client.send("POST /echo HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\nte: trailers\r\n\r\n").await;
    client.send("5\r\nfirst\r\n").await;
    client.send("6\r\nsecond\r\n0\r\nx-sum: 11\r\n\r\n").await;
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.text(), &*answer.trailers), ("firstsecond", "x-sum: 11\n"));
    // Who does not say that it takes them gets none.
    client
        .send("POST /echo HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n")
        .await;
    client.send("3\r\nall\r\n0\r\nx-sum: 3\r\n\r\n").await;
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.text(), &*answer.trailers), ("all", ""));
    let mut waiting = server.connect().await;
    waiting
        .send("POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!(waiting.answer().await.unwrap().status, 100);
    waiting.send("ok").await;
    assert_eq!(waiting.answer().await.unwrap().text(), "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_is_spoken_with_who_begins_with_it() {
    let server = Server::new("").await;
    let io = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let get = |path: &str| {
        Request::builder().uri(format!("http://test{path}")).body(Empty::<Bytes>::new()).unwrap()
    };
    let many = (0..50).map(|_| sender.clone().send_request(get("/count")));
    for answer in futures::future::join_all(many).await {
        let answer = answer.unwrap();
        assert_eq!((answer.version(), answer.status().as_u16()), (Version::HTTP_2, 200));
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "1");
    }
    let answer = sender.send_request(get("/trap")).await.unwrap();
    assert_eq!(answer.status(), 500);
    let io = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://test/echo").body(Full::new(Bytes::from(vec![7; 300_000]))).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), 300_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_http_2_come_back() {
    let server = Server::new("").await;
    let io = TokioIo::new(TcpStream::connect(server.address).await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("3"))]);
    let body = Full::new(Bytes::from("all")).with_trailers(std::future::ready(Some(Ok(trailers.clone()))));
    let answer = sender.send_request(Request::post("http://test/echo").body(body).unwrap()).await.unwrap();
    let body = answer.into_body().collect().await.unwrap();
    assert_eq!(body.trailers(), Some(&trailers));
    assert_eq!(body.to_bytes(), "all");
}

/// As the demo has it, and as users do.
#[tokio::test(flavor = "multi_thread")]
async fn a_component_of_rust_answers() {
    let server = Server::of(OF_RUST, "", 64 << 20).await;
    let answer = server.get("/there").await;
    assert_eq!(answer.status, 200);
    assert!(answer.text().ends_with("you asked for /there\n"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_is_passed_on_and_begun_where_there_is_none() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let server = Server::new("").await;
    let mut client = server.connect().await;
    client
        .send(format!("GET /header?traceparent HTTP/1.1\r\nhost: test\r\ntraceparent: {TRACE}\r\n\r\n"))
        .await;
    assert_eq!(client.answer().await.unwrap().text().trim(), TRACE);
    let begun = client.get("/header?traceparent").await;
    assert!(begun.text().trim().len() == TRACE.len() && begun.text().starts_with("00-"), "{}", begun.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_requests_cost_no_instance_and_go_on() {
    let server = Server::new("").await;
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..1000 {
        let mut client = server.connect().await;
        assert_eq!(client.get("/").await.status, 200);
        clients.push(client);
    }
    let stats = server.stats();
    assert_eq!((stats.connections, stats.instances), (1000, 0));
    for client in &mut clients {
        assert_eq!(client.get("/").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_used_again_within_the_settings() {
    let server = Server::new("max-requests=3,idle-time=200ms").await;
    let mut client = server.connect().await;
    let mut counts = String::new();
    for _ in 0..5 {
        counts.push_str(client.get("/count").await.text());
        // The guest may return a moment after the end of its answer.
        server.until("an instance that is idle, or none", |stats| stats.in_flight == 0).await;
    }
    assert!(counts.starts_with('1') && counts.contains('2') && !counts.contains('4'), "{counts}");
    server.until("the end of what is idle", |stats| stats.instances == 0).await;
    let server = Server::new("max-requests=100,max-memory=2Mi").await;
    let mut client = server.connect().await;
    assert_eq!(client.get("/grow?4").await.text(), "4");
    server.until("the end of what has grown", |stats| stats.instances == 0).await;
    assert_eq!(client.get("/count").await.text(), "1");
    for (max_age, is_kept) in [("10ms", 0), ("1h", 1)] {
        let server = Server::new(&format!("max-requests=100,max-age={max_age}")).await;
        assert_eq!(server.get("/sleep?20").await.text(), "slept\n");
        server.until("the end of the request", |stats| stats.in_flight == 0 && stats.connections == 0).await;
        server.until("the instance, or its end", |stats| stats.instances == is_kept).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_noted_down_where_that_is_asked_for() {
    let server = Server::new("access-log=combined").await;
    server.get("/bytes?7").await;
    server.until("the answer", |stats| stats.in_flight == 0 && stats.answers[1] == 1).await;
    let said = wait::until("a line", PATIENCE, async || {
        Some(server.said()).filter(|said| !said.is_empty()).ok_or_else(|| "nothing is said".to_owned())
    })
    .await
    .unwrap();
    assert!(said.starts_with("::ffff:127.0.0.1") || said.starts_with("127.0.0.1"), "{said}");
    assert!(said.contains("\"GET /bytes?7 HTTP/1.1\" 200 7 \"-\""), "{said}");
}
