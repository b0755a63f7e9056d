//! Follows collections of the API: what there is of each, as it was last seen.

use std::{collections::BTreeMap, fmt::Debug, pin::pin, sync::Arc};

use futures::StreamExt as _;
use kube::{
    Api, Resource, ResourceExt as _,
    runtime::{WatchStreamExt as _, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::explain::explain_watch;

/// Where an object is, and its name there.
pub type ObjectKey = (Option<String>, String);

/// What there is of several collections.
#[derive(Clone, Debug)]
pub struct Followed<C, V> {
    collections: BTreeMap<C, BTreeMap<ObjectKey, Arc<V>>>,
}

impl<C, V> Default for Followed<C, V> {
    fn default() -> Self {
        Self { collections: BTreeMap::new() }
    }
}

impl<C: Ord + Copy, V> Followed<C, V> {
    /// Whether everything of these collections was seen.
    #[must_use]
    pub fn has_all(&self, collections: &[C]) -> bool {
        collections.iter().all(|collection| self.collections.contains_key(collection))
    }

    /// All that there is.
    pub fn values(&self) -> impl Iterator<Item = &Arc<V>> {
        self.collections.values().flat_map(BTreeMap::values)
    }

    /// The object of this name, of a collection without namespaces.
    #[must_use]
    pub fn get(&self, collection: C, name: &str) -> Option<&Arc<V>> {
        self.collections.get(&collection)?.get(&(None, name.to_owned()))
    }

    /// Puts a collection in place of what was there of it.
    pub fn replace(&mut self, collection: C, objects: BTreeMap<ObjectKey, Arc<V>>) {
        self.collections.insert(collection, objects);
    }

    fn apply(&mut self, collection: C, key: ObjectKey, object: Option<V>) {
        let Some(objects) = self.collections.get_mut(&collection) else { return };
        match object {
            Some(object) => objects.insert(key, Arc::new(object)),
            None => objects.remove(&key),
        };
    }
}

/// Follows one collection for ever, and keeps of each object what `read` takes from it. What goes wrong is told in the log and tried
/// again, with growing pauses; until then, all is as it was last seen.
pub async fn follow<C, K, V>(
    collection: C,
    api: Api<K>,
    config: watcher::Config,
    read: impl Fn(&K) -> Option<V>,
    followed: &watch::Sender<Followed<C, V>>,
) where
    C: Ord + Copy,
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let what = api.resource_url().to_owned();
    let mut events = pin!(watcher(api, config).default_backoff());
    let mut listed = BTreeMap::new();
    let mut is_interrupted = false;
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                let error = explain_watch(&error);
                if std::mem::replace(&mut is_interrupted, true) {
                    tracing::debug!(error, "the watch of {what} is still interrupted");
                } else {
                    tracing::warn!(error, "the watch of {what} was interrupted; trying again");
                }
                continue;
            }
        };
        if !matches!(event, watcher::Event::Init) && std::mem::take(&mut is_interrupted) {
            tracing::info!("the watch of {what} goes on");
        }
        let key = |object: &K| (object.namespace(), object.name_any());
        match event {
            watcher::Event::Init => listed.clear(),
            watcher::Event::InitApply(object) => {
                if let Some(value) = read(&object) {
                    listed.insert(key(&object), Arc::new(value));
                }
            }
            watcher::Event::InitDone => {
                let listed = std::mem::take(&mut listed);
                followed.send_modify(|followed| followed.replace(collection, listed));
            }
            watcher::Event::Apply(object) => {
                let value = read(&object);
                followed.send_modify(|followed| followed.apply(collection, key(&object), value));
            }
            watcher::Event::Delete(object) => {
                followed.send_modify(|followed| followed.apply(collection, key(&object), None));
            }
        }
    }
}
