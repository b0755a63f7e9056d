//! The body of an answer, and the guest that makes it.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::WasiBody;

use super::{
    access::Requested,
    answering::{Answering, Rest},
    connection::BusyConnection,
    metrics::Counted,
    served::Served,
    stalls,
};
use crate::silence::Silence;

/// The body of an answer.
pub(super) struct ResponseBody {
    source: Source,
    record: Option<Record>,
    sent: u64,
}

enum Source {
    /// Of our own.
    Own(Full<Bytes>),
    Guest(Box<FromGuest>),
}

/// A body that a guest makes, which goes on as far as its body is asked for.
struct FromGuest {
    body: WasiBody,
    call: Option<Answering>,
    /// Bytes that are still to come, where the guest has said how many.
    expected: Option<u64>,
    /// There is no more, or nobody wants it: HEAD.
    is_complete: bool,
    /// It was read to its end.
    is_read: bool,
    /// The guest trapped or exited while its answer was sent.
    has_failed: bool,
    silence: Silence,
}

/// An answer cannot be continued.
#[derive(Debug, thiserror::Error)]
pub(super) enum BrokenBody {
    #[error("the guest did not finish its answer: {0}")]
    Unfinished(wasmtime_wasi_http::Error),
    #[error("the guest did not go on with its answer")]
    TooSlow,
    #[error("the guest has failed")]
    Failed,
}

/// What is noted down at the end of an answer.
pub(super) struct Record {
    pub(super) served: std::sync::Arc<Served>,
    pub(super) requested: Option<Requested>,
    pub(super) began: std::time::Instant,
    pub(super) status: StatusCode,
    pub(super) _in_flight: Counted,
    pub(super) _busy: BusyConnection,
}

impl ResponseBody {
    /// A text of our own.
    pub(super) fn own(text: Bytes) -> Self {
        Self { source: Source::Own(Full::new(text)), record: None, sent: 0 }
    }

    /// What a guest sends. `is_wanted`: the client takes a body at all.
    pub(super) fn of_guest(body: WasiBody, call: Answering, expected: Option<u64>, is_wanted: bool) -> Self {
        let silence = Silence::new(call.served().settings.request_timeout);
        let is_complete = !is_wanted || expected == Some(0) || body.is_end_stream();
        let has_failed = call.has_failed();
        let call = Some(call);
        let guest = FromGuest { body, call, expected, is_complete, is_read: false, has_failed, silence };
        Self { source: Source::Guest(Box::new(guest)), record: None, sent: 0 }
    }

    /// Has something noted down when it is at its end.
    pub(super) fn recorded(mut self, record: Record) -> Self {
        self.record = Some(record);
        self
    }
}

impl FromGuest {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        let mut frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_pending()
            && let Some(call) = &mut self.call
        {
            if call.poll_over(cx).is_ready() {
                self.has_failed = call.has_failed();
                self.call = None;
            }
            frame = Pin::new(&mut self.body).poll_frame(cx);
        }
        if let Poll::Ready(None) = frame
            && let Some(call) = self.call.as_mut().filter(|call| call.is_driven())
        {
            // It may have failed a moment ago.
            let _ = call.poll_over(cx);
            self.has_failed |= call.has_failed();
        }
        match frame {
            // What is torn off with the guest looks like an end.
            Poll::Ready(None) if self.has_failed => Poll::Ready(Some(Err(BrokenBody::Failed))),
            Poll::Ready(None) => {
                (self.is_complete, self.is_read) = (true, true);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.silence.begin_again();
                if let (Some(expected), Some(data)) = (&mut self.expected, frame.data_ref()) {
                    *expected = expected.saturating_sub(data.len() as u64);
                    self.is_complete |= *expected == 0;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(BrokenBody::Unfinished(error)))),
            Poll::Pending => {
                ready!(self.silence.poll_over(cx));
                if let Some(mut call) = self.call.take() {
                    call.time_is_up();
                    let reason = "the guest did not go on with its answer in time";
                    call.served().timed_out(call.name(), reason);
                }
                Poll::Ready(Some(Err(BrokenBody::TooSlow)))
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        stalls::is_handed_on(false);
        let frame = match &mut self.source {
            Source::Own(body) => {
                let frame = Pin::new(body).poll_frame(cx);
                frame.map(|frame| frame.map(|frame| frame.map_err(|never| match never {})))
            }
            Source::Guest(guest) => guest.poll_frame(cx),
        };
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.sent += data.len() as u64;
            stalls::is_handed_on(true);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(body) => body.is_end_stream(),
            Source::Guest(guest) => guest.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(body) => body.size_hint(),
            Source::Guest(guest) => {
                guest.expected.map_or_else(|| guest.body.size_hint(), SizeHint::with_exact)
            }
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            record.note(self.sent);
        }
        // A guest may have something to do after its answer. Where the client has gone before the end of it, or the guest
        // was too slow, nobody wants what it does.
        if let Source::Guest(guest) = &mut self.source
            && guest.is_complete
            && let Some(call) = guest.call.take()
            && !call.is_over()
            && !(guest.is_read && call.is_driven())
        {
            let body = std::mem::take(&mut guest.body);
            let served = std::sync::Arc::clone(call.served());
            served.finish(async move {
                // What it still sends is taken, so that it is not held up.
                let drained = async move {
                    let mut body = body;
                    while let Some(Ok(_)) = body.frame().await {}
                };
                tokio::join!(Rest(call), drained);
            });
        }
    }
}

impl Record {
    fn note(self, sent: u64) {
        let took = self.began.elapsed();
        self.served.metrics.answered(self.status, took);
        if let Some(requested) = &self.requested {
            let form = self.served.settings.access_log;
            self.served.log.line(&requested.line(form, self.status, sent, took));
        }
    }
}
