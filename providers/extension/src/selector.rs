//! Envoys as they describe themselves, and which of them get an extension.
//!
//! What an Envoy says of itself is not proven: a selector tells Envoys apart, it keeps nobody out. That is what namespaces are for.

use envoy_types::pb::{
    envoy::config::core::v3::Node,
    google::protobuf::{Struct, value::Kind},
};
use serde::{Deserialize, Serialize};

/// Longest id of a node that is kept, in bytes.
const LONGEST_ID: usize = 256;

/// What an Envoy says of itself in its first request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EnvoyNode {
    /// Of its bootstrap, shortened when it is very long.
    pub id: String,
    /// Likewise.
    pub cluster: String,
    metadata: Struct,
}

impl EnvoyNode {
    pub(crate) fn new(node: Node) -> Self {
        Self {
            id: shortened(node.id),
            cluster: shortened(node.cluster),
            metadata: node.metadata.unwrap_or_default(),
        }
    }

    /// The text at a path of its metadata.
    fn metadata(&self, path: &[String]) -> Option<&str> {
        let (last, path) = path.split_last()?;
        let mut fields = &self.metadata.fields;
        for key in path {
            let Some(Kind::StructValue(inner)) = &fields.get(key)?.kind else { return None };
            fields = &inner.fields;
        }
        match &fields.get(last)?.kind {
            Some(Kind::StringValue(text)) => Some(text),
            _ => None,
        }
    }
}

fn shortened(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(LONGEST_ID));
    text
}

/// Selects Envoys: all of what is given has to match, and what is not given matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvoySelector {
    /// Ids of nodes, of which it has to have one.
    pub node_ids: Vec<String>,
    /// Clusters, of which it has to be in one.
    pub clusters: Vec<String>,
    /// Texts that its metadata has to have, by the path of keys that leads to them.
    pub metadata: Vec<(Vec<String>, String)>,
}

impl EnvoySelector {
    /// Whether this Envoy is meant.
    #[must_use]
    pub fn matches(&self, node: &EnvoyNode) -> bool {
        let is_one_of =
            |names: &[String], name: &str| names.is_empty() || names.iter().any(|one| one == name);
        is_one_of(&self.node_ids, &node.id)
            && is_one_of(&self.clusters, &node.cluster)
            && self.metadata.iter().all(|(path, text)| node.metadata(path) == Some(text))
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::google::protobuf::Value;

    use super::*;

    fn node() -> EnvoyNode {
        let value = |kind| Value { kind: Some(kind) };
        let labels = Struct {
            fields: [("app.kubernetes.io/name".to_owned(), value(Kind::StringValue("web".into())))].into(),
        };
        let fields = [
            ("LABELS".to_owned(), value(Kind::StructValue(labels))),
            ("ZONE".to_owned(), value(Kind::StringValue("a".into()))),
            ("COUNT".to_owned(), value(Kind::NumberValue(1.0))),
        ];
        let metadata = Some(Struct { fields: fields.into() });
        EnvoyNode::new(Node { id: "n1".into(), cluster: "c1".into(), metadata, ..Node::default() })
    }

    #[test]
    fn all_that_is_given_has_to_match() {
        let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a [(&'a [&'a str], &'a str)], bool);
        let cases: [Case<'_>; 12] = [
            (&[], &[], &[], true),
            (&["n1"], &[], &[], true),
            (&["n2", "n1"], &["c1"], &[], true),
            (&["n2"], &[], &[], false),
            (&["n1"], &["c2"], &[], false),
            (&[], &[], &[(&["ZONE"], "a")], true),
            (&[], &[], &[(&["ZONE"], "b")], false),
            (&[], &[], &[(&["LABELS", "app.kubernetes.io/name"], "web")], true),
            (&[], &[], &[(&["LABELS"], "web")], false),
            (&[], &[], &[(&["COUNT"], "1")], false),
            (&[], &[], &[(&["ZONE", "a"], "a")], false),
            (&[], &[], &[(&[], "")], false),
        ];
        for (ids, clusters, metadata, expected) in cases {
            let metadata = metadata.iter().map(|(path, text)| (texts(path), (*text).to_owned())).collect();
            let selector = EnvoySelector { node_ids: texts(ids), clusters: texts(clusters), metadata };
            assert_eq!(selector.matches(&node()), expected, "{selector:?}");
        }
    }

    #[test]
    fn an_endless_id_is_shortened() {
        let node = EnvoyNode::new(Node { id: "é".repeat(1000), ..Node::default() });
        assert_eq!(node.id, "é".repeat(LONGEST_ID / 2));
    }
}
