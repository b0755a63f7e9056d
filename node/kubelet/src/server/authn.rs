//! Who a caller is: by client certificate, by bearer token, or nobody.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::{HeaderMap, header::AUTHORIZATION};
use rustls_pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};

use super::{reviews::Reviews, user::User, x509::ClientCa};
use crate::lru::Lru;

/// Tokens whose answers are remembered.
const REMEMBERED: usize = 1024;
/// Every caller who is somebody is in this group.
const AUTHENTICATED: &str = "system:authenticated";

/// The ways in that the configuration allows.
#[derive(Debug)]
pub(super) struct Authenticator {
    pub(super) certificates: Option<ClientCa>,
    pub(super) tokens: Option<Tokens>,
    pub(super) anonymous: bool,
}

impl Authenticator {
    /// Who it is. `None` is nobody, which is refused: also a caller whose credential is not believed, even
    /// where callers without any are welcome.
    pub(super) async fn authenticate(
        &self,
        certificates: Option<&[CertificateDer<'static>]>,
        headers: &HeaderMap,
        reviews: &Reviews,
    ) -> Option<User> {
        let mut refused = false;
        if let (Some(authorities), Some(chain)) = (&self.certificates, certificates) {
            match authorities.identify(chain) {
                Ok(user) => return Some(in_group(user)),
                Err(why) => {
                    tracing::debug!(why, "a client certificate is not believed");
                    refused = true;
                }
            }
        }
        if let (Some(tokens), Some(token)) = (&self.tokens, bearer(headers)) {
            match tokens.identify(token, reviews).await {
                Some(user) => return Some(in_group(user)),
                None => refused = true,
            }
        }
        (self.anonymous && !refused).then(User::anonymous)
    }
}

fn in_group(mut user: User) -> User {
    if !user.groups.iter().any(|group| group == AUTHENTICATED) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    user
}

/// The token of `Authorization: Bearer …`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim_start();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Bearer tokens. Answers, yes and no, are remembered by the hash of the token; that there was no answer
/// is not.
pub(super) struct Tokens {
    ttl: Duration,
    answers: Mutex<Lru<[u8; 32], Answer>>,
}

struct Answer {
    until: Instant,
    user: Option<User>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("ttl", &self.ttl).finish_non_exhaustive()
    }
}

impl Tokens {
    pub(super) fn new(ttl: Duration) -> Self {
        Self { ttl, answers: Mutex::new(Lru::new(REMEMBERED)) }
    }

    async fn identify(&self, token: &str, reviews: &Reviews) -> Option<User> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let now = Instant::now();
        {
            let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(answer) = answers.get_mut(&key).filter(|answer| answer.until > now) {
                return answer.user.clone();
            }
        }
        match reviews.token(token).await {
            Ok(user) => {
                let answer = Answer { until: Instant::now() + self.ttl, user: user.clone() };
                self.answers.lock().unwrap_or_else(PoisonError::into_inner).insert(key, answer);
                user
            }
            Err(err) => {
                tracing::warn!(error = %err, "cannot ask whose token it is; the caller is refused");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_found() {
        for (header, expected) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc", Some("abc")),
            ("Bearer ", None),
            ("Basic abc", None),
            ("abc", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, header.parse().unwrap());
            assert_eq!(bearer(&headers), expected, "{header:?}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
