//! Pulls that are under way: callers that want the same thing share one download.
//!
//! A download belongs to those who wait for it. Whoever waits drives it; who gives up leaves it to the others;
//! with the last one it ends, and what it had written goes with it. Two callers share only when they ask with
//! the same credentials: what one may see says nothing about the other.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Either, Shared, WeakShared, select},
};
use tokio::sync::watch;

use crate::{
    Store,
    error::PullError,
    fetch,
    image::{Credential, Image, ImageName},
    progress::{Progress, PullProgress},
};

/// An image that was pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The image, which is in the store now.
    pub image: Image,
    /// Position, among the credentials of [`Store::pull`], of the one that the registry took; `None`: nobody's.
    pub credential: Option<usize>,
}

type PullOutcome = Result<Fetched, PullError>;
type PullKey = (ImageName, Vec<Credential>);

/// Downloads by what was asked for.
#[derive(Default)]
pub(crate) struct Flights(Mutex<HashMap<PullKey, Flight>>);

struct Flight {
    download: WeakShared<BoxFuture<'static, PullOutcome>>,
    progress: watch::Receiver<PullProgress>,
}

impl fmt::Debug for Flights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flights")
    }
}

impl Flights {
    /// The download for `key` that is under way, or a new one.
    fn join<F>(&self, key: PullKey, start: impl FnOnce(watch::Sender<PullProgress>) -> F) -> Joined
    where
        F: Future<Output = PullOutcome> + Send + 'static,
    {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A finished download is kept by those who still read its outcome; a new caller wants news.
        flights
            .retain(|_, flight| flight.download.upgrade().is_some_and(|download| download.peek().is_none()));
        let running =
            flights.get(&key).and_then(|flight| Some((flight.download.upgrade()?, flight.progress.clone())));
        if let Some((download, progress)) = running {
            return Joined { download, progress };
        }
        let (sender, progress) = watch::channel(PullProgress::default());
        let download = start(sender).boxed().shared();
        if let Some(weak) = download.downgrade() {
            flights.insert(key, Flight { download: weak, progress: progress.clone() });
        }
        Joined { download, progress }
    }
}

/// One caller's share of a download.
struct Joined {
    download: Shared<BoxFuture<'static, PullOutcome>>,
    progress: watch::Receiver<PullProgress>,
}

impl Joined {
    async fn wait(mut self, listener: Option<&dyn Progress>) -> PullOutcome {
        let Some(listener) = listener else {
            return self.download.await;
        };
        let mut download = self.download;
        loop {
            let ended = match select(pin!(self.progress.changed()), &mut download).await {
                Either::Left((Ok(()), _)) => None,
                // The sender is gone: the download is at its end.
                Either::Left((Err(_), download)) => Some(download.await),
                Either::Right((outcome, _)) => Some(outcome),
            };
            let state = *self.progress.borrow_and_update();
            listener.update(state);
            if let Some(outcome) = ended {
                return outcome;
            }
        }
    }
}

impl Store {
    /// Fetches an image from where its name says and keeps it, checked and unpacked. What the store has already is
    /// not fetched again, but the source is asked each time what the name means now; for a name with a digest only if
    /// the source has not yet given it to nobody's credentials.
    ///
    /// `credentials` are a registry's; they are tried in order, then none. Callers that ask for the same at the same time share one
    /// download, and each of them may give up (drop the future) without harm to the others. Needs a process
    /// that has installed a `rustls` cryptography provider.
    ///
    /// # Errors
    /// See [`crate::PullFailure`].
    pub async fn pull(
        &self,
        name: impl Into<ImageName>,
        credentials: &[Credential],
        progress: Option<&dyn Progress>,
    ) -> Result<Fetched, PullError> {
        let name = name.into();
        let key = (name.clone(), credentials.to_vec());
        let joined = self.inner.flights.join(key, |sender| {
            let (inner, credentials) = (Arc::clone(&self.inner), credentials.to_vec());
            async move {
                let result = fetch::fetch(&inner, &name, &credentials, &sender).await;
                result.map_err(|reason| PullError { image: name.to_string(), reason })
            }
        });
        joined.wait(progress).await
    }
}

#[cfg(test)]
mod tests;
