//! With what an image was pulled, and for whom that is good. Plain values, in the form of upstream's
//! `ImagePulledRecord`.

use std::{collections::BTreeMap, fmt::Write as _};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::runtime::Credential;

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// Secrets of one repository beyond this are not added just because they were seen to be good.
const SECRETS: usize = 100;

/// That an image was pulled for a pod, and with what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImagePulledRecord {
    api_version: String,
    kind: String,
    last_updated_time: Timestamp,
    /// Id of the image.
    pub(super) image_ref: String,
    /// By repository.
    #[serde(default)]
    credential_mapping: BTreeMap<String, ImagePullCredentials>,
}

/// Credentials that an image was pulled with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ImagePullCredentials {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_secrets: Vec<ImagePullSecret>,
    /// With those of the node, or with none: every pod may have it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    node_pods_accessible: bool,
}

/// A Secret, and the hash of what was in it for an image's registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImagePullSecret {
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) name: String,
    /// SHA-256, in hexadecimal digits.
    pub(super) credential_hash: String,
}

impl ImagePullSecret {
    fn is_same_object(&self, other: &Self) -> bool {
        (&self.uid, &self.namespace, &self.name) == (&other.uid, &other.namespace, &other.name)
    }
}

/// That a pull is under way.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImagePullIntent {
    api_version: String,
    kind: String,
    /// As the pod has it.
    pub(super) image: String,
}

impl ImagePullIntent {
    pub(super) fn new(image: &str) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: "ImagePullIntent".to_owned(),
            image: image.to_owned(),
        }
    }
}

/// Whether a pod may use an image.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ImageVerdict {
    Permitted,
    /// By a secret that is known by its coordinates alone, or by its content alone.
    PermittedBy(ImagePullSecret),
    /// Its registry has to be asked.
    Unknown,
}

impl ImagePulledRecord {
    /// Of an image that was pulled with nobody knows what.
    pub(super) fn new(id: &str, now: Timestamp) -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            kind: "ImagePulledRecord".to_owned(),
            last_updated_time: now,
            image_ref: id.to_owned(),
            credential_mapping: BTreeMap::new(),
        }
    }

    /// Whether a pod with these secrets may have the image as one of `repository`. A Secret that has changed since is
    /// as good as before.
    pub(super) fn verdict(&self, repository: &str, secrets: &[ImagePullSecret]) -> ImageVerdict {
        let Some(known) = self.credential_mapping.get(repository) else { return ImageVerdict::Unknown };
        if known.node_pods_accessible {
            return ImageVerdict::Permitted;
        }
        for secret in secrets {
            for good in &known.kubernetes_secrets {
                let (same_object, same_hash) =
                    (secret.is_same_object(good), secret.credential_hash == good.credential_hash);
                if (same_object && same_hash)
                    || ((same_object || same_hash) && known.kubernetes_secrets.len() >= SECRETS)
                {
                    return ImageVerdict::Permitted;
                }
                if same_object || same_hash {
                    return ImageVerdict::PermittedBy(secret.clone());
                }
            }
        }
        ImageVerdict::Unknown
    }

    /// Adds with what it was pulled: with a Secret, or with what every pod of the node has. True when that is new.
    pub(super) fn add(&mut self, repository: &str, secret: Option<ImagePullSecret>, now: Timestamp) -> bool {
        let known = self.credential_mapping.entry(repository.to_owned()).or_default();
        let before = known.clone();
        match secret {
            _ if known.node_pods_accessible => {}
            None => *known = ImagePullCredentials { node_pods_accessible: true, ..Default::default() },
            Some(secret) => {
                known.kubernetes_secrets.retain(|other| !other.is_same_object(&secret));
                known.kubernetes_secrets.push(secret);
                known
                    .kubernetes_secrets
                    .sort_by(|a, b| (&a.namespace, &a.name, &a.uid).cmp(&(&b.namespace, &b.name, &b.uid)));
            }
        }
        let changed = before != *known;
        if changed {
            self.last_updated_time = now;
        }
        changed
    }
}

