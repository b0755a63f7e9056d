//! Requests that are none, or that can be read in two ways.

use tokio::io::AsyncWriteExt;

use super::world::Server;

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_read_in_two_ways_is_refused_and_ends_the_connection() {
    let server = Server::new("").await;
    let second = "GET /trap HTTP/1.1\r\nhost: test\r\n\r\n";
    for (name, head, body, status) in [
        ("no request", "nonsense", "", 400),
        ("another version", "GET / HTTP/7.7\r\nhost: test", "", 400),
        ("no host", "GET / HTTP/1.1", "", 400),
        ("two hosts", "GET / HTTP/1.1\r\nhost: a\r\nhost: b", "", 400),
        ("a space before the colon", "GET / HTTP/1.1\r\nhost : test", "", 400),
        ("a folded line", "GET / HTTP/1.1\r\nhost: test\r\na: b\r\n c", "", 400),
        ("a zero in a name", "GET / HTTP/1.1\r\nhost: test\r\na\0: b", "", 400),
        ("two lengths", "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 1\r\ncontent-length: 2", "a", 400),
        ("two lengths in one", "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 1, 2", "a", 400),
        ("a length with a sign", "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: +1", "a", 400),
        ("chunks and more", "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked, identity", "", 400),
        ("an unknown coding", "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: xchunked", "", 400),
        (
            "a coding of HTTP/1.0",
            "POST / HTTP/1.0\r\nhost: test\r\ntransfer-encoding: chunked",
            "0\r\n\r\n",
            400,
        ),
        (
            "another coding before",
            "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: gzip, chunked",
            "",
            501,
        ),
        ("a proxy's request", "CONNECT test:80 HTTP/1.1\r\nhost: test:80", "", 501),
        ("a proxy's target", "GET test:80 HTTP/1.1\r\nhost: test:80", "", 400),
        ("a server's target", "GET * HTTP/1.1\r\nhost: test", "", 400),
        ("a target beyond ASCII", "GET /\u{e9} HTTP/1.1\r\nhost: test", "", 400),
    ] {
        let mut client = server.connect().await;
        client.send(format!("{head}\r\n\r\n{body}{second}")).await;
        let answer = client.answer().await.unwrap_or_else(|| panic!("{name}: no answer"));
        assert_eq!(answer.status, status, "{name}: {}", answer.head);
        assert!(client.is_ended().await, "{name}: what follows is not looked at");
    }
    // Of these, chunks are what counts (RFC 9112, 6.3), and nothing follows that could be read otherwise.
    for headers in
        ["content-length: 5\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 5"]
    {
        let mut client = server.connect().await;
        client.send(format!("POST /echo HTTP/1.1\r\nhost: test\r\n{headers}\r\n\r\n0\r\n\r\n{second}")).await;
        let answer = client.answer().await.unwrap();
        assert!(answer.closes() && answer.body.is_empty(), "{}", answer.head);
        assert!(client.is_ended().await, "{headers}: what follows is not looked at");
    }
    assert_eq!(server.stats().failures, 0, "the guest has not heard of any");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_large_are_refused() {
    let server = Server::new("").await;
    let large = format!("a: {}\r\n", "b".repeat(40 << 10));
    let many: String = (0..200).map(|i| format!("a{i}: b\r\n")).collect();
    for (headers, status) in [(large, 431), (many, 431)] {
        let mut client = server.connect().await;
        client.send(format!("GET / HTTP/1.1\r\nhost: test\r\n{headers}\r\n")).await;
        assert_eq!(client.answer().await.unwrap().status, status);
    }
    let long = format!("/{}", "a".repeat(10 << 10));
    assert_eq!(server.get(&long).await.status, 414);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_protocols_are_refused_or_ignored() {
    let server = Server::new("").await;
    let mut client = server.connect().await;
    let upgrade =
        |to: &str| format!("GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: {to}\r\n\r\n");
    client.send(upgrade("h2c")).await;
    assert_eq!(client.answer().await.unwrap().text(), "hello\n");
    client.send(upgrade("websocket")).await;
    assert_eq!(client.answer().await.unwrap().status, 501);
    assert_eq!(client.get("/").await.status, 200, "the connection goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_no_more_is_answered() {
    let server = Server::new("").await;
    let mut client = server.connect().await;
    client.send("GET /sleep?100 HTTP/1.1\r\nhost: test\r\n\r\n").await;
    client.0.shutdown().await.unwrap();
    assert_eq!(client.answer().await.unwrap().text(), "slept\n");
}
