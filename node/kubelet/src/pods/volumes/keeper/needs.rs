//! What the volumes of a pod are made from: objects that are followed, tokens that are renewed, and trust
//! bundles that are read again from time to time. What the environments of its containers are made from is
//! followed here, too, for as long as the pod has not ended.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, VolumeProjection};
use tokio::time::Instant;

use crate::{
    pods::{
        api_error::ApiError,
        environment::{NodeFacts, References},
        objects::{self, Known, ObjectSource, Subscription, TrustBundle},
        volumes::{
            Volumes,
            payload::{self, Payload},
            source::{Projected, VolumeSource},
            token::{self, BoundToken, TokenKey},
        },
    },
    retry::Backoff,
};

/// How long failures that pass by themselves are not told of: the API server learns of a new pod at the
/// same time as its node does, and until then all that the pod refers to is forbidden.
const GRACE: Duration = Duration::from_secs(1);

/// Waits between tries of a request that has failed.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// How often trust bundles are read.
const TRUST_REFRESH: Duration = Duration::from_secs(60);

/// What came of an object that was asked for.
type Read<K> = BTreeMap<String, Result<Option<Arc<K>>, String>>;

pub(super) struct Needs {
    objects: Arc<dyn ObjectSource>,
    config_maps: BTreeMap<String, Subscription<ConfigMap>>,
    secrets: BTreeMap<String, Subscription<Secret>>,
    tokens: BTreeMap<TokenKey, Renewal>,
    trust: Option<Trust>,
    begun: Instant,
}

/// A token, and the next time that one is asked for.
struct Renewal {
    token: Option<BoundToken>,
    error: Option<String>,
    due: Instant,
    backoff: Backoff,
}

struct Trust {
    bundles: Result<Vec<TrustBundle>, String>,
    due: Instant,
}

/// A projected volume cannot be made yet.
pub(super) enum Missing {
    /// Something has not been answered yet; there is nothing to tell.
    Unanswered,
    /// This is why.
    Trouble(String),
}

impl Needs {
    pub(super) fn new(volumes: &Volumes) -> Self {
        Self {
            objects: Arc::clone(&volumes.objects),
            config_maps: BTreeMap::new(),
            secrets: BTreeMap::new(),
            tokens: BTreeMap::new(),
            trust: None,
            begun: Instant::now(),
        }
    }

    /// Follows what the environments of the pod's containers are made from. They are read when a container
    /// starts, and whoever reads them then finds what this has kept up to date.
    pub(super) fn follow_environment(&mut self, pod: &Pod) {
        let objects = Arc::clone(&self.objects);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let references = References::of_pod(pod);
        for name in references.config_maps {
            let follow = || objects.config_map(namespace, &name);
            self.config_maps.entry(name.clone()).or_insert_with(follow);
        }
        for name in references.secrets {
            let follow = || objects.secret(namespace, &name);
            self.secrets.entry(name.clone()).or_insert_with(follow);
        }
    }

    /// Follows what a volume is made from.
    pub(super) fn follow(&mut self, pod: &Pod, source: &VolumeSource) {
        let VolumeSource::Projected(projected) = source else { return };
        let objects = Arc::clone(&self.objects);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let now = Instant::now();
        for source in &projected.sources {
            if let Some(reference) = &source.config_map {
                let follow = || objects.config_map(namespace, &reference.name);
                self.config_maps.entry(reference.name.clone()).or_insert_with(follow);
            }
            if let Some(reference) = &source.secret {
                let follow = || objects.secret(namespace, &reference.name);
                self.secrets.entry(reference.name.clone()).or_insert_with(follow);
            }
            if let Some(reference) = &source.service_account_token {
                self.tokens.entry(TokenKey::of(reference)).or_insert_with(|| Renewal {
                    token: None,
                    error: None,
                    due: now,
                    backoff: Backoff::new(FIRST_RETRY, LAST_RETRY),
                });
            }
            if source.cluster_trust_bundle.is_some() && self.trust.is_none() {
                self.trust = Some(Trust { bundles: Ok(Vec::new()), due: now });
            }
        }
    }

    /// Renews what is due.
    pub(super) async fn refresh(&mut self, pod: &Pod) {
        let objects = Arc::clone(&self.objects);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let account = pod.spec.as_ref().and_then(|s| s.service_account_name.as_deref());
        let account = account.filter(|name| !name.is_empty()).unwrap_or("default");
        for (key, renewal) in &mut self.tokens {
            if renewal.due <= Instant::now() {
                renewal.renew(key, pod, objects.as_ref(), (namespace, account)).await;
            }
        }
        if let Some(trust) = self.trust.as_mut().filter(|trust| trust.due <= Instant::now()) {
            trust.bundles = objects.trust_bundles().await.map_err(|error| match error {
                ApiError::Gone => "this cluster has no ClusterTrustBundles".to_owned(),
                ApiError::Later(message) => message,
            });
            trust.due = Instant::now() + if trust.bundles.is_ok() { TRUST_REFRESH } else { GRACE };
        }
    }

