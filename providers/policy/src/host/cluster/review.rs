//! Whether somebody may do something: `can_i`, which is a SubjectAccessReview.
//!
//! The SDK for Rust hands over the review's fields in its own spelling, and that for Go the review itself. Both are taken.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// Where reviews are made.
pub(super) const PATH: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";

/// The payload.
#[derive(Debug, Deserialize)]
pub(super) struct Review {
    #[serde(default)]
    subject_access_review: Option<Subject>,
    #[serde(default)]
    spec: Option<Map<String, Value>>,
    #[serde(default)]
    pub(super) disable_cache: bool,
}

#[derive(Debug, Deserialize)]
struct Subject {
    user: String,
    #[serde(default)]
    groups: Option<Vec<String>>,
    resource_attributes: Map<String, Value>,
}

impl Review {
    /// The review that is made.
    pub(super) fn document(&self) -> Result<Vec<u8>, String> {
        let spec = match (&self.subject_access_review, &self.spec) {
            (Some(Subject { user, groups, resource_attributes }), _) => {
                let said = resource_attributes.iter().filter(|(_, value)| !value.is_null());
                let attributes: Map<String, Value> =
                    said.map(|(name, value)| (name.clone(), value.clone())).collect();
                json!({ "user": user, "groups": groups, "resourceAttributes": attributes })
            }
            (None, Some(spec)) => Value::Object(spec.clone()),
            (None, None) => return Err("the payload of can_i has no subject_access_review".to_owned()),
        };
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {}, "spec": spec,
        });
        serde_json::to_vec(&review).map_err(|error| error.to_string())
    }
}

/// What comes of a review.
pub(super) fn status(review: &[u8]) -> Result<Bytes, String> {
    #[derive(Deserialize)]
    struct Reviewed {
        #[serde(default)]
        status: Option<Value>,
    }
    let Reviewed { status } = serde_json::from_slice(review)
        .map_err(|error| format!("the API server's review cannot be read: {error}"))?;
    let status = status.ok_or("SubjectAccessReview did not return a response")?;
    Ok(status.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_review_are_taken() {
        let expected = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {},
            "spec": {
                "user": "u", "groups": ["g"],
                "resourceAttributes": { "verb": "get", "resource": "pods", "namespace": "a" },
            },
        });
        let rust = json!({
            "subject_access_review": {
                "user": "u", "groups": ["g"],
                "resource_attributes": { "verb": "get", "resource": "pods", "namespace": "a", "name": null },
            },
            "disable_cache": true,
        });
        let go = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": expected["spec"], "disable_cache": false,
        });
        for (payload, anew) in [(rust, true), (go, false)] {
            let review: Review = serde_json::from_value(payload).unwrap();
            let document: Value = serde_json::from_slice(&review.document().unwrap()).unwrap();
            assert_eq!((document, review.disable_cache), (expected.clone(), anew));
        }
        let none: Review = serde_json::from_str("{}").unwrap();
        assert!(none.document().is_err());
    }

    #[test]
    fn what_comes_of_it_is_its_status() {
        assert_eq!(status(br#"{"spec":{},"status":{"allowed":true}}"#), Ok("{\"allowed\":true}".into()));
        assert!(status(b"{}").unwrap_err().contains("did not return"));
        assert!(status(b"x").unwrap_err().contains("cannot be read"));
    }
}
