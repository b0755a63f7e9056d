//! Requests of HTTP to a port of this machine, alone and as a load that never stops.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinHandle};

use crate::wait;

/// Time for one answer.
const ANSWER: Duration = Duration::from_secs(30);
/// Time for as many answers of a load as somebody waits for.
const ANSWERS: Duration = Duration::from_secs(90);
/// Failed requests of a load whose reasons are kept.
const KEPT: usize = 5;

/// What was answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The code of the status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// A header's value; nothing where it is not there, or is no text.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection that stays.
pub struct Connection(http1::SendRequest<Full<Bytes>>);

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

impl Connection {
    /// Connects to a port of the loopback.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn open(port: u16) -> Result<Self> {
        let stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the sender; what goes wrong with it, the next request is told.
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// Sends a request without a body.
    ///
    /// # Errors
    /// When there is no answer, or none within 30 s.
    pub async fn send(&mut self, method: Method, path: &str) -> Result<Answer> {
        let request = Request::builder().method(method).uri(path).header("host", "localhost");
        let request = request.body(Full::default())?;
        let answered = async {
            self.0.ready().await?;
            let (head, body) = self.0.send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
        };
        tokio::time::timeout(ANSWER, answered).await.context("no answer within 30 s")?
    }
}

/// Asks a port of the loopback, by a connection for this one request.
///
/// # Errors
/// When there is no answer.
pub async fn get(port: u16, path: &str) -> Result<Answer> {
    Connection::open(port).await?.send(Method::GET, path).await
}

/// Requests, one after the other, of some who ask at the same time: half of them on connections that stay, half on new ones.
#[derive(Debug)]
pub struct Load {
    state: Arc<LoadState>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct LoadState {
    is_over: AtomicBool,
    answered: AtomicUsize,
    failed: AtomicUsize,
    reasons: Mutex<Vec<String>>,
}

impl Load {
    /// Begins. An answer that does not satisfy the check is a request that has failed.
    #[must_use]
    pub fn start(port: u16, callers: usize, check: impl Fn(&Answer) -> bool + Send + Sync + 'static) -> Self {
        let (state, check) = (Arc::<LoadState>::default(), Arc::new(check));
        let tasks = (0..callers)
            .map(|number| {
                let (state, check) = (Arc::clone(&state), Arc::clone(&check));
                tokio::spawn(async move { state.ask(port, number % 2 == 0, &*check).await })
            })
            .collect();
        Self { state, tasks }
    }

    /// Waits for so many answers more.
    ///
    /// # Errors
    /// When they do not come.
    pub async fn more(&self, count: usize) -> Result<()> {
        let before = self.state.answered.load(Ordering::Relaxed);
        let seen = async || match self.state.answered.load(Ordering::Relaxed) {
            now if now >= before + count => Ok(()),
            now => Err(format!("{} of {count}; {}", now - before, self.state.first_reason())),
        };
        wait::until("more answers", ANSWERS, seen).await
    }

    /// Ends it, and says how many requests were answered as they should be.
    ///
    /// # Errors
    /// When one was not.
    pub async fn end(self) -> Result<usize> {
        self.state.is_over.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await?;
        }
        let (answered, failed) =
            (self.state.answered.load(Ordering::Relaxed), self.state.failed.load(Ordering::Relaxed));
        ensure!(
            failed == 0,
            "{failed} of {} requests failed; {}",
            answered + failed,
            self.state.first_reason()
        );
        Ok(answered)
    }
}

impl LoadState {
    async fn ask(&self, port: u16, is_kept: bool, check: &(impl Fn(&Answer) -> bool + ?Sized)) {
        let mut kept = None;
        while !self.is_over.load(Ordering::Relaxed) {
            match once(&mut kept, port, check).await {
                Ok(()) => drop(self.answered.fetch_add(1, Ordering::Relaxed)),
                Err(error) => {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    let mut reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
                    if reasons.len() < KEPT {
                        reasons.push(format!("{error:#}"));
                    }
                }
            }
            if !is_kept {
                kept = None;
            }
        }
    }

    fn first_reason(&self) -> String {
        let reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.first().map_or_else(|| "none has failed".to_owned(), |reason| format!("the first: {reason}"))
    }
}

async fn once(
    kept: &mut Option<Connection>,
    port: u16,
    check: &(impl Fn(&Answer) -> bool + ?Sized),
) -> Result<()> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => Connection::open(port).await?,
    };
    let answer = connection.send(Method::GET, "/").await?;
    if !check(&answer) {
        bail!("{} {:?}", answer.status, answer.headers);
    }
    // Servers close what they have kept for long, and say so.
    *kept = (answer.header("connection") != "close").then_some(connection);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::Response;
    use hyper::service::service_fn;
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers so many requests well.
    async fn server(good: usize) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let left = Arc::new(AtomicUsize::new(good));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let left = Arc::clone(&left);
                let service = service_fn(move |_| {
                    let is_good = left
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                        .is_ok();
                    let status = if is_good { 200 } else { 503 };
                    let answer =
                        Response::builder().status(status).body(Full::<Bytes>::from("hello")).unwrap();
                    async { Ok::<_, Infallible>(answer) }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        port
    }

    #[tokio::test]
    async fn a_load_counts_what_is_answered_and_reports_what_is_not() {
        let load = Load::start(server(usize::MAX).await, 4, |answer| answer.status == 200);
        load.more(50).await.unwrap();
        assert!(load.end().await.unwrap() >= 50);
        let load = Load::start(server(20).await, 4, |answer| answer.status == 200);
        load.more(20).await.unwrap();
        wait::until("a failure", ANSWERS, async || match load.state.failed.load(Ordering::Relaxed) {
            0 => Err("none".to_owned()),
            _ => Ok(()),
        })
        .await
        .unwrap();
        let error = load.end().await.unwrap_err().to_string();
        assert!(error.contains("requests failed; the first: 503"), "{error}");
    }
}
