//! Watches of all objects of a kind, or of those that a selector names.
//!
//! ```text
//! streaming list (a watch that begins with all objects) ─┬─► changes
//!        refused, or not understood: list, and watch ────┘
//! ```
//!
//! A list is one answer with all objects in it, which an API server makes as a whole, for each of thousands of nodes that come
//! back at once; a [streaming list](https://kubernetes.io/docs/reference/using-api/api-concepts/#streaming-lists) is sent
//! object by object, from what it has in memory anyway. Both say how things are, not how they were: see [`consistent`].

use std::{fmt::Debug, time::Duration};

use futures::{
    Stream, StreamExt as _,
    stream::{self, BoxStream},
};
use http::{Request, Uri, uri::PathAndQuery};
use kube::{
    Api, Resource,
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

/// How long an API server may say nothing before all objects have come. One that does not know streaming lists takes the
/// request for a watch like any other, and never says that they have.
const SILENCE: Duration = Duration::from_secs(30);

/// Seconds after which a watch is asked for anew. Nodes that have begun together do not go on doing so together.
const PERIOD: std::ops::RangeInclusive<u32> = 200..=290;

/// How often a watch may begin anew at once because what it goes on from is forgotten.
const ANEW: Duration = Duration::from_secs(60);

/// Follows a collection for ever. What goes wrong is told, and then tried again, as [`watcher()`] does it: callers put a
/// back-off on top.
pub(crate) fn watch_collection<K>(
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let span = PERIOD.end() - PERIOD.start() + 1;
    let config = config.timeout(PERIOD.start() + rand::random::<u32>() % span);
    let streaming = watcher(api.clone(), config.clone().streaming_lists()).boxed();
    let listing = move || watcher(api.clone(), config.clone()).boxed();
    stream::unfold(
        Collection { events: streaming, phase: Phase::Asked, anew: None },
        move |mut collection| {
            let listing = listing.clone();
            async move { Some((collection.next(listing).await?, collection)) }
        },
    )
}

struct Collection<K> {
    events: BoxStream<'static, watcher::Result<Event<K>>>,
    phase: Phase,
    /// When it began anew last because what it went on from was forgotten.
    anew: Option<Instant>,
}

/// Where a streaming list is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It is asked for. Next: `Streaming`, or `Given` up.
    Asked,
    /// Objects come. Next: `Whole`, or `Given` up when they stop coming.
    Streaming,
    /// All have come. Next: `Streaming`, when the watch has to begin anew.
    Whole,
    /// The API server does not do that: lists it is, for ever.
    GivenUp,
}

impl<K> Collection<K> {
    async fn next(
        &mut self,
        listing: impl Fn() -> BoxStream<'static, watcher::Result<Event<K>>>,
    ) -> Option<watcher::Result<Event<K>>> {
        loop {
            // Until it begins, the client's own limit holds.
            let limit = if self.phase == Phase::Streaming { SILENCE } else { Duration::MAX };
            let event = tokio::time::timeout(limit, self.events.next()).await;
            let obstacle = match &event {
                Err(_) => "it does not say when all objects have come",
                Ok(Some(Err(error))) if self.phase != Phase::GivenUp && refuses(error) => "it refuses them",
                // It began, and begins anew although nothing was said to be wrong.
                Ok(Some(Ok(Event::Init))) if self.phase == Phase::Streaming => "it ends them midway",
                _ => {
                    let event = event.ok().flatten()?;
                    self.note(&event);
                    if event.as_ref().is_err_and(is_forgotten) && self.may_begin_anew() {
                        tracing::debug!(
                            "the API server has forgotten what the watch goes on from; it begins anew"
                        );
                        continue;
                    }
                    return Some(event);
                }
            };
            tracing::debug!(obstacle, "the API server has no streaming lists; it is asked for lists");
            self.phase = Phase::GivenUp;
            self.events = listing();
        }
    }

    /// An API server that answers is no trouble, and nobody is to back off from it: one that was started again has forgotten
    /// what was before. One that forgets all the time is.
    fn may_begin_anew(&mut self) -> bool {
        let may = self.anew.is_none_or(|last| last.elapsed() >= ANEW);
        if may {
            self.anew = Some(Instant::now());
        }
        may
    }

    fn note(&mut self, event: &watcher::Result<Event<K>>) {
        self.phase = match (self.phase, event) {
            (Phase::GivenUp, _) => Phase::GivenUp,
            (_, Ok(Event::Init)) => Phase::Streaming,
            (_, Ok(Event::InitDone)) => Phase::Whole,
            // It is tried again after a while.
            (Phase::Streaming, Err(_)) => Phase::Asked,
            (phase, _) => phase,
        };
    }
}

/// The API server does not take the parameters of a streaming list: 400 or 422, by its version.
fn refuses(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(kube::Error::Api(status)) if matches!(status.code, 400 | 422))
}

/// The API server does not know the version any more that a watch is to go on from: 410.
fn is_forgotten(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchError(status) => status.code == 410,
        watcher::Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 410,
        _ => false,
    }
}

/// A request for a streaming list that asks for how things are now, as lists do.
///
/// kube asks for version 0, which is whatever the API server has in memory: it may be behind another one, and a pod that is
/// not there yet would be taken for one that is gone.
pub(crate) fn consistent<B>(mut request: Request<B>) -> Request<B> {
    let pairs = || request.uri().query().unwrap_or_default().split('&');
    if !pairs().any(|pair| pair == "sendInitialEvents=true") {
        return request;
    }
    let kept: Vec<_> = pairs().filter(|pair| *pair != "resourceVersion=0").collect();
    let path = PathAndQuery::try_from(format!("{}?{}", request.uri().path(), kept.join("&")));
    let mut parts = request.uri().clone().into_parts();
    // What is left of a request's URI is one.
    if let Ok(path) = path {
        parts.path_and_query = Some(path);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    request
}

#[cfg(test)]
mod tests;
