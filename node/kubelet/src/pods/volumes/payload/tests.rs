use k8s_openapi::api::core::v1::Volume;
use serde_json::{Value, json};

use super::*;
use crate::pods::volumes::{source::VolumeSource, token};

/// The files of a volume, as `path mode text`, or why there are none. There is a config map `cm`, a secret
/// `se`, one config map that cannot be read, and tokens of two audiences.
fn files(pod: Value, volume: Value) -> Result<Vec<String>, String> {
    let mut volume = volume;
    volume["name"] = json!("v");
    let volume: Volume = serde_json::from_value(volume).unwrap();
    let VolumeSource::Projected(projected) = VolumeSource::of(&volume) else { panic!("not projected") };
    let mut pod = pod;
    pod["metadata"] = json!({"name": "p", "namespace": "ns", "labels": {"app": "web"}});
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let config_map = json!({"data": {"a": "1", "b": "2"}, "binaryData": {"bin": "AAE="}});
    let config_map: ConfigMap = serde_json::from_value(config_map).unwrap();
    let secret: Secret = serde_json::from_value(json!({"data": {"key": "czNjcjN0"}})).unwrap();
    let token = |audience: &str, seconds, text: Result<&str, &str>| {
        let text = text.map(|t| token::Secret(t.to_owned())).map_err(str::to_owned);
        (TokenKey { audience: audience.to_owned(), seconds }, text)
    };
    let bundles = [TrustBundle { name: "ca".to_owned(), ..TrustBundle::default() }];
    let inputs = Inputs {
        pod: &pod,
        node: &NodeFacts::default(),
        config_maps: &BTreeMap::from([
            ("cm".to_owned(), Ok(Some(Arc::new(config_map)))),
            ("none".to_owned(), Ok(None)),
            ("shut".to_owned(), Err("forbidden".to_owned())),
        ]),
        secrets: &BTreeMap::from([
            ("se".to_owned(), Ok(Some(Arc::new(secret)))),
            ("none".to_owned(), Ok(None)),
        ]),
        tokens: &BTreeMap::from([
            token("", 3600, Ok("t0")),
            token("vault", 600, Ok("t1")),
            token("down", 3600, Err("no answer")),
        ]),
        trust: Ok(&bundles),
    };
    let payload = of(&projected, inputs)?;
    let line = |(path, file): (String, PayloadFile)| {
        format!("{path} {:o} {}", file.mode, String::from_utf8_lossy(&file.bytes).escape_debug())
    };
    Ok(payload.into_iter().map(line).collect())
}

