//! Accepts connections, and ends them.

use std::{
    future::poll_fn,
    io,
    net::{SocketAddr, TcpListener as StdListener},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    connection,
    served::{HttpMonitor, Served},
    tls,
};
use crate::{
    exit::{CODE_START_FAILED, Exit, ExitReason},
    listen::OpenListener,
    traffic::Counted,
};

/// Bytes that are counted for each connection: buffers of hyper's, and its task.
const HELD_PER_CONNECTION: u64 = 16 << 10;
/// After an error that is not one connection's, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves the requests of one container. It listens already when it is made, and accepts when it runs.
#[derive(Debug)]
pub struct HttpServer {
    pub(super) served: Arc<Served>,
    pub(super) listeners: Vec<OpenListener>,
    /// Connections at a time.
    pub(super) most: usize,
}

impl HttpServer {
    /// For those who want to know of it while it runs.
    #[must_use]
    pub fn monitor(&self) -> HttpMonitor {
        HttpMonitor(Arc::clone(&self.served))
    }

    /// Serves until it is told when to have ended. Then it goes on for the moment that others take to know of it, accepts no
    /// more, and returns when all requests are answered. Whoever does not want to wait for that drops it, and calls
    /// [`HttpMonitor::end`].
    pub async fn run(self, mut stop: watch::Receiver<Option<Instant>>) -> Exit {
        let Self { served, listeners, most } = self;
        let (mut sockets, mut known) = (Vec::new(), Vec::new());
        for OpenListener { ports, node_ports, sockets: of_port } in listeners {
            known.push((ports, node_ports));
            sockets.extend(of_port);
        }
        let mut acceptor = match Acceptor::new(Arc::clone(&served), sockets, most) {
            Ok(acceptor) => acceptor,
            Err(error) => {
                let message = format!("cannot accept connections: {error}");
                return Exit::new(CODE_START_FAILED, ExitReason::StartFailed, message);
            }
        };
        let ends = acceptor.ends.clone();
        let sweeper = sweep(&served);
        let draining = async {
            let end = match stop.wait_for(Option::is_some).await.map(|end| *end) {
                Ok(Some(end)) => end,
                // Nobody is left who could ask for it.
                Ok(None) | Err(_) => std::future::pending().await,
            };
            served.begin_to_drain();
            let now = Instant::now();
            sleep_until(now + served.settings.drain.min(end.saturating_duration_since(now) / 2)).await;
        };
        tokio::select! {
            () = served.in_turns(acceptor.accept()) => {}
            () = sweeper => {}
            () = draining => {}
        }
        // Before the sockets are closed.
        drop(known);
        acceptor.accept_waiting();
        drop(acceptor);
        ends.cancel();
        served.is_done().await;
        served.idle.clear();
        Exit::new(0, ExitReason::Exited, "")
    }
}

/// Ends instances that have had nothing to do for too long.
async fn sweep(served: &Served) {
    if served.settings.max_requests <= 1 {
        // None is kept.
        std::future::pending::<()>().await;
    }
    loop {
        let next = served.idle.sweep(&served.settings);
        sleep_until(next.unwrap_or_else(|| Instant::now() + served.settings.idle_time)).await;
    }
}

/// Takes connections, as many as there may be.
struct Acceptor {
    served: Arc<Served>,
    listeners: Vec<TcpListener>,
    /// Which is asked first.
    first: usize,
    places: Arc<Semaphore>,
    /// Connections end when they have nothing to do.
    ends: CancellationToken,
}

impl Acceptor {
    fn new(served: Arc<Served>, sockets: Vec<StdListener>, most: usize) -> io::Result<Self> {
        let listeners = sockets.into_iter().map(TcpListener::from_std).collect::<io::Result<_>>()?;
        let (places, ends) = (Arc::new(Semaphore::new(most)), CancellationToken::new());
        Ok(Self { served, listeners, first: 0, places, ends })
    }

    /// For ever. Those that are too many wait in the kernel's queue.
    async fn accept(&mut self) {
        loop {
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            match self.next().await {
                Ok((stream, peer)) => self.take(stream, peer, place),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.served.log.warn(&format!("cannot accept a connection: {error}"));
                    sleep(PAUSE).await;
                }
            }
        }
    }

    async fn next(&mut self) -> io::Result<(TcpStream, SocketAddr)> {
        poll_fn(|cx| {
            let count = self.listeners.len();
            for offset in 0..count {
                let at = (self.first + offset) % count;
                if let Poll::Ready(accepted) = self.listeners[at].poll_accept(cx) {
                    self.first = (at + 1) % count;
                    return Poll::Ready(accepted);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Takes what waits in the kernel's queues: whoever is there believes that the connection is made.
    fn accept_waiting(&mut self) {
        for listener in std::mem::take(&mut self.listeners) {
            let Ok(listener) = listener.into_std() else { continue };
            while let Ok((stream, peer)) = listener.accept() {
                let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { break };
                let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                if let Ok(stream) = stream {
                    self.take(stream, peer, place);
                }
            }
        }
    }

    fn take(&self, stream: TcpStream, peer: SocketAddr, place: OwnedSemaphorePermit) {
        let served = &self.served;
        let may_accept = stream
            .local_addr()
            .is_ok_and(|local| served.common.sockets.guard().may_accept(peer, local.port()));
        if !may_accept {
            // It is reset, as it would be where nobody listens.
            let _ = sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
            return;
        }
        let of_tls = served.tls.as_ref().map_or(0, |_| tls::HELD_PER_CONNECTION);
        let Ok(held) = served.account().hold(HELD_PER_CONNECTION + of_tls) else {
            served.metrics.rejected();
            served
                .log
                .warn("a connection was closed: the container's memory is used up; raise limits.memory");
            return;
        };
        // Answers are what is sent, and nobody waits for more of them.
        let _ = stream.set_nodelay(true);
        let counted = served.metrics.connections.one_more();
        let (serving, ends) = (Arc::clone(served), self.ends.clone());
        served.spawn(async move {
            match &serving.tls {
                None => {
                    let stream = Counted::new(stream, serving.account().traffic());
                    connection::serve(Arc::clone(&serving), stream, peer.ip(), ends).await;
                }
                Some(tls) => {
                    if let Some(stream) = tls.handshake(&serving, stream, &ends).await {
                        connection::serve(Arc::clone(&serving), stream, peer.ip(), ends).await;
                    }
                }
            }
            drop((counted, held, place));
        });
    }
}
