use std::fs;

use super::*;

fn node(texts: &[Option<&str>]) -> (tempfile::TempDir, NodeCredentials) {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (position, text) in texts.iter().enumerate() {
        let path = folder.path().join(format!("{position}.json"));
        if let Some(text) = text {
            fs::write(&path, text).unwrap();
        }
        files.push(path);
    }
    (folder, NodeCredentials::new(files, CredentialProviders::default()))
}

#[tokio::test]
async fn the_first_file_that_exists_counts() {
    let (one, two) = (
        r#"{"auths": {"r.io": {"username": "one", "password": "1"}, "r.io/team": {"username": "team", "password": "2"}}}"#,
        r#"{"auths": {"r.io": {"username": "two", "password": "2"}}}"#,
    );
    for (texts, expected) in [
        (&[None, None][..], &[][..]),
        (&[None, Some(two)], &["two"]),
        (&[Some(one), Some(two)], &["team", "one"]),
    ] {
        let (_folder, node) = node(texts);
        let found = node.for_image("r.io/team/a:v1").await;
        let users: Vec<_> = found.credentials.iter().map(|credential| credential.username.as_str()).collect();
        assert_eq!((users.as_slice(), found.troubles.len()), (expected, 0));
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_file_or_its_helper_is_said_and_the_rest_is_used() {
    let (_folder, broken) = node(&[Some("hunter2")]);
    let found = broken.for_image("r.io/a").await;
    let [trouble] = found.troubles.as_slice() else { panic!("{found:?}") };
    assert!(
        trouble.contains("0.json is not Docker's config.json") && !trouble.contains("hunter2"),
        "{trouble}"
    );

    let text = r#"{"auths": {"r.io": {"auth": "dTpw"}, "x.io": {"auth": "?"}}, "credHelpers": {"r.io": "kubewasm-none"}}"#;
    let (_folder, node) = node(&[Some(text)]);
    let found = node.for_image("r.io/a").await;
    assert_eq!(found.credentials, [Credential { username: "u".into(), password: "p".into() }]);
    assert!(found.troubles[0].contains("docker-credential-kubewasm-none"), "{found:?}");
    let found = node.for_image("x.io/a").await;
    assert!(found.troubles[0].contains("has an entry for \"x.io\""), "{found:?}");
    assert_eq!(
        node.for_image("y.io/a").await,
        FoundCredentials::default(),
        "it is nobody's trouble but x.io's"
    );
}
