//! What is published: one entry per extension, and a watch of all of them.
//!
//! The controller writes it, the streams read it. There is nothing of deleted extensions in it: what becomes of an Envoy that has one
//! is in the [version](PublishedVersion) that the Envoy holds, so that it outlasts a restart of ours.

use std::{collections::HashMap, fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    name::ExtensionName,
    resource::{EncodedResource, FilterType},
    selector::EnvoySelector,
};

/// What becomes of Envoys that have an extension which is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AfterDeletion {
    /// They are told, and answer 500 to what they would have filtered. State of the world cannot tell: those keep the filter.
    #[default]
    Remove,
    /// They get a filter that does nothing in its place.
    NoOp,
    /// They keep it.
    Keep,
}

/// A version as Envoy has it: the hash of the content, and where it is not to be removed, what to do instead: `<hash>`,
/// `<hash>-keep`, `<hash>-noop-http` or `<hash>-noop-network`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct PublishedVersion(Arc<str>);

impl From<String> for PublishedVersion {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<PublishedVersion> for String {
    fn from(version: PublishedVersion) -> Self {
        version.0.as_ref().to_owned()
    }
}

/// What an Envoy is told of an extension that it holds and that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// That it is gone.
    Removed,
    /// Nothing.
    Silence,
    /// A filter that does nothing.
    NoOp(FilterType),
}

impl PublishedVersion {
    /// Longest text of a version; what is longer is none of ours.
    const LONGEST: usize = 64;

    fn new(resource: &EncodedResource, filter: FilterType, after_deletion: AfterDeletion) -> Self {
        let hash = resource.hash();
        Self(match (after_deletion, filter) {
            (AfterDeletion::Remove, _) => hash.into(),
            (AfterDeletion::Keep, _) => format!("{hash}-keep").into(),
            (AfterDeletion::NoOp, FilterType::Http) => format!("{hash}-noop-http").into(),
            (AfterDeletion::NoOp, FilterType::Network) => format!("{hash}-noop-network").into(),
        })
    }

    /// One that an Envoy says it holds. None where it is too long to be one.
    pub(crate) fn claimed(text: &str) -> Option<Self> {
        (text.len() <= Self::LONGEST && !text.is_empty()).then(|| Self(text.into()))
    }

    /// What whoever holds this version is told when the extension is gone.
    pub(crate) fn farewell(&self) -> Farewell {
        match self.0.split_once('-').map_or("", |(_, rest)| rest) {
            "keep" => Farewell::Silence,
            "noop-http" => Farewell::NoOp(FilterType::Http),
            "noop-network" => Farewell::NoOp(FilterType::Network),
            _ => Farewell::Removed,
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PublishedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An extension as Envoys get it.
#[derive(Debug)]
pub struct PublishedExtension {
    name: ExtensionName,
    version: PublishedVersion,
    resource: EncodedResource,
    selector: EnvoySelector,
}

impl PublishedExtension {
    /// The resource is of this name and type; the selector says which Envoys get it.
    #[must_use]
    pub fn new(
        name: ExtensionName,
        filter: FilterType,
        resource: EncodedResource,
        selector: EnvoySelector,
        after_deletion: AfterDeletion,
    ) -> Self {
        let version = PublishedVersion::new(&resource, filter, after_deletion);
        Self { name, version, resource, selector }
    }

    /// What an Envoy gets that holds an extension of this name which is gone.
    pub(crate) fn no_op(name: ExtensionName, filter: FilterType) -> Self {
        let resource = EncodedResource::no_op(&name, filter);
        Self::new(name, filter, resource, EnvoySelector::default(), AfterDeletion::Keep)
    }

    /// Which extension.
    #[must_use]
    pub fn name(&self) -> &ExtensionName {
        &self.name
    }

    /// Its version: the same as long as nothing changes, also after a restart.
    #[must_use]
    pub fn version(&self) -> &PublishedVersion {
        &self.version
    }

    /// What Envoy is sent.
    #[must_use]
    pub fn resource(&self) -> &EncodedResource {
        &self.resource
    }

    /// Which Envoys get it.
    #[must_use]
    pub fn selector(&self) -> &EnvoySelector {
        &self.selector
    }
}

/// What there is at a moment.
#[derive(Debug, Default)]
pub struct Published {
    /// Nothing is said of those that exist and are not published yet.
    extensions: HashMap<ExtensionName, Option<Arc<PublishedExtension>>>,
    is_complete: bool,
    is_settled: bool,
}

impl Published {
    /// The extension of this name (`<namespace>/<name>`), where it is published.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<PublishedExtension>> {
        self.extensions.get(name)?.as_ref()
    }

    /// Whether it is certain that there is no extension of this name. Before that nothing is taken from anybody.
    #[must_use]
    pub fn is_gone(&self, name: &str) -> bool {
        self.is_complete && !self.extensions.contains_key(name)
    }

    /// Whether all that exists was announced.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whether all that there was at first is published, as far as it can be. Before that, what exists and is not published may come
    /// in a moment.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// All that is published, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<PublishedExtension>> {
        self.extensions.values().flatten()
    }
}

/// All that is published. Clones are the same table.
#[derive(Clone, Debug)]
pub struct ExtensionTable {
    published: watch::Sender<Published>,
}

impl Default for ExtensionTable {
    fn default() -> Self {
        Self { published: watch::Sender::new(Published::default()) }
    }
}

impl ExtensionTable {
    /// Says that an extension exists, whether or not it can be published: until it is, Envoys keep what they have under its name.
    /// What is published stays so.
    pub fn announce(&self, name: &ExtensionName) {
        self.published.send_if_modified(|published| {
            let is_new = !published.extensions.contains_key(name);
            if is_new {
                published.extensions.insert(name.clone(), None);
            }
            is_new
        });
    }

