use std::sync::Arc;

use super::*;

/// Makes the environment of a container given as JSON, in a namespace with one service, one config map and
/// one secret.
fn environment(container: serde_json::Value) -> Result<Vec<(String, String)>, String> {
    let pod: Pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p", "namespace": "ns", "labels": {"app": "web"}},
        "spec": {"containers": [container.clone()], "enableServiceLinks": false},
    }))
    .unwrap();
    let service: Service = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "kubernetes", "namespace": "default"}, "spec": {"clusterIP": "10.0.0.1"},
    }))
    .unwrap();
    let config_map: ConfigMap =
        serde_json::from_value(serde_json::json!({"data": {"a": "1", "b": "2", "bad=name": "x"}})).unwrap();
    let secret: Secret = serde_json::from_value(serde_json::json!({"data": {"token": "czNjcjN0"}})).unwrap();
    let container: Container = serde_json::from_value(container).unwrap();
    variables(
        &container,
        EnvironmentSources {
            pod: &pod,
            addresses: &[],
            node: &NodeFacts::default(),
            services: &[Arc::new(service)],
            config_maps: &BTreeMap::from([("cm".to_owned(), Arc::new(config_map))]),
            secrets: &BTreeMap::from([("se".to_owned(), Arc::new(secret))]),
            files: &BTreeMap::from([
                (("v".to_owned(), "env".to_owned()), Some("A='1'\nEMPTY=''\n".to_owned())),
                (("v".to_owned(), "bad".to_owned()), Some("A=1\n".to_owned())),
                (("v".to_owned(), "none".to_owned()), None),
            ]),
            image: &[("PATH".to_owned(), "/bin".to_owned()), ("A".to_owned(), "image".to_owned())],
        },
    )
    .map_err(|error| error.0)
}

fn text(pairs: Vec<(String, String)>) -> Vec<String> {
    pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

#[test]
fn stronger_sources_replace_weaker_ones_in_place() {
    let variables = environment(serde_json::json!({
        "name": "c",
        "envFrom": [{"configMapRef": {"name": "cm"}}, {"prefix": "S_", "secretRef": {"name": "se"}}],
        "env": [{"name": "b", "value": "own"}, {"name": "A", "value": "pod"}, {"name": "HOSTNAME", "value": "h"}],
    }));
    let expected = [
        "PATH=/bin",
        "A=pod",
        "HOSTNAME=h",
        "KUBERNETES_SERVICE_HOST=10.0.0.1",
        "a=1",
        "b=own",
        "S_token=s3cr3t",
    ];
    assert_eq!(text(variables.unwrap()), expected);
}

#[test]
fn references_see_what_came_before_and_the_services() {
    let variables = environment(serde_json::json!({
        "name": "c",
        "envFrom": [{"configMapRef": {"name": "cm"}}],
        "env": [
            {"name": "ONE", "value": "$(a)-$(KUBERNETES_SERVICE_HOST)"},
            {"name": "TWO", "value": "$(ONE)$(THREE)$(PATH)"},
            {"name": "THREE", "value": "3"},
            {"name": "EMPTY", "value": ""},
            {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        ],
    }));
    let variables = text(variables.unwrap());
    let (_, own) = variables.split_at(variables.len() - 5);
    assert_eq!(own, ["ONE=1-10.0.0.1", "TWO=1-10.0.0.1$(THREE)$(PATH)", "THREE=3", "EMPTY=", "LABEL=web"]);
}

#[test]
fn what_is_missing_is_named_or_skipped() {
    let env = |source: serde_json::Value| serde_json::json!({"name": "c", "env": [{"name": "X", "valueFrom": source}]});
    let table = [
        (
            env(serde_json::json!({"configMapKeyRef": {"name": "no", "key": "k"}})),
            Err("configmap \"no\" not found"),
        ),
        (
            env(serde_json::json!({"configMapKeyRef": {"name": "cm", "key": "k"}})),
            Err("couldn't find key k in ConfigMap ns/cm"),
        ),
        (
            env(serde_json::json!({"secretKeyRef": {"name": "no", "key": "k"}})),
            Err("secret \"no\" not found"),
        ),
        (
            env(serde_json::json!({"secretKeyRef": {"name": "se", "key": "k"}})),
            Err("couldn't find key k in Secret ns/se"),
        ),
        (env(serde_json::json!({"secretKeyRef": {"name": "no", "key": "k", "optional": true}})), Ok(())),
        (env(serde_json::json!({"configMapKeyRef": {"name": "cm", "key": "k", "optional": true}})), Ok(())),
        (
            serde_json::json!({"name": "c", "envFrom": [{"secretRef": {"name": "no"}}]}),
            Err("secret \"no\" not found"),
        ),
        (
            serde_json::json!({"name": "c", "envFrom": [{"secretRef": {"name": "no", "optional": true}}]}),
            Ok(()),
        ),
    ];
    for (container, expected) in table {
        let outcome = environment(container.clone());
        match expected {
            Err(message) => assert_eq!(outcome, Err(message.to_owned()), "{container}"),
            Ok(()) => {
                let variables = outcome.unwrap();
                assert!(!variables.iter().any(|(name, _)| name == "X"), "{container}");
            }
        }
    }
}

#[test]
fn variables_from_files() {
    let table = [
        ("env", "A", false, Ok(Some("1"))),
        ("env", "B", false, Err("environment variable key \"B\" not found in file \"env\" of volume \"v\"")),
        ("env", "B", true, Ok(None)),
        ("env", "EMPTY", true, Ok(None)),
        (
            "none",
            "A",
            false,
            Err("environment variable key \"A\" not found in file \"none\" of volume \"v\""),
        ),
        ("none", "A", true, Ok(None)),
        ("bad", "A", true, Err("couldn't parse env file")),
    ];
    for (path, key, optional, expected) in table {
        let reference =
            serde_json::json!({"volumeName": "v", "path": path, "key": key, "optional": optional});
        let container =
            serde_json::json!({"name": "c", "env": [{"name": "X", "valueFrom": {"fileKeyRef": reference}}]});
        let found = environment(container)
            .map(|variables| variables.into_iter().find(|(name, _)| name == "X").map(|(_, value)| value));
        let expected = expected.map(|value| value.map(str::to_owned)).map_err(str::to_owned);
        assert_eq!(found, expected, "{path} {key} {optional}");
    }
}
