//! What a JSON Web Token says of itself. Nothing here checks whether it is true. Pure.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use kubectl_plugin::{Timestamp, human_duration};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A token's head and claims.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TokenDetails {
    pub(crate) header: Map<String, Value>,
    pub(crate) claims: Map<String, Value>,
    /// `never`, `in 3h` or `3h ago`
    pub(crate) expires: String,
}

/// Claims that every token may have (RFC 7519, section 4.1).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Registered {
    exp: Option<f64>,
}

/// Reads a token, if the text is one: three parts, of which the first two are objects.
pub(crate) fn read(text: &str, now: Timestamp) -> Option<TokenDetails> {
    let mut parts = text.trim().split('.');
    let (header, claims, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let (header, claims) = (object(header)?, object(claims)?);
    header.get("alg")?;
    let registered: Registered = serde_json::from_value(Value::Object(claims.clone())).unwrap_or_default();
    let expires = match registered.exp {
        None => "never".to_owned(),
        // Seconds; beyond what they can be they are as many as they can be.
        Some(at) => {
            #[allow(clippy::cast_possible_truncation)]
            let left = (at as i64).saturating_sub(now.as_second());
            match left {
                0.. => format!("in {}", human_duration(left)),
                past => format!("{} ago", human_duration(past.saturating_neg())),
            }
        }
    };
    Some(TokenDetails { header, claims, expires })
}

fn object(part: &str) -> Option<Map<String, Value>> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// A claim that is a text, or a list of some.
pub(crate) fn claim(claims: &Map<String, Value>, name: &str) -> Option<String> {
    match claims.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Array(texts) => Some(texts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")),
        other => Some(other.to_string()),
    }
}