    /// The files of a projected volume as they should be now.
    pub(super) fn payload(
        &mut self,
        projected: &Projected,
        pod: &Pod,
        node: &NodeFacts,
    ) -> Result<Payload, Missing> {
        let (config_maps, secrets) = (read(&mut self.config_maps), read(&mut self.secrets));
        let tokens =
            self.tokens.iter().filter_map(|(key, renewal)| Some((key.clone(), renewal.answer()?))).collect();
        let in_grace = self.begun.elapsed() < GRACE;
        let waits = |source: &VolumeProjection| {
            let config_map =
                source.config_map.as_ref().map(|r| is_waiting(config_maps.get(&r.name), in_grace));
            let secret = source.secret.as_ref().map(|r| is_waiting(secrets.get(&r.name), in_grace));
            let token = source.service_account_token.as_ref().map(|r| {
                let tokens: &BTreeMap<_, Result<token::Secret, String>> = &tokens;
                match tokens.get(&TokenKey::of(r)) {
                    None => true,
                    Some(answer) => answer.is_err() && in_grace,
                }
            });
            [config_map, secret, token].into_iter().flatten().any(|waits| waits)
        };
        if projected.sources.iter().any(waits) {
            return Err(Missing::Unanswered);
        }
        let trust = match &self.trust {
            Some(trust) => trust.bundles.as_deref().map_err(String::as_str),
            None => Ok(&[][..]),
        };
        let inputs = payload::Inputs {
            pod,
            node,
            config_maps: &config_maps,
            secrets: &secrets,
            tokens: &tokens,
            trust,
        };
        payload::of(projected, inputs).map_err(Missing::Trouble)
    }

    /// When something is due by itself.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let now = Instant::now();
        let end_of_grace = Some(self.begun + GRACE).filter(|end| *end > now);
        let tokens = self.tokens.values().map(|renewal| renewal.due);
        tokens.chain(self.trust.as_ref().map(|trust| trust.due)).chain(end_of_grace).min()
    }

    /// Waits until an object has changed. May be dropped.
    pub(super) async fn changed(&mut self) {
        objects::any_change(&mut self.config_maps, &mut self.secrets).await;
    }
}

impl Renewal {
    async fn renew(
        &mut self,
        key: &TokenKey,
        pod: &Pod,
        objects: &dyn ObjectSource,
        (namespace, account): (&str, &str),
    ) {
        let requested_at = Timestamp::now();
        let answer = objects.token(namespace, account, key.request(pod)).await;
        let answer = answer.map_err(|error| match error {
            ApiError::Gone => format!("serviceaccounts \"{account}\" not found"),
            ApiError::Later(message) => message,
        });
        let token = answer.and_then(|status| {
            let secret = status.token.filter(|token| !token.is_empty());
            let secret = secret.ok_or_else(|| "the API server answered without a token".to_owned())?;
            let asked = jiff::SignedDuration::from_secs(key.seconds);
            let expires_at = status
                .expiration_timestamp
                .map_or_else(|| requested_at.saturating_add(asked).unwrap_or(requested_at), |time| time.0);
            Ok(BoundToken { secret: token::Secret(secret), requested_at, expires_at })
        });
        let wait = match token {
            Ok(token) => {
                let left = token.renew_at().duration_since(Timestamp::now());
                (self.token, self.error) = (Some(token), None);
                self.backoff.reset();
                Duration::try_from(left).unwrap_or_default()
            }
            Err(error) => {
                self.error = Some(error);
                self.backoff.next()
            }
        };
        self.due = Instant::now() + wait;
    }

    /// The token, as long as it lives, or why there is none. `None` before the first answer.
    fn answer(&self) -> Option<Result<token::Secret, String>> {
        match (&self.token, &self.error) {
            (Some(token), None) => Some(Ok(token.secret.clone())),
            (Some(token), Some(_)) if !token.is_expired(Timestamp::now()) => Some(Ok(token.secret.clone())),
            (_, Some(error)) => Some(Err(error.clone())),
            (None, None) => None,
        }
    }
}

fn read<K>(objects: &mut BTreeMap<String, Subscription<K>>) -> Read<K> {
    let known = objects.iter_mut().filter_map(|(name, object)| {
        let answer = match object.known() {
            Known::Unread => return None,
            Known::Unreadable(why) => Err(why),
            Known::Absent => Ok(None),
            Known::Present(object) => Ok(Some(object)),
        };
        Some((name.clone(), answer))
    });
    known.collect()
}

/// There is no answer yet, or one that is going to be another.
fn is_waiting<T>(answer: Option<&Result<T, String>>, in_grace: bool) -> bool {
    match answer {
        None => true,
        Some(answer) => answer.is_err() && in_grace,
    }
}
