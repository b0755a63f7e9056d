//! Strict reading of one KubeletConfiguration: a misspelt field is an error that names it and its line, and a field that
//! does nothing here is reported, once.

use serde::{
    Deserialize,
    de::{
        DeserializeSeed, Deserializer, Error as _, IgnoredAny, IntoDeserializer, MapAccess, Visitor, value,
    },
};
use serde_json::{Map, Value};
use serde_yaml_ng::Value as Yaml;

use super::{
    file::{API_VERSION, KIND, KubeletConfiguration},
    without_effect::{WITHOUT_EFFECT, WithoutEffect},
};

/// A configuration as it was read, with the fields in it that have no effect.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) configuration: KubeletConfiguration,
    pub(super) without_effect: Vec<&'static str>,
}

/// What one file says, and no default for what it does not say.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// Its fields, in the form in which `/configz` shows them; null for a field that goes back to its default.
    pub(super) fields: Map<String, Value>,
    /// Those that have no effect.
    pub(super) without_effect: Vec<&'static str>,
}

/// Reads one file of several that are laid over each other. With `must_say_kind`, it has to say what it is.
///
/// # Errors
/// As those of [`decode`].
pub(super) fn document(text: &str, must_say_kind: bool) -> Result<Document, String> {
    let raw: Yaml = serde_yaml_ng::from_str(text).map_err(|err| explain(&err))?;
    let raw = match raw {
        Yaml::Mapping(_) | Yaml::Null => raw,
        _ => return Err("this is no KubeletConfiguration: it must be fields and their values".to_owned()),
    };
    if must_say_kind && ["apiVersion", "kind"].iter().any(|name| raw.get(*name).is_none_or(Yaml::is_null)) {
        return Err(format!(
            "it must say what it is: begin it with `apiVersion: {API_VERSION}` and `kind: {KIND}`"
        ));
    }
    let decoded = if has_nulls(&raw) {
        let said = serde_yaml_ng::to_string(&without_nulls(&raw)).map_err(|err| err.to_string())?;
        // The lines are those of another text.
        decode(&said).map_err(|message| match message.split_once(": ") {
            Some((line, rest)) if line.starts_with("line ") => rest.to_owned(),
            _ => message,
        })?
    } else {
        decode(text)?
    };
    let mut without_effect = decoded.without_effect;
    without_effect.retain(|name| !raw.get(*name).is_none_or(Yaml::is_null));
    let mut effective = decoded.configuration.effective();
    // What is shown is without the values.
    let headers = &decoded.configuration.static_pod_url_header;
    if !headers.is_empty() {
        effective["staticPodURLHeader"] = serde_json::json!(headers.revealed());
    }
    let fields = match said(&raw, effective) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    Ok(Document { fields, without_effect })
}

/// The part of `value` that `raw` names. Leaves are taken from `value`, where they have the types of their fields.
fn said(raw: &Yaml, value: Value) -> Value {
    match (raw, value) {
        (Yaml::Null, _) => Value::Null,
        (Yaml::Mapping(names), Value::Object(mut fields)) => {
            let part = names.iter().filter_map(|(name, inner)| {
                let name = name.as_str()?;
                Some((name.to_owned(), said(inner, fields.remove(name).unwrap_or(Value::Null))))
            });
            Value::Object(part.collect())
        }
        (_, value) => value,
    }
}

fn has_nulls(value: &Yaml) -> bool {
    value.as_mapping().is_some_and(|fields| fields.values().any(|inner| inner.is_null() || has_nulls(inner)))
}

fn without_nulls(value: &Yaml) -> Yaml {
    match value {
        Yaml::Mapping(fields) => {
            let kept = fields.iter().filter(|(_, inner)| !inner.is_null());
            Yaml::Mapping(kept.map(|(name, inner)| (name.clone(), without_nulls(inner))).collect())
        }
        other => other.clone(),
    }
}

/// Reads YAML (or JSON, which is YAML).
///
/// The error is a sentence that names the field, and the line where there is one; it does not name the
/// file.
pub(super) fn decode(text: &str) -> Result<Decoded, String> {
    if text.trim().is_empty() {
        return Ok(Decoded { configuration: KubeletConfiguration::default(), without_effect: Vec::new() });
    }
    let mut decoded =
        Decoded::deserialize(serde_yaml_ng::Deserializer::from_str(text)).map_err(|err| explain(&err))?;
    if !decoded.without_effect.is_empty() {
        decoded.configuration.without_effect =
            WithoutEffect::deserialize(serde_yaml_ng::Deserializer::from_str(text))
                .map_err(|err| explain(&err))?;
    }
    let KubeletConfiguration { api_version, kind, .. } = &decoded.configuration;
    if api_version != API_VERSION || kind != KIND {
        return Err(format!("this is {kind:?} of {api_version:?}; expected {KIND:?} of {API_VERSION:?}"));
    }
    Ok(decoded)
}

