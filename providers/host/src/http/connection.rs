//! One connection, from its first byte to its end.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::{rt::Executor, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    served::Served,
    service,
    stalls::{WithStalls, until_stalled},
};

/// Bytes of bodies that are on their way, of one request of HTTP/2 and of all of a connection.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 128 << 10;
/// Requests of HTTP/2 that a client has taken back before they were looked at. More than that, and the connection ends.
const RESET_STREAMS: usize = 20;
/// Errors of a client of HTTP/2 that end single requests. More than that, and the connection ends.
const ERROR_STREAMS: usize = 64;
/// How often a client of HTTP/2 is asked whether it is still there, and for how long its answer is waited for.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// For how long a connection that is new when the server ends is waited for to bring its request.
pub(super) const LATE: Duration = Duration::from_secs(1);

/// What is known of a connection.
#[derive(Debug)]
pub(super) struct ConnectionState {
    peer: IpAddr,
    most: u32,
    requests: AtomicU32,
    busy: AtomicUsize,
    /// Since when it has had no request.
    idle_since: Mutex<Instant>,
    /// It has its last request, or its first.
    turns: Notify,
}

/// A request of a connection, until it is answered as a whole.
#[derive(Debug)]
pub(super) struct BusyConnection {
    connection: Arc<ConnectionState>,
    is_last: bool,
}

impl BusyConnection {
    /// There shall be no other one.
    pub(super) fn is_last(&self) -> bool {
        self.is_last
    }
}

impl Drop for BusyConnection {
    fn drop(&mut self) {
        *self.connection.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.connection.busy.fetch_sub(1, Ordering::Release);
    }
}

impl ConnectionState {
    pub(super) fn new(peer: IpAddr, most: u32) -> Arc<Self> {
        let (requests, busy) = (AtomicU32::new(0), AtomicUsize::new(0));
        let idle_since = Mutex::new(Instant::now());
        Arc::new(Self { peer, most, requests, busy, idle_since, turns: Notify::new() })
    }

    pub(super) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// One more request.
    pub(super) fn begin_request(self: &Arc<Self>) -> BusyConnection {
        self.busy.fetch_add(1, Ordering::Relaxed);
        let count = self.requests.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let is_last = count >= self.most;
        if is_last || count == 1 {
            self.turns.notify_one();
        }
        BusyConnection { connection: Arc::clone(self), is_last }
    }

    fn had_requests(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    fn is_worn_out(&self) -> bool {
        self.requests.load(Ordering::Relaxed) >= self.most
    }

    /// When it has had no request for so long, if none comes; nothing while a request is answered.
    fn idle_until(&self, patience: Duration) -> Option<Instant> {
        let is_busy = self.busy.load(Ordering::Acquire) > 0;
        (!is_busy).then(|| *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner) + patience)
    }

    /// When it ends if nothing comes; nothing while a request is answered.
    fn ends_at(&self, served: &Served) -> Option<Instant> {
        let settings = &served.settings;
        self.idle_until(if self.had_requests() { settings.keep_alive } else { settings.header_timeout })
    }
}

/// Runs what hyper runs beside a connection: the requests of HTTP/2.
#[derive(Clone)]
struct InTurns(Arc<Served>);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for InTurns {
    fn execute(&self, work: F) {
        let patience = self.0.settings.send_timeout;
        self.0.spawn(until_stalled(work, patience));
    }
}

/// Serves a connection to its end, which is asked for by `ends`.
pub(super) async fn serve<S>(served: Arc<Served>, stream: S, peer: IpAddr, ends: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let settings = &served.settings;
    let state = ConnectionState::new(peer, settings.keep_alive_requests);
    let io = TokioIo::new(WithStalls::new(stream, settings.send_timeout));
    let builder = builder(&served);
    let service = service_fn(|request| service::answer(Arc::clone(&served), Arc::clone(&state), request));
    let mut connection = std::pin::pin!(builder.serve_connection(io, service));
    let mut look = std::pin::pin!(tokio::time::sleep(settings.header_timeout.min(settings.keep_alive)));
    let mut ending = std::pin::pin!(ends.cancelled());
    // Who is told to go, and does not, is left when it could have taken its last answer, and had nothing else for so long.
    let goodbye = settings.send_timeout.saturating_add(settings.keep_alive);
    let (mut is_asked, mut is_ending) = (false, false);
    loop {
        let mut is_over = false;
        tokio::select! {
            biased;
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%peer, %error, "a connection broke off");
                }
                return;
            }
            () = ending.as_mut(), if !is_asked => {
                is_asked = true;
                if !state.had_requests() {
                    // It was made by somebody who is about to ask something.
                    look.as_mut().reset(Instant::now() + LATE);
                }
            }
            () = state.turns.notified() => {}
            () = look.as_mut() => {
                let now = Instant::now();
                match if is_ending { state.idle_until(goodbye) } else { state.ends_at(&served) } {
                    // A client of HTTP/2 has to say that it has heard it.
                    Some(end) if is_ending && end <= now => return,
                    Some(end) if end > now && (is_ending || !is_asked) => look.as_mut().reset(end),
                    None if is_ending || !is_asked => look.as_mut().reset(now + settings.keep_alive),
                    Some(_) | None => is_over = true,
                }
            }
        }
        if !is_ending && (is_over || (is_asked && state.had_requests()) || state.is_worn_out()) {
            is_ending = true;
            connection.as_mut().graceful_shutdown();
            look.as_mut().reset(Instant::now() + goodbye);
        }
    }
}

fn builder(served: &Arc<Served>) -> auto::Builder<InTurns> {
    let settings = &served.settings;
    let mut builder = auto::Builder::new(InTurns(Arc::clone(served)));
    builder
        .http1()
        .timer(TokioTimer::new())
        // It also runs while a connection has no request, which is ended otherwise.
        .header_read_timeout(settings.header_timeout.max(settings.keep_alive.saturating_add(LATE)))
        .half_close(true)
        .max_buf_size(settings.max_header as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(STREAM_WINDOW as usize)
        .max_concurrent_streams(settings.max_streams)
        .max_header_list_size(settings.max_header)
        .max_pending_accept_reset_streams(RESET_STREAMS)
        .max_local_error_reset_streams(ERROR_STREAMS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}