    /// Puts an extension in place of what was there under its name. True when something has changed.
    pub fn publish(&self, extension: PublishedExtension) -> bool {
        self.published.send_if_modified(|published| {
            let before = published.get(extension.name.as_str());
            let is_new = before.is_none_or(|before| {
                before.version != extension.version || before.selector != extension.selector
            });
            if is_new {
                published.extensions.insert(extension.name.clone(), Some(Arc::new(extension)));
            }
            is_new
        })
    }

    /// Takes an extension away, because it is deleted. Envoys that have it are told what its version says.
    pub fn withdraw(&self, name: &ExtensionName) -> bool {
        self.published.send_if_modified(|published| published.extensions.remove(name).is_some())
    }

    /// Says that all that exists was announced. From now on Envoys are told of what they hold and does not exist, such as what was
    /// deleted while this server did not run.
    pub fn complete(&self) {
        self.published.send_if_modified(|published| !std::mem::replace(&mut published.is_complete, true));
    }

    /// Says that all that there was at first was published, as far as it can be.
    pub fn settle(&self) {
        self.published.send_if_modified(|published| !std::mem::replace(&mut published.is_settled, true));
    }

    /// The extension of this name, where it is published.
    #[must_use]
    pub fn get(&self, name: &ExtensionName) -> Option<Arc<PublishedExtension>> {
        self.published.borrow().get(name.as_str()).cloned()
    }

    /// A watch of all of it.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::resource::{FailurePolicy, InlineModule, RUNTIME_V8, ResourceSpec};

    fn extension(name: &str, root_id: &str, after: AfterDeletion) -> PublishedExtension {
        let name = ExtensionName::parse(name).unwrap();
        let resource = EncodedResource::new(&ResourceSpec {
            name: &name,
            filter: FilterType::Http,
            runtime: RUNTIME_V8,
            vm_id: "",
            root_id,
            module: &InlineModule::new(Bytes::from_static(b"m")),
            vm_configuration: None,
            plugin_configuration: None,
            failure_policy: FailurePolicy::default(),
        });
        PublishedExtension::new(name, FilterType::Http, resource, EnvoySelector::default(), after)
    }

    #[test]
    fn only_what_is_new_wakes_anybody() {
        let table = ExtensionTable::default();
        let mut watch = table.subscribe();
        let name = ExtensionName::parse("ns/a").unwrap();
        let mut has_changed = || {
            let has_changed = watch.has_changed().unwrap();
            watch.mark_unchanged();
            has_changed
        };
        assert!(table.publish(extension("ns/a", "1", AfterDeletion::Remove)) && has_changed());
        assert!(!table.publish(extension("ns/a", "1", AfterDeletion::Remove)) && !has_changed());
        assert!(table.publish(extension("ns/a", "2", AfterDeletion::Remove)) && has_changed());
        assert!(table.publish(extension("ns/a", "2", AfterDeletion::Keep)) && has_changed());
        table.announce(&name);
        assert!(table.get(&name).is_some() && !has_changed());
        assert!(table.withdraw(&name) && has_changed());
        assert!(!table.withdraw(&name) && !has_changed());
    }

    #[test]
    fn nothing_is_gone_before_all_was_announced_and_nothing_that_exists() {
        let table = ExtensionTable::default();
        let watch = table.subscribe();
        let is_gone = |name| watch.borrow().is_gone(name);
        assert!(!is_gone("ns/a") && !is_gone("ns/b"));
        let name = ExtensionName::parse("ns/a").unwrap();
        table.announce(&name);
        table.complete();
        assert!(!is_gone("ns/a") && is_gone("ns/b"));
        table.withdraw(&name);
        assert!(is_gone("ns/a"));
    }

    #[test]
    fn the_version_says_what_becomes_of_whoever_holds_it() {
        for (after, expected) in [
            (AfterDeletion::Remove, Farewell::Removed),
            (AfterDeletion::Keep, Farewell::Silence),
            (AfterDeletion::NoOp, Farewell::NoOp(FilterType::Http)),
        ] {
            let version = extension("ns/a", "1", after).version().clone();
            let claimed = PublishedVersion::claimed(version.as_str()).unwrap();
            assert_eq!((&claimed, claimed.farewell()), (&version, expected));
        }
        let no_op = PublishedExtension::no_op(ExtensionName::parse("ns/a").unwrap(), FilterType::Network);
        assert_eq!(no_op.version().farewell(), Farewell::Silence);
        assert_eq!(PublishedVersion::claimed("something else").unwrap().farewell(), Farewell::Removed);
        assert_eq!(PublishedVersion::claimed(&"x".repeat(65)), None);
    }
}
