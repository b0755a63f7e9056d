use proptest::prelude::*;

use super::*;
use crate::signature::testing::Signer;

fn parse(text: &str) -> Result<SignaturePolicy, String> {
    SignaturePolicy::parse(text, |path| match path.to_str() {
        Some("team.pub") => Ok(Signer::new().pem().into_bytes()),
        Some("empty.pub") => Ok(Vec::new()),
        _ => Err(io::ErrorKind::NotFound.into()),
    })
}

/// What the policy says of an image: the rule, and in one word what it asks for.
fn ruling(policy: &SignaturePolicy, image: &str) -> (String, &'static str) {
    let reference = image.parse().unwrap();
    let Ruling { requirement, rule, .. } = policy.ruling(&reference);
    let word = match requirement {
        Requirement::Accept => "accept",
        Requirement::Reject => "reject",
        Requirement::SignedBy(_) => "verify",
    };
    (rule.to_owned(), word)
}

#[test]
fn the_longest_prefix_decides_and_it_ends_where_a_name_does() {
    let policy = parse(
        "default: {action: reject}\n\
         rules:\n\
         - {prefix: r.io, action: accept}\n\
         - {prefix: r.io/team, action: verify, keys: [{file: team.pub}]}\n\
         - {prefix: r.io/team/sandbox/a, action: accept}\n\
         - {prefix: 'r.io:5000', action: verify, keys: [{file: team.pub}]}\n\
         - {prefix: docker.io/library, action: accept}\n",
    )
    .unwrap();
    for (image, rule, action) in [
        ("r.io/a", "r.io", "accept"),
        ("r.io/team", "r.io/team", "verify"),
        ("r.io/team/app:v1", "r.io/team", "verify"),
        ("r.io/teams/app", "r.io", "accept"),
        ("r.io/team/sandbox/a/b", "r.io/team/sandbox/a", "accept"),
        ("r.io/team/sandbox/ab", "r.io/team", "verify"),
        ("r.io:5000/a", "r.io:5000", "verify"),
        ("r.io:5001/a", "default", "reject"),
        ("sub.r.io/a", "default", "reject"),
        ("r.io.evil/a", "default", "reject"),
        ("busybox", "docker.io/library", "accept"),
        ("someone/busybox", "default", "reject"),
    ] {
        assert_eq!(ruling(&policy, image), (rule.to_owned(), action), "{image}");
    }
}

#[test]
fn a_rule_is_not_evaded_by_another_spelling_of_the_registry() {
    let policy = parse(
        "default: {action: accept}\n\
         rules:\n\
         - {prefix: Registry.Example, action: reject}\n\
         - {prefix: 127.0.0.1, action: reject}\n\
         - {prefix: '[::1]:5000', action: reject}\n\
         - {prefix: index.docker.io/library, action: reject}\n",
    )
    .unwrap();
    for image in [
        "registry.example/a",
        "REGISTRY.example/a",
        "registry.example:443/a",
        "registry.example:80/a",
        "registry.example:0443/a",
        "127.1/a",
        "127.0.0.1:443/a",
        "0x7f.0.0.1/a",
        "[0:0:0:0:0:0:0:1]:5000/a",
        "busybox",
        "docker.io/busybox",
        "registry-1.docker.io/library/busybox",
    ] {
        assert_eq!(ruling(&policy, image).1, "reject", "{image}");
    }
    assert_eq!(ruling(&policy, "registry.example:8443/a").1, "accept");
}

