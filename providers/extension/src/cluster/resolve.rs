//! From what a configuration says to its text: a pure function.

use std::{fmt, sync::Arc};

use super::{
    grants::{GrantState, Ungranted},
    references::{ObjectName, ObjectState, ReferencedObjects, source_of},
};
use crate::wasm_extension::ConfigurationSpec;

/// A configuration's text, which may be secret: `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigurationText(Arc<str>);

impl ConfigurationText {
    /// The text itself, for those whom Envoys get it from.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ConfigurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConfigurationText")
    }
}

/// Both configurations of an extension.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedConfigurations {
    /// That of the plugin.
    pub plugin: Option<ConfigurationText>,
    /// That of its VM.
    pub vm: Option<ConfigurationText>,
}

/// Why there is no text. The last part of each is a reason in a status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationFailure {
    /// The object was not read yet.
    #[error("{field}: {object} is being read")]
    Pending {
        /// `plugin_configuration` or `vm_configuration`.
        field: &'static str,
        /// What is read.
        object: ObjectName,
    },
    /// It names nothing.
    #[error("{field} has neither a value nor a valueFrom that names a ConfigMap or a Secret")]
    Empty {
        /// As above.
        field: &'static str,
    },
    /// Nobody allows it.
    #[error("{field}: {why}")]
    NotGranted {
        /// As above.
        field: &'static str,
        /// In a sentence.
        why: String,
    },
    /// It is not there.
    #[error("{field}: there is no {object}")]
    ObjectMissing {
        /// As above.
        field: &'static str,
        /// What is missing.
        object: ObjectName,
    },
    /// The API server refuses it.
    #[error("{field}: {object} cannot be read: {why}")]
    ObjectUnreadable {
        /// As above.
        field: &'static str,
        /// What is refused.
        object: ObjectName,
        /// In a sentence.
        why: String,
    },
    /// It has no such key.
    #[error("{field}: {object} has no key {key:?}")]
    KeyMissing {
        /// As above.
        field: &'static str,
        /// Which object.
        object: ObjectName,
        /// The key.
        key: String,
    },
    /// What is there is no text.
    #[error("{field}: the key {key:?} of {object} is not UTF-8")]
    NotText {
        /// As above.
        field: &'static str,
        /// Which object.
        object: ObjectName,
        /// The key.
        key: String,
    },
}

impl ConfigurationFailure {
    /// As conditions have it.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Pending { .. } => "Pending",
            Self::Empty { .. } => "Empty",
            Self::NotGranted { .. } => "RefNotPermitted",
            Self::ObjectMissing { .. } => "ObjectMissing",
            Self::ObjectUnreadable { .. } => "ObjectUnreadable",
            Self::KeyMissing { .. } => "KeyMissing",
            Self::NotText { .. } => "NotText",
        }
    }

    /// Whether it is only a matter of a moment.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        matches!(self, Self::Pending { .. })
    }
}

