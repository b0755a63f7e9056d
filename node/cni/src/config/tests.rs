use serde_json::json;

use super::*;

fn list_of(config: &Value) -> Result<ListFile, ConfigError> {
    list(config.to_string().as_bytes())
}

#[test]
fn a_list_is_read() {
    let file = list_of(&json!({
        "cniVersion": "1.0.0",
        "name": "k8s-pod-network",
        "disableCheck": true,
        "plugins": [
            { "type": "bridge", "ipam": { "type": "host-local" } },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    }))
    .unwrap();
    let NetworkConfig { name, version, disable_check, disable_gc, plugins } = file.network;
    assert_eq!((name.as_str(), version), ("k8s-pod-network", SpecVersion::V1_0_0));
    assert!(disable_check && !disable_gc && file.has_folder);
    assert_eq!(plugins.iter().map(|plugin| plugin.kind.as_str()).collect::<Vec<_>>(), ["bridge", "portmap"]);
    assert_eq!(plugins[0].object["ipam"]["type"], "host-local");
}

#[test]
fn a_single_plugin_is_a_network_of_one() {
    let network = single(br#"{"cniVersion": "0.4.0", "name": "n", "type": "ptp", "mtu": 1400}"#).unwrap();
    assert_eq!((network.version, network.plugins.len()), (SpecVersion::V0_4_0, 1));
    assert_eq!((network.plugins[0].kind.as_str(), &network.plugins[0].object["mtu"]), ("ptp", &json!(1400)));
}

#[test]
fn the_newest_version_that_is_spoken_here_counts() {
    for (config, expected) in [
        (json!({ "cniVersion": "0.3.1" }), Ok("0.3.1")),
        (json!({ "cniVersion": "0.4.0", "cniVersions": ["0.3.1", "1.0.0", "9.0.0"] }), Ok("1.0.0")),
        (json!({ "cniVersion": "1.1.0", "cniVersions": ["0.3.1"] }), Ok("1.1.0")),
        (json!({ "cniVersions": ["9.0.0", "0.4.0"] }), Ok("0.4.0")),
        (json!({ "cniVersion": "9.0.0" }), Err("9.0.0")),
        (json!({ "cniVersion": "0.2.0" }), Err("0.2.0")),
        (json!({}), Err("0.1.0")),
    ] {
        let found = version(config.as_object().unwrap());
        match expected {
            Ok(text) => assert_eq!(found.unwrap().as_str(), text, "{config}"),
            Err(text) => assert!(found.unwrap_err().to_string().contains(text), "{config}"),
        }
    }
}

#[test]
fn switches_may_be_words() {
    for (value, expected) in [(json!(true), true), (json!("True"), true), (json!("FALSE"), false)] {
        let config = json!({ "cniVersion": "1.1.0", "name": "n", "loadOnlyInlinedPlugins": value });
        assert_eq!(list_of(&config).unwrap().has_folder, !expected);
    }
}

/// Nothing of a configuration is in a message but its names.
#[test]
fn what_is_wrong_is_named_and_not_shown() {
    let base = |key: &str, value: Value| {
        let mut config = json!({ "cniVersion": "1.0.0", "name": "n", "plugins": [{ "type": "bridge" }] });
        config[key] = value;
        config
    };
    for (config, expected) in [
        (json!(["hunter2"]), "no JSON object"),
        (json!({ "cniVersion": "1.0.0" }), "\"name\" is missing"),
        (base("name", json!(7)), "\"name\" has a value of the wrong type"),
        (base("name", json!("../etc")), "\"../etc\" is no name of a network"),
        (base("name", json!("")), "is no name of a network"),
        (base("plugins", json!({})), "\"plugins\" has a value of the wrong type"),
        (base("plugins", json!(["hunter2"])), "\"plugins\" has a value of the wrong type"),
        (base("plugins", json!([{ "password": "hunter2" }])), "\"type\" is missing"),
        (base("plugins", json!([{ "type": "../../bin/sh" }])), "\"../../bin/sh\" is no name of a plugin"),
        (base("plugins", json!([{ "type": ".." }])), "is no name of a plugin"),
        (base("cniVersion", json!(1)), "\"cniVersion\" has a value of the wrong type"),
        (base("cniVersions", json!([1])), "\"cniVersions\" has a value of the wrong type"),
        (base("disableCheck", json!("maybe")), "\"disableCheck\" has a value of the wrong type"),
    ] {
        let error = list_of(&config).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains("hunter2"), "{config}: {error}");
    }
    let error = list(br#"{"password": hunter2}"#).unwrap_err().to_string();
    assert!(error.contains("line 1") && !error.contains("hunter2"), "{error}");
    let plugin = plugin(br#"{"type": "x", "password": "hunter2"}"#).unwrap();
    assert!(!format!("{plugin:?}").contains("hunter2"));
}

#[test]
fn a_plugin_gets_the_arguments_that_it_can_use() {
    let all = json!({ "portMappings": [1], "bandwidth": 2, "dns": 3 });
    let all = all.as_object().unwrap();
    for (capabilities, expected) in [
        (json!({ "portMappings": true, "bandwidth": false, "ips": true }), json!({ "portMappings": [1] })),
        (json!({ "dns": "true" }), json!({})),
        (json!(["dns"]), json!({})),
        (json!(null), json!({})),
    ] {
        let config = json!({ "type": "x", "capabilities": capabilities }).to_string();
        let arguments = plugin(config.as_bytes()).unwrap().arguments(all);
        assert_eq!(Value::Object(arguments), expected, "{config}");
    }
}
