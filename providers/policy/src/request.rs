//! What a policy is asked: a request and settings, as one document.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, value::RawValue};

use crate::{response::AdmissionResponse, verdict::Ended};

/// What a policy is to judge. The text of the request is kept as it came, because a reader of it would lose what it does not know.
#[derive(Debug)]
pub struct Question {
    /// Names the request in the answer and in logs.
    uid: String,
    request: Box<RawValue>,
    /// What the policy may change; none where it is null.
    object: Value,
    subject: Subject,
}

/// What a request to Kubernetes is about, as far as it says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Kind of the object.
    pub kind: Option<String>,
    /// Where it is, if it is in a namespace.
    pub namespace: Option<String>,
    /// What is to be done with it.
    pub operation: Option<String>,
}

impl Subject {
    /// What is not a text where one should be is for the policy to judge.
    fn of(request: &Fields) -> Self {
        let text = |fields: &Fields, name: &str| serde_json::from_str(fields.get(name)?.get()).ok();
        let kind = request.get("kind").and_then(|kind| serde_json::from_str::<Fields>(kind.get()).ok());
        Self {
            kind: kind.and_then(|kind| text(&kind, "kind")),
            namespace: text(request, "namespace"),
            operation: text(request, "operation"),
        }
    }
}

/// A request that cannot be judged.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRequest {
    /// It is no JSON, or not of the fields that it must have.
    #[error("it is no AdmissionReview and no request of one: {0}")]
    Json(#[from] serde_json::Error),
    /// It is not named.
    #[error("it is no AdmissionReview and no request of one: there is no `uid`")]
    NoUid,
    /// There is no request in a review.
    #[error("the AdmissionReview has no request")]
    NoRequest,
}

/// An object, each field as it came.
pub(crate) type Fields = BTreeMap<String, Box<RawValue>>;

impl Question {
    /// Reads an AdmissionReview, or its request alone.
    ///
    /// # Errors
    /// [`InvalidRequest`].
    pub fn review(text: &[u8]) -> Result<Self, InvalidRequest> {
        let mut review: Fields = serde_json::from_slice(text)?;
        // A request has a kind too, which is no text.
        let is_review = review.get("kind").is_some_and(|kind| kind.get().starts_with('"'));
        let request = match review.remove("request") {
            Some(request) => request,
            None if is_review => return Err(InvalidRequest::NoRequest),
            None => serde_json::from_slice(text)?,
        };
        let known: Fields = serde_json::from_str(request.get())?;
        let uid = known.get("uid").ok_or(InvalidRequest::NoUid)?;
        let uid = serde_json::from_str(uid.get())?;
        let object = known.get("object").map(|object| serde_json::from_str(object.get())).transpose()?;
        let object = object.unwrap_or_default();
        let subject = Subject::of(&known);
        Ok(Self { uid, request, object, subject })
    }

    /// Reads `{"request": …}`, whose request is any JSON, as a server is sent it.
    ///
    /// # Errors
    /// [`InvalidRequest::Json`] and [`InvalidRequest::NoRequest`].
    pub fn raw_review(text: &[u8]) -> Result<Self, InvalidRequest> {
        let mut review: Fields = serde_json::from_slice(text)?;
        let request = review.remove("request").ok_or(InvalidRequest::NoRequest)?;
        Self::raw(request.get().as_bytes())
    }

    /// Reads any JSON; with a `uid` where it is an object that has one.
    ///
    /// # Errors
    /// [`InvalidRequest::Json`].
    pub fn raw(text: &[u8]) -> Result<Self, InvalidRequest> {
        let request: Box<RawValue> = serde_json::from_slice(text)?;
        let object: Value = serde_json::from_str(request.get())?;
        let uid = object.get("uid").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Self { uid, request, object, subject: Subject::default() })
    }

    /// What it is about; nothing of a raw request.
    #[must_use]
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Names the request.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// What goes to the policy's standard input.
    #[must_use]
    pub fn document(&self, settings: &Settings) -> Vec<u8> {
        let mut document = b"{\"request\":".to_vec();
        document.extend_from_slice(self.request.get().as_bytes());
        document.extend_from_slice(b",\"settings\":");
        document.extend(settings.document());
        document.push(b'}');
        document
    }

    /// What comes of how a policy ended.
    #[must_use]
    pub fn response(&self, ended: &Ended) -> AdmissionResponse {
        AdmissionResponse::of(&self.uid, ended, Some(&self.object))
    }
}

/// What a policy is told each time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Settings(Map<String, Value>);

/// Settings that are none.
#[derive(Debug, thiserror::Error)]
#[error("settings are an object of YAML or JSON: {0}")]
pub struct InvalidSettings(#[from] serde_yaml_ng::Error);

impl Settings {
    /// Reads settings of YAML, and with that of JSON. An empty text is none.
    ///
    /// # Errors
    /// [`InvalidSettings`].
    pub fn parse(text: &[u8]) -> Result<Self, InvalidSettings> {
        let read: Option<Map<String, Value>> = serde_yaml_ng::from_slice(text)?;
        Ok(Self(read.unwrap_or_default()))
    }

    /// What goes to the policy's standard input when they are to be judged.
    #[must_use]
    pub fn document(&self) -> Vec<u8> {
        // What was read from a text can be written as one.
        Value::Object(self.0.clone()).to_string().into_bytes()
    }
}

impl From<Map<String, Value>> for Settings {
    fn from(settings: Map<String, Value>) -> Self {
        Self(settings)
    }
}
