//! What an API server is told: the response of an AdmissionReview.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::verdict::{Ended, Verdict};

/// Version of the API of reviews.
pub const API_VERSION: &str = "admission.k8s.io/v1";
/// Kind of a review.
pub const KIND: &str = "AdmissionReview";

/// The response to a request, as it goes over the wire.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionResponse {
    /// That of the request.
    pub uid: String,
    /// Whether the request is let through.
    pub allowed: bool,
    /// How the patch is to be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch_type: Option<PatchType>,
    /// What is to be changed of the object: a patch of JSON, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patch: Option<String>,
    /// Why it is not let through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// For the audit log.
    pub audit_annotations: Option<BTreeMap<String, String>>,
    /// For whoever sent the request.
    pub warnings: Option<Vec<String>>,
}

/// How a patch is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PatchType {
    /// By RFC 6902.
    #[serde(rename = "JSONPatch")]
    JsonPatch,
}

/// Why a request is not let through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// `Failure`, where it is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// For programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it comes of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// A status of HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
}

/// What a refusal comes of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// One for each policy that had something against it.
    pub causes: Vec<Cause>,
}

/// One thing that a refusal comes of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The policy, in a group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What it said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The code of a policy that came to no verdict.
const FAILURE: u16 = 500;
/// Said of a mutation of an object that is to be deleted.
const NO_OBJECT: &str = "the policy changes the object of a request that has none: a DELETE has a null object and cannot be mutated";

impl AdmissionResponse {
    /// The request is let through as it is.
    #[must_use]
    pub fn allow(uid: &str) -> Self {
        Self { uid: uid.to_owned(), allowed: true, ..Self::default() }
    }

    /// The request is not let through.
    #[must_use]
    pub fn reject(uid: &str, message: impl Into<String>, code: u16) -> Self {
        let status = Status { message: Some(message.into()), code: Some(code), ..Status::default() };
        Self { uid: uid.to_owned(), status: Some(status), ..Self::default() }
    }

    /// The policy came to no verdict.
    #[must_use]
    pub fn fail(uid: &str, message: impl Into<String>) -> Self {
        Self::reject(uid, message, FAILURE)
    }

    /// Whether the policy came to no verdict: so the protocol tells that from a refusal.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.status.as_ref().and_then(|status| status.code) == Some(FAILURE)
    }

    /// What comes of how a policy ended. `object` is what it may have changed: the request's, or all of the request where it is
    /// any JSON.
    #[must_use]
    pub fn of(uid: &str, ended: &Ended, object: Option<&Value>) -> Self {
        match ended.verdict() {
            Ok(verdict) => Self::of_verdict(uid, verdict, object),
            Err(message) => Self::fail(uid, message),
        }
    }

    fn of_verdict(uid: &str, verdict: Verdict, object: Option<&Value>) -> Self {
        let Verdict { accepted, message, code, mutated_object, audit_annotations, warnings } = verdict;
        let patch = match (mutated_object, object) {
            (None, _) => None,
            (Some(_), None | Some(Value::Null)) => return Self::fail(uid, NO_OBJECT),
            (Some(mutated), Some(object)) => patch(object, &mutated),
        };
        let says = message.is_some() || code.is_some();
        Self {
            uid: uid.to_owned(),
            allowed: accepted,
            patch_type: patch.as_ref().map(|_| PatchType::JsonPatch),
            patch,
            status: says.then(|| Status { message, code, ..Status::default() }),
            audit_annotations,
            warnings,
        }
    }

    /// Another message in place of the policy's, which becomes its cause.
    #[must_use]
    pub fn with_message(mut self, message: &str) -> Self {
        if !self.allowed {
            let status = self.status.get_or_insert_default();
            if let Some(said) = status.message.replace(message.to_owned()) {
                let causes = &mut status.details.get_or_insert_default().causes;
                causes.push(Cause { field: None, message: Some(said) });
            }
        }
        self
    }

    /// What comes of it for a policy that must not change objects.
    #[must_use]
    pub fn without_mutation(self, policy: &str) -> Self {
        if self.patch.is_none() {
            return self;
        }
        Self::fail(
            &self.uid,
            format!(
                "Request rejected by policy {policy}. The policy attempted to mutate the request, but it is currently configured to not allow mutations."
            ),
        )
    }

    /// What comes of it for a policy that only watches: whatever it said, the request is let through as it is.
    #[must_use]
    pub fn monitored(self) -> Self {
        Self::allow(&self.uid)
    }

    /// The review that goes over the wire.
    #[must_use]
    pub fn review(self) -> Review {
        Review { api_version: API_VERSION.to_owned(), kind: KIND.to_owned(), response: self }
    }
}

/// A review with its response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Review {
    /// [`API_VERSION`].
    pub api_version: String,
    /// [`KIND`].
    pub kind: String,
    /// The response.
    pub response: AdmissionResponse,
}

/// What leads from one document to another, in base64, unless they are the same.
fn patch(from: &Value, to: &Value) -> Option<String> {
    let patch = json_patch::diff(from, to);
    if patch.is_empty() {
        return None;
    }
    // Of texts and of values that were read as JSON: there is nothing in it that cannot be written.
    serde_json::to_vec(&patch).ok().map(|json| BASE64_STANDARD.encode(json))
}
