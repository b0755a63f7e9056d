//! An API server that says what it was asked.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response, request::Parts};
use http_body_util::{BodyExt as _, Empty, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use kubewasm_host::{HttpError, WasiBody};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
};
use tokio_rustls::TlsAcceptor;

type TestBody = UnsyncBoxBody<Bytes, Infallible>;

/// A server at an address of this machine, for as long as the test's runtime lives.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    /// The authority of its certificate, PEM. Without TLS there is none.
    pub(crate) authority: String,
    /// Heads of the requests that have come.
    pub(crate) requests: Arc<Mutex<Vec<Parts>>>,
    /// What `/stream` waits for before its second half.
    pub(crate) go: Arc<Notify>,
}

impl TestServer {
    /// Its certificate is for these names.
    pub(crate) async fn start(names: &[&str]) -> Self {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_no_client_auth();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self::serve(authority.pem(), Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    /// One without TLS.
    pub(crate) async fn plain() -> Self {
        Self::serve(String::new(), None).await
    }

    async fn serve(authority: String, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, go) = (Arc::<Mutex<Vec<Parts>>>::default(), Arc::new(Notify::new()));
        let (kept, notify) = (Arc::clone(&requests), Arc::clone(&go));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, kept, notify) = (tls.clone(), Arc::clone(&kept), Arc::clone(&notify));
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                        let (kept, notify) = (Arc::clone(&kept), Arc::clone(&notify));
                        async move { Ok::<_, Infallible>(answer(request, &kept, notify).await) }
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // A client that goes away, or wants no such certificate, is what some tests are about.
                    let _ = match tls {
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => builder.serve_connection(TokioIo::new(stream), service).await,
                            Err(_) => Ok(()),
                        },
                        None => builder.serve_connection(TokioIo::new(stream), service).await,
                    };
                });
            }
        });
        Self { address, authority, requests, go }
    }

    /// A kubeconfig for it, with what else there is in the cluster's and the user's entry.
    pub(crate) fn kubeconfig(&self, cluster: &str, user: &str) -> String {
        let scheme = if self.authority.is_empty() { "http" } else { "https" };
        let authority = STANDARD.encode(&self.authority);
        format!(
            "current-context: x\ncontexts: [{{name: x, context: {{cluster: c, user: u, namespace: ns}}}}]\n\
             clusters: [{{name: c, cluster: {{server: '{scheme}://{}', certificate-authority-data: '{authority}'{cluster}}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\n",
            self.address
        )
    }

    /// The last request that has come.
    pub(crate) fn last(&self) -> Parts {
        self.requests.lock().unwrap().last().cloned().unwrap()
    }

    pub(crate) fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

async fn answer(request: Request<Incoming>, kept: &Mutex<Vec<Parts>>, go: Arc<Notify>) -> Response<TestBody> {
    let (parts, body) = request.into_parts();
    kept.lock().unwrap().push(parts.clone());
    let full = |text: Bytes| http_body_util::Full::new(text).boxed_unsync();
    match parts.uri.path() {
        "/stream" => {
            let (sender, receiver) = mpsc::unbounded_channel();
            sender.send(Bytes::from_static(b"first")).unwrap();
            tokio::spawn(async move {
                go.notified().await;
                let _ = sender.send(Bytes::from_static(b"second"));
            });
            let pieces = futures::stream::unfold(receiver, async |mut receiver| {
                let piece: Bytes = receiver.recv().await?;
                Some((Ok(Frame::data(piece)), receiver))
            });
            Response::new(StreamBody::new(pieces.boxed()).boxed_unsync())
        }
        "/echo" => Response::new(full(body.collect().await.unwrap().to_bytes())),
        "/token" if parts.headers.get("authorization").is_none_or(|token| token != "Bearer two") => {
            Response::builder().status(401).body(full(Bytes::new())).unwrap()
        }
        "/cookie" => {
            Response::builder().header("set-cookie", "session=hunter2").body(full(Bytes::new())).unwrap()
        }
        "/away" => Response::builder()
            .status(302)
            .header("location", "https://192.0.2.1/")
            .body(full(Bytes::new()))
            .unwrap(),
        _ => Response::new(full(Bytes::from_static(b"ok"))),
    }
}

/// The body of a request that has none.
pub(crate) fn empty() -> WasiBody {
    Empty::new().map_err(HttpError::from).boxed_unsync()
}

/// That of one with this in it.
pub(crate) fn full(text: &'static str) -> WasiBody {
    http_body_util::Full::new(Bytes::from_static(text.as_bytes())).map_err(HttpError::from).boxed_unsync()
}
