//! Asking the API server about callers: who a token belongs to, and whether somebody may do something.

use std::time::Duration;

use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, Resource, api::PostParams};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::Semaphore;

use super::{attributes::Attributes, user::User};
use crate::explain::explain;

/// Questions that may be under way at once. Whoever comes later waits, and times out with the rest.
const AT_ONCE: usize = 64;
/// The longest that an answer is waited for.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no answer. Callers refuse.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReviewError {
    #[error("{}", explain(.0))]
    Api(#[from] kube::Error),
    #[error("no answer from the API server within {} s", TIMEOUT.as_secs())]
    TimedOut,
    #[error("the API server's answer has no status")]
    Empty,
}

/// The way to the API server, with a bound on how much of it callers can take.
pub(super) struct Reviews {
    client: Client,
    permits: Semaphore,
}

impl std::fmt::Debug for Reviews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviews").field("permits", &self.permits.available_permits()).finish_non_exhaustive()
    }
}

impl Reviews {
    pub(super) fn new(client: Client) -> Self {
        Self { client, permits: Semaphore::new(AT_ONCE) }
    }

    /// Whose token it is; `None` when it is nobody's.
    pub(super) async fn token(&self, token: &str) -> Result<Option<User>, ReviewError> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), audiences: None },
            ..TokenReview::default()
        };
        let TokenReviewStatus { authenticated, user, .. } =
            self.ask(&review).await?.status.ok_or(ReviewError::Empty)?;
        Ok(user.filter(|_| authenticated == Some(true)).and_then(known))
    }

    /// Whether somebody may do something.
    pub(super) async fn access(&self, attributes: &Attributes) -> Result<bool, ReviewError> {
        let Attributes { user, verb, subresource, node } = attributes;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                groups: Some(user.groups.clone()),
                uid: user.uid.clone(),
                extra: (!user.extra.is_empty()).then(|| user.extra.clone()),
                resource_attributes: Some(ResourceAttributes {
                    group: Some(String::new()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    verb: Some((*verb).to_owned()),
                    subresource: Some((*subresource).to_owned()),
                    name: Some(node.clone()),
                    ..ResourceAttributes::default()
                }),
                non_resource_attributes: None,
            },
            ..SubjectAccessReview::default()
        };
        let status = self.ask(&review).await?.status.ok_or(ReviewError::Empty)?;
        Ok(status.allowed && status.denied != Some(true))
    }

    async fn ask<K>(&self, review: &K) -> Result<K, ReviewError>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + std::fmt::Debug,
    {
        let asked = async {
            // The semaphore is never closed, so that this waits and does not fail.
            let _permit = self.permits.acquire().await.ok();
            Api::<K>::all(self.client.clone()).create(&PostParams::default(), review).await
        };
        Ok(tokio::time::timeout(TIMEOUT, asked).await.map_err(|_| ReviewError::TimedOut)??)
    }
}

/// A user without a name is nobody.
fn known(info: UserInfo) -> Option<User> {
    Some(User {
        name: info.username.filter(|name| !name.is_empty())?,
        uid: info.uid,
        groups: info.groups.unwrap_or_default(),
        extra: info.extra.unwrap_or_default(),
    })
}
