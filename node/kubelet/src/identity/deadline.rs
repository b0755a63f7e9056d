//! The time that a request to the API server may take.
//!
//! A connection can be lost without a word; the system notices after a quarter of an hour. So an answer has to begin,
//! and to end, within [`ANSWER`]. A watch ends by itself after the time that it asks for, and is given [`ANSWER`] on
//! top of that.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::Uri;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use kube::client::Body;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A little more than the API server gives a request that changes something (34 s).
pub(super) const ANSWER: Duration = Duration::from_secs(40);

/// How long a watch takes that does not say; more than any API server chooses itself (30 to 60 minutes by default).
const WATCH: Duration = Duration::from_secs(60 * 60);

/// For how long the answer to a request may come in, when other answers may take `answer`.
pub(super) fn limit(uri: &Uri, answer: Duration) -> Duration {
    if !is_watch(uri) {
        return answer;
    }
    let asked = parameter(uri, "timeoutSeconds").and_then(|seconds| seconds.parse().ok());
    asked.map_or(WATCH, Duration::from_secs).saturating_add(answer)
}

/// Whether the answer to a request goes on until somebody ends it.
pub(super) fn is_watch(uri: &Uri) -> bool {
    matches!(parameter(uri, "watch"), Some("true" | "1"))
}

fn parameter<'a>(uri: &'a Uri, wanted: &str) -> Option<&'a str> {
    let mut query = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    query.find(|(name, _)| *name == wanted).map(|(_, value)| value)
}

/// What is said of a request that has taken so long.
pub(super) fn expired(limit: Duration) -> String {
    format!("no answer within {} s", limit.as_secs())
}

/// The body of an answer, which fails when its time is over.
pub(super) struct LimitedBody<F> {
    body: Body,
    limit: Duration,
    end: Pin<Box<Sleep>>,
    /// To be called when the time is over.
    on_expiry: Option<F>,
    /// Ends the answer as if it had come to its end.
    replaced: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl<F: FnOnce()> LimitedBody<F> {
    pub(super) fn new(body: Body, begun: Instant, limit: Duration, on_expiry: F) -> Self {
        let end = Box::pin(tokio::time::sleep_until(begun + limit));
        Self { body, limit, end, on_expiry: Some(on_expiry), replaced: None }
    }

    /// Ends when the token is cancelled, as watches end all the time: whoever watches begins anew.
    pub(super) fn ending_at(mut self, token: Option<CancellationToken>) -> Self {
        self.replaced = token.map(|token| Box::pin(token.cancelled_owned()));
        self
    }
}

impl<F: FnOnce() + Unpin> HttpBody for LimitedBody<F> {
    type Data = Bytes;
    type Error = tower::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        if let Some(replaced) = &mut this.replaced
            && replaced.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(None);
        }
        ready!(this.end.as_mut().poll(context));
        if let Some(on_expiry) = this.on_expiry.take() {
            on_expiry();
        }
        Poll::Ready(Some(Err(expired(this.limit).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_has_its_own_time_and_a_margin() {
        let limit = |uri: &str| limit(&uri.parse().unwrap(), Duration::from_secs(40)).as_secs();
        for (uri, expected) in [
            ("/api/v1/pods", 40),
            ("/api/v1/pods?limit=500&timeoutSeconds=290", 40),
            ("/api/v1/pods?watch=false", 40),
            ("/api/v1/pods?&watch=true&timeoutSeconds=290&allowWatchBookmarks=true", 330),
            ("/api/v1/pods?watch=1&timeoutSeconds=nonsense", 3640),
            ("/api/v1/pods?watch=true", 3640),
        ] {
            assert_eq!(limit(uri), expected, "{uri}");
        }
    }
}
