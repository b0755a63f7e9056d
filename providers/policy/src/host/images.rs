//! What policies ask registries: manifests, configurations, and whether an image is signed.
//!
//! Answers are [`RECENT`] old at most, as Kubewarden's are. Nothing of an image is kept besides.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use kubewasm_modules::{Credential, Reference, Store};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json, value::RawValue};

use super::answers::Answers;
use crate::context_aware::read;

/// How old an answer may be.
const RECENT: Duration = Duration::from_secs(60);
/// Who asks for signatures, in messages.
const ASKER: &str = "the admission policy";

/// Who this host is at registries.
#[async_trait]
pub trait ImageCredentials: fmt::Debug + Send + Sync + 'static {
    /// What there is for the registry of an image, to be tried in this order.
    async fn of(&self, image: &Reference) -> Vec<Credential>;
}

/// Registries that policies may ask.
#[derive(Clone, Debug)]
pub(super) struct Images {
    store: Store,
    credentials: Arc<dyn ImageCredentials>,
    answers: Arc<Answers>,
}

/// Which signatures are asked for. `v1/verify` names the kind by the only field of its payload, `v2/verify` by the field `type`.
#[derive(Debug, Deserialize)]
struct ByPublicKeys {
    image: String,
    /// PEM; each of them has to have signed.
    pub_keys: Vec<String>,
    /// What all of their owners have to have noted.
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

impl Images {
    pub(super) fn new(store: Store, credentials: Arc<dyn ImageCredentials>, answers: Arc<Answers>) -> Self {
        Self { store, credentials, answers }
    }

    /// Answers an operation of `oci`.
    pub(super) async fn call(&self, operation: &str, payload: &[u8]) -> Result<Vec<u8>, String> {
        // What asks for the same by another text is asked twice, and no harm is done.
        let question = format!("{operation} {}", String::from_utf8_lossy(payload));
        if let Some(kept) = self.answers.get(&question) {
            return Ok(kept.into());
        }
        let answer: Bytes = match operation {
            "v1/manifest_digest" => self.digest(&read::<String>(operation, payload)?).await?,
            "v1/oci_manifest" => self.manifest(&read::<String>(operation, payload)?).await?,
            "v1/oci_manifest_config" => self.config(&read::<String>(operation, payload)?).await?,
            "v1/verify" => self.verify(by_field(read(operation, payload)?)?).await?,
            "v2/verify" => self.verify(by_type(read(operation, payload)?)?).await?,
            _ => return Err(format!("unknown operation: {operation}")),
        };
        self.answers.put(question, &answer, RECENT);
        Ok(answer.into())
    }

    async fn digest(&self, image: &str) -> Result<Bytes, String> {
        let (reference, credentials) = self.named(image).await?;
        let found = self.store.look_up(&reference, &credentials).await.map_err(|error| error.to_string())?;
        Ok(json!({ "digest": found.digest }).to_string().into())
    }

    async fn manifest(&self, image: &str) -> Result<Bytes, String> {
        let (reference, credentials) = self.named(image).await?;
        let found = self.store.look_up(&reference, &credentials).await.map_err(|error| error.to_string())?;
        raw(&found.bytes, "manifest", image)?;
        Ok(found.bytes)
    }

    async fn config(&self, image: &str) -> Result<Bytes, String> {
        #[derive(Serialize)]
        struct Answer<'a> {
            manifest: &'a RawValue,
            digest: String,
            config: &'a RawValue,
        }
        let (reference, credentials) = self.named(image).await?;
        let found = self.store.look_up_image(&reference, &credentials).await;
        let found = found.map_err(|error| error.to_string())?;
        let answer = Answer {
            manifest: raw(&found.manifest.bytes, "manifest", image)?,
            digest: found.manifest.digest.to_string(),
            config: raw(&found.config, "configuration", image)?,
        };
        serde_json::to_vec(&answer).map(Bytes::from).map_err(|error| error.to_string())
    }

