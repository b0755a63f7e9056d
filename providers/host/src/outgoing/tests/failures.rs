//! What a guest is told of what went wrong.

use tokio::net::TcpListener;

use super::*;

#[tokio::test]
async fn deadlines_are_the_guests() {
    let (server, client) = (Server::plain().await, GuestOf::default().client());
    let options = RequestOptions { first_byte_timeout: MOMENT, ..RequestOptions::default() };
    let error = client.send(get(&server.url("/silence")), options).await.unwrap_err();
    assert!(matches!(error, Error::ConnectionReadTimeout), "{error:?}");
    server.has_open(0).await;

    let options = RequestOptions { between_bytes_timeout: MOMENT, ..RequestOptions::default() };
    let mut body = client.send(get(&server.url("/stalls")), options).await.unwrap().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "some");
    let error = body.frame().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::ConnectionReadTimeout), "{error:?}");
    server.has_open(0).await;

    // It accepts, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = RequestOptions { connect_timeout: MOMENT, ..RequestOptions::default() };
    let request = get(&format!("https://{}/", silent.local_addr().unwrap()));
    let error = client.send(request, options).await.unwrap_err();
    assert!(matches!(error, Error::ConnectionTimeout), "{error:?}");
}

/// The time for the response begins when the request is over, however slow its guest is; and a server that takes none of it
/// stops its guest, and not only when the host has all of it.
#[tokio::test]
async fn a_server_that_reads_nothing_holds_its_guest_back() {
    let (server, client) = (Server::plain().await, GuestOf::default().client());
    let taken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (count, piece) = (Arc::clone(&taken), Bytes::from(vec![7; 64 << 10]));
    let frames = std::iter::repeat_with(move || {
        count.fetch_add(piece.len(), Ordering::SeqCst);
        Ok::<_, Infallible>(Frame::data(piece.clone()))
    });
    let body = StreamBody::new(futures::stream::iter(frames)).map_err(Error::from).boxed_unsync();
    let request = Request::post(server.url("/silence")).body(body).unwrap();
    let options = RequestOptions { first_byte_timeout: MOMENT, ..RequestOptions::default() };
    let error = client.send(request, options).await.unwrap_err();
    assert!(matches!(error, Error::ConnectionReadTimeout), "{error:?}");
    // What the kernel holds of a connection, and little more.
    assert!(taken.load(Ordering::SeqCst) < 32 << 20, "{taken:?}");
    holds_nothing(&client.account).await;
}

#[tokio::test]
async fn whoever_is_not_there_is_told_of() {
    let client = GuestOf::default().client();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = client.get(&format!("http://{gone}/")).await.unwrap_err();
    assert!(matches!(error, Error::ConnectionRefused), "{error:?}");
    let error = client.get("http://nobody.invalid/").await.unwrap_err();
    assert!(matches!(&error, Error::DnsError { rcode: Some(code), .. } if code == "NXDOMAIN"), "{error:?}");
}

/// The server is not left with half of a request that looks whole, and the connection is not used for another.
#[tokio::test]
async fn a_body_is_as_long_as_its_request_says() {
    let (server, client) = (Server::plain().await, GuestOf::default().client());
    let piece = Bytes::from_static(b"12345");
    for length in [4_u64, 9, 11] {
        let request = Request::post(server.url("/count")).header("content-length", length);
        let request = request.body(pieces(2, &piece)).unwrap();
        let error = client.send(request, RequestOptions::default()).await.unwrap_err();
        assert!(matches!(error, Error::HttpRequestBodySize(Some(_))), "{length}: {error:?}");
        server.has_open(0).await;
    }
    let request = Request::post(server.url("/count")).header("content-length", 10);
    let response = client.send(request.body(pieces(2, &piece)).unwrap(), RequestOptions::default()).await;
    assert_eq!(text(response.unwrap()).await, "10");
}

#[tokio::test]
async fn a_body_that_its_guest_gives_up_ends_the_connection() {
    let (server, client) = (Server::plain().await, GuestOf::default().client());
    let frames = [Ok(Frame::data(Bytes::from_static(b"some"))), Err(Error::HttpProtocolError)];
    let body = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
    let request = Request::post(server.url("/count")).body(body).unwrap();
    let error = client.send(request, RequestOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::HttpProtocolError), "{error:?}");
    server.has_open(0).await;
}

#[tokio::test]
async fn what_servers_may_not_send_is_refused() {
    async fn error(answers: &'static [&'static str]) -> Error {
        let (server, client) = (Server::script(answers).await, GuestOf::default().client());
        let response = client.get(&server.url("/")).await;
        let error = match response {
            Ok(response) => response.into_body().collect().await.unwrap_err(),
            Err(error) => error,
        };
        server.has_open(0).await;
        error
    }
    let upgraded =
        error(&["HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"]).await;
    assert!(matches!(upgraded, Error::HttpUpgradeFailed), "{upgraded:?}");
    let nonsense = error(&["EHLO example.com\r\n\r\n"]).await;
    assert!(matches!(nonsense, Error::HttpProtocolError), "{nonsense:?}");
    const TWO_LENGTHS: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc";
    let two_lengths = error(&[TWO_LENGTHS]).await;
    assert!(matches!(two_lengths, Error::HttpProtocolError), "{two_lengths:?}");
    let large: &'static str = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "a".repeat(128 << 10)).leak();
    let large = error(vec![large].leak()).await;
    assert!(matches!(large, Error::HttpResponseHeaderSectionSize(_)), "{large:?}");
    let cut = error(&["HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nabc\0"]).await;
    assert!(matches!(cut, Error::HttpResponseIncomplete), "{cut:?}");
}
