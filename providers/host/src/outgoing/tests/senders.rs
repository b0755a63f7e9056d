//! Somebody else sends.

use std::sync::Mutex;

use futures::future::BoxFuture;
use wasmtime_wasi_http::WasiHttpHooks as _;

use super::{super::*, *};

/// Notes down what it is to send, and sends nothing.
#[derive(Debug, Default)]
struct NotedDown(Mutex<Vec<String>>);

impl HttpSender for NotedDown {
    fn send(&self, request: Request<WasiBody>, _: RequestOptions) -> BoxFuture<'static, HttpOutcome> {
        self.0.lock().unwrap().push(request.uri().to_string());
        Box::pin(std::future::ready(match request.uri().path() {
            "/no" => Err(Error::HttpRequestDenied),
            _ => Ok(Response::new(Empty::new().map_err(Error::from).boxed_unsync())),
        }))
    }
}

#[tokio::test]
async fn a_sender_has_all_requests_of_its_guest_and_the_host_none() {
    let server = Server::plain().await;
    let Client { connections, way, .. } = GuestOf::default().client();
    let sender = Arc::new(NotedDown::default());
    let way = Arc::new(way);
    let mut outgoing = OutgoingHttp {
        connections,
        way,
        sender: Some(Arc::clone(&sender) as Arc<dyn HttpSender>),
        rule: None,
    };
    let (yes, no) = (server.url("/yes"), server.url("/no"));
    let mut send = async |url: &str| {
        let done = Box::new(std::future::ready(Ok(())));
        Box::into_pin(outgoing.send_request(get(url), None, done))
            .await
            .map(|(response, _)| response.status())
    };
    assert_eq!(send(&yes).await.unwrap(), 200);
    assert!(matches!(send(&no).await, Err(Error::HttpRequestDenied)));
    assert_eq!(*sender.0.lock().unwrap(), [yes, no]);
    assert_eq!(server.accepted(), 0);
}
