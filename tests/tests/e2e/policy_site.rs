//! A server of policies: the real `kubewasm policy serve`, its files, and who asks it.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use http::{Request, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Bytes,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kubewasm_tests::{
    certificates::{self, ServerIdentity},
    guests,
    home::Home,
    node, ports,
    process::Process,
    wait,
};
use rustls::{
    ClientConfig,
    pki_types::ServerName,
    version::{TLS12, TLS13},
};
use serde_json::{Value, json};
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_rustls::{TlsConnector, client::TlsStream};
use wasm_encoder::{CustomSection, Section as _};

use crate::suite::SOON;

/// A server with a folder of its own, on ports of its own.
pub(crate) struct PolicySite {
    home: Home,
    pub(crate) port: u16,
    health_port: u16,
    flags: Vec<String>,
    process: Option<Process>,
}

/// A certificate for this machine.
pub(crate) fn identity() -> ServerIdentity {
    ServerIdentity::new(&["127.0.0.1", "localhost"]).unwrap()
}

/// A module that says of itself that it is a program.
pub(crate) fn annotated(mut module: Vec<u8>) -> Vec<u8> {
    let metadata = json!({ "executionMode": "wasi", "policyType": "raw" }).to_string();
    let section = CustomSection { name: "io.kubewarden.metadata".into(), data: metadata.into_bytes().into() };
    section.append_to(&mut module);
    module
}

const IMPORTS: &str = r#"
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)"#;

/// A program that does something before it judges a request, and then says this of whatever it is asked.
fn says_after(before: &str, text: &str) -> Vec<u8> {
    let escaped: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    let text = format!(
        r#"(module {IMPORTS} (data (i32.const 1024) "{escaped}")
          (func (export "_start")
            (drop (call $sizes (i32.const 0) (i32.const 4)))
            ;; "policy.wasm" and "validate", each with its end
            (if (i32.eq (i32.load (i32.const 4)) (i32.const 21)) (then {before}))
            (i32.store (i32.const 8) (i32.const 1024)) (i32.store (i32.const 12) (i32.const {}))
            (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))))"#,
        text.len()
    );
    annotated(wat::parse_str(text).unwrap())
}

/// A program that says this of whatever it is asked.
pub(crate) fn says(verdict: &Value) -> Vec<u8> {
    let mut verdict = verdict.clone();
    verdict["valid"] = json!(true);
    says_after("", &verdict.to_string())
}

pub(crate) fn accepts() -> Vec<u8> {
    says(&json!({ "accepted": true }))
}

pub(crate) fn refuses(message: &str) -> Vec<u8> {
    says(&json!({ "accepted": false, "message": message, "code": 403 }))
}

/// A program that computes for ever when it is to judge a request.
pub(crate) fn loops() -> Vec<u8> {
    says_after("(loop $again (br $again))", r#"{"valid":true}"#)
}

/// A program that sleeps for so long when it is to judge a request, and accepts it then.
pub(crate) fn sleeps(milliseconds: u64) -> Vec<u8> {
    let clock = format!(
        "(i32.store (i32.const 80) (i32.const 1)) (i64.store (i32.const 88) (i64.const {}))
         (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 4)))",
        milliseconds * 1_000_000
    );
    says_after(&clock, r#"{"valid":true,"accepted":true}"#)
}

/// The policy of Go.
pub(crate) async fn annotations() -> Vec<u8> {
    annotated(guests::guest("policy.go").await.unwrap())
}

impl PolicySite {
    /// A server that has these modules in its folder, and a certificate; it is not started.
    pub(crate) fn new(modules: &[(&str, Vec<u8>)], identity: &ServerIdentity) -> Self {
        // Another test may have chosen already; both choices are fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let home = Home::temporary().unwrap();
        let (port, health_port) = (ports::free().unwrap(), ports::free().unwrap());
        let site = Self { home, port, health_port, flags: Vec::new(), process: None };
        for (name, module) in modules {
            fs::write(site.path(&format!("{name}.wasm")), module).unwrap();
        }
        site.certificate(identity);
        site
    }

