//! Who uses which connection, and what passes over it.

use super::*;

#[tokio::test]
async fn requests_after_each_other_share_a_connection() {
    let (server, client) = (Server::plain().await, GuestOf::default().client());
    for _ in 0..50 {
        assert_eq!(client.text(&server.url("/hello")).await, "hello");
    }
    let host = server.at.to_string();
    assert_eq!(client.text(&server.url("/host")).await, host);
    assert_eq!(server.accepted(), 1);
    assert!(client.account.usage().cpu > Duration::ZERO, "what the host does for a guest is on its account");
}

/// Also those of several containers; and they end with the pod.
#[tokio::test]
async fn guests_of_a_pod_share_connections() {
    let (server, connections) = (Server::plain().await, Arc::default());
    let (first, second) = (GuestOf::default().with(&connections), GuestOf::default().with(&connections));
    assert_eq!(first.text(&server.url("/hello")).await, "hello");
    assert_eq!(second.text(&server.url("/hello")).await, "hello");
    assert_eq!(server.accepted(), 1);
    let paying = Arc::clone(&first.account);
    assert!(paying.usage().memory_bytes > 0);
    assert_eq!(second.account.usage().memory_bytes, 0);
    drop((first, second, connections));
    server.has_open(0).await;
    holds_nothing(&paying).await;
}

#[tokio::test]
async fn there_is_a_bounded_number_of_connections_to_an_origin() {
    const REQUESTS: usize = 100;
    let (server, client) = (Server::plain().await, Arc::new(GuestOf::default().client()));
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..REQUESTS {
        let (client, url) = (Arc::clone(&client), server.url("/wait"));
        requests.spawn(async move { client.text(&url).await });
    }
    server.has_waiting(64).await;
    // Who does not want to wait is told why nothing comes.
    let options = RequestOptions { connect_timeout: MOMENT, ..RequestOptions::default() };
    let refused = client.send(get(&server.url("/hello")), options).await.unwrap_err();
    assert!(matches!(refused, Error::ConnectionLimitReached), "{refused:?}");
    // Those of other servers have nothing to do with it.
    assert_eq!(client.text(&Server::plain().await.url("/hello")).await, "hello");
    server.seen.gate.add_permits(REQUESTS);
    while let Some(text) = requests.join_next().await {
        assert_eq!(text.unwrap(), "waited");
    }
    assert_eq!(server.seen.most_waiting.load(Ordering::SeqCst), 64);
    assert_eq!(server.accepted(), 64);
}

#[tokio::test]
async fn a_guest_pays_for_its_connections() {
    let server = Server::plain().await;
    let poor = GuestOf { memory: 300 << 10, ..GuestOf::default() }.client();
    let mut kept = Vec::new();
    for _ in 0..2 {
        kept.push(poor.get(&server.url("/stalls")).await.unwrap());
    }
    let refused = poor.get(&server.url("/stalls")).await.unwrap_err();
    assert!(matches!(refused, Error::ConnectionLimitReached), "{refused:?}");
    kept.clear();
    server.has_open(0).await;
    assert_eq!(poor.text(&server.url("/hello")).await, "hello");
}

/// 64 MiB each way, streamed: the host never has all of it.
#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let (server, client) = (Server::plain().await, GuestOf::default().client());
    let piece = Bytes::from(vec![7; 64 << 10]);
    let request = Request::post(server.url("/echo")).body(pieces(1024, &piece)).unwrap();
    let mut body = client.send(request, RequestOptions::default()).await.unwrap().into_body();
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        assert!(data.iter().all(|byte| *byte == 7));
        received += data.len();
    }
    assert_eq!(received, 64 << 20);
    drop(body);
    assert_eq!(client.text(&server.url("/hello")).await, "hello");
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn a_response_that_nobody_wants_ends_its_connection() {
    let (server, client) = (Server::plain().await, GuestOf::default().client());
    let response = client.get(&server.url("/large")).await.unwrap();
    drop(response);
    server.has_open(0).await;
    assert_eq!(client.text(&server.url("/hello")).await, "hello");
    assert_eq!(server.accepted(), 2);
}