    async fn verify(&self, asked: ByPublicKeys) -> Result<Bytes, String> {
        let (reference, credentials) = self.named(&asked.image).await?;
        let annotations = asked.annotations.unwrap_or_default();
        let verified =
            self.store.verify_remote(&reference, &asked.pub_keys, &annotations, &credentials, ASKER).await;
        let digest = verified.map_err(|error| error.to_string())?;
        Ok(json!({ "is_trusted": true, "digest": digest }).to_string().into())
    }

    async fn named(&self, image: &str) -> Result<(Reference, Vec<Credential>), String> {
        let reference: Reference =
            image.parse().map_err(|error| format!("{image:?} is no name of an image: {error}"))?;
        let credentials = self.credentials.of(&reference).await;
        Ok((reference, credentials))
    }
}

/// What a registry has sent, if it is JSON.
fn raw<'a>(bytes: &'a [u8], what: &str, image: &str) -> Result<&'a RawValue, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("the {what} of {image} is no JSON: {error}"))
}

fn by_field(payload: BTreeMap<String, Value>) -> Result<ByPublicKeys, String> {
    let mut fields = payload.into_iter();
    match (fields.next(), fields.next()) {
        (Some((kind, asked)), None) => by_kind(&kind, asked),
        _ => Err("the payload of v1/verify has one field, which names the kind of signature".to_owned()),
    }
}

fn by_type(mut payload: BTreeMap<String, Value>) -> Result<ByPublicKeys, String> {
    match payload.remove("type") {
        Some(Value::String(kind)) => by_kind(&kind, Value::Object(payload.into_iter().collect())),
        _ => Err("the payload of v2/verify has a field `type`, which names the kind of signature".to_owned()),
    }
}

/// Signatures by public keys are verified here. Others are refused by their names.
fn by_kind(kind: &str, asked: Value) -> Result<ByPublicKeys, String> {
    match kind {
        "SigstorePubKeyVerify" => {
            serde_json::from_value(asked).map_err(|error| format!("{kind} cannot be read: {error}"))
        }
        "SigstoreKeylessVerify" | "SigstoreKeylessPrefixVerify" | "SigstoreGithubActionsVerify" => {
            Err(format!(
                "{kind} is not verified here: keyless signatures take an authority for certificates and a transparency log, and only signatures by public keys are verified (SigstorePubKeyVerify)"
            ))
        }
        "SigstoreCertificateVerify" => Err(format!(
            "{kind} is not verified here: only signatures by public keys are (SigstorePubKeyVerify)"
        )),
        other => Err(format!("there is no kind of signature {other:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_question_are_read() {
        let asked = json!({ "image": "a.dev/b", "pub_keys": ["k"], "annotations": { "x": "y" } });
        let v1 = json!({ "SigstorePubKeyVerify": asked });
        let mut v2 = asked.clone();
        v2["type"] = json!("SigstorePubKeyVerify");
        for read in
            [by_field(serde_json::from_value(v1).unwrap()), by_type(serde_json::from_value(v2).unwrap())]
        {
            let read = read.unwrap();
            assert_eq!((&*read.image, &*read.pub_keys), ("a.dev/b", &["k".to_owned()][..]));
            assert_eq!(read.annotations.unwrap()["x"], "y");
        }
        for payload in [json!({}), json!({ "a": 1, "b": 2 })] {
            assert!(by_field(serde_json::from_value(payload.clone()).unwrap()).is_err());
            assert!(by_type(serde_json::from_value(payload).unwrap()).is_err());
        }
    }

    #[test]
    fn what_is_not_verified_is_refused_by_its_name() {
        for kind in [
            "SigstoreKeylessVerify",
            "SigstoreKeylessPrefixVerify",
            "SigstoreGithubActionsVerify",
            "SigstoreCertificateVerify",
        ] {
            let error = by_kind(kind, json!({ "image": "a" })).unwrap_err();
            assert!(error.starts_with(&format!("{kind} is not verified here")), "{error}");
        }
        assert_eq!(by_kind("Other", json!({})).unwrap_err(), "there is no kind of signature \"Other\"");
        assert!(by_kind("SigstorePubKeyVerify", json!({})).unwrap_err().contains("cannot be read"));
    }
}
