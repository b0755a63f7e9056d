//! The Secret that has the server's certificates, as all replicas read it and the leader writes it.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::core::ObjectMeta;

use super::{
    certificate::{ServingPair, bundle},
    labels,
};

/// What certificates there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificates {
    /// The one that is shown.
    pub current: Option<ServingPair>,
    /// The one that is shown next, once API servers know its authority.
    pub next: Option<ServingPair>,
    /// Authorities of those before, while one of them may still be shown. In PEM.
    pub previous: String,
}

/// Names of the Secret's data: of the certificate, its key and its authority.
const CURRENT: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];
const NEXT: [&str; 3] = ["next-tls.crt", "next-tls.key", "next-ca.crt"];
const PREVIOUS: &str = "previous-ca.crt";
/// The type of Secrets with a certificate and a key.
const TYPE: &str = "kubernetes.io/tls";

impl Certificates {
    /// Reads them. A pair that cannot be used is none.
    #[must_use]
    pub fn read(secret: &Secret) -> Self {
        let data = secret.data.as_ref();
        let text = |name: &str| {
            let bytes = data.and_then(|data| data.get(name))?;
            std::str::from_utf8(&bytes.0).ok().filter(|text| !text.is_empty())
        };
        let pair = |[certificate, key, authority]: [&str; 3]| {
            let pair = ServingPair::read(text(authority)?, text(certificate)?, text(key)?);
            if let Err(error) = &pair {
                tracing::warn!(%error, "the certificate {certificate} in the policy server's Secret is not used");
            }
            pair.ok()
        };
        Self { current: pair(CURRENT), next: pair(NEXT), previous: bundle(text(PREVIOUS)) }
    }

    /// All authorities that a certificate of ours may have, in PEM.
    #[must_use]
    pub fn authorities(&self) -> String {
        let pairs = [&self.current, &self.next].into_iter().flatten().map(ServingPair::authority);
        bundle(pairs.chain([self.previous.as_str()]))
    }

    /// The Secret to write, in place of the version that was read.
    #[must_use]
    pub fn secret(&self, name: &str, server: &str, version: Option<String>) -> Secret {
        let mut data = BTreeMap::new();
        let mut put = |name: &str, text: &str| {
            data.insert(name.to_owned(), ByteString(text.as_bytes().to_vec()));
        };
        // The API server wants both of the current one, also while there is none yet.
        put(CURRENT[0], "");
        put(CURRENT[1], "");
        for (pair, [certificate, key, authority]) in [(&self.current, CURRENT), (&self.next, NEXT)] {
            if let Some(pair) = pair {
                put(certificate, pair.certificate());
                put(key, pair.key());
                put(authority, pair.authority());
            }
        }
        if !self.previous.is_empty() {
            put(PREVIOUS, &self.previous);
        }
        Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(labels(server)),
                resource_version: version,
                ..ObjectMeta::default()
            },
            type_: Some(TYPE.to_owned()),
            data: Some(data),
            ..Secret::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn pair() -> ServingPair {
        ServingPair::make(&["h".to_owned()], SystemTime::now(), Duration::from_secs(60)).unwrap()
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let (one, two, three) = (pair(), pair(), pair());
        let previous = bundle([three.authority()]);
        for certificates in [
            Certificates::default(),
            Certificates { next: Some(one.clone()), ..Certificates::default() },
            Certificates { current: Some(one.clone()), next: Some(two), previous },
        ] {
            let secret = certificates.secret("s", "default", Some("7".into()));
            assert_eq!(secret.metadata.resource_version.as_deref(), Some("7"));
            assert!(
                ["tls.crt", "tls.key"].iter().all(|name| secret.data.as_ref().unwrap().contains_key(*name))
            );
            assert_eq!(Certificates::read(&secret), certificates);
        }
    }

    #[test]
    fn a_pair_that_does_not_fit_together_is_none() {
        let certificates =
            Certificates { current: Some(pair()), next: Some(pair()), previous: String::new() };
        let mut secret = certificates.secret("s", "default", None);
        let data = secret.data.as_mut().unwrap();
        data.insert("tls.key".into(), ByteString(pair().key().as_bytes().to_vec()));
        assert_eq!(Certificates::read(&secret), Certificates { current: None, ..certificates });
    }

    #[test]
    fn every_authority_is_named() {
        let (one, two, three) = (pair(), pair(), pair());
        let previous = three.authority().to_owned();
        let certificates = Certificates { current: Some(one.clone()), next: Some(two.clone()), previous };
        let authorities = certificates.authorities();
        assert_eq!(authorities, bundle([one.authority(), two.authority(), three.authority()]));
    }
}