/// The end of a body that was read as far as it is known to go need not be looked for.
#[tokio::test]
async fn a_response_that_was_read_to_its_length_does_not() {
    let (server, client) = (Server::plain().await, GuestOf::default().client());
    for _ in 0..10 {
        let mut body = client.get(&server.url("/hello")).await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
    }
    assert_eq!(server.accepted(), 1);
}

#[tokio::test]
async fn trailers_pass_and_what_is_about_the_connection_does_not() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive, x-hop\r\n\
        Keep-Alive: timeout=5\r\nX-Hop: 1\r\nX-End: 2\r\nTrailer: checksum\r\n\r\n\
        4\r\ntext\r\n0\r\nchecksum: 1234\r\n\r\n";
    let (server, client) = (Server::script(&[ANSWER, ANSWER]).await, GuestOf::default().client());
    for _ in 0..2 {
        let response = client.get(&server.url("/")).await.unwrap();
        let headers: Vec<_> = response.headers().keys().map(|name| name.as_str().to_owned()).collect();
        assert_eq!(headers, ["x-end", "trailer"]);
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["checksum"], "1234");
        assert_eq!(body.to_bytes(), "text");
    }
    assert_eq!(server.accepted(), 1);
}

/// Its server closes a connection as soon as there is a second request on it, as servers do that tidy up at the moment at
/// which it comes.
#[tokio::test]
async fn what_is_safe_is_sent_again_when_a_connection_turns_out_to_be_closed() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (server, client) = (Server::script(&[ANSWER]).await, GuestOf::default().client());
    for _ in 0..5 {
        assert_eq!(client.text(&server.url("/")).await, "ok");
    }
    assert_eq!(server.accepted(), 5);
    let error = client.send(post(&server.url("/"), "once"), RequestOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::HttpResponseIncomplete | Error::ConnectionTerminated), "{error:?}");
    assert_eq!(server.accepted(), 5);
}

/// A server that has said that it closes the connection means it.
#[tokio::test]
async fn connections_that_servers_close_are_not_used_again() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
    let (server, client) = (Server::script(&[ANSWER]).await, GuestOf::default().client());
    for _ in 0..3 {
        let request = post(&server.url("/"), "");
        assert_eq!(text(client.send(request, RequestOptions::default()).await.unwrap()).await, "ok");
    }
    assert_eq!(server.accepted(), 3);
}

/// Whoever needs a connection gets the place of the one that has had nothing to do for longest.
#[tokio::test]
async fn idle_connections_make_room() {
    let (first, second, third) = (Server::plain().await, Server::plain().await, Server::plain().await);
    let connections = HttpConnections::bounded(2, 2);
    let client = GuestOf::default().with(&connections);
    for server in [&first, &second, &third] {
        assert_eq!(client.text(&server.url("/hello")).await, "hello");
    }
    first.has_open(0).await;
    assert_eq!(client.text(&second.url("/hello")).await, "hello");
    assert_eq!((second.accepted(), third.accepted()), (1, 1));
    // Where all are in use, nobody is sent away for another.
    let kept = [client.get(&second.url("/stalls")).await, client.get(&third.url("/stalls")).await];
    let options = RequestOptions { connect_timeout: MOMENT, ..RequestOptions::default() };
    let error = client.send(get(&first.url("/hello")), options).await.unwrap_err();
    assert!(matches!(error, Error::ConnectionLimitReached), "{error:?}");
    drop(kept);
    assert_eq!(client.text(&first.url("/hello")).await, "hello");
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let (first, second) = (Server::plain().await, Server::plain().await);
    let connections = HttpConnections::bounded(8, 1);
    let client = GuestOf::default().with(&connections);
    assert_eq!(client.text(&first.url("/hello")).await, "hello");
    assert_eq!(client.text(&second.url("/hello")).await, "hello");
    first.has_open(0).await;
    let now = tokio::time::Instant::now();
    assert!(connections.close_idle(now), "there is one to look after");
    assert_eq!(client.text(&second.url("/hello")).await, "hello");
    assert!(!connections.close_idle(now + super::super::pool::IDLE * 2));
    second.has_open(0).await;
    holds_nothing(&client.account).await;
}
