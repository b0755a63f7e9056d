use serde_json::json;

use super::*;

fn metadata(value: Value) -> Metadata {
    serde_json::from_value(value).unwrap()
}

fn pods(operations: &str) -> Value {
    json!({ "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": [operations] })
}

#[test]
fn what_is_not_said_is_as_the_protocol_has_it() {
    let read = metadata(json!({}));
    assert_eq!(read.execution_mode, ExecutionMode::KubewardenWapc);
    assert_eq!(read.policy_type, PolicyType::Kubernetes);
    assert!(read.background_audit && !read.mutating);
}

#[test]
fn it_is_written_with_the_names_of_the_protocol() {
    let read = metadata(json!({ "executionMode": "wasi", "mutating": true, "rules": [pods("*")] }));
    let expected = json!({
        "protocolVersion": "Unknown", "rules": [pods("*")], "annotations": {}, "mutating": true, "backgroundAudit": true,
        "executionMode": "wasi", "policyType": "kubernetes", "contextAwareResources": [],
    });
    assert_eq!(serde_json::to_value(read).unwrap(), expected);
}

#[test]
fn fields_of_versions_to_come_stay() {
    let value = json!({ "executionMode": "opa", "minimumKubewardenVersion": "1.20", "later": { "a": [1] } });
    let written = serde_json::to_value(metadata(value)).unwrap();
    assert_eq!(
        (&written["minimumKubewardenVersion"], &written["later"]["a"][0]),
        (&json!("1.20"), &json!(1))
    );
}

#[test]
fn contradictions_are_found() {
    let wasi = |rules: Value| metadata(json!({ "executionMode": "wasi", "rules": rules }));
    assert_eq!(wasi(json!([pods("CREATE")])).validate(), Ok(()));
    assert_eq!(wasi(json!([])).validate(), Err(InvalidMetadata::NoRules));
    let by_wapc = metadata(json!({ "rules": [pods("CREATE")] }));
    assert_eq!(by_wapc.validate(), Err(InvalidMetadata::Protocol));
    let by_wapc = metadata(json!({ "protocolVersion": "v1", "rules": [pods("CREATE")] }));
    assert_eq!(by_wapc.validate(), Ok(()));
    let raw = metadata(json!({ "executionMode": "wasi", "policyType": "raw" }));
    assert_eq!(raw.validate(), Ok(()));
    let raw = metadata(json!({ "executionMode": "wasi", "policyType": "raw", "rules": [pods("CREATE")] }));
    assert_eq!(raw.validate(), Err(InvalidMetadata::RawWithRules));
    let second =
        wasi(json!([pods("CREATE"), { "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"] }]));
    let error = second.validate().unwrap_err();
    assert_eq!(error.to_string(), "rules[1].resources: at least one is needed; \"*\" is all");
}

#[test]
fn rules_are_those_of_the_api_server() {
    let covered = |wildcard: &str, covered: &str| {
        Err(InvalidRules::Covered { wildcard: wildcard.to_owned(), covered: covered.to_owned() })
    };
    for (resources, expected) in [
        (&["pods"][..], Ok(())),
        (&["*"], Ok(())),
        (&["*/*"], Ok(())),
        (&["pods", "pods/log", "services/*", "*/scale"], Ok(())),
        (&["*", "*/scale"], Ok(())),
        (&["*", "pods/log"], Ok(())),
        (&[], Err(InvalidRules::Empty("resources"))),
        (&["pods", ""], Err(InvalidRules::Blank("resources"))),
        (&["*", "pods"], covered("*", "pods")),
        (&["pods", "*/*"], covered("*/*", "pods")),
        (&["pods/log", "*/*"], covered("*/*", "pods/log")),
        (&["pods/*", "pods/log"], covered("pods/*", "pods/log")),
        (&["pods/scale", "*/scale"], covered("*/scale", "pods/scale")),
    ] {
        let rule = Rule {
            api_groups: vec![String::new()],
            api_versions: vec!["v1".to_owned()],
            resources: resources.iter().map(|&entry| entry.to_owned()).collect(),
            operations: vec![Operation::Create],
        };
        assert_eq!(rule.validate(), expected, "{resources:?}");
    }
}