    pub(crate) fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// A file of the server's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// How `policies.yml` names a module of the folder.
    pub(crate) fn module(&self, name: &str) -> String {
        format!("file://{}", self.path(&format!("{name}.wasm")).display())
    }

    /// Replaces a file in one step.
    pub(crate) fn replace(&self, name: &str, content: &str) {
        let new = self.path(&format!("{name}.new"));
        fs::write(&new, content).unwrap();
        fs::rename(new, self.path(name)).unwrap();
    }

    pub(crate) fn certificate(&self, identity: &ServerIdentity) {
        self.replace("tls.crt", &identity.chain);
        self.replace("tls.key", &identity.key);
    }

    pub(crate) fn policies(&self, policies: &Value) {
        self.replace("policies.yml", &policies.to_string());
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home.log("policy-server")).unwrap_or_default()
    }

    /// Starts it without waiting for anything.
    pub(crate) fn spawn(&mut self) {
        let mut command = Command::new(node::program().unwrap());
        command
            .args(["policy", "serve", "--addr=127.0.0.1"])
            .arg(format!("--port={}", self.port))
            .arg(format!("--readiness-probe-port={}", self.health_port))
            .arg(format!("--root-dir={}", self.path("root").display()))
            .arg(format!("--policies={}", self.path("policies.yml").display()));
        if !self.flags.iter().any(|flag| flag == "--self-signed") {
            command
                .arg(format!("--cert-file={}", self.path("tls.crt").display()))
                .arg(format!("--key-file={}", self.path("tls.key").display()));
        }
        command.args(self.flags.iter().filter(|flag| *flag != "--self-signed"));
        let log = self.home.log("policy-server");
        self.process = Some(Process::start("policy-server", &mut command, &log).unwrap());
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it was started")
    }

    /// Starts it, and waits until it is ready.
    pub(crate) async fn start(&mut self) {
        self.spawn();
        let health = SocketAddr::from((Ipv4Addr::LOCALHOST, self.health_port));
        let ready = async || match get(health, "/readiness").await {
            Ok((200, _)) => Ok(()),
            other => Err(format!("{other:?}")),
        };
        self.process().await_ready(SOON, ready).await.unwrap();
    }

    /// An answer of the port of readiness and metrics.
    pub(crate) async fn health(&self, path: &str) -> std::io::Result<(u16, String)> {
        get(SocketAddr::from((Ipv4Addr::LOCALHOST, self.health_port)), path).await
    }

    /// Somebody who trusts these.
    pub(crate) fn asker(&self, trusted: &[&ServerIdentity]) -> Asker {
        let config = certificates::client(trusted, &[&TLS13, &TLS12], &[]).unwrap();
        Asker { port: self.port, config, version: Version::HTTP_11 }
    }
}

impl Drop for PolicySite {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
        }
    }
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "localhost").body(Full::<Bytes>::default()).unwrap();
    let answer = sender.send_request(request).await.map_err(std::io::Error::other)?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Who asks a server, by a connection for each request.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    pub(crate) port: u16,
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) version: Version,
}

/// One connection.
pub(crate) enum Line {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Asker {
    pub(crate) async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = ClientConfig::clone(&self.config);
        let protocol: &[u8] = if self.version == Version::HTTP_2 { b"h2" } else { b"http/1.1" };
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
    }

    pub(crate) async fn line(&self) -> std::io::Result<Line> {
        let stream = TokioIo::new(self.connect().await?);
        Ok(if self.version == Version::HTTP_2 {
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), stream).await.map_err(std::io::Error::other)?;
            tokio::spawn(connection);
            Line::Two(sender)
        } else {
            let (sender, connection) = http1::handshake(stream).await.map_err(std::io::Error::other)?;
            tokio::spawn(connection);
            Line::One(sender)
        })
    }

    /// The status and the body of an answer.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        body: impl Into<Bytes>,
    ) -> std::io::Result<(u16, Value)> {
        self.line().await?.send(method, path, body).await
    }

    /// The response of a policy to a review.
    pub(crate) async fn judge(&self, path: &str, review: &Value) -> Value {
        let (status, mut body) = self.send("POST", path, review.to_string()).await.unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        body["response"].take()
    }
}

