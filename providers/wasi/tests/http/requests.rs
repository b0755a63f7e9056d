//! Requests of real programs; what else there is to them is tested with the host.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures::stream;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use kubewasm_host::Network;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::world::run_guest;

/// Several times the memory that the guest may have.
const LARGE: usize = 64 << 20;
const BLOCK: usize = 64 << 10;

/// A native server, which counts the connections that it takes.
struct Native {
    at: SocketAddr,
    accepted: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Native {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, accepted) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
        let count = Arc::clone(&accepted);
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // A client that goes is no error of the server's.
                    let _ = builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
                });
            }
        });
        Self { at, accepted, serving }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at)
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, hyper::Error> {
    let text = |text: String| Full::new(Bytes::from(text)).boxed();
    let body = match request.uri().path() {
        "/large" => {
            let block = Bytes::from(vec![7; BLOCK]);
            let blocks = (0..LARGE / BLOCK).map(move |_| Ok(Frame::data(block.clone())));
            BodyExt::boxed(StreamBody::new(stream::iter(blocks)))
        }
        "/count" => {
            let (mut body, mut count) = (request.into_body(), 0);
            while let Some(frame) = body.frame().await {
                count += frame?.data_ref().map_or(0, Bytes::len);
            }
            text(count.to_string())
        }
        _ => text("hello".to_owned()),
    };
    Ok(Response::new(body))
}

fn lines(lines: &[(String, &str)]) -> String {
    lines.iter().map(|(url, said)| format!("{url}: {said}\n")).collect()
}

/// The program of WASI 0.2, and that of 0.3.
const GUESTS: [&str; 2] = ["outgoing-0.2.c", "outgoing-0.3.c"];

/// Bodies of several times the memory that the guest may have, each way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_uses_its_connection_again_and_holds_no_bodies() {
    for guest in GUESTS {
        let server = Native::start().await;
        let [hello, large, count] = ["/hello", "/large", "/count"].map(|path| server.url(path));
        let argv = ["guest", &hello, &large, &format!("+{LARGE}"), &count, &hello].map(str::to_owned);
        let expected = lines(&[
            (hello.clone(), "200, 5 bytes: hello"),
            (large, "200, 67108864 bytes: "),
            (count, "200, 8 bytes: 67108864"),
            (hello, "200, 5 bytes: hello"),
        ]);
        assert_eq!(run_guest(guest, &argv, &Network::Host, 16 << 20).await, expected, "{guest}");
        assert!(server.accepted() <= 1, "{guest}: {} connections for four requests", server.accepted());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_is_told_why_there_is_no_answer() {
    let server = Native::start().await;
    let gone = "http://nobody.invalid/".to_owned();
    let argv = ["guest".to_owned(), server.url("/hello"), gone.clone()];
    // Destination-IP-prohibited, and DNS-error.
    let expected = lines(&[(server.url("/hello"), "refused 4"), (gone, "refused 1")]);
    for guest in GUESTS {
        assert_eq!(run_guest(guest, &argv, &Network::Outgoing, 16 << 20).await, expected, "{guest}");
    }
    assert_eq!(server.accepted(), 0);
}
