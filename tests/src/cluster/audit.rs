//! What the API server notes down of who asks for what, as far as tests want to know it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::json;

/// A request for one object of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `get`, `list` or `watch`.
    pub verb: String,
    /// The object's kind and name, as `configmaps/NAME`.
    pub object: String,
    /// Its answer has come to its end. A watch has one when nobody follows it any more.
    pub is_over: bool,
}

/// A request for all objects of a kind, or for those that a selector names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionRequest {
    /// `list` or `watch`.
    pub verb: String,
    /// The kind, as `pods`.
    pub resource: String,
    /// What was asked for, with its parameters.
    pub uri: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    stage: String,
    verb: String,
    #[serde(rename = "requestURI", default)]
    uri: String,
    #[serde(default)]
    user: User,
    object_ref: Option<Reference>,
    response_status: Option<Status>,
}

#[derive(Default, Deserialize)]
struct User {
    username: String,
}

#[derive(Deserialize)]
struct Status {
    code: Option<u16>,
}

#[derive(Deserialize)]
struct Reference {
    resource: String,
    namespace: Option<String>,
    name: Option<String>,
}

/// Writes the policy: requests of nodes for config maps and secrets, without what is in them, and for collections.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn write_policy(path: &Path) -> Result<()> {
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {
                "level": "Metadata",
                "userGroups": ["system:nodes"],
                "resources": [{ "group": "", "resources": ["configmaps", "secrets"] }],
            },
            {
                "level": "Metadata",
                "userGroups": ["system:nodes"],
                "verbs": ["list", "watch"],
                "resources": [
                    { "group": "", "resources": ["pods", "services"] },
                    { "group": "node.k8s.io", "resources": ["runtimeclasses"] },
                ],
            },
            { "level": "None" },
        ],
    });
    fs::write(path, policy.to_string()).with_context(|| format!("cannot write {}", path.display()))
}

/// The requests in the log at `path` for objects of `namespace` that were granted, oldest first. Of a watch, there are
/// two: that it has begun, and that it is over.
///
/// # Errors
/// When the log cannot be read.
pub(super) fn requests(path: &Path, namespace: &str) -> Result<Vec<Request>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    // The last line may not be finished.
    let entries = text.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok());
    let requests = entries.filter_map(|entry| {
        let object = entry.object_ref?;
        // The Node authorizer learns of a new pod at the same time as its node does, which may have to ask again.
        let is_granted = entry.response_status.and_then(|status| status.code).is_none_or(|code| code < 400);
        let is_here = is_granted && object.namespace.as_deref() == Some(namespace);
        is_here.then(|| Request {
            verb: entry.verb,
            object: format!("{}/{}", object.resource, object.name.unwrap_or_default()),
            is_over: entry.stage == "ResponseComplete",
        })
    });
    Ok(requests.collect())
}

/// The requests of `user` in the log at `path` for collections that were begun, oldest first.
///
/// # Errors
/// When the log cannot be read.
pub(super) fn collections(path: &Path, user: &str) -> Result<Vec<CollectionRequest>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let entries = text.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok());
    let requests = entries.filter_map(|entry| {
        let Entry { stage, verb, uri, user: User { username }, object_ref, .. } = entry;
        let object = object_ref.filter(|object| object.name.is_none() && username == user)?;
        // Of a watch, there is another when it is over.
        let is_first = verb != "watch" || stage == "ResponseStarted";
        is_first.then_some(CollectionRequest { verb, resource: object.resource, uri })
    });
    Ok(requests.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_up_to_where_it_is_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let line = |stage: &str, verb: &str, namespace: &str| {
            json!({
                "kind": "Event", "stage": stage, "verb": verb,
                "objectRef": { "resource": "configmaps", "namespace": namespace, "name": "cm", "apiVersion": "v1" },
            })
            .to_string()
        };
        let mut refused: serde_json::Value =
            serde_json::from_str(&line("ResponseComplete", "list", "a")).unwrap();
        refused["responseStatus"] = json!({ "code": 403 });
        let lines = [
            refused.to_string(),
            line("ResponseComplete", "list", "a"),
            line("ResponseStarted", "watch", "a"),
            line("ResponseStarted", "watch", "b"),
            line("ResponseComplete", "watch", "a")[..30].to_owned(),
        ];
        fs::write(file.path(), lines.join("\n")).unwrap();
        let request = |verb: &str, is_over| Request {
            verb: verb.to_owned(),
            object: "configmaps/cm".to_owned(),
            is_over,
        };
        assert_eq!(requests(file.path(), "a").unwrap(), [request("list", true), request("watch", false)]);
    }
}
