use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use super::{files::parse, merge::LocatedFile, *};

const TWO: &str = "\
apiVersion: v1
kind: Config
current-context: a
clusters:
- name: one
  cluster: {server: 'https://one:6443', certificate-authority: ca.crt}
- name: two
  cluster: {server: 'https://two:6443', tls-server-name: api}
users:
- name: alice
  user: {token: hunter2, as-groups: [from-file]}
- name: bob
  user:
    client-certificate: pki/bob.crt
    client-key: /abs/bob.key
    tokenFile: bob.token
    exec: {apiVersion: client.authentication.k8s.io/v1, command: ./bin/login, env: [{name: A, value: hunter2}]}
contexts:
- name: a
  context: {cluster: one, user: alice, namespace: team}
- name: b
  context: {cluster: two, user: bob}
- name: broken
  context: {cluster: gone, user: alice}
- name: open
  context: {cluster: one}
";

fn file(path: &str, text: &str) -> LocatedFile {
    parse(Path::new(path), text).unwrap()
}

fn config() -> Kubeconfig {
    Kubeconfig::merge(vec![file("/home/me/.kube/config", TWO)]).unwrap()
}

fn flags(arguments: &[&str]) -> KubeconfigOverrides {
    KubeconfigOverrides::of_arguments(arguments)
}

#[test]
fn the_arguments_of_a_plugin_choose_as_those_of_kubectl_do() {
    let all = flags(&[
        "secret",
        "x",
        "--context",
        "c",
        "--cluster=d",
        "--user",
        "u",
        "--as",
        "me",
        "--as-uid=7",
        "--as-group",
        "g,h",
        "--as-group=i",
        "--kubeconfig",
        "/f",
        "-nfirst",
        "-n=second",
        "-n",
        "third",
        "-o",
        "yaml",
        "--",
        "-n",
        "last",
    ]);
    let expected = KubeconfigOverrides {
        kubeconfig: Some("/f".into()),
        context: Some("c".into()),
        cluster: Some("d".into()),
        user: Some("u".into()),
        namespace: Some("third".into()),
        impersonate: Some("me".into()),
        impersonate_uid: Some("7".into()),
        impersonate_groups: ["g", "h", "i"].map(str::to_owned).to_vec(),
    };
    assert_eq!(all, expected);
    for arguments in [&["--namespacex=a"][..], &["-x", "-n"], &["--", "--context=x"], &["n"], &[]] {
        assert_eq!(flags(arguments), KubeconfigOverrides::default(), "{arguments:?}");
    }
}

