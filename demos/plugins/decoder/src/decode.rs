//! What is in a Secret, as values that can be printed in any form. Pure.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use kubectl_plugin::Timestamp;
use kubectl_plugin::k8s_openapi::api::core::v1::Secret;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::{
    certificate::{self, CertificateDetails},
    registries::{self, RegistryLogin},
    token::{self, TokenDetails},
};

/// A Secret that can be read.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Decoded {
    pub(crate) name: String,
    pub(crate) namespace: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) data: BTreeMap<String, DecodedValue>,
}

/// The value of one key, and what it means where that is known.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DecodedValue {
    /// The value, if it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    /// The value, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) base64: Option<String>,
    pub(crate) bytes: usize,
    pub(crate) sha256: String,
    /// The certificates in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) certificates: Vec<CertificateDetails>,
    /// There is nothing but certificates in it.
    #[serde(skip)]
    pub(crate) is_certificates: bool,
    /// What the token says that it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<TokenDetails>,
    /// The registries that it has logins to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) registries: Vec<RegistryLogin>,
}

/// Reads a Secret, at a time that days are counted from.
pub(crate) fn secret(secret: Secret, now: Timestamp) -> Decoded {
    let data = secret.data.unwrap_or_default();
    Decoded {
        name: secret.metadata.name.unwrap_or_default(),
        namespace: secret.metadata.namespace.unwrap_or_default(),
        kind: secret.type_.unwrap_or_else(|| "Opaque".to_owned()),
        data: data
            .into_iter()
            .map(|(key, bytes)| {
                let decoded = value(&key, bytes.0, now);
                (key, decoded)
            })
            .collect(),
    }
}

fn value(key: &str, bytes: Vec<u8>, now: Timestamp) -> DecodedValue {
    let size = bytes.len();
    let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = match String::from_utf8(bytes) {
        Ok(text) if text.chars().all(is_printable) => text,
        Ok(text) => {
            return DecodedValue {
                base64: Some(BASE64_STANDARD.encode(text)),
                bytes: size,
                sha256,
                ..Default::default()
            };
        }
        Err(error) => {
            let base64 = Some(BASE64_STANDARD.encode(error.as_bytes()));
            return DecodedValue { base64, bytes: size, sha256, ..Default::default() };
        }
    };
    let (certificates, is_certificates) = certificate::of_pem(&text, now);
    DecodedValue {
        bytes: size,
        sha256,
        certificates,
        is_certificates,
        token: token::read(&text, now),
        registries: registries::read(key, &text),
        base64: None,
        text: Some(text),
    }
}

/// What a terminal shows and does nothing else with.
fn is_printable(character: char) -> bool {
    matches!(character, '\n' | '\r' | '\t') || !character.is_control()
}
