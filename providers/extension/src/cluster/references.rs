//! The Secrets and ConfigMaps that extensions refer to: each is followed by itself, and nothing else is read.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    pin::pin,
    sync::Arc,
};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client, Resource,
    core::NamespaceResourceScope,
    runtime::{WatchStreamExt as _, watcher},
};
use kubewasm_control::explain::explain_watch;
use serde::de::DeserializeOwned;
use tokio::{sync::watch, task::AbortHandle};

use super::grants::GrantState;
use crate::wasm_extension::{ConfigurationSpec, KeyReference, WasmExtension};

/// What can be referred to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// Which goes first.
    ConfigMap,
    /// Whose values nobody is to see.
    Secret,
}

impl ObjectKind {
    /// As the API has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An object that is referred to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// What it is.
    pub kind: ObjectKind,
    /// Where it is.
    pub namespace: String,
    /// Its name there.
    pub name: String,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// What is known of an object. `Debug` does not show what is in it.
#[derive(Clone)]
pub enum ObjectState {
    /// There is none.
    Missing,
    /// It cannot be read, for this reason.
    Unreadable(String),
    /// As it was last seen.
    ConfigMap(Arc<ConfigMap>),
    /// As it was last seen.
    Secret(Arc<Secret>),
}

impl fmt::Debug for ObjectState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "Missing",
            Self::Unreadable(_) => "Unreadable",
            Self::ConfigMap(_) => "ConfigMap",
            Self::Secret(_) => "Secret",
        })
    }
}

/// The objects that are referred to; those of which nothing is known yet are not in it.
pub type ReferencedObjects = BTreeMap<ObjectName, ObjectState>;

/// The object and the key that a configuration is to be taken from; none where it says its value itself.
#[must_use]
pub fn source_of(configuration: &ConfigurationSpec) -> Option<(ObjectName, &str)> {
    if configuration.value.is_some() {
        return None;
    }
    let from = configuration.value_from.as_ref()?;
    let config_map = from.config_map_key_ref.as_ref().map(|reference| (ObjectKind::ConfigMap, reference));
    let secret = from.secret_key_ref.as_ref().map(|reference| (ObjectKind::Secret, reference));
    let (kind, KeyReference { key, name, namespace }) = config_map.or(secret)?;
    Some((ObjectName { kind, namespace: namespace.clone(), name: name.clone() }, key))
}

/// The Secret with credentials for an extension's registry.
#[must_use]
pub fn pull_secret_of(extension: &WasmExtension) -> Option<ObjectName> {
    let name = extension.spec.as_ref().ok()?.image.pull_secret.as_ref()?;
    Some(ObjectName {
        kind: ObjectKind::Secret,
        namespace: extension.name.namespace().to_owned(),
        name: name.clone(),
    })
}

/// The objects that these extensions refer to, and may.
#[must_use]
pub fn wanted<'a>(
    extensions: impl Iterator<Item = &'a WasmExtension>,
    grants: &GrantState,
) -> BTreeSet<ObjectName> {
    let mut wanted = BTreeSet::new();
    for extension in extensions {
        let Ok(spec) = &extension.spec else { continue };
        let named =
            spec.configurations().into_iter().filter_map(|(_, configuration)| source_of(configuration?));
        let allowed = named.map(|(object, _)| object);
        wanted.extend(allowed.filter(|object| grants.permits(extension.name.namespace(), object).is_ok()));
        wanted.extend(pull_secret_of(extension));
    }
    wanted
}

/// Follows objects, one watch for each.
pub struct ReferenceWatches {
    client: Client,
    objects: watch::Sender<ReferencedObjects>,
    watches: HashMap<ObjectName, AbortHandle>,
}

impl fmt::Debug for ReferenceWatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReferenceWatches").field("watches", &self.watches.len()).finish_non_exhaustive()
    }
}

impl ReferenceWatches {
    /// Nothing is followed yet.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, objects: watch::Sender::default(), watches: HashMap::new() }
    }

    /// What there is of what is followed.
    #[must_use]
    pub fn objects(&self) -> watch::Receiver<ReferencedObjects> {
        self.objects.subscribe()
    }

    /// Follows these, and no others any more. What was known of others is forgotten.
    pub fn set(&mut self, wanted: &BTreeSet<ObjectName>) {
        let objects = self.objects.clone();
        self.watches.retain(|name, watch| {
            let stays = wanted.contains(name);
            if !stays {
                watch.abort();
                objects.send_modify(|objects| drop(objects.remove(name)));
            }
            stays
        });
        for name in wanted {
            if self.watches.contains_key(name) {
                continue;
            }
            let watch = tokio::spawn(watch_one(self.client.clone(), name.clone(), objects.clone()));
            self.watches.insert(name.clone(), watch.abort_handle());
        }
    }
}

impl Drop for ReferenceWatches {
    fn drop(&mut self) {
        self.watches.values().for_each(AbortHandle::abort);
    }
}

async fn watch_one(client: Client, name: ObjectName, objects: watch::Sender<ReferencedObjects>) {
    match name.kind {
        ObjectKind::ConfigMap => follow(client, &name, ObjectState::ConfigMap, &objects).await,
        ObjectKind::Secret => follow(client, &name, ObjectState::Secret, &objects).await,
    }
}

/// Follows one object for ever.
async fn follow<K>(
    client: Client,
    name: &ObjectName,
    state: impl Fn(Arc<K>) -> ObjectState,
    objects: &watch::Sender<ReferencedObjects>,
) where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + fmt::Debug
        + Send
        + 'static,
{
    let api: Api<K> = Api::namespaced(client, &name.namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", name.name));
    let mut events = pin!(watcher(api, config).default_backoff());
    let mut listed = None;
    while let Some(event) = events.next().await {
        let new = match event {
            Ok(watcher::Event::Init) => {
                listed = None;
                continue;
            }
            Ok(watcher::Event::InitApply(object)) => {
                listed = Some(object);
                continue;
            }
            Ok(watcher::Event::InitDone) => {
                listed.take().map_or(ObjectState::Missing, |object| state(Arc::new(object)))
            }
            Ok(watcher::Event::Apply(object)) => state(Arc::new(object)),
            Ok(watcher::Event::Delete(_)) => ObjectState::Missing,
            Err(error) => {
                let why = explain_watch(&error);
                tracing::debug!("the watch of {name} was interrupted: {why}");
                let is_refusal = matches!(
                    &error,
                    watcher::Error::InitialListFailed(kube::Error::Api(status)) if matches!(status.code, 401 | 403)
                );
                if !is_refusal {
                    continue;
                }
                ObjectState::Unreadable(why)
            }
        };
        objects.send_modify(|objects| drop(objects.insert(name.clone(), new)));
    }
}
