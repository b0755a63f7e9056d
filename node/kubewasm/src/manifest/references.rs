//! Whether the objects that a pod refers to are there. In a cluster they may come later; here nobody would bring them.

use anyhow::bail;
use serde_json::{Map, Value};

use super::Manifest;

/// Looks for everything that the pod refers to and that is not optional.
///
/// # Errors
/// Names the object that is missing.
pub(super) fn check(manifest: &Manifest) -> anyhow::Result<()> {
    let spec = serde_json::to_value(&manifest.pod.spec)?;
    let mut missing = Vec::new();
    walk(&spec, &mut |kind, name| {
        let is_there = match kind {
            ReferenceKind::ConfigMap => manifest.config_maps.contains_key(name),
            ReferenceKind::Secret => manifest.secrets.contains_key(name),
        };
        if !is_there {
            missing.push(format!("{} {name:?}", kind.as_str()));
        }
    });
    missing.sort();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    let namespace = manifest.pod.metadata.namespace.as_deref().unwrap_or_default();
    bail!(
        "the Pod refers to {}, which no document holds for its namespace, {namespace:?}: add it, or mark the reference \
         `optional: true`",
        missing.join(", ")
    );
}

#[derive(Clone, Copy)]
enum ReferenceKind {
    ConfigMap,
    Secret,
}

impl ReferenceKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "the ConfigMap",
            Self::Secret => "the Secret",
        }
    }
}

/// Finds the references of environments and volumes wherever they are in a spec: their fields have names of their own.
fn walk(value: &Value, tell: &mut impl FnMut(ReferenceKind, &str)) {
    match value {
        Value::Object(fields) => {
            for (field, inner) in fields {
                let kind = match field.as_str() {
                    "configMap" | "configMapRef" | "configMapKeyRef" => Some(ReferenceKind::ConfigMap),
                    "secret" | "secretRef" | "secretKeyRef" => Some(ReferenceKind::Secret),
                    _ => None,
                };
                if let (Some(kind), Value::Object(reference)) = (kind, inner)
                    && let Some(name) = required(reference)
                {
                    tell(kind, name);
                }
                walk(inner, tell);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, tell)),
        _ => {}
    }
}

fn required(reference: &Map<String, Value>) -> Option<&str> {
    let optional = reference.get("optional").and_then(Value::as_bool).unwrap_or(false);
    let name = reference.get("name").or_else(|| reference.get("secretName")).and_then(Value::as_str);
    name.filter(|name| !optional && !name.is_empty())
}
