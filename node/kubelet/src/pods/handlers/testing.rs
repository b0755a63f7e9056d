//! A pod to probe, servers on 127.0.0.1, and a runtime that only runs `exec`.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::mpsc,
};
use tokio_rustls::TlsAcceptor;

use super::{Addresses, Target};
use crate::{
    pods::lifecycle::PodName,
    runtime::{
        ContainerList, ContainerSpec, Credential, ExecEnd, ExecError, ExecIo, ExposedPort, Image, ImageError,
        Presence, PulledImage, Runtime, RuntimeError, StartError,
    },
};

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// Id of the container that is probed.
pub(super) const CONTAINER_ID: &str = "1d";

/// Long enough for a local server on a busy machine.
pub(super) const PLENTY: Duration = Duration::from_secs(30);

/// What `exec` was called with: container id, argv, streams.
pub(super) type Call = (String, Vec<String>, ExecIo);

/// What `exec` answers, one call after another; a call more never ends.
#[derive(Debug, Default)]
pub(super) struct FakeRuntime {
    pub(super) answers: Mutex<VecDeque<Result<ExecEnd, ExecError>>>,
    pub(super) calls: Mutex<Vec<Call>>,
    /// The only address at which the pod listens; everywhere, where there is none.
    pub(super) listens_at: Option<SocketAddr>,
}

impl FakeRuntime {
    pub(super) fn answering(answers: impl IntoIterator<Item = Result<ExecEnd, ExecError>>) -> Self {
        Self { answers: Mutex::new(answers.into_iter().collect()), ..Self::default() }
    }
}

pub(super) fn exit(exit_code: i32, output: &str) -> Result<ExecEnd, ExecError> {
    Ok(ExecEnd { exit_code, output: output.into() })
}

#[async_trait]
impl Runtime for FakeRuntime {
    fn version(&self) -> String {
        "fake://1".to_owned()
    }

    async fn image(&self, _: &str) -> Result<Option<Image>, ImageError> {
        Ok(None)
    }

    async fn pull(&self, _: &str, _: &[Credential]) -> Result<PulledImage, ImageError> {
        Ok(Image::default().into())
    }

    async fn images(&self) -> Vec<Image> {
        Vec::new()
    }

    async fn start(&self, _: &ContainerSpec) -> Result<Timestamp, StartError> {
        Ok(Timestamp::UNIX_EPOCH)
    }

    async fn stop(&self, _: &str, _: Duration) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn remove(&self, _: &str) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn exec(&self, id: &str, argv: &[String], io: ExecIo) -> Result<ExecEnd, ExecError> {
        self.calls.lock().unwrap().push((id.to_owned(), argv.to_vec(), io));
        let answer = self.answers.lock().unwrap().pop_front();
        match answer {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    async fn listens(&self, _: &str, address: SocketAddr) -> Result<bool, RuntimeError> {
        Ok(self.listens_at.is_none_or(|listens| listens == address))
    }

    fn observe(&self, _: &str) -> Presence {
        Presence::Absent
    }

    fn containers(&self) -> ContainerList {
        ContainerList { containers: Vec::new(), is_complete: true }
    }

    fn wakeups(&self) -> Option<mpsc::Receiver<String>> {
        None
    }
}

/// A pod at 127.0.0.1 with one container.
pub(super) struct Bench {
    pub(super) pod: PodName,
    pub(super) container: Container,
    pub(super) pod_ips: Vec<IpAddr>,
    pub(super) exposed: Option<Vec<ExposedPort>>,
    pub(super) runtime: FakeRuntime,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self {
            pod: PodName { name: "p".to_owned(), namespace: "ns".to_owned(), uid: "u".to_owned() },
            container: Container { name: "c".to_owned(), ..Container::default() },
            pod_ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            exposed: None,
            runtime: FakeRuntime::default(),
        }
    }

    pub(super) fn target(&self) -> Target<'_> {
        Target {
            pod: &self.pod,
            container: &self.container,
            addresses: Addresses {
                pod_ips: &self.pod_ips,
                host_network: false,
                exposed: self.exposed.as_deref(),
            },
            id: CONTAINER_ID,
            runtime: &self.runtime,
        }
    }
}

pub(super) type Body = BoxBody<Bytes, std::convert::Infallible>;

/// A server that runs until it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// HTTP/1.1, or HTTP/2 without TLS as gRPC speaks it.
    pub(super) async fn http(
        answer: impl Fn(Request<Incoming>) -> Response<Body> + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::start(move |stream| serve(stream, answer.clone())).await
    }

    /// HTTP/1.1 over TLS with a certificate that nobody has signed.
    pub(super) async fn https(
        answer: impl Fn(Request<Incoming>) -> Response<Body> + Clone + Send + Sync + 'static,
    ) -> Self {
        let made = rcgen::generate_simple_self_signed(["somewhere.else".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self::start(move |stream| {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream, answer).await;
                }
            }
        })
        .await
    }

    /// Does with every connection what `handle` does.
    pub(super) async fn start<F: Future<Output = ()> + Send + 'static>(
        handle: impl Fn(tokio::net::TcpStream) -> F + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(handle(stream));
            }
        });
        Self { address, connections, task }
    }

    /// Takes connections and says nothing.
    pub(super) async fn mute() -> Self {
        Self::start(|stream| async move {
            std::future::pending::<()>().await;
            drop(stream);
        })
        .await
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    answer: impl Fn(Request<Incoming>) -> Response<Body> + Clone + Send + Sync + 'static,
) {
    let service = service_fn(move |request| {
        let response = answer(request);
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    // The client may go away at any time, and often does.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

/// A port of 127.0.0.1 that nobody listens on.
pub(super) async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
