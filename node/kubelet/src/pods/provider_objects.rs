//! Objects that a provider needs for a container, by what annotations say to it: what they mean is the provider's to know.

use super::{api::Objects, environment::References};
use crate::runtime::{ObjectContents, ObjectNames, SecretContent};

/// What helps where the API server does not let a node read what an annotation names.
const UNREADABLE_ADVICE: &str =
    "; an annotation alone does not let the node read it: name it in one of the pod's volumes as well";

/// What is asked for.
pub(super) fn references(names: &ObjectNames) -> References {
    let ObjectNames { config_maps, secrets } = names.clone();
    References { config_maps, secrets, ..References::default() }
}

/// Why they could not be read, with what helps.
pub(super) fn unreadable(mut message: String) -> String {
    if message.contains("forbidden") {
        message.push_str(UNREADABLE_ADVICE);
    }
    message
}

/// What is in the objects that were named.
///
/// # Errors
/// One does not exist: in upstream's words.
pub(super) fn contents(names: &ObjectNames, objects: &Objects) -> Result<ObjectContents, String> {
    let config_map = |name: &String| match objects.config_maps.get(name) {
        Some(object) => Ok((name.clone(), object.data.clone().unwrap_or_default())),
        None => Err(format!("configmap \"{name}\" not found")),
    };
    let secret = |name: &String| match objects.secrets.get(name) {
        Some(object) => {
            let data = object.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
            let kind = object.type_.clone().unwrap_or_default();
            Ok((name.clone(), SecretContent { kind, data: data.collect() }))
        }
        None => Err(format!("secret \"{name}\" not found")),
    };
    Ok(ObjectContents {
        config_maps: names.config_maps.iter().map(config_map).collect::<Result<_, _>>()?,
        secrets: names.secrets.iter().map(secret).collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;

    #[test]
    fn contents_are_those_that_were_named_and_what_is_missing_is_told() {
        let secret = serde_json::json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "YQ=="}});
        let secret = Arc::new(serde_json::from_value(secret).unwrap());
        let objects = Objects { secrets: BTreeMap::from([("web".to_owned(), secret)]), ..Objects::default() };
        let names = |secret: &str, config_map: Option<&str>| ObjectNames {
            secrets: [secret.to_owned()].into(),
            config_maps: config_map.map(str::to_owned).into_iter().collect(),
        };
        let found = contents(&names("web", None), &objects).unwrap();
        assert_eq!(found.secrets["web"].kind, "kubernetes.io/tls");
        assert_eq!(found.secrets["web"].data["tls.crt"], b"a");
        assert_eq!(contents(&names("late", None), &objects), Err("secret \"late\" not found".to_owned()));
        let missing = contents(&names("web", Some("ca")), &objects);
        assert_eq!(missing, Err("configmap \"ca\" not found".to_owned()));
        assert!(unreadable("secrets \"x\" is forbidden".to_owned()).ends_with("volumes as well"));
        assert_eq!(unreadable("try again".to_owned()), "try again");
    }
}
