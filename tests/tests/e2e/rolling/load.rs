//! Clients of a Service that do as ordinary clients of HTTP do, and count what they were not answered.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use futures::future::join_all;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    body::Bytes,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use kubewasm_network::Namespace;
use kubewasm_tests::wait;
use tokio::{net::TcpStream, time::timeout};

use crate::suite::SOON;

/// Connections at a time: every other client keeps its own, the others make one for each request.
const CLIENTS: usize = 64;
/// What is asked for: an answer whose head is there at once, and whose body takes a fifth of a second.
const PATH: &str = "/drip?10";
const ANSWER: &[u8] = b"drip\ndrip\ndrip\ndrip\ndrip\ndrip\ndrip\ndrip\ndrip\ndrip\n";
/// A client's patience, for a connection and for a whole answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Failures that are kept as text.
const SHOWN: usize = 20;

/// Clients that ask, each one request after the other, until this is ended or dropped.
pub(crate) struct Load {
    tally: Arc<Tally>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// What has become of requests.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    stop: AtomicBool,
    answered: AtomicUsize,
    /// Sent once more, on a new connection, because a kept one ended before any of the answer came: what clients do with requests
    /// that are safe (RFC 9112, 9.3.1).
    repeated: AtomicUsize,
    failed: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Load {
    /// Begins to ask from a network namespace.
    pub(crate) fn start(namespace: &Arc<Namespace>, to: SocketAddr) -> Self {
        let tally = Arc::<Tally>::default();
        let thread = {
            let (namespace, tally) = (Arc::clone(namespace), Arc::clone(&tally));
            // All of its sockets are made by this one thread.
            std::thread::spawn(move || namespace.run(|| ask_until_stopped(to, &tally)))
        };
        Self { tally, thread: Some(thread) }
    }

    /// Waits until every client can have been answered some times more.
    pub(crate) async fn goes_on(&self) {
        let before = self.tally.answered();
        wait::until("more answers", SOON, async || {
            let more = self.tally.answered() - before;
            if more >= 3 * CLIENTS { Ok(()) } else { Err(format!("{more}; {:?}", self.tally)) }
        })
        .await
        .unwrap();
    }

    /// Requests that were not answered up to now.
    pub(crate) fn failed(&self) -> usize {
        self.tally.failed()
    }

    /// Ends it, once all that was asked is answered.
    pub(crate) async fn end(mut self) -> Arc<Tally> {
        self.tally.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().unwrap();
        tokio::task::spawn_blocking(|| thread.join()).await.unwrap().unwrap().unwrap();
        Arc::clone(&self.tally)
    }

    /// Fails the test if anything was not answered up to now.
    pub(crate) fn lost_nothing(&self, during: &str) {
        self.tally.lost_nothing(during);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.tally.stop.store(true, Ordering::Relaxed);
    }
}

impl Tally {
    pub(crate) fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    pub(crate) fn repeated(&self) -> usize {
        self.repeated.load(Ordering::Relaxed)
    }

    fn failed(&self) -> usize {
        self.failed.load(Ordering::Relaxed)
    }

    fn fails(&self, error: &anyhow::Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut failures = self.failures.lock().unwrap();
        if failures.len() < SHOWN {
            failures.push(format!("{error:#}"));
        }
    }

    pub(crate) fn lost_nothing(&self, during: &str) {
        assert_eq!(self.failed(), 0, "{during}: no request need fail: {self:?}");
    }
}

/// Asks with all clients. Blocks.
fn ask_until_stopped(to: SocketAddr, tally: &Tally) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let clients = (0..CLIENTS).map(|n| async move {
        let mut client = Client { to, keeps: n % 2 == 0, kept: None };
        while !tally.stop.load(Ordering::Relaxed) {
            match client.ask(tally).await {
                Ok(()) => drop(tally.answered.fetch_add(1, Ordering::Relaxed)),
                Err(error) => tally.fails(&error),
            }
        }
    });
    runtime.block_on(join_all(clients));
    Ok(())
}

type Connection = SendRequest<Empty<Bytes>>;

/// Somebody who has one connection at a time.
struct Client {
    to: SocketAddr,
    keeps: bool,
    kept: Option<Connection>,
}

impl Client {
    /// Asks, and takes the whole answer.
    async fn ask(&mut self, tally: &Tally) -> Result<()> {
        if let Some(mut connection) = self.kept.take()
            // A server that has said that it ends the connection has not left one.
            && connection.ready().await.is_ok()
        {
            match self.send(&mut connection).await {
                Ok(answer) => return self.take(answer, connection).await,
                Err(_) => drop(tally.repeated.fetch_add(1, Ordering::Relaxed)),
            }
        }
        let mut connection = self.connect().await?;
        let answer = self.send(&mut connection).await.context("no answer on a new connection")?;
        self.take(answer, connection).await
    }

    async fn connect(&self) -> Result<Connection> {
        let stream = timeout(PATIENCE, TcpStream::connect(self.to)).await.context("no connection in time")?;
        let stream = stream.context("cannot connect")?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Whatever goes wrong with it, its request is told.
        tokio::spawn(async move { connection.await.unwrap_or_default() });
        Ok(sender)
    }

    async fn send(&self, connection: &mut Connection) -> Result<http::Response<hyper::body::Incoming>> {
        let mut request = Request::get(PATH).header(header::HOST, "web");
        if !self.keeps {
            request = request.header(header::CONNECTION, "close");
        }
        let answer = connection.send_request(request.body(Empty::new())?);
        Ok(timeout(PATIENCE, answer).await.context("no answer in time")??)
    }

    async fn take(
        &mut self,
        answer: http::Response<hyper::body::Incoming>,
        connection: Connection,
    ) -> Result<()> {
        let status = answer.status();
        let body =
            timeout(PATIENCE, answer.into_body().collect()).await.context("the answer does not end")?;
        let body = body.context("the answer breaks off")?.to_bytes();
        ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&body));
        ensure!(body == ANSWER, "another answer: {body:?}");
        self.kept = Some(connection).filter(|_| self.keeps);
        Ok(())
    }
}