/// Reads what layers have come to.
pub(super) fn from_fields(mut fields: Map<String, Value>) -> Result<KubeletConfiguration, String> {
    let without_effect: WithoutEffect =
        serde_json::from_value(Value::Object(fields.clone())).map_err(|err| err.to_string())?;
    fields.retain(|name, _| !WITHOUT_EFFECT.contains(&name.as_str()));
    let mut configuration: KubeletConfiguration =
        serde_json::from_value(Value::Object(fields)).map_err(|err| err.to_string())?;
    configuration.without_effect = without_effect;
    Ok(configuration)
}

/// serde's message without the list of all the fields there are, and with the line in front.
fn explain(err: &serde_yaml_ng::Error) -> String {
    let text = err.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    let message = match text.split_once(", expected one of ") {
        Some((unknown, _)) if unknown.contains("unknown field") => {
            format!("{unknown}: check its spelling and its place, or remove it")
        }
        _ => text.to_owned(),
    };
    match err.location() {
        Some(place) => format!("line {}: {message}", place.line()),
        None => message,
    }
}

impl<'de> Deserialize<'de> for Decoded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(DecodedVisitor)
    }
}

struct DecodedVisitor;

impl<'de> Visitor<'de> for DecodedVisitor {
    type Value = Decoded;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a KubeletConfiguration")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Decoded, A::Error> {
        let mut without_effect = Vec::new();
        let skipping = Skipping { fields, skipped: &mut without_effect };
        let configuration = KubeletConfiguration::deserialize(value::MapAccessDeserializer::new(skipping))?;
        Ok(Decoded { configuration, without_effect })
    }
}

/// The fields of a map without those of [`WITHOUT_EFFECT`], which are noted instead.
struct Skipping<'a, A> {
    fields: A,
    skipped: &'a mut Vec<&'static str>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Skipping<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let mut seed = seed;
        loop {
            match self.fields.next_key_seed(KeySeed(seed))? {
                None => return Ok(None),
                Some(Key::Field(field)) => return Ok(Some(field)),
                Some(Key::WithoutEffect(name, unused)) => {
                    if self.skipped.contains(&name) {
                        return Err(A::Error::custom(format_args!("duplicate field `{name}`")));
                    }
                    self.fields.next_value::<IgnoredAny>()?;
                    self.skipped.push(name);
                    seed = unused;
                }
            }
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.fields.next_value_seed(seed)
    }
}

