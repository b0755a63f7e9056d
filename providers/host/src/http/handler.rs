//! A component that serves HTTP without a listener of its own: requests are handed to it by whoever has accepted them.
//!
//! Each request is a task, in turns on the account of its component: whoever has the connection only hands on what comes of it,
//! and no guest of another one's is held up by it.

use std::{
    fmt,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    HttpServing, HttpStats, connection::ConnectionState, response_body::BrokenBody, served::Served, service,
};
use crate::{
    cache::{EntryPoint, Loaded},
    host::Host,
    owned_setup::OwnedSetup,
    setup::{PrepareError, Setup},
};

/// Pieces of an answer that wait to be sent.
const PIECES: usize = 4;

/// Answers requests that somebody else has accepted.
#[derive(Clone)]
pub struct HttpHandler(Arc<Served>);

impl fmt::Debug for HttpHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HttpHandler").field(&self.0).finish()
    }
}

impl Host {
    /// Makes a handler for a component that serves HTTP. The setup's ports are not listened on, and a certificate is of no use.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub fn http_handler(
        self: &Arc<Self>,
        loaded: Arc<Loaded>,
        setup: &Setup<'_>,
        serving: impl Into<HttpServing>,
    ) -> Result<HttpHandler, PrepareError> {
        if !matches!(loaded.entry, EntryPoint::Http(_) | EntryPoint::HttpP3(_)) {
            return Err(PrepareError::NoHttp);
        }
        let HttpServing { settings, failures, .. } = serving.into();
        if settings.instance_concurrency > 1 && !matches!(loaded.entry, EntryPoint::HttpP3(_)) {
            return Err(PrepareError::NoConcurrency);
        }
        let held = setup.account.hold(setup.held())?;
        let common = self.common(&loaded, setup, self.sockets_of(setup))?;
        let setup = OwnedSetup::from(setup);
        let mut served = Served::new(Arc::clone(self), loaded, settings, setup, common, held);
        served.failures = failures;
        let served = Arc::new(served);
        if served.settings.max_requests > 1
            && let Ok(executor) = tokio::runtime::Handle::try_current()
        {
            executor.spawn(sweep(Arc::downgrade(&served)));
        }
        Ok(HttpHandler(served))
    }
}

/// Ends instances that have had nothing to do for too long, for as long as there is a handler.
async fn sweep(served: Weak<Served>) {
    loop {
        let next = match served.upgrade() {
            Some(served) => {
                let next = served.idle.sweep(&served.settings);
                next.unwrap_or_else(|| Instant::now() + served.settings.idle_time)
            }
            None => return,
        };
        tokio::time::sleep_until(next).await;
    }
}

impl HttpHandler {
    /// Answers a request of this peer. Dropping the future, or the answer's body before its end, gives the request up.
    pub async fn answer(&self, request: Request<Incoming>, peer: IpAddr) -> Response<HttpAnswerBody> {
        let (head, answered) = oneshot::channel();
        let served = Arc::clone(&self.0);
        self.0.spawn(async move {
            let connection = ConnectionState::new(peer, u32::MAX);
            let mut head = head;
            let answer = tokio::select! {
                Ok(answer) = service::answer(served, connection, request) => answer,
                () = head.closed() => return,
            };
            let (parts, mut body) = answer.into_parts();
            let (pieces, taken) = mpsc::channel(PIECES);
            let hint = body.size_hint();
            if head
                .send((parts, HttpAnswerBody { pieces: taken, hint, is_over: body.is_end_stream() }))
                .is_err()
            {
                return;
            }
            loop {
                let piece = tokio::select! {
                    piece = body.frame() => piece,
                    () = pieces.closed() => return,
                };
                let is_last = !matches!(piece, Some(Ok(_)));
                if pieces.send(piece.transpose()).await.is_err() || is_last {
                    return;
                }
            }
        });
        match answered.await {
            Ok((parts, body)) => Response::from_parts(parts, body),
            // It was ended.
            Err(_) => {
                let mut answer = Response::new(HttpAnswerBody::empty());
                *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                answer
            }
        }
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> HttpStats {
        self.0.stats()
    }

    /// Returns when all requests are answered that it was handed; there must not be any new ones.
    pub async fn is_done(&self) {
        self.0.is_done().await;
        self.0.idle.clear();
    }

    /// Ends all that is under way.
    pub fn kill(&self) {
        self.0.kill();
    }
}

/// The body of an answer.
#[derive(Debug)]
pub struct HttpAnswerBody {
    /// Its end is said: a channel that is just closed was torn off.
    pieces: mpsc::Receiver<Result<Option<Frame<Bytes>>, BrokenBody>>,
    hint: SizeHint,
    is_over: bool,
}

/// An answer does not go on: its connection must not look as if that were its end.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BrokenAnswer(String);

impl HttpAnswerBody {
    fn empty() -> Self {
        let (_, pieces) = mpsc::channel(1);
        Self { pieces, hint: SizeHint::with_exact(0), is_over: true }
    }
}

impl Body for HttpAnswerBody {
    type Data = Bytes;
    type Error = BrokenAnswer;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenAnswer>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let piece = match ready!(self.pieces.poll_recv(cx)) {
            Some(piece) => piece.map_err(|error| BrokenAnswer(error.to_string())).transpose(),
            None => Some(Err(BrokenAnswer("it was ended".to_owned()))),
        };
        self.is_over = !matches!(piece, Some(Ok(_)));
        Poll::Ready(piece)
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}
