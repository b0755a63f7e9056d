//! Strict reading of a KubeletConfiguration: a misspelt field is an error that names it and its line,
//! and a field that does nothing here is reported, once.

use serde::{
    Deserialize,
    de::{
        DeserializeSeed, Deserializer, Error as _, IgnoredAny, IntoDeserializer, MapAccess, Visitor, value,
    },
};

use super::file::{API_VERSION, KIND, KubeletConfiguration, WITHOUT_EFFECT};

/// A configuration as it was read, with the fields in it that have no effect.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) configuration: KubeletConfiguration,
    pub(super) without_effect: Vec<&'static str>,
}

/// Reads YAML (or JSON, which is YAML).
///
/// The error is a sentence that names the field, and the line where there is one; it does not name the
/// file.
pub(super) fn decode(text: &str) -> Result<Decoded, String> {
    if text.trim().is_empty() {
        return Ok(Decoded { configuration: KubeletConfiguration::default(), without_effect: Vec::new() });
    }
    let decoded =
        Decoded::deserialize(serde_yaml_ng::Deserializer::from_str(text)).map_err(|err| explain(&err))?;
    let KubeletConfiguration { api_version, kind, .. } = &decoded.configuration;
    if api_version != API_VERSION || kind != KIND {
        return Err(format!("this is {kind:?} of {api_version:?}; expected {KIND:?} of {API_VERSION:?}"));
    }
    Ok(decoded)
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
    fn what_configz_shows_can_be_read_again() {
        let shown = serde_json::to_string(&KubeletConfiguration::default()).unwrap();
        assert_eq!(decode(&shown).unwrap().configuration, KubeletConfiguration::default());
    }
}