impl Line {
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: impl Into<Bytes>,
    ) -> std::io::Result<(u16, Value)> {
        let request = Request::builder().method(method).uri(format!("https://localhost{path}"));
        let request = request.header("host", "localhost").body(Full::new(body.into())).unwrap();
        let answer = match self {
            Self::One(sender) => {
                sender.ready().await.map_err(std::io::Error::other)?;
                sender.send_request(request).await
            }
            Self::Two(sender) => {
                sender.ready().await.map_err(std::io::Error::other)?;
                sender.send_request(request).await
            }
        };
        let answer = answer.map_err(std::io::Error::other)?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
        Ok((status, serde_json::from_slice(&body).map_err(std::io::Error::other)?))
    }
}

/// A review of a pod that is to be created, with this metadata.
pub(crate) fn review(metadata: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705a", "kind": { "group": "", "version": "v1", "kind": "Pod" }, "operation": "CREATE", "namespace": "shop",
            "object": { "apiVersion": "v1", "kind": "Pod", "metadata": metadata },
        },
    })
}

/// Requests, one after the other, of several callers.
#[derive(Debug, Default)]
pub(crate) struct Load {
    answered: AtomicUsize,
    is_over: AtomicBool,
    wrong: Mutex<Vec<String>>,
}

impl Load {
    /// Callers with a connection that is kept, by both protocols, and with new ones. Each answer must satisfy the check.
    pub(crate) fn start(
        asker: &Asker,
        path: &'static str,
        check: fn(u16, &Value) -> bool,
    ) -> (Arc<Self>, Vec<JoinHandle<()>>) {
        let load = Arc::new(Self::default());
        let callers = [
            (Version::HTTP_11, true),
            (Version::HTTP_11, false),
            (Version::HTTP_2, true),
            (Version::HTTP_2, false),
        ];
        let tasks = callers.map(|(version, is_kept)| {
            let (asker, load) = (Asker { version, ..asker.clone() }, Arc::clone(&load));
            tokio::spawn(async move { load.run(&asker, path, is_kept, check).await })
        });
        (load, tasks.into())
    }

    async fn run(&self, asker: &Asker, path: &str, is_kept: bool, check: fn(u16, &Value) -> bool) {
        let body = review(&json!({ "name": "a" })).to_string();
        let mut kept = None;
        while !self.is_over.load(Ordering::Relaxed) {
            let line = match kept.take() {
                Some(line) => Ok(line),
                None => asker.line().await,
            };
            let outcome = match line {
                Ok(mut line) => {
                    let outcome = line.send("POST", path, body.clone()).await;
                    kept = is_kept.then_some(line);
                    outcome
                }
                Err(error) => Err(error),
            };
            match outcome {
                Ok((status, answer)) if check(status, &answer) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                }
                other => self.wrong.lock().unwrap().push(format!("{other:?}")),
            }
        }
    }

    /// Waits for so many answers more.
    pub(crate) async fn more(&self, count: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        let seen = async || match self.answered.load(Ordering::Relaxed) {
            now if now >= before + count => Ok(()),
            now => Err(format!("{} of {count}; {:?}", now - before, self.wrong.lock().unwrap().first())),
        };
        wait::until("more answers", SOON, seen).await.unwrap();
    }

    /// Ends it. No request may have failed.
    pub(crate) async fn end(&self, tasks: Vec<JoinHandle<()>>) {
        self.is_over.store(true, Ordering::Relaxed);
        for task in tasks {
            task.await.unwrap();
        }
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{} requests failed; the first: {}", wrong.len(), wrong[0]);
    }
}

/// Whether a log has a line with this.
pub(crate) async fn logged(site: &PolicySite, text: &str) {
    let seen = async || match site.log() {
        log if log.contains(text) => Ok(()),
        log => Err(log),
    };
    wait::until(text, SOON, seen).await.unwrap();
}

/// A file of PEM.
pub(crate) fn write_pem(path: &Path, pem: &str) {
    fs::write(path, pem).unwrap();
}
