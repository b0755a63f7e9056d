//! Who a caller is: by client certificate, by bearer token, or nobody.

use std::sync::Arc;

use http::{HeaderMap, header::AUTHORIZATION};
use rustls_pki_types::CertificateDer;

use super::{
    connections::Peer,
    reviews::Reviews,
    tokens::{Identified, Tokens},
    user::User,
    x509::ClientCa,
};

/// Every caller who is somebody is in this group.
const AUTHENTICATED: &str = "system:authenticated";

/// The authentication methods that the configuration enables.
#[derive(Debug)]
pub(super) struct Authenticator {
    pub(super) certificates: Option<ClientCa>,
    pub(super) tokens: Option<Tokens>,
    pub(super) anonymous: bool,
}

impl Authenticator {
    /// Who it is that asks from `peer`. Nobody is refused: also a caller whose credential is not believed, even
    /// where callers without any are welcome.
    pub(super) async fn authenticate(
        &self,
        certificates: Option<&[CertificateDer<'static>]>,
        headers: &HeaderMap,
        peer: Peer,
        reviews: &Arc<Reviews>,
    ) -> Identified {
        let mut refused = false;
        if let (Some(authorities), Some(chain)) = (&self.certificates, certificates) {
            match authorities.identify(chain) {
                Ok(user) => return Identified::User(in_group(user)),
                Err(why) => {
                    tracing::debug!(why, "a client certificate is not believed");
                    refused = true;
                }
            }
        }
        if let (Some(tokens), Some(token)) = (&self.tokens, bearer(headers)) {
            match tokens.identify(token, peer, reviews).await {
                Identified::User(user) => return Identified::User(in_group(user)),
                Identified::Busy => return Identified::Busy,
                Identified::Nobody => refused = true,
            }
        }
        if self.anonymous && !refused { Identified::User(User::anonymous()) } else { Identified::Nobody }
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
