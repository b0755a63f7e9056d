//! Objects that pods' volumes and environments are made from, as the API server has them.
//!
//! ```text
//! Subscription ─┐
//! Subscription ─┼─► ObjectTable: one entry per namespace and name ─► one watch of that object
//! Subscription ─┘
//! ```
//!
//! A node may watch single objects by name that its pods refer to, and no others. All pods that refer to one
//! object share a watch, which ends with the last subscription, or as soon as the object says that it will
//! never change.

mod follower;
mod local;
mod table;
mod trust_bundle;
mod watching;

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec, TokenRequestStatus},
        certificates::v1beta1::ClusterTrustBundle,
        core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Secret, ServiceAccount},
    },
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};

pub(super) use self::follower::any_change;
pub use self::{follower::ObjectFollower, local::LocalObjects};
use self::{table::ObjectTable, watching::watch_object};
pub(super) use self::{
    table::{Known, Subscription},
    trust_bundle::TrustBundle,
};
use super::api_error::ApiError;

/// The cluster as volumes and environments need it.
#[async_trait]
pub(super) trait ObjectSource: std::fmt::Debug + Send + Sync + 'static {
    /// Follows a config map.
    fn config_map(&self, namespace: &str, name: &str) -> Subscription<ConfigMap>;

    /// Follows a secret.
    fn secret(&self, namespace: &str, name: &str) -> Subscription<Secret>;

    /// Asks for a token of a service account.
    ///
    /// # Errors
    /// [`ApiError::Gone`] when there is no such account.
    async fn token(
        &self,
        namespace: &str,
        account: &str,
        request: TokenRequestSpec,
    ) -> Result<TokenRequestStatus, ApiError>;

    /// A claim; `None` when it does not exist.
    ///
    /// # Errors
    /// [`ApiError::Later`] when it could not be read.
    async fn claim(&self, namespace: &str, name: &str) -> Result<Option<PersistentVolumeClaim>, ApiError>;

    /// A volume; `None` when it does not exist.
    ///
    /// # Errors
    /// [`ApiError::Later`] when it could not be read.
    async fn volume(&self, name: &str) -> Result<Option<PersistentVolume>, ApiError>;

    /// All trust bundles of the cluster.
    ///
    /// # Errors
    /// [`ApiError::Gone`] when the API server does not serve them.
    async fn trust_bundles(&self) -> Result<Vec<TrustBundle>, ApiError>;
}

/// The objects of a cluster with an API server.
pub(super) struct ClusterObjects {
    client: Client,
    config_maps: Arc<ObjectTable<ConfigMap>>,
    secrets: Arc<ObjectTable<Secret>>,
}

impl std::fmt::Debug for ClusterObjects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterObjects").finish_non_exhaustive()
    }
}

impl ClusterObjects {
    pub(super) fn new(client: Client) -> Self {
        Self { client, config_maps: Arc::default(), secrets: Arc::default() }
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }
}

#[async_trait]
impl ObjectSource for ClusterObjects {
    fn config_map(&self, namespace: &str, name: &str) -> Subscription<ConfigMap> {
        self.config_maps.subscribe(namespace, name, |sender| {
            watch_object(self.api(namespace), name.to_owned(), sender, |object: &ConfigMap| {
                object.immutable == Some(true)
            })
        })
    }

    fn secret(&self, namespace: &str, name: &str) -> Subscription<Secret> {
        self.secrets.subscribe(namespace, name, |sender| {
            watch_object(self.api(namespace), name.to_owned(), sender, |object: &Secret| {
                object.immutable == Some(true)
            })
        })
    }

    async fn token(
        &self,
        namespace: &str,
        account: &str,
        request: TokenRequestSpec,
    ) -> Result<TokenRequestStatus, ApiError> {
        let api: Api<ServiceAccount> = self.api(namespace);
        let request = TokenRequest { spec: Some(request), ..TokenRequest::default() };
        let answer = api.create_token_request(account, &PostParams::default(), &request).await?;
        answer.status.ok_or_else(|| ApiError::Later("the API server answered without a token".to_owned()))
    }

    async fn claim(&self, namespace: &str, name: &str) -> Result<Option<PersistentVolumeClaim>, ApiError> {
        Ok(self.api(namespace).get_opt(name).await?)
    }

    async fn volume(&self, name: &str) -> Result<Option<PersistentVolume>, ApiError> {
        Ok(Api::all(self.client.clone()).get_opt(name).await?)
    }

    async fn trust_bundles(&self) -> Result<Vec<TrustBundle>, ApiError> {
        let api: Api<ClusterTrustBundle> = Api::all(self.client.clone());
        let bundles = api.list(&ListParams::default()).await?;
        Ok(bundles.items.into_iter().map(TrustBundle::from).collect())
    }
}

#[cfg(test)]
mod tests;
