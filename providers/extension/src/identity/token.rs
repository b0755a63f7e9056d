//! Tokens of service accounts: the API server says whose they are (`TokenReview`).
//!
//! Its answers are kept for a while, by the token's hash, so that Envoys that all come back at once do not all ask it. What is kept,
//! and how many are asked for at once, is bounded: anybody can invent tokens.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, api::PostParams};
use kubewasm_control::explain::explain;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use super::{EnvoyIdentity, IdentityFailure};

/// Longest token.
const LONGEST_TOKEN: usize = 16 * 1024;
/// Most answers that are kept.
const MOST_KEPT: usize = 4096;
/// Most questions at once.
const MOST_QUESTIONS: usize = 8;
/// What Kubernetes calls a service account's user.
const USER_PREFIX: &str = "system:serviceaccount:";

/// How long things last.
#[derive(Clone, Copy, Debug)]
pub struct TokenTimes {
    /// How long an accepted token is not asked for again.
    pub accepted: Duration,
    /// How long a refused one is not.
    pub refused: Duration,
    /// How long one question may take, the wait for others included.
    pub question: Duration,
}

impl Default for TokenTimes {
    fn default() -> Self {
        Self {
            accepted: Duration::from_secs(60),
            refused: Duration::from_secs(10),
            question: Duration::from_secs(10),
        }
    }
}

/// Asks the API server whose tokens are.
pub struct TokenReviews {
    api: Api<TokenReview>,
    /// For whom tokens have to be made.
    audience: String,
    times: TokenTimes,
    questions: Semaphore,
    kept: Mutex<HashMap<[u8; 32], Kept>>,
}

/// An answer of the API server's.
#[derive(Clone)]
struct Kept {
    /// None: it was refused.
    identity: Option<EnvoyIdentity>,
    until: Instant,
}

impl TokenReviews {
    /// Believes tokens that are made for this audience.
    #[must_use]
    pub fn new(client: Client, audience: &str, times: TokenTimes) -> Self {
        Self {
            api: Api::all(client),
            audience: audience.to_owned(),
            times,
            questions: Semaphore::new(MOST_QUESTIONS),
            kept: Mutex::default(),
        }
    }

    /// Whose this token is.
    pub(super) async fn identity(&self, token: &str) -> Result<EnvoyIdentity, IdentityFailure> {
        // Nothing else is a token of a service account, and nobody need be asked.
        if token.len() > LONGEST_TOKEN || token.split('.').count() != 3 {
            return Err(IdentityFailure::Token);
        }
        let key = Sha256::digest(token).into();
        let identity = match self.kept(&key) {
            Some(kept) => kept.identity,
            None => {
                let asked = timeout(self.times.question, self.ask(&key, token)).await;
                asked.unwrap_or_else(|_| {
                    tracing::warn!("the API server does not say in time whose token it is");
                    Err(IdentityFailure::Unavailable)
                })?
            }
        };
        identity.ok_or(IdentityFailure::Token)
    }

    async fn ask(&self, key: &[u8; 32], token: &str) -> Result<Option<EnvoyIdentity>, IdentityFailure> {
        let _turn = self.questions.acquire().await.map_err(|_| IdentityFailure::Unavailable)?;
        // Somebody else may have asked for the same one meanwhile.
        if let Some(kept) = self.kept(key) {
            return Ok(kept.identity);
        }
        let audiences = Some(vec![self.audience.clone()]);
        let spec = TokenReviewSpec { audiences, token: token.to_owned() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let review = self.api.create(&PostParams::default(), &review).await.map_err(|error| {
            tracing::warn!(error = explain(&error), "the API server does not say whose token it is");
            IdentityFailure::Unavailable
        })?;
        let identity = identity(review.status.unwrap_or_default(), &self.audience);
        let time = if identity.is_some() { self.times.accepted } else { self.times.refused };
        self.keep(*key, Kept { identity: identity.clone(), until: Instant::now() + time });
        Ok(identity)
    }

    fn kept(&self, key: &[u8; 32]) -> Option<Kept> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(key).filter(|kept| kept.until > Instant::now()).cloned()
    }

    fn keep(&self, key: [u8; 32], answer: Kept) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MOST_KEPT {
            let now = Instant::now();
            kept.retain(|_, kept| kept.until > now);
        }
        // Those of the refused make room first: whoever invents tokens is to push out nobody.
        if kept.len() >= MOST_KEPT {
            let soonest = kept.iter().min_by_key(|(_, kept)| (kept.identity.is_some(), kept.until));
            if let Some(key) = soonest.map(|(key, _)| *key) {
                kept.remove(&key);
            }
        }
        kept.insert(key, answer);
    }
}

impl fmt::Debug for TokenReviews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenReviews").field("audience", &self.audience).finish_non_exhaustive()
    }
}

