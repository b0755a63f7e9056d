//! Headers of requests, which may hold credentials.

use std::{collections::BTreeMap, fmt};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize, Serializer};

/// What is shown in the place of a value, as upstream does it.
pub const MASKED: &str = "<masked>";

/// Headers by name, with their values. Nobody is shown the values: neither `/configz`, nor whoever prints them.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretHeaders(BTreeMap<String, Vec<String>>);

impl SecretHeaders {
    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As a request has them.
    ///
    /// # Errors
    /// Which header cannot be sent, without its value.
    pub fn to_map(&self) -> Result<HeaderMap, String> {
        let mut map = HeaderMap::new();
        for (name, values) in &self.0 {
            let key = HeaderName::try_from(name).map_err(|_| format!("{name:?} is no name of a header"))?;
            for value in values {
                let mut value = HeaderValue::try_from(value)
                    .map_err(|_| format!("a value of the header {name:?} cannot be sent"))?;
                value.set_sensitive(true);
                map.append(&key, value);
            }
        }
        Ok(map)
    }

    /// With the values, for those who merge configurations.
    pub(super) fn revealed(&self) -> &BTreeMap<String, Vec<String>> {
        &self.0
    }
}

impl FromIterator<(String, Vec<String>)> for SecretHeaders {
    fn from_iter<I: IntoIterator<Item = (String, Vec<String>)>>(headers: I) -> Self {
        Self(headers.into_iter().collect())
    }
}

impl Serialize for SecretHeaders {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.keys().map(|name| (name, [MASKED])))
    }
}

impl fmt::Debug for SecretHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.keys().map(|name| (name, MASKED))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &str, value: &str) -> SecretHeaders {
        [(name.to_owned(), vec![value.to_owned()])].into_iter().collect()
    }

    #[test]
    fn values_are_sent_and_not_shown() {
        let secret = headers("Authorization", "Bearer s3cret");
        let map = secret.to_map().unwrap();
        assert_eq!(map["authorization"], "Bearer s3cret");
        let shown = format!("{secret:?} {map:?} {}", serde_json::to_string(&secret).unwrap());
        assert!(!shown.contains("s3cret") && shown.contains("<masked>"), "{shown}");
        for (bad, expected) in [
            (headers("a b", "s3cret"), "\"a b\" is no name of a header"),
            (headers("a", "s3\ncret"), "a value of the header \"a\" cannot be sent"),
        ] {
            assert_eq!(bad.to_map().unwrap_err(), expected);
        }
    }
}
