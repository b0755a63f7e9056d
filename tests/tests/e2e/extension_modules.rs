//! Where modules of extensions come from: servers of all protocols, and filters that say which of them they came from.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{Request, Response};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use kubewasm_tests::{
    certificates::ServerIdentity, cluster::programs, guests, home::Home, ports, process::Process,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use crate::suite::{SOON, suite};

/// The bucket of [`Bucket`].
const BUCKET: &str = "modules";

/// `tests/guests/filter.wat`, which says this in the header `protocol`.
pub(crate) fn filter(says: &str) -> Vec<u8> {
    let source = guests::repository().join("tests/guests/filter.wat");
    let text = std::fs::read_to_string(source).unwrap();
    let said = text.replace("\"unknown\\00\"", &format!("\"{says}\\00\""));
    assert_ne!(text, said, "the filter has another text");
    wat::parse_str(said).unwrap()
}

/// The digest of a module, as `spec.image.sha256` has it.
pub(crate) fn sha256(module: &[u8]) -> String {
    Sha256::digest(module).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A server of files by HTTP, or by HTTPS with a certificate that a private authority has signed.
pub(crate) struct FileServer {
    at: SocketAddr,
    pub(crate) authority: String,
    files: Files,
    asked: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

/// By path: the status, the type, and the content.
type Files = Arc<Mutex<HashMap<String, (u16, String, Bytes)>>>;

impl FileServer {
    pub(crate) async fn start(is_secured: bool) -> Self {
        let (identity, authority) = ServerIdentity::signed(&["127.0.0.1"]).unwrap();
        let acceptor = is_secured.then(|| TlsAcceptor::from(identity.server(&["h2", "http/1.1"]).unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, files, asked) =
            (listener.local_addr().unwrap(), Files::default(), Arc::<AtomicUsize>::default());
        let (there, count) = (Arc::clone(&files), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, there, count) = (acceptor.clone(), Arc::clone(&there), Arc::clone(&count));
                tokio::spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        count.fetch_add(1, Ordering::SeqCst);
                        let found = there.lock().unwrap().get(request.uri().path()).cloned();
                        let (status, kind, content) =
                            found.unwrap_or_else(|| (404, "text/html".to_owned(), page("no such file")));
                        let answer = Response::builder().status(status).header("content-type", kind);
                        async { Ok::<_, Infallible>(answer.body(Full::new(content)).unwrap()) }
                    });
                    let server = auto::Builder::new(TokioExecutor::new());
                    // Whoever does not trust it goes, and so does whoever has read enough.
                    match acceptor {
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(stream).await else { return };
                            let _ = server.serve_connection(TokioIo::new(stream), service).await;
                        }
                        None => drop(server.serve_connection(TokioIo::new(stream), service).await),
                    }
                });
            }
        });
        Self { at, authority, files, asked, _task: AbortOnDropHandle::new(task) }
    }

    /// Has a file there from now on. Returns how an extension names it.
    pub(crate) fn put(&self, path: &str, content: impl Into<Bytes>) -> String {
        self.answer(path, 200, "application/wasm", content)
    }

    /// Answers so from now on.
    pub(crate) fn answer(&self, path: &str, status: u16, kind: &str, content: impl Into<Bytes>) -> String {
        self.files.lock().unwrap().insert(path.to_owned(), (status, kind.to_owned(), content.into()));
        format!("{}{path}", self.at)
    }

    /// How often it was asked for anything.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// A page of HTML, as servers have them for what they do not have.
pub(crate) fn page(text: &str) -> Bytes {
    format!("<!DOCTYPE html><html><body><h1>{text}</h1></body></html>").into()
}

/// A server of S3 that nobody here wrote: moto.
pub(crate) struct Bucket {
    port: u16,
    process: Process,
}

impl Bucket {
    pub(crate) async fn start(home: &Home) -> Self {
        let program = programs::build("tools/moto/build.sh").await.unwrap().join("moto_server");
        let port = ports::free().unwrap();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdin(Stdio::null());
        let process = Process::start("moto", &mut command, &home.log(&format!("moto-{port}"))).unwrap();
        let mut bucket = Self { port, process };
        let made = async || match send(port, "", Bytes::new()).await {
            Ok(200) => Ok(()),
            other => Err(format!("{other:?}")),
        };
        bucket.process.await_ready(SOON, made).await.unwrap();
        bucket
    }

    /// Puts an object there. Returns how an extension names it.
    pub(crate) async fn put(&self, key: &str, content: Vec<u8>) -> String {
        assert_eq!(send(self.port, &format!("/{key}"), content.into()).await.unwrap(), 200);
        format!("{BUCKET}/{key}")
    }

    /// What a server is told of it, by its environment.
    pub(crate) fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port)),
            ("AWS_REGION", "eu-central-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "id".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "s3cret".to_owned()),
        ]
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.process.kill();
    }
}

/// Puts something into the bucket.
async fn send(port: u16, path: &str, content: Bytes) -> anyhow::Result<u16> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::put(format!("/{BUCKET}{path}")).header("host", format!("127.0.0.1:{port}"));
    if !path.is_empty() {
        // The server wants to know who replaces an object, and believes it.
        let scope = "Credential=id/20260101/eu-central-1/s3/aws4_request";
        let signed = format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0");
        request = request.header("authorization", signed).header("x-amz-acl", "public-read");
    }
    let request = request.body(Full::new(content))?;
    Ok(sender.send_request(request).await?.status().as_u16())
}

/// A place for a filter of every protocol.
pub(crate) struct Sources {
    /// The folder that the discovery server takes modules of `local_fs` from.
    pub(crate) folder: PathBuf,
    pub(crate) plain: FileServer,
    pub(crate) secured: FileServer,
    pub(crate) bucket: Bucket,
}

/// All protocols, in the order in which they are tried.
pub(crate) const PROTOCOLS: [&str; 5] = ["local_fs", "http", "https", "oci", "s3"];

impl Sources {
    pub(crate) async fn start(folder: PathBuf) -> Self {
        let bucket = Bucket::start(&suite().await.home);
        let (plain, secured, bucket) =
            tokio::join!(FileServer::start(false), FileServer::start(true), bucket);
        Self { folder, plain, secured, bucket }
    }

    /// Puts a module where a protocol finds it, and returns `spec.image` for it, with its digest.
    pub(crate) async fn put(&self, protocol: &str, name: &str, module: Vec<u8>) -> Value {
        let digest = sha256(&module);
        let uri = match protocol {
            "local_fs" => {
                std::fs::write(self.folder.join(name), module).unwrap();
                name.to_owned()
            }
            "http" => self.plain.put(&format!("/{name}"), module),
            "https" => self.secured.put(&format!("/{name}"), module),
            "oci" => push(&format!("extensions/{name}:v1"), module).await,
            "s3" => self.bucket.put(name, module).await,
            other => panic!("{other}"),
        };
        let mut image = json!({ "protocol": protocol, "uri": uri, "sha256": digest });
        if protocol == "https" {
            image["ca_bundle"] = json!(self.secured.authority);
        }
        image
    }
}

/// Pushes a module to the registry. Returns how an extension names it.
pub(crate) async fn push(name: &str, module: Vec<u8>) -> String {
    let content = kubewasm_tests::registry::image::Content::Artifact(module);
    suite().await.registry.push(name, &content).await.unwrap().tagged
}
