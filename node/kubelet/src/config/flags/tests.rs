use std::collections::BTreeSet;

use serde_json::json;

use super::*;

fn told(name: &str, values: &[&str]) -> Result<Value, String> {
    let mut configuration = Map::new();
    let values: Vec<_> = values.iter().map(|value| (*value).to_owned()).collect();
    set(&mut configuration, field_flag(name).unwrap(), &values)?;
    Ok(Value::Object(configuration))
}

#[test]
fn flags_are_read_as_the_kubelet_reads_them() {
    for (name, values, expected) in [
        ("cluster-domain", vec!["a", "b"], json!({ "clusterDomain": "b" })),
        (
            "cluster-dns",
            vec!["10.0.0.1,10.0.0.2", "10.0.0.3"],
            json!({ "clusterDNS": ["10.0.0.1", "10.0.0.2", "10.0.0.3"] }),
        ),
        ("anonymous-auth", vec!["F"], json!({ "authentication": { "anonymous": { "enabled": false } } })),
        ("event-qps", vec!["7"], json!({ "eventRecordQPS": 7 })),
        (
            "system-reserved",
            vec!["cpu=200m,memory=1Gi", "cpu=1"],
            json!({ "systemReserved": { "cpu": "1", "memory": "1Gi" } }),
        ),
        (
            "eviction-hard",
            vec!["memory.available<1Gi, nodefs.available<10%"],
            json!({ "evictionHard": { "memory.available": "1Gi", "nodefs.available": "10%" } }),
        ),
        ("feature-gates", vec!["A=true,B=0"], json!({ "featureGates": { "A": true, "B": false } })),
        ("manifest-url-header", vec!["a:x,a:y:z"], json!({ "staticPodURLHeader": { "a": ["x", "y:z"] } })),
        ("eviction-hard", vec![""], json!({ "evictionHard": {} })),
    ] {
        assert_eq!(told(name, &values), Ok(expected), "{name}");
    }
}

#[test]
fn what_is_wrong_with_a_flag_is_said() {
    for (name, value, expected) in [
        ("event-qps", "many", "\"many\" is not a whole number"),
        ("register-node", "maybe", "\"maybe\" is neither true nor false"),
        ("kube-reserved", "cpu", "\"cpu\" is not of the form key=value"),
        ("eviction-soft", "memory.available=1Gi", "\"memory.available=1Gi\" is not of the form signal<value"),
        ("feature-gates", "A=on", "\"on\" is neither true nor false"),
    ] {
        let message = told(name, &[value]).expect_err(name);
        assert!(message.contains(expected), "{name}: {message}");
    }
    let message = told("manifest-url-header", &["Bearer-token"]).unwrap_err();
    assert!(!message.contains("token"), "{message}");
}

#[test]
fn gates_of_files_stay_where_flags_do_not_name_them() {
    let mut configuration = Map::new();
    configuration.insert("featureGates".to_owned(), json!({ "A": true, "B": true }));
    set(&mut configuration, field_flag("feature-gates").unwrap(), &["B=false".to_owned()]).unwrap();
    assert_eq!(configuration["featureGates"], json!({ "A": true, "B": false }));
}

#[test]
fn every_flag_has_one_name_and_a_field_that_exists() {
    let names: BTreeSet<_> = FIELD_FLAGS.iter().map(|flag| flag.name).chain(IDLE_FLAGS).collect();
    assert_eq!(names.len(), FIELD_FLAGS.len() + IDLE_FLAGS.len());
    let mut all = crate::config::KubeletConfiguration::default().effective();
    // Not shown, or not where they are not given.
    for field in ["staticPodURLHeader", "kubeAPIQPS", "registryPullQPS"] {
        all[field] = json!({});
    }
    for flag in FIELD_FLAGS {
        let pointer = format!("/{}", flag.field.replace('.', "/"));
        assert!(all.pointer(&pointer).is_some(), "--{}: there is no {}", flag.name, flag.field);
    }
}