#[test]
fn a_context_is_the_one_that_is_asked_for() {
    let selected = |arguments: &[&str]| config().select(&flags(arguments));
    let current = selected(&[]).unwrap();
    assert_eq!((current.cluster_name.as_str(), current.user_name.as_str()), ("one", "alice"));
    let other = selected(&["--context=b"]).unwrap();
    assert_eq!(other.cluster.server.as_deref(), Some("https://two:6443"));
    let mixed = selected(&["--cluster=two", "--user=bob"]).unwrap();
    assert_eq!((mixed.cluster_name.as_str(), mixed.user_name.as_str()), ("two", "bob"));
    assert_eq!(selected(&["--context=open"]).unwrap().user, UserEntry::default());
    for (arguments, expected) in [
        (&["--context=none"][..], "has no context \"none\""),
        (&["--cluster=none"], "has no cluster \"none\""),
        (&["--user=none"], "has no user \"none\""),
        (&["--context=broken"], "has no cluster \"gone\", which its context \"broken\" names"),
    ] {
        let error = selected(arguments).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let none = Kubeconfig { current_context: None, ..config() };
    assert!(matches!(none.select(&flags(&[])), Err(KubeconfigError::NoContext)));
    assert!(none.select(&flags(&["--cluster=one"])).is_ok());
    assert!(matches!(Kubeconfig::default().select(&flags(&[])), Err(KubeconfigError::Missing)));
}

#[test]
fn a_namespace_is_a_flags_or_the_contexts_or_the_default() {
    for (arguments, expected) in [
        (&[][..], "team"),
        (&["--context=b"], "default"),
        (&["--context=b", "-n", "x"], "x"),
        (&["--context=none"], "default"),
    ] {
        assert_eq!(config().namespace(&flags(arguments)), expected, "{arguments:?}");
    }
}

/// As client-go does: each flag is a field of its own.
#[test]
fn impersonation_is_laid_over_what_the_file_says() {
    let user = config().select(&flags(&["--as", "eve"])).unwrap().user;
    assert_eq!((user.impersonate.as_deref(), user.as_groups), (Some("eve"), vec!["from-file".to_owned()]));
    let user = config().select(&flags(&["--as", "eve", "--as-group", "g"])).unwrap().user;
    assert_eq!(user.as_groups, ["g"]);
}

#[test]
fn of_several_files_the_first_that_says_something_counts_entry_by_entry() {
    let first =
        file("/a/config", "clusters: [{name: one, cluster: {server: 'https://first'}}]\nusers: null\n");
    let merged = Kubeconfig::merge(vec![first, file("/b/config", TWO), file("/c/empty", "")]).unwrap();
    let selected = merged.select(&flags(&[])).unwrap();
    assert_eq!(selected.cluster.server.as_deref(), Some("https://first"));
    assert_eq!(selected.cluster.certificate_authority, None, "nothing of the second is mixed in");
    assert_eq!(selected.user_name, "alice");
}

#[test]
fn paths_begin_beside_the_file_that_has_them() {
    let user = config().select(&flags(&["--context=b"])).unwrap().user;
    assert_eq!(user.client_certificate, Some("/home/me/.kube/pki/bob.crt".into()));
    assert_eq!(user.client_key, Some("/abs/bob.key".into()));
    assert_eq!(user.token_file, Some("/home/me/.kube/bob.token".into()));
    assert_eq!(user.exec.unwrap().command, "/home/me/.kube/./bin/login");
    let cluster = config().select(&flags(&[])).unwrap().cluster;
    assert_eq!(cluster.certificate_authority, Some("/home/me/.kube/ca.crt".into()));
    let bare = TWO.replace("./bin/login", "login");
    let bare = Kubeconfig::merge(vec![file("/x/config", &bare)]).unwrap();
    assert_eq!(bare.select(&flags(&["--user=bob"])).unwrap().user.exec.unwrap().command, "login");
}

#[test]
fn mistakes_name_the_place_and_no_secret() {
    for (text, expected) in [
        ("users:\n- name: u\n  user: {token: {hunter2: 1}}\n", "line 3"),
        ("clusters: hunter2\n", "line 1"),
        ("users: [\n", "line "),
        ("clusters:\n- cluster: {}\n", "missing field `name`"),
    ] {
        let error = parse(Path::new("/k"), text).map(drop).unwrap_err().to_string();
        assert!(error.contains("/k") && error.contains(expected), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let twice = "users: [{name: u, user: {token: hunter2}}, {name: u, user: {}}]";
    let error = Kubeconfig::merge(vec![file("/k", twice)]).unwrap_err().to_string();
    assert!(error.contains("the user \"u\" is in it twice") && !error.contains("hunter2"), "{error}");
    let shown = format!("{:?}", config());
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn files_are_found_as_client_go_finds_them() {
    let find = |flag: Option<&str>, variable: Option<&str>| {
        KubeconfigSources::find(flag.map(Path::new), variable.map(OsStr::new), Some(Path::new("/home/me")))
    };
    let any = |paths: &[&str]| KubeconfigSources::Any(paths.iter().map(PathBuf::from).collect());
    assert_eq!(find(Some("/f"), Some("/a:/b")), KubeconfigSources::One("/f".into()));
    assert_eq!(find(None, Some("/a::/b")), any(&["/a", "/b"]));
    assert_eq!(find(None, Some("")), any(&["/home/me/.kube/config"]));
    assert_eq!(find(Some(""), None), any(&["/home/me/.kube/config"]));

    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().join("config");
    std::fs::write(&there, TWO).unwrap();
    let gone = folder.path().join("gone");
    assert!(KubeconfigSources::Any(vec![gone.clone()]).read().unwrap().is_empty());
    assert!(!KubeconfigSources::Any(vec![gone.clone(), there]).read().unwrap().is_empty());
    let error = KubeconfigSources::One(gone.clone()).read().unwrap_err().to_string();
    assert!(error.contains(&gone.display().to_string()), "{error}");
}
