//! What policies ask a cluster for, and which kinds of objects they may have of it. Pure.
//!
//! The payloads are those of Kubewarden's SDKs.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::{capabilities::Capability, metadata::ContextAwareResource};

/// The namespace of these operations.
pub(crate) const KUBERNETES: &str = "kubernetes";
/// Objects of one namespace.
pub(crate) const LIST_IN_NAMESPACE: &str = "list_resources_by_namespace";
/// Objects of the whole cluster.
pub(crate) const LIST_ALL: &str = "list_resources_all";
/// One object.
pub(crate) const GET: &str = "get_resource";
/// Whether somebody may do something.
pub(crate) const CAN_I: &str = "can_i";

/// A kind, as the operations name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
pub(crate) struct KindOfObjects {
    pub(crate) api_version: String,
    pub(crate) kind: String,
}

/// The payload of both lists.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct ListQuery {
    #[serde(flatten)]
    pub(crate) of: KindOfObjects,
    #[serde(default)]
    pub(crate) namespace: Option<String>,
    #[serde(default)]
    pub(crate) label_selector: Option<String>,
    #[serde(default)]
    pub(crate) field_selector: Option<String>,
    #[serde(default)]
    pub(crate) disable_cache: bool,
}

/// The payload of `get_resource`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct GetQuery {
    #[serde(flatten)]
    pub(crate) of: KindOfObjects,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) namespace: Option<String>,
    #[serde(default)]
    pub(crate) disable_cache: bool,
}

/// Whether a policy that was granted `resources` may ask for this. Other operations name no kind, and are not looked at.
///
/// # Errors
/// A text for the policy, as Kubewarden has it.
pub(crate) fn check(
    capability: Capability<'_>,
    payload: &[u8],
    resources: &BTreeSet<ContextAwareResource>,
) -> Result<(), String> {
    if capability.namespace != KUBERNETES
        || !matches!(capability.operation, LIST_IN_NAMESPACE | LIST_ALL | GET)
    {
        return Ok(());
    }
    let KindOfObjects { api_version, kind } = read(capability.operation, payload)?;
    let wanted = ContextAwareResource { api_version, kind };
    if resources.contains(&wanted) {
        Ok(())
    } else {
        Err(format!(
            "Policy has not been granted access to Kubernetes {}/{} resources. The violation has been reported.",
            wanted.api_version, wanted.kind
        ))
    }
}

/// Reads a payload.
pub(crate) fn read<'a, T: Deserialize<'a>>(operation: &str, payload: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(payload)
        .map_err(|error| format!("the payload of {operation} cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(operation: &str, payload: &str) -> Result<(), String> {
        let granted = |api_version: &str, kind: &str| ContextAwareResource {
            api_version: api_version.into(),
            kind: kind.into(),
        };
        let resources = [granted("v1", "Namespace"), granted("apps/v1", "Deployment")].into();
        check(Capability { namespace: KUBERNETES, operation }, payload.as_bytes(), &resources)
    }

    #[test]
    fn only_the_kinds_that_are_granted_are_answered() {
        for operation in [LIST_IN_NAMESPACE, LIST_ALL, GET] {
            for kind in [("v1", "Namespace"), ("apps/v1", "Deployment")] {
                let payload = format!(r#"{{"api_version":"{}","kind":"{}"}}"#, kind.0, kind.1);
                assert_eq!(checked(operation, &payload), Ok(()));
            }
            for kind in [("v1", "Secret"), ("v1", "namespace"), ("apps/v1beta1", "Deployment"), ("", "")] {
                let payload =
                    format!(r#"{{"api_version":"{}","kind":"{}","namespace":"a"}}"#, kind.0, kind.1);
                let expected = format!(
                    "Policy has not been granted access to Kubernetes {}/{} resources. The violation has been reported.",
                    kind.0, kind.1
                );
                assert_eq!(checked(operation, &payload), Err(expected));
            }
            for payload in ["", "[]", "null", "{}", r#"{"api_version":1,"kind":"Pod"}"#] {
                let error = checked(operation, payload).unwrap_err();
                assert!(error.starts_with(&format!("the payload of {operation} cannot be read")), "{error}");
            }
            // Whoever says it twice says nothing.
            let twice = r#"{"api_version":"v1","kind":"Namespace","kind":"Secret"}"#;
            assert!(checked(operation, twice).is_err());
        }
        assert_eq!(checked(CAN_I, "whatever"), Ok(()));
    }
}
