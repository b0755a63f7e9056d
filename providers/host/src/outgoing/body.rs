//! The bodies of requests and responses, as they pass.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use wasmtime_wasi_http::{Error, WasiBody};

use super::{error, pool::Lease};
use crate::silence::Silence;

/// Bytes of a response that its guest does not want that are read so that its connection can be used again.
const DRAINED: usize = 64 << 10;

/// How far the sending of a request has come. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct SendProgress(Arc<SendState>);

#[derive(Debug)]
struct SendState {
    /// When something of the body was taken last.
    last: Mutex<Instant>,
    failure: OnceLock<SendFailure>,
}

/// Why a body was not sent whole. That is no fault of the server's, whatever its connection says then.
#[derive(Clone, Copy, Debug)]
enum SendFailure {
    /// It has so many bytes, and not as many as the request says.
    Size(u64),
    /// The guest has given it up.
    GivenUp,
}

impl Default for SendState {
    fn default() -> Self {
        Self { last: Mutex::new(Instant::now()), failure: OnceLock::new() }
    }
}

impl SendProgress {
    fn note(&self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn fail(&self, failure: SendFailure) -> Error {
        self.0.failure.get_or_init(|| failure).error()
    }

    /// When the last of the request was taken so far.
    pub(super) fn last(&self) -> Instant {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the body was not sent whole, if its guest is to blame.
    pub(super) fn failure(&self) -> Option<Error> {
        self.0.failure.get().copied().map(SendFailure::error)
    }
}

impl SendFailure {
    fn error(self) -> Error {
        match self {
            Self::Size(bytes) => Error::HttpRequestBodySize(Some(bytes)),
            Self::GivenUp => Error::HttpProtocolError,
        }
    }
}

/// The body of a request. It is as long as the request says, or fails.
#[derive(Debug)]
pub(super) struct RequestBody {
    body: WasiBody,
    length: Option<u64>,
    sent: u64,
    progress: SendProgress,
}

impl RequestBody {
    pub(super) fn new(body: WasiBody, length: Option<u64>, progress: SendProgress) -> Self {
        Self { body, length, sent: 0, progress }
    }

    /// One without anything in it.
    pub(super) fn empty(progress: SendProgress) -> Self {
        Self::new(Empty::new().map_err(Error::from).boxed_unsync(), None, progress)
    }

    /// There is nothing in it, and nothing will be.
    pub(super) fn is_empty(&self) -> bool {
        self.is_end_stream() && self.sent == 0
    }

    /// It is at its end.
    fn ended(&self) -> Result<(), Error> {
        match self.length {
            Some(length) if self.sent < length => Err(self.progress.fail(SendFailure::Size(self.sent))),
            Some(_) | None => Ok(()),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.progress.note();
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let result = match frame.data_ref() {
                    Some(data) => {
                        self.sent = self.sent.saturating_add(data.len() as u64);
                        match self.length {
                            Some(length) if self.sent > length => {
                                Err(self.progress.fail(SendFailure::Size(self.sent)))
                            }
                            Some(_) | None => Ok(()),
                        }
                    }
                    // Trailers: nothing comes behind them.
                    None => self.ended(),
                };
                Some(result.map(|()| frame))
            }
            Some(Err(error)) => {
                self.progress.fail(SendFailure::GivenUp);
                Some(Err(error))
            }
            None => self.ended().err().map(Err),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && self.length.is_none_or(|length| length == self.sent)
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            Some(length) => SizeHint::with_exact(length.saturating_sub(self.sent)),
            None => self.body.size_hint(),
        }
    }
}

/// The body of a response. Its connection is free for others when it has come to its end, and is closed when it is given up
/// before.
#[derive(Debug)]
pub(super) struct ResponseBody {
    body: Incoming,
    /// What it comes over, until its end; and its place among the requests of its pod.
    lease: Option<(Lease, OwnedSemaphorePermit)>,
    progress: SendProgress,
    silence: Silence,
}

impl ResponseBody {
    pub(super) fn new(
        body: Incoming,
        lease: (Lease, OwnedSemaphorePermit),
        progress: SendProgress,
        between_bytes: Duration,
    ) -> Self {
        let silence = Silence::new(between_bytes);
        let mut body = Self { body, lease: Some(lease), progress, silence };
        body.release_at_end();
        body
    }

    fn release_at_end(&mut self) {
        if self.body.is_end_stream() {
            self.release();
        }
    }

    fn release(&mut self) {
        if let Some((lease, _)) = self.lease.take() {
            lease.give_back();
        }
    }

    fn next_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        match &frame {
            Poll::Ready(Some(Ok(_))) => self.release_at_end(),
            // With what was left of it.
            Poll::Ready(Some(Err(_))) => self.lease = None,
            Poll::Ready(None) => self.release(),
            Poll::Pending => {}
        }
        frame.map_err(|cause| self.progress.failure().unwrap_or_else(|| error::of_response(&cause)))
    }

    /// Takes what is already there of the rest, so that a connection is not closed for a few bytes.
    fn drain(&mut self) {
        let mut drained = 0;
        while self.lease.is_some() && drained <= DRAINED {
            let Poll::Ready(Some(Ok(frame))) = self.next_frame(&mut Context::from_waker(Waker::noop()))
            else {
                return;
            };
            drained += frame.data_ref().map_or(1, Bytes::len);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = self.next_frame(context);
        if frame.is_ready() {
            self.silence.stop();
            return frame;
        }
        ready!(self.silence.poll_over(context));
        self.lease = None;
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if self.lease.as_ref().is_some_and(|(lease, _)| lease.is_exclusive()) {
            self.drain();
        }
    }
}