/// The service account that the API server has found. An API server that does not say for whom the token is knows nothing of
/// audiences, and its word is not enough.
fn identity(status: TokenReviewStatus, audience: &str) -> Option<EnvoyIdentity> {
    let is_for_us = status.audiences.iter().flatten().any(|one| one == audience);
    if status.authenticated != Some(true) || !is_for_us {
        return None;
    }
    let user = status.user?.username?;
    let (namespace, account) = user.strip_prefix(USER_PREFIX)?.split_once(':')?;
    if namespace.is_empty() || account.is_empty() {
        return None;
    }
    let namespaces = BTreeSet::from([namespace.to_owned()]);
    Some(EnvoyIdentity::Known { names: BTreeSet::from([user]), namespaces })
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use k8s_openapi::api::authentication::v1::UserInfo;
    use kube::client::Body;
    use tower_test::mock::{self, Handle};

    use super::*;

    type ApiServer = Handle<Request<Body>, Response<Body>>;

    fn reviews() -> (TokenReviews, ApiServer) {
        let (service, api_server) = mock::pair();
        (
            TokenReviews::new(Client::new(service, "default"), "kubewasm-extensions", TokenTimes::default()),
            api_server,
        )
    }

    fn status(is_authenticated: bool, audience: Option<&str>, user: &str) -> TokenReviewStatus {
        TokenReviewStatus {
            authenticated: Some(is_authenticated),
            audiences: audience.map(|audience| vec![audience.to_owned()]),
            user: Some(UserInfo { username: Some(user.to_owned()), ..UserInfo::default() }),
            ..TokenReviewStatus::default()
        }
    }

    const USER: &str = "system:serviceaccount:team-a:envoy";
    const AUDIENCE: &str = "kubewasm-extensions";

    async fn answer(api_server: &mut ApiServer, status: TokenReviewStatus) -> TokenReview {
        let (request, send) = api_server.next_request().await.unwrap();
        assert_eq!(request.uri().path(), "/apis/authentication.k8s.io/v1/tokenreviews");
        let asked = request.into_body().collect_bytes().await.unwrap();
        let review = TokenReview { status: Some(status), ..TokenReview::default() };
        send.send_response(Response::new(Body::from(serde_json::to_vec(&review).unwrap())));
        serde_json::from_slice(&asked).unwrap()
    }

    #[test]
    fn only_a_service_account_with_a_token_for_us_is_somebody() {
        let known = identity(status(true, Some(AUDIENCE), USER), AUDIENCE).unwrap();
        let expected = EnvoyIdentity::Known {
            names: BTreeSet::from([USER.to_owned()]),
            namespaces: BTreeSet::from(["team-a".to_owned()]),
        };
        assert_eq!(known, expected);
        for status in [
            status(false, Some(AUDIENCE), USER),
            status(true, None, USER),
            status(true, Some("another"), USER),
            status(true, Some(AUDIENCE), "admin"),
            status(true, Some(AUDIENCE), "system:serviceaccount:team-a"),
            status(true, Some(AUDIENCE), "system:serviceaccount::envoy"),
            TokenReviewStatus::default(),
        ] {
            assert_eq!(identity(status.clone(), AUDIENCE), None, "{status:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_kept_for_a_while() {
        let (reviews, mut api_server) = reviews();
        for (token, is_good, time) in [("a.b.c", true, 60), ("d.e.f", false, 10)] {
            for _ in 0..2 {
                let asked = async { answer(&mut api_server, status(is_good, Some(AUDIENCE), USER)).await };
                let (identity, review) = tokio::join!(reviews.identity(token), asked);
                assert_eq!(identity.is_ok(), is_good);
                assert_eq!(review.spec.token, token);
                assert_eq!(review.spec.audiences, Some(vec![AUDIENCE.to_owned()]));
                tokio::time::advance(Duration::from_secs(time - 1)).await;
                // Nobody answers this one.
                assert_eq!(reviews.identity(token).await.is_ok(), is_good);
                tokio::time::advance(Duration::from_secs(2)).await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_token_is_not_asked_for_and_silence_is_no_refusal() {
        let (reviews, _api_server) = reviews();
        for token in ["", "abc", "a.b", "a.b.c.d", &format!("a.b.{}", "c".repeat(LONGEST_TOKEN))] {
            assert!(matches!(reviews.identity(token).await, Err(IdentityFailure::Token)));
        }
        let silent = reviews.identity("a.b.c").await;
        assert!(matches!(silent, Err(IdentityFailure::Unavailable)), "{silent:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn invented_tokens_take_no_memory_and_push_out_nobody() {
        let (reviews, _api_server) = reviews();
        let until = Instant::now() + Duration::from_secs(60);
        reviews.keep([255; 32], Kept { identity: Some(EnvoyIdentity::Anyone), until });
        for number in 0..u32::try_from(MOST_KEPT).unwrap() + 10 {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&number.to_le_bytes());
            reviews.keep(key, Kept { identity: None, until });
        }
        assert_eq!(reviews.kept.lock().unwrap().len(), MOST_KEPT);
        assert!(reviews.kept(&[255; 32]).is_some());
    }
}
