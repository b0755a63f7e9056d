//! Whether a pod wants to be on a node: node selector and required node affinity.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod};

/// True when the node has all labels of the pod's `nodeSelector`, and satisfies one of the terms of its
/// required node affinity, if it has any.
#[must_use]
pub(super) fn matches(pod: &Pod, node: &str, labels: &BTreeMap<String, String>) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|required| selects(required, node, labels))
}

/// True when the node satisfies one of the selector's terms.
#[must_use]
pub(super) fn selects(selector: &NodeSelector, node: &str, labels: &BTreeMap<String, String>) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node, labels))
}

/// A term without any requirement matches nothing.
fn term_matches(term: &NodeSelectorTerm, node: &str, labels: &BTreeMap<String, String>) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = |field: &NodeSelectorRequirement| (field.key == "metadata.name").then_some(node);
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|r| requirement_matches(r, labels.get(&r.key).map(String::as_str)))
        && fields.iter().all(|r| requirement_matches(r, name(r)))
}

fn requirement_matches(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let contained = value.is_some_and(|value| values.iter().any(|v| v == value));
    let compared = || -> Option<std::cmp::Ordering> {
        let [bound] = values else { return None };
        Some(value?.parse::<i64>().ok()?.cmp(&bound.parse().ok()?))
    };
    match requirement.operator.as_str() {
        "In" => contained,
        "NotIn" => !contained,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared() == Some(std::cmp::Ordering::Greater),
        "Lt" => compared() == Some(std::cmp::Ordering::Less),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators() {
        let table = [
            ("In", vec!["a", "b"], Some("a"), true),
            ("In", vec!["a"], Some("c"), false),
            ("In", vec!["a"], None, false),
            ("NotIn", vec!["a"], Some("a"), false),
            ("NotIn", vec!["a"], None, true),
            ("Exists", vec![], Some(""), true),
            ("Exists", vec![], None, false),
            ("DoesNotExist", vec![], None, true),
            ("Gt", vec!["3"], Some("4"), true),
            ("Gt", vec!["3"], Some("3"), false),
            ("Gt", vec!["3"], Some("many"), false),
            ("Lt", vec!["3"], Some("2"), true),
            ("Lt", vec!["3"], None, false),
            ("Near", vec![], Some("x"), false),
        ];
        for (operator, values, value, expected) in table {
            let requirement = NodeSelectorRequirement {
                key: "k".to_owned(),
                operator: operator.to_owned(),
                values: Some(values.iter().map(|v| (*v).to_owned()).collect()),
            };
            assert_eq!(requirement_matches(&requirement, value), expected, "{operator} {values:?} {value:?}");
        }
    }

    #[test]
    fn terms_are_alternatives_and_an_empty_one_matches_nothing() {
        let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
        let pod = |terms: serde_json::Value| -> Pod {
            serde_json::from_value(
                serde_json::json!({"spec": {"containers": [], "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}}),
            )
            .unwrap()
        };
        let zone = |value: &str| serde_json::json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [value]}]});
        let named = |name: &str| serde_json::json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]});
        assert!(matches(&pod(serde_json::json!([zone("b"), zone("a")])), "n", &labels));
        assert!(!matches(&pod(serde_json::json!([zone("b")])), "n", &labels));
        assert!(!matches(&pod(serde_json::json!([{}])), "n", &labels));
        assert!(matches(&pod(serde_json::json!([named("n")])), "n", &labels));
        assert!(!matches(&pod(serde_json::json!([named("m")])), "n", &labels));
    }
}