enum Key<K, V> {
    /// A field that has no effect, and the seed that was not needed for it.
    WithoutEffect(&'static str, K),
    /// A field for the struct to look at.
    Field(V),
}

/// Reads one key. The struct's own look at it happens inside, so that its refusal carries the key's line.
struct KeySeed<K>(K);

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for KeySeed<K> {
    type Value = Key<K, K::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de, K: DeserializeSeed<'de>> Visitor<'de> for KeySeed<K> {
    type Value = Key<K, K::Value>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<Self::Value, E> {
        match WITHOUT_EFFECT.iter().find(|name| **name == key) {
            Some(name) => Ok(Key::WithoutEffect(name, self.0)),
            None => self.0.deserialize(key.into_deserializer()).map(Key::Field),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

    #[test]
    fn reads_what_kubeadm_writes() {
        let text = format!(
            "{HEAD}authentication:\n  anonymous:\n    enabled: false\n  webhook:\n    cacheTTL: 0s\n    enabled: true\n  \
             x509:\n    clientCAFile: /etc/kubernetes/pki/ca.crt\nauthorization:\n  mode: Webhook\n  webhook:\n    \
             cacheAuthorizedTTL: 0s\n    cacheUnauthorizedTTL: 0s\ncgroupDriver: systemd\nclusterDNS:\n- 10.96.0.10\n\
             clusterDomain: cluster.local\ncontainerRuntimeEndpoint: \"\"\ncpuManagerReconcilePeriod: 0s\n\
             fileCheckFrequency: 0s\nhealthzBindAddress: 127.0.0.1\nhealthzPort: 10248\nlogging:\n  verbosity: 0\n\
             maxPods: 500\nrotateCertificates: true\nstaticPodPath: /etc/kubernetes/manifests\n"
        );
        let decoded = decode(&text).unwrap();
        assert_eq!(
            decoded.without_effect,
            ["cgroupDriver", "containerRuntimeEndpoint", "cpuManagerReconcilePeriod", "logging"]
        );
        let configuration = decoded.configuration;
        assert_eq!(configuration.max_pods, 500);
        assert!(configuration.rotate_certificates);
        assert_eq!(configuration.cluster_dns, ["10.96.0.10".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(configuration.node_status_update_frequency, Duration::from_secs(10), "the default stays");
    }

    #[test]
    fn names_the_field_and_the_line() {
        for (body, expected) in [
            ("maxPods: 10\nmaxPod: 10\n", "line 4: unknown field `maxPod`: check its spelling"),
            (
                "authentication:\n  webhook:\n    enable: true\n",
                "line 5: authentication.webhook: unknown field `enable`",
            ),
            ("cgroupDriver: x\nfoo: 1\n", "line 4: unknown field `foo`"),
            ("maxPods: many\n", "line 3: maxPods: invalid type"),
            ("syncFrequency: 10\n", "line 3: syncFrequency: "),
            ("syncFrequency: 10 s\n", "line 3: syncFrequency: \"10 s\" is not a duration"),
            ("maxPods: 1\nmaxPods: 2\n", "duplicate"),
            ("logging: {}\nlogging: {}\n", "duplicate"),
        ] {
            let message = decode(&format!("{HEAD}{body}")).expect_err(body);
            assert!(message.contains(expected), "{body:?}: {message:?}");
            assert!(!message.contains("expected one of"), "{message}");
        }
    }

    #[test]
    fn refuses_another_kind() {
        let message = decode("apiVersion: v1\nkind: Pod\n").unwrap_err();
        assert!(message.contains("\"Pod\""), "{message}");
    }

    #[test]
    fn an_empty_file_is_all_defaults() {
        assert_eq!(decode("\n").unwrap().configuration, KubeletConfiguration::default());
    }

    #[test]
    fn no_field_is_both_honoured_and_without_effect() {
        let honoured = serde_json::to_value(KubeletConfiguration::default()).unwrap();
        for name in WITHOUT_EFFECT {
            assert!(honoured.get(name).is_none(), "{name}");
        }
    }

    #[test]
    fn every_field_without_effect_has_a_type_and_every_type_a_name() {
        let all = WithoutEffect {
            max_parallel_image_pulls: Some(1),
            single_process_oom_kill: Some(true),
            user_namespaces: Some(crate::config::without_effect::UserNamespaces::default()),
            ..WithoutEffect::default()
        };
        let Value::Object(fields) = serde_json::to_value(all).unwrap() else { panic!("it has fields") };
        let typed: Vec<_> = fields.keys().map(String::as_str).collect();
        let difference = |of: &[&str], from: &[&str]| {
            of.iter().filter(|name| !from.contains(name)).map(|name| (*name).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(difference(&typed, WITHOUT_EFFECT), Vec::<String>::new());
        assert_eq!(difference(WITHOUT_EFFECT, &typed), Vec::<String>::new());
    }

    #[test]
    fn fields_without_effect_have_types_too() {
        for (body, expected) in [
            ("oomScoreAdj: low\n", "line 3: oomScoreAdj: invalid type"),
            ("memorySwap:\n  swapBehaviour: NoSwap\n", "memorySwap: unknown field `swapBehaviour`"),
            ("logging:\n  verbosity: many\n", "logging.verbosity: invalid type"),
        ] {
            let message = decode(&format!("{HEAD}{body}")).expect_err(body);
            assert!(message.contains(expected), "{body:?}: {message:?}");
        }
    }

    #[test]
    fn a_document_has_what_it_says_and_nothing_else() {
        let text = format!(
            "{HEAD}maxPods: 7\nkubeReserved: {{cpu: 1}}\nauthentication: {{x509: {{clientCAFile: /ca}}}}\n\
             clusterDNS: [10.0.0.1]\nsyncFrequency: 90s\nevictionHard: {{nodefs.available: null}}\nhairpinMode: null\n"
        );
        let document = document(&text, true).unwrap();
        assert_eq!(
            Value::Object(document.fields),
            serde_json::json!({
                "apiVersion": API_VERSION, "kind": KIND, "maxPods": 7, "kubeReserved": { "cpu": "1" },
                "authentication": { "x509": { "clientCAFile": "/ca" } }, "clusterDNS": ["10.0.0.1"],
                "syncFrequency": "1m30s", "evictionHard": { "nodefs.available": null }, "hairpinMode": null,
            })
        );
        assert_eq!(document.without_effect, Vec::<&str>::new());
    }

    #[test]
    fn what_configz_shows_can_be_read_again() {
        let shown = KubeletConfiguration::default().effective().to_string();
        assert_eq!(decode(&shown).unwrap().configuration, KubeletConfiguration::default());
    }
}
