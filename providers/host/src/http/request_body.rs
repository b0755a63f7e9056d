//! The body of a request, within its bounds.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use wasmtime_wasi_http::Error;

use super::check;
use crate::silence::Silence;

/// What went wrong with the body of a request, for whoever answers it.
#[derive(Clone, Debug, Default)]
pub(super) struct BodyFault(Arc<AtomicU8>);

const TOO_LARGE: u8 = 1;
const TOO_SLOW: u8 = 2;

impl BodyFault {
    fn set(&self, fault: u8) {
        self.0.store(fault, Ordering::Relaxed);
    }

    /// The status that it is answered with.
    pub(super) fn status(&self) -> Option<http::StatusCode> {
        match self.0.load(Ordering::Relaxed) {
            TOO_LARGE => Some(http::StatusCode::PAYLOAD_TOO_LARGE),
            TOO_SLOW => Some(http::StatusCode::REQUEST_TIMEOUT),
            _ => None,
        }
    }
}

/// The body of a request.
#[derive(Debug)]
pub(super) struct RequestBody {
    body: Incoming,
    /// Bytes that may still come; nothing where there is no bound.
    left: Option<u64>,
    silence: Silence,
    fault: BodyFault,
    /// What came when the client was asked for it.
    first: Option<Option<Result<Frame<Bytes>, hyper::Error>>>,
}

impl RequestBody {
    /// A body of at most so many bytes, 0 for any, with so much time between two pieces.
    pub(super) fn new(body: Incoming, most: u64, patience: Duration) -> (Self, BodyFault) {
        let fault = BodyFault::default();
        let left = (most > 0).then_some(most);
        (Self { body, left, silence: Silence::new(patience), fault: fault.clone(), first: None }, fault)
    }

    /// Asks a client for the body that waits to be asked (`Expect: 100-continue`). hyper does it where a body is read before the
    /// answer begins; a guest may do these the other way round, and its client would wait for ever.
    pub(super) async fn ask(&mut self) {
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut self.body).poll_frame(cx))).await;
        if let Poll::Ready(first) = first {
            self.first = Some(first);
        }
        // hyper has its turn.
        tokio::task::yield_now().await;
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let frame = match this.first.take() {
            Some(first) => Poll::Ready(first),
            None => Pin::new(&mut this.body).poll_frame(cx),
        };
        let Poll::Ready(frame) = frame else {
            ready!(this.silence.poll_over(cx));
            this.fault.set(TOO_SLOW);
            return Poll::Ready(Some(Err(Error::ConnectionReadTimeout)));
        };
        this.silence.begin_again();
        let Some(frame) = frame else { return Poll::Ready(None) };
        let frame = frame?;
        if let (Some(left), Some(data)) = (&mut this.left, frame.data_ref()) {
            match left.checked_sub(data.len() as u64) {
                Some(rest) => *left = rest,
                None => {
                    this.fault.set(TOO_LARGE);
                    return Poll::Ready(Some(Err(Error::HttpRequestBodySize(None))));
                }
            }
        }
        let frame = match frame.into_trailers() {
            Ok(trailers) => Frame::trailers(check::trailers(trailers)),
            Err(data) => data,
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