/// Both configurations of an extension of this namespace.
///
/// # Errors
/// [`ConfigurationFailure`], of the first that has one.
pub fn configurations(
    namespace: &str,
    [plugin, vm]: [(&'static str, Option<&ConfigurationSpec>); 2],
    objects: &ReferencedObjects,
    grants: &GrantState,
) -> Result<ResolvedConfigurations, ConfigurationFailure> {
    let of = |(field, configuration): (&'static str, Option<&ConfigurationSpec>)| {
        configuration.map(|it| text(namespace, field, it, objects, grants)).transpose()
    };
    Ok(ResolvedConfigurations { plugin: of(plugin)?, vm: of(vm)? })
}

fn text(
    namespace: &str,
    field: &'static str,
    configuration: &ConfigurationSpec,
    objects: &ReferencedObjects,
    grants: &GrantState,
) -> Result<ConfigurationText, ConfigurationFailure> {
    if let Some(value) = &configuration.value {
        return Ok(ConfigurationText(value.as_str().into()));
    }
    let Some((object, key)) = source_of(configuration) else {
        return Err(ConfigurationFailure::Empty { field });
    };
    match grants.permits(namespace, &object) {
        Ok(()) => {}
        Err(Ungranted::Unknown) => return Err(ConfigurationFailure::Pending { field, object }),
        Err(Ungranted::Refused(why)) => return Err(ConfigurationFailure::NotGranted { field, why }),
    }
    let bytes = match objects.get(&object) {
        None => return Err(ConfigurationFailure::Pending { field, object }),
        Some(ObjectState::Missing) => return Err(ConfigurationFailure::ObjectMissing { field, object }),
        Some(ObjectState::Unreadable(why)) => {
            return Err(ConfigurationFailure::ObjectUnreadable { field, object, why: why.clone() });
        }
        Some(ObjectState::ConfigMap(map)) => {
            let text = map.data.as_ref().and_then(|data| data.get(key)).map(String::as_bytes);
            text.or_else(|| Some(map.binary_data.as_ref()?.get(key)?.0.as_slice()))
        }
        Some(ObjectState::Secret(secret)) => {
            secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice())
        }
    };
    let key = || key.to_owned();
    let Some(bytes) = bytes else {
        return Err(ConfigurationFailure::KeyMissing { field, object, key: key() });
    };
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(ConfigurationText(text.into())),
        Err(_) => Err(ConfigurationFailure::NotText { field, object, key: key() }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::references::ObjectKind;

    fn object(kind: ObjectKind, namespace: &str, name: &str) -> ObjectName {
        ObjectName { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    fn objects() -> ReferencedObjects {
        let map = json!({ "data": { "k": "of the map" }, "binaryData": { "b": "AP8=", "t": "dGV4dA==" } });
        let secret = json!({ "data": { "k": "b2YgdGhlIHNlY3JldA==", "b": "AP8=" } });
        [
            (
                object(ObjectKind::ConfigMap, "team", "map"),
                ObjectState::ConfigMap(Arc::new(serde_json::from_value(map).unwrap())),
            ),
            (
                object(ObjectKind::Secret, "team", "secret"),
                ObjectState::Secret(Arc::new(serde_json::from_value(secret.clone()).unwrap())),
            ),
            (
                object(ObjectKind::Secret, "vault", "secret"),
                ObjectState::Secret(Arc::new(serde_json::from_value(secret).unwrap())),
            ),
            (object(ObjectKind::Secret, "team", "missing"), ObjectState::Missing),
            (object(ObjectKind::Secret, "team", "forbidden"), ObjectState::Unreadable("no".into())),
        ]
        .into()
    }

    fn resolved(configuration: Value, grants: &GrantState) -> Result<String, String> {
        let configuration: ConfigurationSpec = serde_json::from_value(configuration).unwrap();
        let both = [("plugin_configuration", Some(&configuration)), ("vm_configuration", None)];
        match configurations("team", both, &objects(), grants) {
            Ok(ResolvedConfigurations { plugin: Some(text), vm: None }) => Ok(text.reveal().to_owned()),
            Ok(other) => panic!("{other:?}"),
            Err(failure) => Err(format!("{}: {failure}", failure.reason())),
        }
    }

    #[test]
    fn a_value_goes_before_a_config_map_and_that_before_a_secret() {
        let reference = |name: &str, key: &str| json!({ "namespace": "team", "name": name, "key": key });
        let both =
            json!({ "configMapKeyRef": reference("map", "k"), "secretKeyRef": reference("secret", "k") });
        for (configuration, expected) in [
            (json!({ "value": "v" }), "v"),
            (json!({ "value": "" }), ""),
            (json!({ "value": "v", "valueFrom": both }), "v"),
            (json!({ "valueFrom": both }), "of the map"),
            (json!({ "valueFrom": { "configMapKeyRef": reference("map", "t") } }), "text"),
            (json!({ "valueFrom": { "secretKeyRef": reference("secret", "k") } }), "of the secret"),
        ] {
            assert_eq!(resolved(configuration, &GrantState::NotInstalled).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn what_is_not_there_is_named_and_nothing_of_a_secret_is_told() {
        let secret = |namespace: &str, name: &str, key: &str| {
            let reference = json!({ "namespace": namespace, "name": name, "key": key });
            json!({ "valueFrom": { "secretKeyRef": reference } })
        };
        for (configuration, expected) in [
            (json!({}), "Empty: plugin_configuration has neither"),
            (json!({ "valueFrom": {} }), "Empty: plugin_configuration has neither"),
            (
                secret("team", "missing", "k"),
                "ObjectMissing: plugin_configuration: there is no Secret team/missing",
            ),
            (
                secret("team", "forbidden", "k"),
                "ObjectUnreadable: plugin_configuration: Secret team/forbidden",
            ),
            (
                secret("team", "unseen", "k"),
                "Pending: plugin_configuration: Secret team/unseen is being read",
            ),
            (
                secret("team", "secret", "none"),
                "KeyMissing: plugin_configuration: Secret team/secret has no key \"none\"",
            ),
            (
                secret("team", "secret", "b"),
                "NotText: plugin_configuration: the key \"b\" of Secret team/secret",
            ),
            (
                secret("vault", "secret", "k"),
                "RefNotPermitted: plugin_configuration: Secret vault/secret is in another",
            ),
        ] {
            let refused = resolved(configuration, &GrantState::NotInstalled).unwrap_err();
            assert!(refused.starts_with(expected), "{refused}");
        }
        let unknown = resolved(secret("vault", "secret", "k"), &GrantState::Unknown).unwrap_err();
        assert!(unknown.starts_with("Pending"), "{unknown}");
        let shown = format!("{:?} {:?}", ConfigurationText("hunter2".into()), objects());
        assert!(!shown.contains("hunter2") && !shown.contains("of the"), "{shown}");
    }
}
