//! Headers by which somebody asks as somebody else:
//! <https://kubernetes.io/docs/reference/access-authn-authz/user-impersonation/>. Pure.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::kubeconfig::UserEntry;

/// What the names of all of these begin with, in lower case.
pub(crate) const PREFIX: &str = "impersonate-";

/// The headers of a user's entry.
///
/// # Errors
/// What of it cannot be said in a header.
pub(crate) fn impersonation(user: &UserEntry) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let Some(name) = user.impersonate.as_deref().filter(|name| !name.is_empty()) else {
        let more = user.as_uid.is_some() || !user.as_groups.is_empty() || !user.as_user_extra.is_empty();
        return match more {
            true => Err("it asks for a uid, groups or extra fields of somebody, and does not say of whom: add `as`, or --as".to_owned()),
            false => Ok(headers),
        };
    };
    headers.insert(HeaderName::from_static("impersonate-user"), value("as", name)?);
    if let Some(uid) = user.as_uid.as_deref().filter(|uid| !uid.is_empty()) {
        headers.insert(HeaderName::from_static("impersonate-uid"), value("as-uid", uid)?);
    }
    for group in &user.as_groups {
        headers.append(HeaderName::from_static("impersonate-group"), value("as-groups", group)?);
    }
    for (key, values) in &user.as_user_extra {
        let header = HeaderName::from_bytes(format!("{PREFIX}extra-{}", escaped(key)).as_bytes())
            .map_err(|_| format!("the key {key:?} of its as-user-extra cannot be sent"))?;
        for extra in values {
            headers.append(header.clone(), value("as-user-extra", extra)?);
        }
    }
    Ok(headers)
}

fn value(field: &str, text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| format!("its {field} has characters that cannot be sent"))
}

/// A key as client-go writes it: bytes that no name of a header has are %-encoded, and so is `%`.
fn escaped(key: &str) -> String {
    let mut escaped = String::new();
    for byte in key.bytes() {
        let is_plain = byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
        match is_plain {
            true => escaped.push(char::from(byte)),
            false => drop(write!(escaped, "%{byte:02X}")),
        }
    }
    escaped
}
