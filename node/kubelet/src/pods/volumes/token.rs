//! Tokens of service accounts: which one a volume wants, and when it is renewed.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequestSpec},
    core::v1::{Pod, ServiceAccountTokenProjection},
};

/// Life of a token where the volume names none; the API server's default.
const DEFAULT_SECONDS: i64 = 3600;

/// Part of its life after which a token is renewed, and the longest that one is kept; upstream's numbers.
const RENEW_AT: f64 = 0.8;
const KEEP_AT_MOST: Duration = Duration::from_hours(24);

/// The earliest renewal: an API server that hands out dead tokens is not asked all the time.
const KEEP_AT_LEAST: Duration = Duration::from_secs(1);

/// What tells tokens of one pod apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TokenKey {
    /// Empty is the API server's own.
    pub(super) audience: String,
    pub(super) seconds: i64,
}

impl TokenKey {
    pub(super) fn of(projection: &ServiceAccountTokenProjection) -> Self {
        Self {
            audience: projection.audience.clone().unwrap_or_default(),
            seconds: projection.expiration_seconds.unwrap_or(DEFAULT_SECONDS),
        }
    }

    /// The request for such a token. It is bound to the pod: it dies with it.
    pub(super) fn request(&self, pod: &Pod) -> TokenRequestSpec {
        TokenRequestSpec {
            audiences: Some(Vec::from_iter(Some(self.audience.clone()).filter(|a| !a.is_empty()))),
            expiration_seconds: Some(self.seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        }
    }
}

/// A token. Its `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a token)")
    }
}

/// A token and its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BoundToken {
    pub(super) secret: Secret,
    pub(super) requested_at: Timestamp,
    pub(super) expires_at: Timestamp,
}

impl BoundToken {
    /// When to ask for the next one: after 80 % of its life, or a day. An API server may give a shorter
    /// life than was asked for, which is why it is counted from the answer.
    pub(super) fn renew_at(&self) -> Timestamp {
        let life = Duration::try_from(self.expires_at.duration_since(self.requested_at)).unwrap_or_default();
        let keep = life.mul_f64(RENEW_AT).clamp(KEEP_AT_LEAST, KEEP_AT_MOST);
        self.requested_at.checked_add(keep).unwrap_or(Timestamp::MAX)
    }

    pub(super) fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewed_after_most_of_its_life() {
        let start = Timestamp::UNIX_EPOCH;
        let table = [(600, 480), (3607, 2886), (3600 * 48, 3600 * 24), (0, 1), (-5, 1)];
        for (life, renewed) in table {
            let expires_at = Timestamp::from_second(life).unwrap();
            let token = BoundToken { secret: Secret("x".to_owned()), requested_at: start, expires_at };
            assert_eq!(token.renew_at().round(jiff::Unit::Second).unwrap().as_second(), renewed, "{life}");
        }
    }

    #[test]
    fn the_request_is_bound_to_the_pod() {
        let pod: Pod = serde_json::from_value(
            serde_json::json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u-1"}}),
        )
        .unwrap();
        let plain = TokenKey::of(&ServiceAccountTokenProjection::default());
        let request = plain.request(&pod);
        assert_eq!((request.audiences, request.expiration_seconds), (Some(Vec::new()), Some(3600)));
        let bound = request.bound_object_ref.unwrap();
        assert_eq!(
            (bound.kind.as_deref(), bound.name.as_deref(), bound.uid.as_deref()),
            (Some("Pod"), Some("p"), Some("u-1"))
        );
        let vault = TokenKey { audience: "vault".to_owned(), seconds: 600 };
        assert_eq!(vault.request(&pod).audiences, Some(vec!["vault".to_owned()]));
    }

    #[test]
    fn debug_hides_the_token() {
        assert!(!format!("{:?}", Secret("abc".to_owned())).contains("abc"));
    }
}
