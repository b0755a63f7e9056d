//! Who an Envoy is: what its certificate says, or what the API server says of its token.

mod certificate;
mod token;

use std::{collections::BTreeSet, fmt};

use http::{HeaderMap, header};
use kubewasm_control::listener::Peer;

pub use self::token::{TokenReviews, TokenTimes};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvoyIdentity {
    /// Nobody was asked: the server was told to serve anyone.
    Anyone,
    /// Somebody with proof.
    Known {
        /// SPIFFE ids and names of DNS of a certificate, or the user name of a service account.
        names: BTreeSet<String>,
        /// The namespaces of its service accounts, which are its own.
        namespaces: BTreeSet<String>,
    },
}

impl fmt::Display for EnvoyIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anyone => f.write_str("anyone"),
            Self::Known { names, .. } => f.write_str(names.first().map_or("", |name| name)),
        }
    }
}

/// Why it is not known who asks.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityFailure {
    #[error("no certificate of a client and no token: {0}")]
    Missing(&'static str),
    #[error(
        "the certificate of the client names nobody: it needs a SPIFFE id, a name of DNS, or a common name"
    )]
    Nameless,
    #[error("the certificate of the client is not of a trust domain that is served here")]
    TrustDomain,
    #[error("the token is refused")]
    Token,
    #[error("tokens cannot be checked at the moment; come again")]
    Unavailable,
}

/// How Envoys say who they are. At least one way has to be open, or nobody is served.
#[derive(Debug, Default)]
pub struct Authentication {
    /// Trust domains whose SPIFFE ids are believed; empty: those of all certificates that TLS has accepted.
    pub trust_domains: BTreeSet<String>,
    /// Checks the tokens of service accounts, which come as `authorization: Bearer …`.
    pub tokens: Option<TokenReviews>,
    /// Whether whoever shows neither is served as well, and everything.
    pub is_open: bool,
}

impl Authentication {
    /// Finds out who asks.
    pub(crate) async fn identify(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
    ) -> Result<EnvoyIdentity, IdentityFailure> {
        if let Some(leaf) = peer.certificates.first() {
            return certificate::identity(leaf, &self.trust_domains);
        }
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
            let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        match (&self.tokens, bearer) {
            (Some(reviews), Some(token)) => reviews.identity(token).await,
            _ if self.is_open => Ok(EnvoyIdentity::Anyone),
            (Some(_), None) => Err(IdentityFailure::Missing(
                "connect with a certificate, or send a service account's token as authorization: Bearer",
            )),
            (None, _) => Err(IdentityFailure::Missing("connect with a certificate")),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn peer() -> Peer {
        Peer {
            address: ([127, 0, 0, 1], 1).into(),
            certificates: Vec::new(),
            going: CancellationToken::new(),
            abort: CancellationToken::new(),
        }
    }

    #[tokio::test]
    async fn nobody_is_served_without_proof_unless_it_is_asked_for() {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_static("Bearer x"))]);
        for headers in [HeaderMap::new(), headers] {
            let closed = Authentication::default().identify(&peer(), &headers).await;
            assert!(matches!(closed, Err(IdentityFailure::Missing(_))), "{closed:?}");
            let open = Authentication { is_open: true, ..Authentication::default() };
            assert_eq!(open.identify(&peer(), &headers).await.unwrap(), EnvoyIdentity::Anyone);
        }
    }
}
