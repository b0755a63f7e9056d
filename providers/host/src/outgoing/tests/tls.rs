//! HTTPS.

use super::{server::Signed, *};

fn trusting(signed: &Signed) -> GuestOf {
    let authorities = PrivateAuthorities::from_pem(&signed.authority).unwrap();
    GuestOf { authorities: Some(Arc::new(authorities)), ..GuestOf::default() }
}

fn url(server: &Server, host: &str, path: &str) -> String {
    format!("https://{host}:{}{path}", server.at.port())
}

#[tokio::test]
async fn whom_the_guest_trusts_is_asked_and_nobody_else() {
    let signed = Signed::new(&["name.test", "127.0.0.1"]);
    let server = Server::tls(&signed, &["http/1.1"]).await;
    let connections = Arc::default();
    let (trusting, other) = (trusting(&signed).with(&connections), GuestOf::default().with(&connections));
    assert_eq!(trusting.text(&url(&server, "name.test", "/hello")).await, "hello");
    assert_eq!(trusting.text(&url(&server, "127.0.0.1", "/hello")).await, "hello");
    assert_eq!(trusting.text(&url(&server, "name.test", "/hello")).await, "hello");
    assert_eq!(server.accepted(), 2);
    // The same pod has a connection that somebody else of it trusts.
    for host in ["name.test", "127.0.0.1"] {
        let error = other.get(&url(&server, host, "/hello")).await.unwrap_err();
        assert!(matches!(error, Error::TlsCertificateError), "{error:?}");
    }
    // It is trusted, and another server.
    let error = trusting.get(&url(&server, "other.test", "/hello")).await.unwrap_err();
    assert!(matches!(error, Error::TlsCertificateError), "{error:?}");
}

#[tokio::test]
async fn a_server_without_tls_is_none() {
    let (server, client) = (Server::script(&["what?\r\n"]).await, GuestOf::default().client());
    let options = RequestOptions { connect_timeout: MOMENT, ..RequestOptions::default() };
    let error = client.send(get(&url(&server, "127.0.0.1", "/")), options).await.unwrap_err();
    assert!(matches!(error, Error::ConnectionTimeout | Error::TlsProtocolError), "{error:?}");
}

/// Many requests at a time share one connection of HTTP/2, which the server has chosen.
#[tokio::test]
async fn requests_share_a_connection_of_http_2() {
    const REQUESTS: usize = 80;
    let signed = Signed::new(&["name.test"]);
    let server = Server::tls(&signed, &["h2", "http/1.1"]).await;
    let client = Arc::new(trusting(&signed).client());
    assert_eq!(client.text(&url(&server, "name.test", "/hello")).await, "hello");
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..REQUESTS {
        let (client, url) = (Arc::clone(&client), url(&server, "name.test", "/wait"));
        requests.spawn(async move { client.text(&url).await });
    }
    server.has_waiting(REQUESTS).await;
    server.seen.gate.add_permits(REQUESTS);
    while let Some(text) = requests.join_next().await {
        assert_eq!(text.unwrap(), "waited");
    }
    assert_eq!(server.accepted(), 1);
    assert_eq!(server.seen.by_h2.load(Ordering::SeqCst), REQUESTS + 1);
}

#[tokio::test]
async fn streams_of_http_2_do_what_connections_do() {
    let signed = Signed::new(&["name.test"]);
    let server = Server::tls(&signed, &["h2"]).await;
    let client = trusting(&signed).client();
    let url = |path| url(&server, "name.test", path);
    let trailers = client.get(&url("/trailers")).await.unwrap();
    assert_eq!(trailers.version(), Version::HTTP_2);
    let trailers = trailers.into_body().collect().await.unwrap();
    assert_eq!(trailers.trailers().unwrap()["checksum"], "1234");

    let piece = Bytes::from(vec![7; 64 << 10]);
    let request = Request::post(url("/count")).body(pieces(256, &piece)).unwrap();
    let response = client.send(request, RequestOptions::default()).await.unwrap();
    assert_eq!(text(response).await, (256 * piece.len()).to_string());

    // Given up, too short, too slow: each is the end of its own stream and of nobody else's.
    drop(client.get(&url("/large")).await.unwrap());
    let request = Request::post(url("/count")).header("content-length", 11);
    let request = request.body(pieces(2, &Bytes::from_static(b"12345"))).unwrap();
    let error = client.send(request, RequestOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::HttpRequestBodySize(Some(10))), "{error:?}");
    let options = RequestOptions { first_byte_timeout: MOMENT, ..RequestOptions::default() };
    let error = client.send(get(&url("/silence")), options).await.unwrap_err();
    assert!(matches!(error, Error::ConnectionReadTimeout), "{error:?}");
    assert_eq!(client.text(&url("/hello")).await, "hello");
    assert_eq!(server.accepted(), 1);

    let account = Arc::clone(&client.account);
    drop(client);
    server.has_open(0).await;
    holds_nothing(&account).await;
}