#[test]
fn json_is_read_too_and_the_default_may_ask_for_signatures() {
    let pem = serde_json::to_string(&Signer::new().pem()).unwrap();
    let policy =
        parse(&format!(r#"{{"default": {{"action": "verify", "keys": [{{"pem": {pem}}}]}}}}"#)).unwrap();
    assert_eq!(ruling(&policy, "busybox"), ("default".to_owned(), "verify"));
    assert_eq!(ruling(&SignaturePolicy::default(), "busybox"), ("default".to_owned(), "accept"));
}

#[test]
fn what_is_not_understood_is_named_with_its_field() {
    let rules = |rules: &str| format!("default: {{action: accept}}\nrules: [{rules}]");
    for (text, message) in [
        (String::new(), "it is empty"),
        ("rules: []".to_owned(), "missing field `default`"),
        ("default: accept".to_owned(), "default: "),
        ("default: {}".to_owned(), "default: missing field `action`"),
        ("default: {action: allow}".to_owned(), "default.action: unknown variant `allow`"),
        ("default: {action: accept, key: x}".to_owned(), "default: unknown field `key`"),
        ("default: {action: verify}".to_owned(), "default.keys: the action verify needs one key"),
        ("default: {action: reject, keys: [{file: team.pub}]}".to_owned(), "default.keys: keys are for"),
        ("default: {action: accept}\nrule: []".to_owned(), "unknown field `rule`"),
        (rules("{action: accept}"), "rules[0]: missing field `prefix`"),
        (rules("{prefix: r.io, action: accept, kyes: []}"), "rules[0]: unknown field `kyes`"),
        (
            rules("{prefix: r.io, action: accept}, {prefix: team/app, action: accept}"),
            "rules[1].prefix: \"team/app\"",
        ),
        (rules("{prefix: 'r.io/a:v1', action: accept}"), "rules[0].prefix: \"r.io/a:v1\" is no registry"),
        (rules("{prefix: 'r.io/A', action: accept}"), "rules[0].prefix: "),
        (rules("{prefix: 'r.io/', action: accept}"), "rules[0].prefix: "),
        (rules("{prefix: '*.r.io', action: accept}"), "rules[0].prefix: "),
        (rules("{prefix: '', action: accept}"), "rules[0].prefix: "),
        (
            rules("{prefix: r.io, action: accept}, {prefix: 'R.io:443', action: reject}"),
            "rules[1].prefix: \"R.io:443\" means the same images as \"r.io\"",
        ),
        (
            rules("{prefix: r.io, action: verify, keys: [{}]}"),
            "rules[0].keys[0]: a key has either file or pem",
        ),
        (
            rules("{prefix: r.io, action: verify, keys: [{file: a, pem: b}]}"),
            "rules[0].keys[0]: a key has either",
        ),
        (
            rules("{prefix: r.io, action: verify, keys: [{file: team.pub}, {file: no.pub}]}"),
            "rules[0].keys[1].file: cannot read no.pub",
        ),
        (
            rules("{prefix: r.io, action: verify, keys: [{file: empty.pub}]}"),
            "rules[0].keys[0].file: empty.pub holds no public key",
        ),
        (
            rules("{prefix: r.io, action: verify, keys: [{pem: x}]}"),
            "rules[0].keys[0].pem: it holds no public key",
        ),
        (
            rules("{prefix: r.io, action: reject, precompiledKeys: [{file: team.pub}]}"),
            "rules[0].precompiledKeys: the action reject takes no image",
        ),
        (
            rules("{prefix: r.io, action: accept, precompiledKeys: [{file: no.pub}]}"),
            "rules[0].precompiledKeys[0].file: cannot read no.pub",
        ),
        (
            "default: {action: accept, precompiledKeys: [{}]}".to_owned(),
            "default.precompiledKeys[0]: a key has",
        ),
    ] {
        let error = parse(&text).unwrap_err();
        assert!(error.contains(message), "{text}: {error}");
    }
}

#[test]
fn compiled_code_is_trusted_where_a_section_says_so_and_nowhere_else() {
    let policy = parse(
        "default: {action: accept}\n\
         rules:\n\
         - {prefix: r.io, action: accept, precompiledKeys: [{file: team.pub}]}\n\
         - {prefix: r.io/strict, action: verify, keys: [{file: team.pub}], precompiledKeys: [{file: team.pub}]}\n\
         - {prefix: r.io/own, action: verify, keys: [{file: team.pub}]}\n",
    )
    .unwrap();
    let trusted =
        |policy: &SignaturePolicy, image: &str| policy.ruling(&image.parse().unwrap()).precompiled_keys.len();
    for (image, keys) in [("r.io/app", 1), ("r.io/strict/app", 1), ("r.io/own/app", 0), ("busybox", 0)] {
        assert_eq!(trusted(&policy, image), keys, "{image}");
    }
    assert!(policy.trusts_compiled_code());
    let policy = parse("default: {action: accept, precompiledKeys: [{file: team.pub}]}").unwrap();
    assert_eq!(trusted(&policy, "busybox"), 1);
    assert!(policy.trusts_compiled_code());
    let policy = parse("default: {action: verify, keys: [{file: team.pub}]}").unwrap();
    assert!(!policy.trusts_compiled_code() && !SignaturePolicy::default().trusts_compiled_code());
}

#[test]
fn a_file_names_its_keys_from_its_own_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.yaml");
    std::fs::write(&path, "default: {action: verify, keys: [{file: keys/team.pub}]}").unwrap();
    let error = SignaturePolicy::read(&path).unwrap_err().to_string();
    assert!(error.contains("policy.yaml cannot be used: default.keys[0].file"), "{error}");

    std::fs::create_dir(folder.path().join("keys")).unwrap();
    std::fs::write(folder.path().join("keys/team.pub"), Signer::new().pem()).unwrap();
    assert_eq!(ruling(&SignaturePolicy::read(&path).unwrap(), "busybox").1, "verify");

    std::fs::write(&path, " ".repeat((1 << 20) + 1)).unwrap();
    let error = SignaturePolicy::read(&path).unwrap_err().to_string();
    assert!(error.contains("larger than"), "{error}");
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "(default: \\{action: (accept|verify)\\}\nrules: )?\\PC{0,80}") {
        let _ = parse(&text);
    }
}