/// The hash by which a credential is known again, of the same JSON as upstream's.
pub(super) fn hash(credential: &Credential) -> String {
    let Credential { username, password } = credential;
    let text = match username.is_empty() {
        true => serde_json::json!({ "identitytoken": password }),
        false => serde_json::json!({ "username": username, "password": password }),
    };
    hex(text.to_string().as_bytes())
}

/// SHA-256 in hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, content: &str) -> ImagePullSecret {
        let (uid, namespace) = (format!("uid-{name}"), "ns".to_owned());
        ImagePullSecret { uid, namespace, name: name.to_owned(), credential_hash: content.to_owned() }
    }

    #[test]
    fn who_may_use_what_was_pulled() {
        let mut record = ImagePulledRecord::new("r.io/app@sha256:0", Timestamp::UNIX_EPOCH);
        assert_eq!(
            record.verdict("r.io/app", &[secret("a", "1")]),
            ImageVerdict::Unknown,
            "nobody knows with what"
        );
        assert!(record.add("r.io/app", Some(secret("a", "1")), Timestamp::UNIX_EPOCH));
        assert!(!record.add("r.io/app", Some(secret("a", "1")), Timestamp::UNIX_EPOCH));
        let by = |name: &str, content: &str| ImageVerdict::PermittedBy(secret(name, content));
        for (secrets, expected) in [
            (vec![], ImageVerdict::Unknown),
            (vec![secret("b", "2")], ImageVerdict::Unknown),
            (vec![secret("b", "2"), secret("a", "1")], ImageVerdict::Permitted),
            (vec![secret("b", "1")], by("b", "1")),
            (vec![secret("a", "2")], by("a", "2")),
        ] {
            assert_eq!(record.verdict("r.io/app", &secrets), expected, "{secrets:?}");
        }
        assert_eq!(record.verdict("r.io/other", &[secret("a", "1")]), ImageVerdict::Unknown);
        assert!(record.add("r.io/app", Some(secret("a", "2")), Timestamp::UNIX_EPOCH), "it has changed");
        assert_eq!(
            record.verdict("r.io/app", &[secret("c", "1")]),
            ImageVerdict::Unknown,
            "the old content is good no more"
        );
        assert!(record.add("r.io/app", None, Timestamp::UNIX_EPOCH));
        assert_eq!(record.verdict("r.io/app", &[]), ImageVerdict::Permitted);
        assert!(
            !record.add("r.io/app", Some(secret("a", "3")), Timestamp::UNIX_EPOCH),
            "everybody may already"
        );
    }

    #[test]
    fn the_form_is_upstreams() {
        let mut record = ImagePulledRecord::new("r.io/app@sha256:0", Timestamp::UNIX_EPOCH);
        record.add("r.io/app", Some(secret("a", "1")), Timestamp::UNIX_EPOCH);
        record.add("r.io/open", None, Timestamp::UNIX_EPOCH);
        assert_eq!(
            serde_json::to_value(&record).unwrap(),
            serde_json::json!({
                "apiVersion": "kubelet.config.k8s.io/v1beta1",
                "kind": "ImagePulledRecord",
                "lastUpdatedTime": "1970-01-01T00:00:00Z",
                "imageRef": "r.io/app@sha256:0",
                "credentialMapping": {
                    "r.io/app": { "kubernetesSecrets": [
                        { "uid": "uid-a", "namespace": "ns", "name": "a", "credentialHash": "1" },
                    ]},
                    "r.io/open": { "nodePodsAccessible": true },
                },
            })
        );
    }

    #[test]
    fn a_hash_tells_credentials_apart_and_shows_none() {
        let credential = |username: &str, password: &str| Credential {
            username: username.to_owned(),
            password: password.to_owned(),
        };
        let hashes: Vec<_> = [("u", "p"), ("u", "q"), ("v", "p"), ("", "p")]
            .map(|(username, password)| hash(&credential(username, password)))
            .into();
        for (position, one) in hashes.iter().enumerate() {
            assert_eq!(one.len(), 64);
            assert!(!hashes[position + 1..].contains(one));
        }
    }
}