#[test]
fn every_kind_of_source() {
    let bare = || json!({"spec": {"containers": [{"name": "c"}]}});
    let table: Vec<(Value, Result<Vec<&str>, &str>)> = vec![
        (json!({"configMap": {"name": "cm"}}), Ok(vec!["a 644 1", "b 644 2", "bin 644 \\0\\u{1}"])),
        (
            json!({"configMap": {"name": "cm", "defaultMode": 0o600, "items": [
                {"key": "a", "path": "x/y"}, {"key": "bin", "path": "z", "mode": 0o440},
            ]}}),
            Ok(vec!["x/y 600 1", "z 440 \\0\\u{1}"]),
        ),
        (
            json!({"configMap": {"name": "cm", "items": [{"key": "no", "path": "x"}]}}),
            Err("configmap references non-existent config key: no"),
        ),
        (
            json!({"configMap": {"name": "cm", "optional": true, "items": [
                {"key": "no", "path": "x"}, {"key": "b", "path": "y"},
            ]}}),
            Ok(vec!["y 644 2"]),
        ),
        (json!({"configMap": {"name": "none"}}), Err("configmap \"none\" not found")),
        (json!({"configMap": {"name": "none", "optional": true}}), Ok(vec![])),
        (json!({"configMap": {"name": "shut", "optional": true}}), Err("forbidden")),
        (json!({"secret": {"secretName": "se", "defaultMode": 0o400}}), Ok(vec!["key 400 s3cr3t"])),
        (json!({"secret": {"secretName": "none"}}), Err("secret \"none\" not found")),
        (
            json!({"secret": {"secretName": "se", "items": [{"key": "no", "path": "x"}]}}),
            Err("references non-existent secret key: no"),
        ),
        (json!({"secret": {"secretName": "none", "optional": true}}), Ok(vec![])),
        (
            json!({"downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "d/name", "fieldRef": {"fieldPath": "metadata.name"}, "mode": 0o400},
            ]}}),
            Ok(vec!["d/name 400 p", "labels 644 app=\\\"web\\\""]),
        ),
        (
            json!({"downwardAPI": {"items": [{"path": "x", "fieldRef": {"fieldPath": "status.podIP"}}]}}),
            Err("unsupported fieldPath: status.podIP"),
        ),
        (
            json!({"projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}},
                {"serviceAccountToken": {"path": "vault", "audience": "vault", "expirationSeconds": 600}},
                {"configMap": {"name": "cm", "items": [{"key": "a", "path": "shared"}]}},
                {"secret": {"name": "se", "items": [{"key": "key", "path": "shared"}]}},
                {"clusterTrustBundle": {"name": "ca", "path": "ca.pem"}},
            ]}}),
            Ok(vec!["ca.pem 644 ", "shared 644 s3cr3t", "token 644 t0", "vault 644 t1"]),
        ),
        (
            json!({"projected": {"sources": [
                {"serviceAccountToken": {"path": "token", "audience": "down"}},
                {"secret": {"name": "none"}},
            ]}}),
            Err("[failed to fetch token: no answer, secret \"none\" not found]"),
        ),
        (json!({"projected": {"sources": []}}), Ok(vec![])),
    ];
    for (volume, expected) in table {
        let found = files(bare(), volume.clone());
        let expected = expected
            .map(|lines| lines.into_iter().map(str::to_owned).collect::<Vec<_>>())
            .map_err(str::to_owned);
        assert_eq!(found, expected, "{volume}");
    }
}

#[test]
fn no_path_leads_out_of_the_volume() {
    for path in ["../x", "/etc/x", "a/../../x", "..data/x", ""] {
        let volume = json!({"configMap": {"name": "cm", "items": [{"key": "a", "path": path}]}});
        let error = files(json!({"spec": {"containers": []}}), volume).unwrap_err();
        assert!(error.starts_with("invalid path"), "{path:?}: {error}");
    }
    let volume = json!({"configMap": {"name": "cm", "items": [{"key": "a", "path": "./a//b/."}]}});
    assert_eq!(files(json!({"spec": {"containers": []}}), volume).unwrap(), ["a/b 644 1"]);
}

#[test]
fn a_token_is_for_the_one_user_of_a_pod_alone() {
    let user = |id: i64| json!({"name": format!("c{id}"), "securityContext": {"runAsUser": id}});
    let table = [
        (json!({"containers": [{"name": "c"}]}), 0o644),
        (json!({"securityContext": {"fsGroup": 5}, "containers": [{"name": "c"}]}), 0o600),
        (json!({"securityContext": {"runAsUser": 5}, "containers": [{"name": "c"}]}), 0o600),
        (json!({"containers": [user(5)], "initContainers": [user(5)]}), 0o600),
        (json!({"containers": [user(5), user(6)]}), 0o644),
        (json!({"containers": [user(5), {"name": "c"}]}), 0o644),
        (json!({"securityContext": {"runAsUser": 5}, "containers": [user(5), {"name": "c"}]}), 0o600),
    ];
    for (spec, mode) in table {
        let volume = json!({"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}});
        assert_eq!(files(json!({"spec": spec}), volume).unwrap(), [format!("token {mode:o} t0")], "{spec}");
    }
}

#[test]
fn debug_hides_contents() {
    let file = PayloadFile { bytes: b"s3cr3t".to_vec(), mode: 0o400 };
    assert_eq!(format!("{file:?}"), "6 bytes, mode 400");
}
