//! Servers to ask.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// A server that counts. It ends with this.
pub(crate) struct Server {
    pub(super) at: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    _task: AbortOnDropHandle<()>,
}

/// What a server has seen.
pub(crate) struct Seen {
    /// Connections.
    pub(super) accepted: AtomicUsize,
    /// Those that are open.
    pub(super) open: watch::Sender<usize>,
    /// Requests for `/wait` that were not answered yet.
    pub(super) waiting: watch::Sender<usize>,
    /// The most of them at a time.
    pub(super) most_waiting: AtomicUsize,
    /// Permits to answer them.
    pub(super) gate: Semaphore,
    /// Requests by HTTP/2.
    pub(super) by_h2: AtomicUsize,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            accepted: AtomicUsize::new(0),
            open: watch::Sender::new(0),
            waiting: watch::Sender::new(0),
            most_waiting: AtomicUsize::new(0),
            gate: Semaphore::new(0),
            by_h2: AtomicUsize::new(0),
        }
    }
}

/// Who signs, and what it has signed.
pub(super) struct Signed {
    pub(super) authority: String,
    certificate: String,
    key: String,
}

impl Signed {
    /// For these names and addresses.
    pub(super) fn new(names: &[&str]) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(params, key);
        let key = rcgen::KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        Self { authority, certificate: certificate.pem(), key: key.serialize_pem() }
    }

    pub(super) fn acceptor(&self, protocols: &[&str]) -> TlsAcceptor {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut config = builder.with_single_cert(vec![certificate], key).unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

impl Server {
    pub(crate) async fn plain() -> Self {
        Self::at(IpAddr::from([127, 0, 0, 1])).await
    }

    pub(super) async fn at(ip: IpAddr) -> Self {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        Self::on(listener, |stream, seen| async move { serve(stream, seen).await })
    }

    pub(super) async fn tls(signed: &Signed, protocols: &[&str]) -> Self {
        let acceptor = signed.acceptor(protocols);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, move |stream, seen| {
            let acceptor = acceptor.clone();
            async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream, seen).await;
                }
            }
        })
    }

    /// Answers each request of a connection with the next of these texts, and closes it when a request comes for which there is
    /// none, or behind a text that ends with a zero. Bodies of requests are not looked at.
    pub(super) async fn script(answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, move |mut stream, _| async move {
            let mut answers = answers.iter();
            let mut head = Vec::new();
            while let Ok(byte) = stream.read_u8().await {
                head.push(byte);
                if head.ends_with(b"\r\n\r\n") {
                    head.clear();
                    let Some(answer) = answers.next() else { return };
                    let text = answer.trim_end_matches('\0');
                    // A client that has seen enough may be gone.
                    if stream.write_all(text.as_bytes()).await.is_err() || text != *answer {
                        return;
                    }
                }
            }
        })
    }

    pub(super) fn on<F>(
        listener: TcpListener,
        serve: impl Fn(TcpStream, Arc<Seen>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (at, seen) = (listener.local_addr().unwrap(), Arc::new(Seen::default()));
        let known = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                known.accepted.fetch_add(1, Ordering::SeqCst);
                known.open.send_modify(|open| *open += 1);
                let (serving, seen) = (serve(stream, Arc::clone(&known)), Arc::clone(&known));
                connections.spawn(async move {
                    serving.await;
                    seen.open.send_modify(|open| *open -= 1);
                });
            }
        });
        Self { at, seen, _task: AbortOnDropHandle::new(task) }
    }

    pub(crate) fn accepted(&self) -> usize {
        self.seen.accepted.load(Ordering::SeqCst)
    }

    /// The address of something there.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at)
    }

    /// So many requests wait.
    pub(super) async fn has_waiting(&self, count: usize) {
        let mut waiting = self.seen.waiting.subscribe();
        tokio::time::timeout(super::PATIENCE, waiting.wait_for(|now| *now == count)).await.unwrap().unwrap();
    }

    /// So many connections are open.
    pub(super) async fn has_open(&self, count: usize) {
        let mut open = self.seen.open.subscribe();
        tokio::time::timeout(super::PATIENCE, open.wait_for(|now| *now == count)).await.unwrap().unwrap();
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, seen: Arc<Seen>) {
    let service = service_fn(move |request| answer(request, Arc::clone(&seen)));
    // A client that goes is no error of the server's.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Frames, and then silence.
struct ThenSilence(Option<Bytes>);

impl hyper::body::Body for ThenSilence {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.0.take().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(Frame::data(bytes)))))
    }
}

async fn answer(request: Request<Incoming>, seen: Arc<Seen>) -> Result<Response<Body>, Infallible> {
    if request.version() == Version::HTTP_2 {
        seen.by_h2.fetch_add(1, Ordering::SeqCst);
    }
    let host = request.headers().get(http::header::HOST).cloned();
    let response = match request.uri().path() {
        "/hello" => Response::new(full("hello")),
        "/host" => {
            Response::new(full(host.map(|host| host.to_str().unwrap().to_owned()).unwrap_or_default()))
        }
        "/echo" => Response::new(request.into_body().boxed_unsync()),
        "/count" => {
            let body = request.into_body().collect().await;
            Response::new(full(
                body.map_or_else(|_| "broken".to_owned(), |body| body.to_bytes().len().to_string()),
            ))
        }
        "/wait" => {
            seen.waiting.send_modify(|waiting| *waiting += 1);
            seen.most_waiting.fetch_max(*seen.waiting.borrow(), Ordering::SeqCst);
            seen.gate.acquire().await.unwrap().forget();
            seen.waiting.send_modify(|waiting| *waiting -= 1);
            Response::new(full("waited"))
        }
        "/silence" => std::future::pending().await,
        "/stalls" => Response::new(ThenSilence(Some(Bytes::from_static(b"some"))).boxed_unsync()),
        "/large" => {
            let piece = Bytes::from(vec![7; 64 << 10]);
            let frames = (0..1024).map(move |_| Ok(Frame::data(piece.clone())));
            Response::new(StreamBody::new(futures::stream::iter(frames)).boxed_unsync())
        }
        "/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("checksum", HeaderValue::from_static("1234"));
            let frames = [Ok(Frame::data(Bytes::from_static(b"text"))), Ok(Frame::trailers(trailers))];
            Response::new(StreamBody::new(futures::stream::iter(frames)).boxed_unsync())
        }
        _ => {
            let mut response = Response::new(full("what?"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    };
    Ok(response)
}
