use proptest::prelude::*;

use super::*;

const KEY: &str = "engine-1";

fn digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

fn told(name: &str, artifact_type: Option<&str>, annotations: &[(&str, &str)]) -> Value {
    let mut told = json!({"digest": digest(name), "size": 1});
    if let Some(artifact_type) = artifact_type {
        told["artifactType"] = json!(artifact_type);
    }
    if !annotations.is_empty() {
        told["annotations"] = annotations.iter().copied().collect();
    }
    told
}

fn manifest() -> Value {
    json!({
        "schemaVersion": 2,
        "artifactType": ARTIFACT_TYPE,
        "config": {"mediaType": EMPTY_TYPE, "digest": digest("{}"), "size": 2},
        "layers": [
            {"mediaType": CODE_TYPE, "digest": digest("code"), "size": 4},
            {"mediaType": FACTS_TYPE, "digest": digest("facts"), "size": 5},
        ],
        "annotations": {MODULE: digest("module"), COMPILER: KEY},
    })
}

fn flaw(manifest: &Value) -> String {
    parse(manifest.to_string().as_bytes()).unwrap_err()
}

#[test]
fn a_list_is_looked_at_from_what_fits_to_what_may() {
    let module = digest("module").to_string();
    let list = json!({"manifests": [
        told("untyped", None, &[]),
        told("unannotated", Some(ARTIFACT_TYPE), &[]),
        told("bundle", Some("application/vnd.dev.sigstore.bundle.v0.3+json"), &[]),
        told("other compiler", Some(ARTIFACT_TYPE), &[(COMPILER, "engine-2")]),
        told("by configuration", Some(EMPTY_TYPE), &[(COMPILER, KEY)]),
        told("fits", Some(ARTIFACT_TYPE), &[(COMPILER, KEY), (MODULE, &module)]),
        told("something else", Some(EMPTY_TYPE), &[("a", "b")]),
        told("of another type", Some("text/plain"), &[(COMPILER, KEY)]),
    ]});
    let found = candidates(list.to_string().as_bytes(), KEY).unwrap();
    let expected = ["by configuration", "fits", "unannotated", "untyped"].map(digest);
    assert_eq!(found.iter().map(|candidate| candidate.digest).collect::<Vec<_>>(), expected);
    let modules: Vec<_> = found.iter().map(|candidate| candidate.module).collect();
    assert_eq!(modules, [None, Some(digest("module")), None, None]);

    assert_eq!(candidates(br#"{"manifests": null}"#, KEY), Ok(Vec::new()));
    assert!(candidates(b"<html>", KEY).unwrap_err().contains("the list of referrers cannot be read"));
}

#[test]
fn a_manifest_says_what_it_is_of_and_for_whom() {
    let mut written = manifest();
    let read = parse(written.to_string().as_bytes()).unwrap();
    assert!(read.is_for(&digest("module"), KEY));
    assert!(!read.is_for(&digest("module"), "engine-2") && !read.is_for(&digest("other"), KEY));
    assert_eq!((read.code.digest, read.code.size), (digest("code"), 4));
    assert_eq!((read.facts.digest, read.facts.size), (digest("facts"), 5));
    assert_eq!(read.command, None);
    written["annotations"][COMMAND] = json!("/app");
    assert_eq!(parse(written.to_string().as_bytes()).unwrap().command.as_deref(), Some("/app"));
}

#[test]
fn what_is_written_is_what_is_read() {
    for command in [None, Some("/app".to_owned())] {
        let blob = |name: &str, size| Blob { digest: digest(name), size };
        let about = CodeManifest {
            module: digest("module"),
            compiler: KEY.to_owned(),
            command,
            code: blob("code", 4),
            facts: blob("facts", 5),
        };
        let written = write(&about, &json!({"digest": digest("image"), "size": 3}));
        assert_eq!(parse(&written), Ok(about.clone()));
        let list = listed(None, &entry(&about, &written)).unwrap().unwrap();
        let expected = CodeCandidate { digest: Digest::of(&written), module: Some(digest("module")) };
        assert_eq!(candidates(&list, KEY), Ok(vec![expected]));
        assert_eq!(candidates(&list, "engine-2"), Ok(Vec::new()));
    }
}

#[test]
fn a_list_keeps_what_others_have_put_there_and_has_nothing_twice() {
    let entry = told("code", Some(ARTIFACT_TYPE), &[]);
    let list = json!({"schemaVersion": 2, "x": 1, "manifests": [{"digest": digest("bundle"), "y": 2}]});
    let more = listed(Some(list.to_string().as_bytes()), &entry).unwrap().unwrap();
    let read: Value = serde_json::from_slice(&more).unwrap();
    assert_eq!(read["x"], 1);
    assert_eq!(read["manifests"], json!([{"digest": digest("bundle"), "y": 2}, entry]));
    assert_eq!(listed(Some(&more), &entry), Ok(None));
    for (list, message) in [("<html>", "cannot be read"), ("{}", "is no list"), ("[]", "is no list")] {
        assert!(listed(Some(list.as_bytes()), &entry).unwrap_err().contains(message), "{list}");
    }
}

#[test]
fn a_manifest_that_is_not_quite_one_is_none() {
    let change = |change: &dyn Fn(&mut Value)| {
        let mut changed = manifest();
        change(&mut changed);
        flaw(&changed)
    };
    for (text, message) in [
        (change(&|m| m["artifactType"] = json!("text/plain")), "no compiled code but \"text/plain\""),
        (change(&|m| m["artifactType"] = Value::Null), "no compiled code but \"\""),
        (change(&|m| m["annotations"] = Value::Null), MODULE),
        (change(&|m| m["annotations"] = json!({MODULE: digest("m")})), COMPILER),
        (change(&|m| m["annotations"][MODULE] = json!("sha256:1")), "invalid checksum digest length"),
        (change(&|m| m["layers"] = json!([])), CODE_TYPE),
        (change(&|m| m["layers"][1]["mediaType"] = json!("text/plain")), FACTS_TYPE),
        // Of two it would not be said which one was meant.
        (change(&|m| m["layers"][1]["mediaType"] = json!(CODE_TYPE)), CODE_TYPE),
        (change(&|m| m["layers"][0]["size"] = json!(-1)), "its manifest cannot be read"),
    ] {
        assert!(text.contains(message), "{message}: {text}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_parsers_panic(bytes in "\\{\"(manifests|layers|annotations)\":\\PC{0,60}") {
        let _ = (candidates(bytes.as_bytes(), KEY), parse(bytes.as_bytes()), facts(bytes.as_bytes()));
    }
}
