//! A server that probes and hooks of a test ask, and that answers as the test wants.
//!
//! The node asks the pod alone. So a guest of it listens at a `hostPort`, and passes on what comes in.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use kubewasm_tests::{guests, ports, registry::image::Content, wait};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OnceCell, watch},
    task::JoinHandle,
};

use crate::suite::{SOON, suite};

/// What a request gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A response with that HTTP status.
    Http(u16),
    /// A response of gRPC's health service, with that serving status (1 is SERVING, 2 is NOT_SERVING).
    Health(u8),
    /// Nothing, until the answer is changed; then that.
    Silence,
}

/// A request, as far as tests look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) path: String,
    /// `User-Agent`.
    pub(crate) agent: String,
}

/// A server that runs until it is dropped.
pub(crate) struct Endpoint {
    address: SocketAddr,
    /// Where the guest listens.
    port: u16,
    answer: watch::Sender<Answer>,
    asked: Arc<Mutex<Vec<Asked>>>,
    listening: JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Endpoint {
    pub(crate) async fn start(first: Answer) -> Self {
        let listener = TcpListener::bind((suite().await.cluster.node_address(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, answers) = watch::channel(first);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&asked);
        let listening = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, answers.clone(), Arc::clone(&record)));
            }
        });
        Self { address, port: ports::free().unwrap(), answer, asked, listening }
    }

    /// The port of the pod at which it is asked, and of the node.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Has a container's guest listen for it.
    pub(crate) async fn listen_in(&self, container: &mut Value) {
        container["image"] = json!(sockets().await);
        container["args"] = json!(["relay", format!("0.0.0.0:{}", self.port), self.address.to_string()]);
        container["ports"] = json!([{ "name": "web", "containerPort": self.port, "hostPort": self.port }]);
    }

    /// A sidecar that listens for it before other containers of the pod begin, and after they have ended.
    pub(crate) async fn sidecar(&self) -> Value {
        let mut sidecar = json!({
            "name": format!("relay-{}", self.port),
            "restartPolicy": "Always",
            "startupProbe": { "tcpSocket": { "port": self.port }, "periodSeconds": 1, "failureThreshold": 600 },
        });
        self.listen_in(&mut sidecar).await;
        sidecar
    }

    /// Changes the answer from now on, also to requests that have got none yet.
    pub(crate) fn answer(&self, answer: Answer) {
        self.answer.send_replace(answer);
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// How many requests for `path` there were.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.asked().iter().filter(|asked| asked.path == path).count()
    }

    /// Waits until there were that many requests for `path`.
    pub(crate) async fn until_asked(&self, path: &str, times: usize) {
        wait::until(&format!("request {times} for {path}"), SOON, async || match self.count(path) {
            count if count >= times => Ok(()),
            _ => Err(format!("there were {:?}", self.asked())),
        })
        .await
        .unwrap();
    }

    /// Stops to listen, and returns when the port is closed.
    pub(crate) async fn close(self) {
        self.listening.abort();
        // The guest hears of it by the next connection, and listens no more.
        let port_is_closed = async || match TcpStream::connect(self.address).await {
            Ok(_) => Err("it still takes connections".to_owned()),
            Err(_) => Ok(()),
        };
        wait::until("a closed port", SOON, port_is_closed).await.unwrap();
    }
}

/// The image of `tests/guests/sockets-0.2.c`, which listens and connects as its arguments say.
pub(crate) async fn sockets() -> &'static str {
    static IMAGE: OnceCell<String> = OnceCell::const_new();
    let push = async || {
        let content = Content::program("sockets", guests::guest("sockets-0.2.c").await.unwrap());
        suite().await.registry.push("sockets-of-the-node:v1", &content).await.unwrap().tagged
    };
    IMAGE.get_or_init(push).await
}

type Body = BoxBody<Bytes, Infallible>;

async fn serve(stream: TcpStream, answers: watch::Receiver<Answer>, asked: Arc<Mutex<Vec<Asked>>>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let agent = request.headers().get(header::USER_AGENT).map(|agent| agent.to_str().unwrap().to_owned());
        let path = request.uri().path().to_owned();
        asked.lock().unwrap().push(Asked { path, agent: agent.unwrap_or_default() });
        let mut answers = answers.clone();
        async move {
            // The sender is gone when the test has ended; then nobody waits for a response either.
            let answer = answers.wait_for(|answer| *answer != Answer::Silence).await.map(|answer| *answer);
            Ok::<_, Infallible>(response(answer.unwrap_or(Answer::Http(503))))
        }
    });
    // Who asks goes away when its time is over.
    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

fn response(answer: Answer) -> Response<Body> {
    match answer {
        Answer::Http(status) => Response::builder().status(status).body(Full::default().boxed()).unwrap(),
        Answer::Health(status) => {
            // A message of two bytes, not compressed: field 1, a number.
            let message = Full::from(vec![0, 0, 0, 0, 2, 8, status]);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let body = message.with_trailers(std::future::ready(Some(Ok(trailers))));
            Response::builder().header(header::CONTENT_TYPE, "application/grpc").body(body.boxed()).unwrap()
        }
        Answer::Silence => Response::builder().status(503).body(Full::default().boxed()).unwrap(),
    }
}
