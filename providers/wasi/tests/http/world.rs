//! A server with the guest of `tests/guests/http-0.2.c`, and clients of it.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use kubewasm_host::{
    Account, Capture, CpuShare, GuestLimits, Host, HostOptions, ListenPort, ModuleKind, Network, Output,
    PrepareError, Setup, Stack, engine,
    exit::Exit,
    http::{CertificateOutcome, HttpMonitor, HttpServing, HttpSettings, HttpStats, ServerCertificate},
    inspect,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{OnceCell, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};

/// What is awaited must come; how long it takes on a busy machine is not what these tests are about.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The host of all tests, and the folder that it is in.
fn host() -> &'static (Arc<Host>, tempfile::TempDir) {
    static HOST: OnceLock<(Arc<Host>, tempfile::TempDir)> = OnceLock::new();
    HOST.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::new(HostOptions::new(dir.path().join("empty"))).unwrap();
        (Arc::new(host), dir)
    })
}

/// What a command with these arguments prints, which ends well.
pub(crate) async fn run_guest(guest: &str, argv: &[String], network: &Network, memory_bytes: u64) -> String {
    let bytes = kubewasm_tests::guests::guest(guest).await.unwrap();
    let kind = inspect::inspect(&bytes).unwrap();
    let (host, dir) = host();
    let code = engine::precompile(&host.engine(kind.generation()).unwrap(), kind, &bytes).unwrap();
    // A name of its own: a precompiled file must never change while it is mapped.
    let file = tempfile::NamedTempFile::new_in(dir).unwrap();
    std::fs::write(file.path(), code).unwrap();
    let loaded = host.load(file.path(), kind, Stack::DEFAULT).await.unwrap();
    let account = host.account(GuestLimits { memory_bytes, cpu: CpuShare::default() });
    let capture = Capture::new(1 << 20);
    let output: Arc<dyn Output> = Arc::new(capture.clone());
    let setup = Setup { argv, network, ..setup(&output, &account) };
    let exit = timeout(PATIENCE, host.prepare(loaded, setup).unwrap().run()).await.expect("the guest ends");
    assert_eq!(exit.code, 0, "{exit:?}");
    String::from_utf8(capture.take()).unwrap()
}

/// What the guests of these tests have in common.
fn setup<'a>(output: &'a Arc<dyn Output>, account: &'a Arc<Account>) -> Setup<'a> {
    Setup { network: &Network::Host, egress: None, ..Setup::isolated(output, account) }
}

/// A guest's machine code, and what it is.
type Module = OnceCell<(PathBuf, ModuleKind)>;

/// The machine code of one of `tests/guests`.
async fn module(guest: &str) -> &'static (PathBuf, ModuleKind) {
    static MODULES: Mutex<BTreeMap<String, &'static Module>> = Mutex::new(BTreeMap::new());
    let compile = async || {
        let bytes = match guest {
            OF_RUST => kubewasm_tests::guests::rust::component(guest).await.unwrap(),
            guest => kubewasm_tests::guests::guest(guest).await.unwrap(),
        };
        let kind = inspect::inspect(&bytes).unwrap();
        let (host, dir) = host();
        let code = engine::precompile(&host.engine(kind.generation()).unwrap(), kind, &bytes).unwrap();
        let path = dir.path().join(guest.replace('/', "-"));
        std::fs::write(&path, code).unwrap();
        (path, kind)
    };
    // There are a few, and all of them last as long as the tests.
    let module =
        *MODULES.lock().unwrap().entry(guest.to_owned()).or_insert_with(|| Box::leak(Box::default()));
    module.get_or_init(compile).await
}

pub(crate) const OF_WASI_0_2: &str = "http-0.2.c";
pub(crate) const OF_WASI_0_3: &str = "http-0.3.wat";
pub(crate) const OF_PYTHON: &str = "http_guest.py";
/// A crate of the repository.
pub(crate) const OF_RUST: &str = "demos/http-hello";

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) account: Arc<Account>,
    monitor: HttpMonitor,
    output: Capture,
    stop: watch::Sender<Option<Instant>>,
    running: JoinHandle<Exit>,
}

impl Server {
    pub(crate) async fn new(settings: &str) -> Self {
        Self::with_memory(settings, 256 << 20).await
    }

    /// A server of a container that may use so much memory.
    pub(crate) async fn with_memory(settings: &str, memory_bytes: u64) -> Self {
        Self::of(OF_WASI_0_2, settings, memory_bytes).await
    }

    /// A server of this guest.
    pub(crate) async fn of(guest: &str, settings: &str, memory_bytes: u64) -> Self {
        let settings: HttpSettings = settings.parse().unwrap();
        Self::serving(guest, settings.into(), memory_bytes).await
    }

    /// A server of this guest, with all that there is to set.
    pub(crate) async fn serving(guest: &str, serving: HttpServing, memory_bytes: u64) -> Self {
        Self::limited(guest, serving, GuestLimits { memory_bytes, cpu: CpuShare::default() }).await
    }

