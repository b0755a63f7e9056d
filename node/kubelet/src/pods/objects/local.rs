//! Objects that somebody has at hand, for a pod that runs without a cluster.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use k8s_openapi::api::{
    authentication::v1::{TokenRequestSpec, TokenRequestStatus},
    core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Secret},
};

use super::{Known, ObjectSource, Subscription, TrustBundle};
use crate::pods::{api::Objects, api_error::ApiError, environment::References};

/// Config maps and secrets of one namespace, which never change. There is nothing else.
#[derive(Clone, Debug, Default)]
pub struct LocalObjects(Arc<Objects>);

impl LocalObjects {
    /// Takes these objects, each by its name.
    #[must_use]
    pub fn new(config_maps: BTreeMap<String, ConfigMap>, secrets: BTreeMap<String, Secret>) -> Self {
        Self(Arc::new(Objects {
            config_maps: config_maps.into_iter().map(|(name, object)| (name, Arc::new(object))).collect(),
            secrets: secrets.into_iter().map(|(name, object)| (name, Arc::new(object))).collect(),
        }))
    }

    /// Those of them that are referred to.
    pub(in crate::pods) fn of(&self, references: &References) -> Objects {
        fn named<K>(
            all: &BTreeMap<String, Arc<K>>,
            wanted: impl Fn(&str) -> bool,
        ) -> BTreeMap<String, Arc<K>> {
            let found = all.iter().filter(|(name, _)| wanted(name));
            found.map(|(name, object)| (name.clone(), Arc::clone(object))).collect()
        }
        Objects {
            config_maps: named(&self.0.config_maps, |name| references.config_maps.contains(name)),
            secrets: named(&self.0.secrets, |name| references.secrets.contains(name)),
        }
    }
}

fn known<K: Send + Sync + 'static>(found: Option<&Arc<K>>) -> Subscription<K> {
    Subscription::constant(found.map_or(Known::Absent, |object| Known::Present(Arc::clone(object))))
}

#[async_trait]
impl ObjectSource for LocalObjects {
    fn config_map(&self, _: &str, name: &str) -> Subscription<ConfigMap> {
        known(self.0.config_maps.get(name))
    }

    fn secret(&self, _: &str, name: &str) -> Subscription<Secret> {
        known(self.0.secrets.get(name))
    }

    async fn token(&self, _: &str, _: &str, _: TokenRequestSpec) -> Result<TokenRequestStatus, ApiError> {
        Err(ApiError::Gone)
    }

    async fn claim(&self, _: &str, _: &str) -> Result<Option<PersistentVolumeClaim>, ApiError> {
        Ok(None)
    }

    async fn volume(&self, _: &str) -> Result<Option<PersistentVolume>, ApiError> {
        Ok(None)
    }

    async fn trust_bundles(&self) -> Result<Vec<TrustBundle>, ApiError> {
        Err(ApiError::Gone)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[tokio::test]
    async fn objects_at_hand_are_found_by_name_and_others_are_absent() {
        let map = BTreeMap::from([("a".to_owned(), ConfigMap::default())]);
        let objects = LocalObjects::new(map, BTreeMap::new());
        assert!(objects.config_map("any", "a").answer("configmap").await.unwrap().is_some());
        assert!(objects.config_map("any", "b").answer("configmap").await.unwrap().is_none());
        assert!(objects.secret("any", "a").answer("secret").await.unwrap().is_none());
        let names = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        let found =
            objects.of(&References { config_maps: names.clone(), secrets: names, ..References::default() });
        assert_eq!((found.config_maps.len(), found.secrets.len()), (1, 0));
    }
}
