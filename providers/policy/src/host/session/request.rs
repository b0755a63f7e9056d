//! Questions as kwctl writes them down: a tag for the operation, and its fields.

use serde_json::{Map, Value, json};
use serde_yaml_ng::value::{Tag, TaggedValue};

use crate::capabilities::Capability;

/// A question in kwctl's words.
struct Question {
    tag: String,
    fields: Map<String, Value>,
}

/// Writes a question down.
pub(super) fn written(capability: Capability<'_>, payload: &[u8]) -> Result<String, String> {
    let Question { tag, fields } = question(capability, payload)?;
    let value = serde_yaml_ng::to_value(fields).map_err(|error| error.to_string())?;
    let tagged = serde_yaml_ng::Value::Tagged(Box::new(TaggedValue { tag: Tag::new(tag), value }));
    serde_yaml_ng::to_string(&tagged).map_err(|error| error.to_string())
}

/// Whether a question is the one that was written down. What has no value may be left out.
pub(super) fn is_the_same(
    capability: Capability<'_>,
    payload: &[u8],
    recorded: &str,
) -> Result<bool, String> {
    let Question { tag, fields } = question(capability, payload)?;
    let recorded: serde_yaml_ng::Value = serde_yaml_ng::from_str(recorded)
        .map_err(|error| format!("a question of the session cannot be read: {error}"))?;
    let serde_yaml_ng::Value::Tagged(tagged) = recorded else {
        return Err("a question of the session does not say for what it is, by a tag".to_owned());
    };
    let of_session: Value = serde_yaml_ng::from_value(tagged.value)
        .map_err(|error| format!("a question of the session cannot be read: {error}"))?;
    Ok(tagged.tag == tag.as_str() && without_nulls(of_session) == without_nulls(Value::Object(fields)))
}

fn question(Capability { namespace, operation }: Capability<'_>, payload: &[u8]) -> Result<Question, String> {
    let payload: Value = serde_json::from_slice(payload)
        .map_err(|error| format!("the payload of {operation} cannot be read: {error}"))?;
    let named = |tag: &str, payload: Value| match payload {
        Value::Object(fields) => Ok(Question { tag: tag.to_owned(), fields }),
        _ => Err(format!("the payload of {operation} is no object")),
    };
    match (namespace, operation) {
        ("kubernetes", "list_resources_by_namespace") => named("KubernetesListResourceNamespace", payload),
        ("kubernetes", "list_resources_all") => named("KubernetesListResourceAll", payload),
        ("kubernetes", "get_resource") => named("KubernetesGetResource", payload),
        ("kubernetes", "can_i") => named("KubernetesCanI", payload),
        ("oci", "v1/manifest_digest") => named("OciManifestDigest", json!({ "image": payload })),
        ("oci", "v1/oci_manifest") => named("OciManifest", json!({ "image": payload })),
        ("oci", "v1/oci_manifest_config") => named("OciManifestAndConfig", json!({ "image": payload })),
        ("oci", "v1/verify") => match payload {
            Value::Object(kinds) if kinds.len() == 1 => {
                let (kind, asked) = kinds.into_iter().next().unwrap_or_default();
                named(&kind, asked)
            }
            _ => Err(format!("the payload of {operation} has not one field")),
        },
        ("oci", "v2/verify") => match payload {
            Value::Object(mut asked) => match asked.remove("type") {
                Some(Value::String(kind)) => named(&kind, Value::Object(asked)),
                _ => Err(format!("the payload of {operation} has no type")),
            },
            _ => Err(format!("the payload of {operation} is no object")),
        },
        ("net", "v1/dns_lookup_host") => named("DNSLookupHost", json!({ "host": payload })),
        // kwctl has no word for the rest that could be relied on.
        _ => named(&format!("{namespace}/{operation}"), payload),
    }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let said = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(said.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_have_kwctls_names() {
        for (namespace, operation, payload, tag) in [
            ("kubernetes", "list_resources_all", "{\"kind\":\"Pod\"}", "!KubernetesListResourceAll\n"),
            ("kubernetes", "list_resources_by_namespace", "{\"a\":1}", "!KubernetesListResourceNamespace\n"),
            ("kubernetes", "can_i", "{\"a\":1}", "!KubernetesCanI\n"),
            ("oci", "v1/oci_manifest", "\"a\"", "!OciManifest\nimage: a\n"),
            ("oci", "v1/oci_manifest_config", "\"a\"", "!OciManifestAndConfig\n"),
            (
                "oci",
                "v1/verify",
                "{\"SigstorePubKeyVerify\":{\"image\":\"a\"}}",
                "!SigstorePubKeyVerify\nimage: a\n",
            ),
            (
                "oci",
                "v2/verify",
                "{\"type\":\"SigstorePubKeyVerify\",\"image\":\"a\"}",
                "!SigstorePubKeyVerify\nimage: a\n",
            ),
            ("net", "v1/dns_lookup_host", "\"a\"", "!DNSLookupHost\nhost: a\n"),
        ] {
            let capability = Capability { namespace, operation };
            let text = written(capability, payload.as_bytes()).unwrap();
            assert!(text.starts_with(tag), "{text}");
            assert_eq!(is_the_same(capability, payload.as_bytes(), &text), Ok(true), "{text}");
            assert_eq!(is_the_same(capability, payload.as_bytes(), "!Other\na: 1\n"), Ok(false));
        }
        let digest = Capability { namespace: "oci", operation: "v1/manifest_digest" };
        assert!(written(digest, b"no JSON").is_err());
        assert!(is_the_same(digest, b"\"a\"", "image: a\n").is_err());
    }
}
