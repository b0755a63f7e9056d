//! The body of a response, whose guest may not want to wait for ever.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use kubewasm_host::HttpError;
use tokio::time::{Instant, Sleep, sleep};

/// A body that fails when nothing of it comes for the time that its guest has said; a watch says none, and waits.
pub(super) struct PatientBody {
    body: Incoming,
    limit: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl PatientBody {
    pub(super) fn new(body: Incoming, limit: Option<Duration>) -> Self {
        Self { body, limit: limit.map(|limit| (limit, Box::pin(sleep(limit)))) }
    }
}

impl Body for PatientBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        let frame = Pin::new(&mut this.body).poll_frame(context);
        let Some((limit, silence)) = &mut this.limit else {
            return frame.map_err(HttpError::from);
        };
        if frame.is_ready() {
            // One that is further off than a clock can be read is none.
            match Instant::now().checked_add(*limit) {
                Some(until) => silence.as_mut().reset(until),
                None => this.limit = None,
            }
            return frame.map_err(HttpError::from);
        }
        ready!(silence.as_mut().poll(context));
        Poll::Ready(Some(Err(HttpError::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
