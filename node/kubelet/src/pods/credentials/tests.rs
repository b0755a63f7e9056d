use k8s_openapi::ByteString;

use super::*;

fn secret(name: &str, kind: &str, data: &[(&str, &str)]) -> Arc<Secret> {
    let mut secret = Secret { type_: Some(kind.to_owned()), ..Secret::default() };
    secret.metadata.name = Some(name.to_owned());
    secret.metadata.namespace = Some("ns".to_owned());
    secret.metadata.uid = Some(format!("uid-{name}"));
    let bytes = |(key, text): &(&str, &str)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec()));
    secret.data = Some(data.iter().map(bytes).collect());
    Arc::new(secret)
}

fn pairs(image: &str, secrets: &[Arc<Secret>]) -> Vec<(String, String)> {
    let credentials = PodCredentials::for_image(image, secrets);
    assert_eq!(credentials.problems, Vec::<String>::new());
    let pair = |c: PullCredential| (c.credential.username, c.credential.password);
    credentials.found.into_iter().map(pair).collect()
}

#[test]
fn the_most_specific_entry_of_all_secrets_comes_first() {
    let one = secret(
        "one",
        "kubernetes.io/dockerconfigjson",
        &[(DOCKER_CONFIG_JSON, r#"{"auths": {"r.io": {"auth": "dTpwOnE="}}}"#)],
    );
    let two = secret(
        "two",
        "kubernetes.io/dockercfg",
        &[(DOCKER_CFG, r#"{"r.io/team": {"identitytoken": "tok"}}"#)],
    );
    let basic = secret("basic", "kubernetes.io/basic-auth", &[(USERNAME, "b"), (PASSWORD, "s\n")]);
    let opaque = secret("opaque", "Opaque", &[(USERNAME, "o"), (PASSWORD, "s"), (REGISTRY, "r.io/team/a")]);
    let all = [basic, one, two, opaque];
    let expected = [("o", "s"), ("", "tok"), ("u", "p:q"), ("b", "s")];
    assert_eq!(
        pairs("r.io/team/a:v1", &all),
        expected.map(|(user, password)| (user.to_owned(), password.to_owned()))
    );
    assert_eq!(
        pairs("x.io/a", &all),
        [("b".to_owned(), "s".to_owned())],
        "one without a registry is for all images"
    );

    let found = PodCredentials::for_image("r.io/team/a:v1", &all);
    let source = found.found[0].secret.as_ref().unwrap();
    assert_eq!(
        (source.uid.as_str(), source.namespace.as_str(), source.name.as_str()),
        ("uid-opaque", "ns", "opaque")
    );
    assert!(!format!("{found:?}").contains("p:q"));
}

#[test]
fn a_secret_full_of_credentials_is_not_tried_to_its_end() {
    let entries: Vec<String> = (0..1000)
        .map(|n| format!(r#""r.io/{}": {{"username": "u{n}", "password": "p"}}"#, "a".repeat(n)))
        .collect();
    let text = format!(r#"{{"auths": {{{}}}}}"#, entries.join(","));
    let secret = secret("full", "kubernetes.io/dockerconfigjson", &[(DOCKER_CONFIG_JSON, &text)]);
    let tried = pairs(&format!("r.io/{}", "a".repeat(2000)), &[secret]);
    assert_eq!((tried.len(), tried[0].0.as_str()), (TRIED, "u999"));
}

#[test]
fn a_secret_that_cannot_be_used_is_a_problem_that_names_it_and_its_key_and_nothing_in_it() {
    let json = |text: &'static str| [(DOCKER_CONFIG_JSON, text)];
    let cases: &[(&[(&str, &str)], &str)] = &[
        (&json("hunter2"), "its key \".dockerconfigjson\" is not Docker's config.json: look at line 1"),
        (&json(r#"{"auths": {"r.io": {"auth": "hunter2"}}}"#), "has an entry for \"r.io\" whose auth is not"),
        (&json(r#"{"auths": {"r.io": {}}, "credsStore": "desktop"}"#), "because a credential helper"),
        (&[(DOCKER_CFG, "hunter2")], "its key \".dockercfg\" is not a .dockercfg"),
        (&[(USERNAME, "hunter2")], "it has no key \"password\""),
        (&[(PASSWORD, "hunter2")], "it has no key \"username\""),
        (&[(USERNAME, "hunter2"), (PASSWORD, "")], "its key \"password\" is empty"),
        (&[(USERNAME, "a"), (PASSWORD, "hunter2"), (REGISTRY, "\n")], "its key \"registry\" is empty"),
        (&[("token", "hunter2")], "it is of type \"Opaque\" and has neither .dockerconfigjson"),
        (&[], "and has neither"),
    ];
    let good = secret("good", "Opaque", &[(USERNAME, "u"), (PASSWORD, "p")]);
    for (data, expected) in cases {
        let found = PodCredentials::for_image("r.io/a", &[secret("bad", "Opaque", data), Arc::clone(&good)]);
        let [problem] = found.problems.as_slice() else { panic!("{found:?}") };
        assert!(problem.starts_with("the image pull secret \"bad\" cannot be used: "), "{problem}");
        assert!(problem.contains(expected) && !problem.contains("hunter2"), "{problem}");
        assert_eq!(found.found.len(), 1, "the others are known");
        let at_url = PodCredentials::for_image("https://r.io/a.wasm", &[secret("bad", "Opaque", data)]);
        assert!(at_url.problems.is_empty(), "it is asked for with nobody's credentials");
    }
    let none = secret("none", "kubernetes.io/dockerconfigjson", &json(r#"{"auths": {"r.io": {}}}"#));
    assert_eq!(pairs("r.io/a", &[none]), [], "an entry that says nothing is none");
}