    /// A server of a container that has these limits.
    pub(crate) async fn limited(guest: &str, serving: HttpServing, limits: GuestLimits) -> Self {
        let (host, _) = host();
        let (module, kind) = module(guest).await;
        let loaded = host.load(module, *kind, Stack::DEFAULT).await.unwrap();
        let account = host.account(limits);
        let output = Capture::new(1 << 20);
        let out: Arc<dyn Output> = Arc::new(output.clone());
        // Somebody else may take the port in between.
        let server = loop {
            let port = TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port();
            let listen_ports = [ListenPort { port, name: String::new() }];
            let argv = ["guest".to_owned()];
            let setup = Setup { argv: &argv, listen_ports: &listen_ports, ..setup(&out, &account) };
            match host.serve(Arc::clone(&loaded), &setup, serving.clone()) {
                Ok(server) => break (server, SocketAddr::from(([127, 0, 0, 1], port))),
                Err(PrepareError::Listen { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        };
        let (server, address) = server;
        let (stop, stopped) = watch::channel(None);
        let monitor = server.monitor();
        let running = tokio::spawn(server.run(stopped));
        Self { address, account, monitor, output, stop, running }
    }

    /// Why there can be no such server.
    pub(crate) async fn refused(guest: &str, settings: &str) -> String {
        let (host, _) = host();
        let (module, kind) = module(guest).await;
        let loaded = host.load(module, *kind, Stack::DEFAULT).await.unwrap();
        let account = host.account(GuestLimits { memory_bytes: 0, cpu: CpuShare::default() });
        let output: Arc<dyn Output> = Arc::new(Capture::new(1 << 20));
        let listen_ports = [ListenPort { port: 80, name: String::new() }];
        let setup = Setup { listen_ports: &listen_ports, ..setup(&output, &account) };
        host.serve(loaded, &setup, settings.parse::<HttpSettings>().unwrap()).unwrap_err().to_string()
    }

    pub(crate) fn stats(&self) -> HttpStats {
        self.monitor.stats()
    }

    /// Gives it another certificate.
    pub(crate) fn set_certificate(&self, certificate: &ServerCertificate) -> CertificateOutcome {
        self.monitor.set_certificate(certificate).unwrap()
    }

    /// What was said so far and has not been taken.
    pub(crate) fn said(&self) -> String {
        String::from_utf8(self.output.take()).unwrap()
    }

    /// Waits until what is counted is as it should be.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&HttpStats) -> bool) {
        let began = Instant::now();
        while !is_so(&self.stats()) {
            let (stats, is_late) = (self.stats(), began.elapsed() > PATIENCE);
            assert!(!is_late, "waited in vain for: {what}: {stats:?}: {}", self.said());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Asks it to have ended by then.
    pub(crate) fn stop_within(&self, grace: Duration) {
        self.stop.send_replace(Some(Instant::now() + grace));
    }

    /// How it ends.
    pub(crate) async fn exit(self) -> Exit {
        let exit = timeout(PATIENCE, self.running).await.expect("it ends").unwrap();
        timeout(PATIENCE, self.monitor.end()).await.expect("nothing is left");
        exit
    }

    /// Ends it at once.
    pub(crate) async fn kill(self) {
        self.running.abort();
        let _ = self.running.await;
        timeout(PATIENCE, self.monitor.end()).await.expect("nothing is left");
    }

    pub(crate) async fn connect(&self) -> Client {
        Client::of(TcpStream::connect(self.address).await.unwrap())
    }

    /// Asks for a path on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        let mut client = self.connect().await;
        client.get(path).await
    }
}

/// A connection of HTTP/1.1, and what has been read of it and not been looked at.
pub(crate) struct Client(pub(crate) TcpStream, Vec<u8>);

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// As it came.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    /// What comes behind a chunked body.
    pub(crate) trailers: String,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn closes(&self) -> bool {
        self.head.contains("connection: close")
    }
}

impl Client {
    pub(crate) fn of(stream: TcpStream) -> Self {
        Self(stream, Vec::new())
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await;
        self.answer().await.unwrap()
    }

    /// Reads more; false at the end.
    async fn more(&mut self) -> bool {
        let read = timeout(PATIENCE, self.0.read_buf(&mut self.1)).await.expect("something comes");
        read.is_ok_and(|read| read > 0)
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.1.windows(2).position(|two| two == b"\r\n") {
                let line = self.1.drain(..end + 2).take(end).collect();
                return Some(String::from_utf8(line).unwrap());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.1.len() < count {
            if !self.more().await {
                return None;
            }
        }
        Some(self.1.drain(..count).collect())
    }

    async fn head(&mut self) -> Option<String> {
        let mut head = String::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Some(head);
            }
            head.push_str(&line.to_lowercase());
            head.push('\n');
        }
    }

    /// Reads an answer with a body; `None` where it breaks off.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        let head = self.head().await?;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        if status == 100 {
            return Some(Answer { status, head, body: Vec::new(), trailers: String::new() });
        }
        let (mut body, mut trailers) = (Vec::new(), String::new());
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if let Some(length) = length {
            body = self.bytes(length).await?;
        } else if head.contains("transfer-encoding: chunked") {
            loop {
                let size = usize::from_str_radix(&self.line().await?, 16).unwrap();
                if size == 0 {
                    trailers = self.head().await?;
                    break;
                }
                body.extend(self.bytes(size).await?);
                self.bytes(2).await?;
            }
        } else if ![204, 304].contains(&status) {
            while self.more().await {}
            body = std::mem::take(&mut self.1);
        }
        Some(Answer { status, head, body, trailers })
    }

    /// Reads to the end, and forgets it.
    pub(crate) async fn forget(&mut self) {
        while self.more().await {
            self.1.clear();
        }
    }

    /// Whether the other side ends the connection, with nothing more.
    pub(crate) async fn is_ended(&mut self) -> bool {
        self.1.is_empty() && !self.more().await
    }
}
