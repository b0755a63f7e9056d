//! Bodies of responses: messages in pieces, as the Envoy takes them, and a status at the end.
//!
//! The next message is asked for when the last one is taken, so that it is the newest then, and nothing piles up.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Stream, stream};
use http::{HeaderMap, HeaderValue, Response, header};
use hyper::body::{Body, Frame};
use tonic::Status;

use super::{streams::StreamProgress, wire::MessageParts};

/// Most bytes of one frame: how closely it can be seen whether an Envoy reads.
const PIECE: usize = 64 * 1024;

type Messages = Pin<Box<dyn Stream<Item = Result<MessageParts, Status>> + Send>>;

/// The body of a response.
pub(super) struct GrpcBody {
    /// None after the last one.
    messages: Option<Messages>,
    pieces: VecDeque<Bytes>,
    progress: Arc<StreamProgress>,
}

impl GrpcBody {
    /// Messages until their end, or a status that is an error.
    pub(super) fn new(
        messages: impl Stream<Item = Result<MessageParts, Status>> + Send + 'static,
        progress: Arc<StreamProgress>,
    ) -> Self {
        Self { messages: Some(Box::pin(messages)), pieces: VecDeque::new(), progress }
    }

    /// The response with this body.
    pub(super) fn response(self) -> Response<Self> {
        let mut response = Response::new(self);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    }

    /// A response that is an error.
    pub(super) fn refusal(status: Status) -> Response<Self> {
        Self::new(stream::iter([Err(status)]), Arc::default()).response()
    }
}

impl Body for GrpcBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.progress.taken();
        loop {
            if let Some(next) = self.pieces.front_mut() {
                let piece = next.split_to(next.len().min(PIECE));
                if next.is_empty() {
                    self.pieces.pop_front();
                }
                self.progress.handed();
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let Some(messages) = &mut self.messages else { return Poll::Ready(None) };
            match messages.as_mut().poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(parts))) => {
                    self.pieces.extend(parts.into_iter().filter(|part| !part.is_empty()))
                }
                Poll::Ready(end) => {
                    self.messages = None;
                    let status = end.and_then(Result::err).unwrap_or_else(|| Status::ok(""));
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))));
                }
            }
        }
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // A text that does not go into a header has its status at least.
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from(status.code() as i32));
    }
    trailers
}