#[test]
fn wildcards_stand_alone() {
    let rule = |value: Value| serde_json::from_value::<Rule>(value).unwrap().validate();
    let with = |name: &str, entries: Value| {
        let mut value = pods("CREATE");
        value[name] = entries;
        rule(value)
    };
    assert_eq!(with("apiGroups", json!(["*", "apps"])), Err(InvalidRules::NotAlone("apiGroups")));
    assert_eq!(with("apiGroups", json!(["", "apps"])), Ok(()));
    assert_eq!(with("apiVersions", json!(["v1", "*"])), Err(InvalidRules::NotAlone("apiVersions")));
    assert_eq!(with("apiVersions", json!([""])), Err(InvalidRules::Blank("apiVersions")));
    assert_eq!(with("operations", json!(["*", "CREATE"])), Err(InvalidRules::NotAlone("operations")));
    assert_eq!(with("operations", json!([])), Err(InvalidRules::Empty("operations")));
}

#[test]
fn annotations_of_one_line_go_to_a_manifest() {
    let read = metadata(json!({ "annotations": {
        "io.kubewarden.policy.title": "no-root ", "io.kubewarden.policy.usage": "one\ntwo\n",
        "io.kubewarden.policy.source": "https://example.dev/no-root",
    } }));
    let expected = [
        ("io.kubewarden.policy.title", "no-root"),
        ("org.opencontainers.image.source", "https://example.dev/no-root"),
    ];
    assert_eq!(read.manifest_annotations(), expected.map(|(name, value)| (name.into(), value.into())).into());
}

mod sections {
    use wasm_encoder::Encode as _;
    use wasmparser::{Parser, Payload};

    use super::*;

    fn titled(title: &str) -> Metadata {
        metadata(json!({ "annotations": { "io.kubewarden.policy.title": title } }))
    }

    #[test]
    fn what_is_written_is_read_again_and_replaces_what_was() {
        for text in ["(module (func))", "(component (core module (func)) (core module))"] {
            let module = wat::parse_str(text).unwrap();
            assert_eq!(section::read(&module).unwrap(), None);
            let first = section::write(&module, &titled("first")).unwrap();
            assert_eq!(section::read(&first).unwrap(), Some(titled("first")));
            let second = section::write(&first, &titled("another")).unwrap();
            assert_eq!(section::read(&second).unwrap(), Some(titled("another")));
            assert_eq!(second, section::write(&module, &titled("another")).unwrap(), "nothing else changes");
            wasmparser::validate(&second).unwrap();
        }
    }

    /// Some tools write sizes with more bytes than they need.
    #[test]
    fn a_section_with_a_padded_size_is_replaced_whole() {
        let mut module = wat::parse_str("(module)").unwrap();
        let json = br#"{"executionMode":"wasi"}"#;
        let size = 1 + SECTION.len() + json.len();
        let [low, ..] = (size & 0x7f).to_le_bytes();
        let [high, ..] = (size >> 7).to_le_bytes();
        module.extend([0, low | 0x80, high | 0x80, 0x80, 0x80, 0]);
        module.push(u8::try_from(SECTION.len()).unwrap());
        module.extend(SECTION.as_bytes());
        module.extend(json);
        assert_eq!(section::read(&module).unwrap().unwrap().execution_mode, ExecutionMode::Wasi);
        let written = section::write(&module, &titled("new")).unwrap();
        let custom = Parser::new(0)
            .parse_all(&written)
            .filter(|payload| matches!(payload, Ok(Payload::CustomSection(_))))
            .count();
        assert_eq!(custom, 1);
        assert_eq!(section::read(&written).unwrap(), Some(titled("new")));
    }

    /// A component may hold a policy, whose metadata is not its own.
    #[test]
    fn metadata_of_a_module_within_a_component_is_not_the_components() {
        let inner = section::write(&wat::parse_str("(module)").unwrap(), &titled("inner")).unwrap();
        let mut component = wat::parse_str("(component)").unwrap();
        component.push(1);
        inner.encode(&mut component);
        assert_eq!(section::read(&component).unwrap(), None);
        let written = section::write(&component, &titled("outer")).unwrap();
        assert_eq!(section::read(&written).unwrap(), Some(titled("outer")));
        assert!(written.starts_with(&component));
    }

    #[test]
    fn what_is_no_module_or_no_metadata_is_an_error() {
        assert!(matches!(section::read(b"#!/bin/sh"), Err(SectionError::Module(_))));
        let mut module = wat::parse_str("(module)").unwrap();
        let size = 1 + SECTION.len() + 2;
        module.extend([0, u8::try_from(size).unwrap(), u8::try_from(SECTION.len()).unwrap()]);
        module.extend(SECTION.as_bytes());
        module.extend(b"{]");
        let error = section::read(&module).unwrap_err();
        assert!(
            error.to_string().starts_with("its section io.kubewarden.metadata is no metadata"),
            "{error}"
        );
    }
}
