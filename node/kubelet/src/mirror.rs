//! A mirror of all objects of one kind, fed by a watch.

use std::fmt::{self, Debug};

use futures::StreamExt as _;
use kube::{
    Api, Client, Resource,
    runtime::{
        WatchStreamExt as _,
        reflector::{self, Store, store::Writer},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::{collection::watch_collection, explain::explain_watch};

/// The reading side. Clones are the same.
#[derive(Clone)]
pub struct Mirrored<K: Resource<DynamicType = ()> + Clone + 'static> {
    store: Store<K>,
    ready: watch::Receiver<bool>,
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Mirrored<K> {
    /// The objects as they were last seen; nothing before all of them have been read once.
    #[must_use]
    pub fn store(&self) -> Option<&Store<K>> {
        self.ready.borrow().then_some(&self.store)
    }

    /// Told of every change, once all objects have been read.
    pub(crate) fn changes(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Debug for Mirrored<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirrored").field("of", &K::plural(&())).finish_non_exhaustive()
    }
}

/// What feeds a [`Mirrored`].
pub(crate) struct Mirror<K: Resource<DynamicType = ()> + Clone + 'static> {
    writer: Writer<K>,
    ready: watch::Sender<bool>,
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Debug for Mirror<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("of", &K::plural(&())).finish_non_exhaustive()
    }
}

impl<K> Mirror<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// An empty one, and its reading side.
    pub(crate) fn new() -> (Self, Mirrored<K>) {
        let writer = Writer::default();
        let (ready, is_ready) = watch::channel(false);
        let mirrored = Mirrored { store: writer.as_reader(), ready: is_ready };
        (Self { writer, ready }, mirrored)
    }

    /// Follows the watch for ever. It is retried with back-off after an interruption, and the objects read before stay.
    pub(crate) async fn run(self, client: Client) {
        let Self { writer, ready } = self;
        let stream = watch_collection(Api::<K>::all(client), watcher::Config::default())
            .default_backoff()
            .modify(|object| object.meta_mut().managed_fields = None);
        let mut stream = std::pin::pin!(reflector::reflector(writer, stream));
        while let Some(event) = stream.next().await {
            match event {
                // Those who follow changes are told of the same value again.
                Ok(watcher::Event::InitDone | watcher::Event::Apply(_) | watcher::Event::Delete(_)) => {
                    ready.send_replace(true);
                }
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
                Err(error) => {
                    let error = explain_watch(&error);
                    tracing::warn!(error, "the watch of {} was interrupted", K::plural(&()));
                }
            }
        }
    }
}
