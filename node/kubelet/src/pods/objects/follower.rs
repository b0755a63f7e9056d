//! Several objects together, as they change.

use std::collections::BTreeMap;

use futures::FutureExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::{Known, ObjectSource, Subscription};
use crate::pods::{api::Objects, environment::References};

/// Follows some objects of one namespace for as long as it lives.
pub struct ObjectFollower {
    config_maps: BTreeMap<String, Subscription<ConfigMap>>,
    secrets: BTreeMap<String, Subscription<Secret>>,
    /// Somebody has asked for the first answer.
    has_begun: bool,
}

impl std::fmt::Debug for ObjectFollower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ObjectFollower")
            .field("config_maps", &self.config_maps.keys())
            .field("secrets", &self.secrets.keys())
            .finish_non_exhaustive()
    }
}

impl ObjectFollower {
    pub(in crate::pods) fn new(source: &dyn ObjectSource, namespace: &str, references: &References) -> Self {
        let config_maps = references.config_maps.iter();
        let secrets = references.secrets.iter();
        Self {
            config_maps: config_maps.map(|name| (name.clone(), source.config_map(namespace, name))).collect(),
            secrets: secrets.map(|name| (name.clone(), source.secret(namespace, name))).collect(),
            has_begun: false,
        }
    }

    /// One of these alone, for tests.
    #[cfg(test)]
    pub(in crate::pods) fn of_secrets(
        secrets: impl IntoIterator<Item = (String, Subscription<Secret>)>,
    ) -> Self {
        Self { config_maps: BTreeMap::new(), secrets: secrets.into_iter().collect(), has_begun: false }
    }

    /// The objects: the first time as soon as all could be read, and then each time that one has changed. Those that do not
    /// exist are left out. May be dropped.
    pub async fn next(&mut self) -> Objects {
        loop {
            if self.has_begun {
                any_change(&mut self.config_maps, &mut self.secrets).await;
            }
            self.has_begun = true;
            if let Some(objects) = self.read() {
                return objects;
            }
        }
    }

    /// All of them, if all are known.
    fn read(&mut self) -> Option<Objects> {
        Some(Objects { config_maps: present(&mut self.config_maps)?, secrets: present(&mut self.secrets)? })
    }
}

/// Waits until one of these has changed. May be dropped.
pub(in crate::pods) async fn any_change(
    config_maps: &mut BTreeMap<String, Subscription<ConfigMap>>,
    secrets: &mut BTreeMap<String, Subscription<Secret>>,
) {
    let config_maps = config_maps.values_mut().map(|object| object.changed().boxed());
    let secrets = secrets.values_mut().map(|object| object.changed().boxed());
    let all: Vec<_> = config_maps.chain(secrets).collect();
    if all.is_empty() {
        return std::future::pending().await;
    }
    futures::future::select_all(all).await;
}

fn present<K>(
    objects: &mut BTreeMap<String, Subscription<K>>,
) -> Option<BTreeMap<String, std::sync::Arc<K>>> {
    let mut found = BTreeMap::new();
    let mut are_all_known = true;
    // Each is looked at, so that what has changed by now does not count as new later.
    for (name, object) in objects {
        match object.known() {
            Known::Present(object) => drop(found.insert(name.clone(), object)),
            Known::Absent => {}
            Known::Unread | Known::Unreadable(_) => are_all_known = false,
        }
    }
    are_all_known.then_some(found)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::watch;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn objects_are_told_of_when_all_are_known_and_when_one_changes() {
        let (first, of_first) = watch::channel(Known::Unread);
        let (second, of_second) = watch::channel(Known::<Secret>::Absent);
        let secrets = [("first", of_first), ("second", of_second)];
        let secrets = secrets.map(|(name, known)| (name.to_owned(), Subscription::alone(known)));
        let mut follower = ObjectFollower::of_secrets(secrets);
        let names = |objects: Objects| objects.secrets.into_keys().collect::<Vec<_>>();
        let early = tokio::time::timeout(std::time::Duration::from_secs(60), follower.next()).await;
        assert!(early.is_err(), "one is not known");
        first.send_replace(Known::Present(Arc::default()));
        assert_eq!(names(follower.next().await), ["first"]);
        second.send_replace(Known::Present(Arc::default()));
        assert_eq!(names(follower.next().await), ["first", "second"]);
        let unchanged = tokio::time::timeout(std::time::Duration::from_secs(60), follower.next()).await;
        assert!(unchanged.is_err(), "nothing has changed");
        first.send_replace(Known::Absent);
        assert_eq!(names(follower.next().await), ["second"]);
    }
}
