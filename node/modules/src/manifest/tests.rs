use serde_json::{Value, json};

use super::*;

fn descriptor(media_type: &str, content: &str) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(content.as_bytes()), "size": content.len()})
}

fn index(entries: &[(&str, &str)]) -> Index {
    let manifests: Vec<Value> = entries
        .iter()
        .map(|(os, architecture)| {
            let mut entry =
                descriptor("application/vnd.oci.image.manifest.v1+json", &format!("{os}/{architecture}"));
            if *os == "attestation" {
                entry["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
            } else if !os.is_empty() {
                entry["platform"] = json!({"os": os, "architecture": architecture});
            }
            entry
        })
        .collect();
    let document = json!({"schemaVersion": 2, "manifests": manifests});
    match parse(document.to_string().as_bytes()) {
        Ok(Document::Index(index)) => index,
        other => panic!("{other:?}"),
    }
}

fn manifest(layers: &[&str]) -> Manifest {
    let layers: Vec<Value> = layers.iter().map(|media_type| descriptor(media_type, media_type)).collect();
    let config = descriptor("application/vnd.oci.empty.v1+json", "{}");
    let document = json!({"schemaVersion": 2, "config": config, "layers": layers});
    match parse(document.to_string().as_bytes()) {
        Ok(Document::Manifest(manifest)) => manifest,
        other => panic!("{other:?}"),
    }
}

#[test]
fn wasm_platforms_come_first_then_the_only_one_then_linux() {
    type Entries<'a> = &'a [(&'a str, &'a str)];
    let cases: &[(Entries<'_>, Option<(&str, bool)>)] = &[
        (&[("linux", "amd64"), ("wasip1", "wasm"), ("wasi", "wasm")], Some(("wasi/wasm", false))),
        (&[("wasip2", "wasm"), ("wasip1", "wasm")], Some(("wasip1/wasm", false))),
        (&[("linux", "arm64"), ("wasip2", "wasm")], Some(("wasip2/wasm", false))),
        (&[("linux", "amd64"), ("wasi", "wasm32")], Some(("wasi/wasm32", false))),
        (&[("linux", "amd64"), ("linux", "wasm"), ("attestation", "")], Some(("linux/wasm", false))),
        (&[("linux", "amd64"), ("linux", "wasm32-wasip1")], Some(("linux/wasm32-wasip1", false))),
        (&[("linux", "amd64"), ("WASM", "any")], Some(("WASM/any", false))),
        (&[("linux", "wasm"), ("wasip1", "wasm")], Some(("wasip1/wasm", false))),
        (&[("linux", "amd64"), ("js", "wasm"), ("browser", "wasm")], Some(("linux/amd64", true))),
        (&[("linux", "arm64")], Some(("linux/arm64", false))),
        (&[("", "")], Some(("/", false))),
        (&[("linux", "amd64"), ("attestation", "")], Some(("linux/amd64", false))),
        (&[("linux", "amd64"), ("unknown", "unknown")], Some(("linux/amd64", false))),
        (&[("linux", "arm64"), ("linux", "amd64")], Some(("linux/amd64", true))),
        (&[("js", "wasm"), ("linux", "arm64")], Some(("linux/arm64", true))),
        (&[("windows", "amd64"), ("Wasip1", "wasm")], Some(("Wasip1/wasm", false))),
        (&[("js", "wasm"), ("windows", "arm64")], None),
        (&[("attestation", "")], None),
        (&[("unknown", "unknown")], None),
        (&[], None),
    ];
    for (entries, expected) in cases {
        let choice = choose(&index(entries)).ok();
        let found = choice.map(|choice| (choice.descriptor.digest, choice.last_resort));
        let expected = expected.map(|(name, last_resort)| (Digest::of(name.as_bytes()), last_resort));
        assert_eq!(found, expected, "{entries:?}");
    }
}

#[test]
fn an_index_without_wasm_says_what_it_has() {
    let error = choose(&index(&[("darwin", "arm64"), ("windows", "amd64")])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "it has no image for wasi/wasm, only for [darwin/arm64, windows/amd64]; build it with --platform wasi/wasm"
    );
}

#[test]
fn plans_by_layer_types() {
    const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
    const WASM: &str = "application/wasm";
    assert!(matches!(plan(&manifest(&[WASM])), Ok(PullPlan::Module { title: None, .. })));
    assert!(matches!(plan(&manifest(&["text/plain", WASM])), Ok(PullPlan::Module { .. })));
    assert!(matches!(plan(&manifest(&[TAR, TAR])), Ok(PullPlan::Filesystem { layers }) if layers.len() == 2));
    for bad in [&["text/plain"][..], &[], &[TAR, "text/plain"], &[WASM, WASM], &[TAR; LAYERS_LIMIT + 1]] {
        assert!(matches!(plan(&manifest(bad)), Err(ManifestError::Unsupported(_))), "{} layers", bad.len());
    }
}

/// A manifest with layers of these types, as the tool of that name writes it.
fn artifact(config: &str, layers: &[&str], kind: Option<&str>) -> Manifest {
    let layers: Vec<Value> = layers
        .iter()
        .enumerate()
        .map(|(position, media_type)| {
            let mut layer = descriptor(media_type, &format!("{position}"));
            layer["annotations"] = json!({TITLE: format!("{position}.wasm")});
            layer
        })
        .collect();
    let document = json!({"schemaVersion": 2, "artifactType": kind, "config": descriptor(config, "{}"), "layers": layers});
    match parse(document.to_string().as_bytes()) {
        Ok(Document::Manifest(manifest)) => manifest,
        other => panic!("{other:?}"),
    }
}

const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const SPIN_LAYER: &str = "application/vnd.wasm.content.layer.v1+wasm";
const SPIN_DATA: &str = "application/vnd.wasm.content.layer.v1+data";

#[test]
fn what_tools_push_is_taken() {
    for (config, layers) in [
        // kubewasm module push, wkg oci push
        (media::WASM_CONFIG, &["application/wasm"][..]),
        // wasm-to-oci
        ("application/vnd.wasm.config.v1+json", &[SPIN_LAYER]),
        // oras push
        ("application/vnd.oci.empty.v1+json", &["application/vnd.module.wasm.content.layer.v1+wasm"]),
        (
            "application/vnd.oci.empty.v1+json",
            &["application/vnd.bytecodealliance.wasm.component.layer.v0+wasm"],
        ),
        // spin registry push, with and without files
        (IMAGE_CONFIG, &[SPIN_LAYER, media::SPIN_APPLICATION]),
        (IMAGE_CONFIG, &[SPIN_DATA, SPIN_LAYER, SPIN_DATA, media::SPIN_APPLICATION]),
    ] {
        assert!(matches!(plan(&artifact(config, layers, None)), Ok(PullPlan::Module { .. })), "{layers:?}");
    }
}

#[test]
fn what_is_refused_says_what_it_is_and_what_would_be_accepted() {
    for (config, layers, kind, expected) in [
        (
            media::WASM_CONFIG,
            &["application/wasm", "application/wasm"][..],
            None,
            "a Wasm artifact (application/vnd.wasm.config.v0+json) of 2 layers",
        ),
        (
            media::WASM_CONFIG,
            &["application/wasm", "text/plain"],
            None,
            "of 2 layers, and one layer, the module",
        ),
        (
            IMAGE_CONFIG,
            &[SPIN_LAYER, SPIN_LAYER, media::SPIN_APPLICATION],
            None,
            "a Spin application of 2 components",
        ),
        (IMAGE_CONFIG, &["application/wasm", "application/wasm"], None, "2 module layers (0.wasm, 1.wasm)"),
        (
            "application/vnd.cncf.helm.config.v1+json",
            &["application/vnd.cncf.helm.chart.content.v1.tar+gzip"],
            None,
            "[application/vnd.cncf.helm.chart.content.v1.tar+gzip], with a configuration of type \"application/vnd.cncf.helm.config.v1+json\"; accepted are a module",
        ),
        (
            "application/vnd.oci.empty.v1+json",
            &["text/plain"],
            Some("x/sbom"),
            "it is an artifact of type \"x/sbom\"",
        ),
    ] {
        let error = plan(&artifact(config, layers, kind)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_title_of_a_module_layer_is_kept() {
    let mut layer = descriptor("application/wasm", "x");
    layer["annotations"] = json!({TITLE: "hello.wasm"});
    let document = json!({"schemaVersion": 2, "config": descriptor("", "{}"), "layers": [layer]});
    let Ok(Document::Manifest(manifest)) = parse(document.to_string().as_bytes()) else { panic!() };
    assert!(
        matches!(plan(&manifest), Ok(PullPlan::Module { title: Some(title), .. }) if title == "hello.wasm")
    );
}

#[test]
fn documents_that_are_no_manifests() {
    for text in [
        "",
        "[]",
        "{}",
        r#"{"schemaVersion": 1}"#,
        r#"{"schemaVersion": 2}"#,
        r#"{"schemaVersion": 2, "config": {"digest": "sha256:00", "size": 1}}"#,
        r#"{"schemaVersion": 2, "manifests": 7}"#,
    ] {
        assert!(parse(text.as_bytes()).is_err(), "{text}");
    }
    let negative =
        format!(r#"{{"schemaVersion": 2, "config": {{"digest": "{}", "size": -1}}}}"#, Digest::of(b""));
    assert!(parse(negative.as_bytes()).is_err());
}

#[test]
fn nulls_are_empty() {
    let config = descriptor("", "{}");
    let document = json!({"schemaVersion": 2, "config": config, "layers": null, "annotations": null});
    assert!(matches!(parse(document.to_string().as_bytes()), Ok(Document::Manifest(_))));
    for text in ["{}", r#"{"config": null}"#, r#"{"config": {"Cmd": null, "Env": null, "User": ""}}"#] {
        assert_eq!(ImageConfig::parse(text.as_bytes()), Ok(ImageConfig::default()), "{text}");
    }
}

#[test]
fn an_image_configuration() {
    let text = r#"{"os": "wasi", "config": {"Entrypoint": ["/hello.wasm"], "Cmd": ["a"], "WorkingDir": "/srv",
                   "Env": ["A=1", "B=x=y", "C"], "User": "1000"}}"#;
    let config = ImageConfig::parse(text.as_bytes()).unwrap();
    assert!(!config.starts_other_than_module());
    assert_eq!(
        config,
        ImageConfig {
            entrypoint: vec!["/hello.wasm".into()],
            cmd: vec!["a".into()],
            env: vec![("A".into(), "1".into()), ("B".into(), "x=y".into()), ("C".into(), String::new())],
            working_dir: Some("/srv".into()),
            user: Some("1000".into()),
        }
    );
}

#[test]
fn what_an_image_for_linux_may_start() {
    for (config, expected) in [
        (json!({"Entrypoint": ["/app.wasm"], "Cmd": ["x"]}), false),
        (json!({"Cmd": ["/app.wasm"]}), false),
        (json!({"Entrypoint": ["/bin/sh", "/app.wasm"]}), true),
        (json!({"Cmd": ["nginx"]}), true),
        // Files alone, for a volume.
        (json!({}), false),
    ] {
        let parsed = ImageConfig::parse(json!({"config": config}).to_string().as_bytes()).unwrap();
        assert_eq!(parsed.starts_other_than_module(), expected, "{config}");
    }
}
