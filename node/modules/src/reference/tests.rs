use super::*;

const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn parsed(text: &str) -> Reference {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn short_names_get_registry_library_and_tag() {
    for (text, whole) in [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("test.com:5000", "docker.io/library/test.com:5000"),
        ("user/app", "docker.io/user/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/busybox", "docker.io/library/busybox:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:v1", "localhost:5000/app:v1"),
        ("127.0.0.1:5000/a/b/c:v1", "127.0.0.1:5000/a/b/c:v1"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("test:5000/repo", "test:5000/repo:latest"),
        ("Upper/case", "Upper/case:latest"),
        ("ghcr.io/a_b/c__d/e---f.g:Tag_1.x-y", "ghcr.io/a_b/c__d/e---f.g:Tag_1.x-y"),
    ] {
        assert_eq!(parsed(text).to_string(), whole, "{text}");
        assert_eq!(parsed(whole).to_string(), whole, "the whole form is stable");
    }
}

#[test]
fn a_digest_decides_and_the_tag_stays_a_comment() {
    let by_digest = parsed(&format!("busybox@{A}"));
    assert_eq!((by_digest.tag(), by_digest.digest()), (None, Some(A)));

    let both = parsed(&format!("r.io/app:v1@{A}"));
    assert_eq!(both.to_string(), format!("r.io/app:v1@{A}"));
    assert_eq!((both.tag(), both.digest(), both.selector()), (Some("v1"), Some(A), A));
    assert_eq!(both.key(), format!("r.io/app@{A}"));
    assert_eq!(parsed("r.io/app:v1").key(), "r.io/app:v1");
}

#[test]
fn parts_of_a_reference() {
    let reference = parsed("127.0.0.1:5000/team/app:v1");
    assert_eq!(reference.registry(), "127.0.0.1:5000");
    assert_eq!(reference.repository(), "team/app");
    assert_eq!(reference.name(), "127.0.0.1:5000/team/app");
    assert_eq!(parsed("busybox").host(), "registry-1.docker.io");
    assert_eq!(reference.host(), "127.0.0.1:5000");
}

#[test]
fn which_registries_are_on_this_machine() {
    for (text, local) in [
        ("localhost/a", true),
        ("localhost:5000/a", true),
        ("127.0.0.1:5000/a", true),
        ("127.9.9.9/a", true),
        ("[::1]:5000/a", true),
        ("10.0.0.1:5000/a", false),
        ("localhost.example.com/a", false),
        ("busybox", false),
    ] {
        assert_eq!(is_local(parsed(text).registry()), local, "{text}");
    }
}

#[test]
fn texts_that_are_no_references_and_why() {
    let format = "invalid reference format";
    let long = "a".repeat(256);
    let hex = "a".repeat(64);
    for (text, why) in [
        ("", format),
        (":tag", format),
        ("repo:", format),
        ("repo:a b", format),
        ("re po", format),
        ("a//b", format),
        ("/a", format),
        ("a/", format),
        ("-a/b", format),
        ("a..b", format),
        ("a___b", format),
        ("a_", format),
        ("[::1/app", format),
        ("[]/app", format),
        ("host:/app", format),
        ("a.b-/app", format),
        ("repo:t:u", format),
        ("repo@", format),
        ("repo@sha256:abc", format),
        (&format!("@{A}"), format),
        (&format!("repo:{}", "t".repeat(129)), format),
        ("Busybox", "invalid reference format: repository name (library/Busybox) must be lowercase"),
        ("r.io/a/B:v1", "invalid reference format: repository name (a/B) must be lowercase"),
        (&format!("r.io/{long}"), "repository name must not be more than 255 characters"),
        (&hex, &format!("invalid repository name ({hex}), cannot specify 64-byte hexadecimal strings")),
        (&format!("repo@md5:{}", "0".repeat(32)), "unsupported digest algorithm"),
        (&format!("repo@sha256:{}", "0".repeat(63)), "invalid checksum digest length"),
        (&format!("repo@sha256:{}", "A".repeat(64)), "invalid checksum digest format"),
    ] {
        let error = text.parse::<Reference>().err().unwrap_or_else(|| panic!("{text:?} was taken"));
        let expected =
            format!("Failed to apply default image tag {text:?}: couldn't parse image name {text:?}: {why}");
        assert_eq!(error.to_string(), expected);
    }
}
