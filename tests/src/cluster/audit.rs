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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    stage: String,
    verb: String,
    object_ref: Option<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    resource: String,
    namespace: Option<String>,
    name: Option<String>,
}

/// Writes the policy: requests of nodes for config maps and secrets, without what is in them.
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
            { "level": "None" },
        ],
    });
    fs::write(path, policy.to_string()).with_context(|| format!("cannot write {}", path.display()))
}

/// The requests in the log at `path` for objects of `namespace`, oldest first. Both what is begun and what is
/// over of a watch is there, as two.
///
/// # Errors
/// When the log cannot be read.
pub(super) fn requests(path: &Path, namespace: &str) -> Result<Vec<Request>> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    // The last line may not be finished.
    let entries = text.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok());
    let requests = entries.filter_map(|entry| {
        let object = entry.object_ref?;
        let is_here = object.namespace.as_deref() == Some(namespace);
        is_here.then(|| Request {
            verb: entry.verb,
            object: format!("{}/{}", object.resource, object.name.unwrap_or_default()),
            is_over: entry.stage == "ResponseComplete",
        })
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
        let lines = [
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
