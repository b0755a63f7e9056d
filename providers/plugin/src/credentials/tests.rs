use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt as _, path::Path};

use serde_json::json;

use super::*;

fn user(value: serde_json::Value) -> UserEntry {
    serde_json::from_value(value).unwrap()
}

fn credentials(value: serde_json::Value) -> Result<Credentials, String> {
    let server = "https://api.example:6443".parse().unwrap();
    let cluster =
        ClusterEntry { server: Some("https://api.example:6443".to_owned()), ..ClusterEntry::default() };
    Credentials::new(user(value), &cluster, &server)
}

async fn authorization(credentials: &Credentials) -> Option<String> {
    let header = credentials.for_request().await.unwrap().authorization?;
    assert!(header.is_sensitive());
    Some(header.to_str().unwrap().to_owned())
}

/// A certificate that has signed itself, and its key, PEM.
fn pair() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["me".to_owned()]).unwrap().self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[tokio::test]
async fn tokens_and_passwords_are_said_in_a_header_that_does_not_show_itself() {
    let token = credentials(json!({"token": "abc", "username": "u"})).unwrap();
    assert_eq!(authorization(&token).await.as_deref(), Some("Bearer abc"));
    let basic = credentials(json!({"username": "u", "password": "p"})).unwrap();
    assert_eq!(authorization(&basic).await.as_deref(), Some("Basic dTpw"));
    assert_eq!(authorization(&credentials(json!({})).unwrap()).await, None);
    for broken in [json!({"token": "hunter2\n"}), json!({"username": "u\u{7f}", "password": "hunter2"})] {
        if let Err(error) = credentials(broken) {
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}

/// Whoever listens on the way would have them.
#[tokio::test]
async fn nothing_is_said_without_tls() {
    let server = "http://api.example:8080".parse().unwrap();
    let none = Credentials::new(user(json!({"token": "abc"})), &ClusterEntry::default(), &server).unwrap();
    assert_eq!(authorization(&none).await, None);
}

#[tokio::test]
async fn a_file_goes_before_a_token_and_is_read_when_it_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    fs::write(&file, "first\n").unwrap();
    let both = || credentials(json!({"token": "fixed", "tokenFile": file})).unwrap();
    let of_file = both();
    assert_eq!(authorization(&of_file).await.as_deref(), Some("Bearer first"));
    fs::write(&file, "second").unwrap();
    assert_eq!(authorization(&both()).await.as_deref(), Some("Bearer second"));
    fs::remove_file(&file).unwrap();
    assert_eq!(authorization(&both()).await.as_deref(), Some("Bearer fixed"));
    let alone = credentials(json!({"tokenFile": file})).unwrap();
    let error = alone.for_request().await.unwrap_err().to_string();
    assert!(error.contains(&file.display().to_string()), "{error}");
    fs::write(&file, " \n").unwrap();
    assert!(alone.for_request().await.unwrap_err().to_string().contains("it is empty"));
}

#[tokio::test]
async fn a_certificate_is_that_of_the_data_or_of_the_files_and_has_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let ((certificate, key), (other, _)) = (pair(), pair());
    let at = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let files = json!({"client-certificate": at("c", &certificate), "client-key": at("k", &key)});
    let data = |certificate: &str, key: &str| json!({"client-certificate-data": STANDARD.encode(certificate), "client-key-data": STANDARD.encode(key)});
    for good in [files, data(&certificate, &key)] {
        assert!(credentials(good).unwrap().for_request().await.unwrap().identity.is_some());
    }
    for (bad, expected) in [
        (data(&other, &key), "is not that of its client certificate"),
        (data("no", &key), "has no certificate in it"),
        (data(&certificate, "no"), "is no key in PEM"),
        (json!({"client-certificate-data": "?", "client-key-data": "?"}), "is not Base64"),
        (json!({"client-certificate": at("c2", &certificate)}), "no client-key"),
        (json!({"client-key": at("k2", &key)}), "no client-certificate"),
        (json!({"client-certificate": "/gone", "client-key": "/gone"}), "/gone cannot be read"),
    ] {
        let error = credentials(bad).map(drop).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn impersonation_is_said_as_client_go_says_it() {
    let entry = user(json!({
        "as": "eve", "as-uid": "7", "as-groups": ["a", "b"], "as-user-extra": {"scopes": ["x", "y"], "example.com/a b": ["z"]},
    }));
    let headers = impersonation(&entry).unwrap();
    let told: BTreeMap<String, Vec<&str>> = headers
        .keys()
        .map(|name| {
            let values = headers.get_all(name).iter().map(|value| value.to_str().unwrap());
            (name.to_string(), values.collect())
        })
        .collect();
    let expected = BTreeMap::from([
        ("impersonate-user".to_owned(), vec!["eve"]),
        ("impersonate-uid".to_owned(), vec!["7"]),
        ("impersonate-group".to_owned(), vec!["a", "b"]),
        ("impersonate-extra-scopes".to_owned(), vec!["x", "y"]),
        ("impersonate-extra-example.com%2fa%20b".to_owned(), vec!["z"]),
    ]);
    assert_eq!(told, expected);
    assert!(impersonation(&user(json!({"as-groups": ["a"]}))).unwrap_err().contains("--as"));
    assert!(impersonation(&user(json!({"as": "a\nb"}))).is_err());
    assert!(impersonation(&UserEntry::default()).unwrap().is_empty());
}

/// A program that counts how often it was asked, and answers with what is in a file beside it.
struct Program {
    folder: tempfile::TempDir,
}

impl Program {
    fn new(answer: &serde_json::Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let script = "#!/bin/sh\necho \"$KUBERNETES_EXEC_INFO\" >> \"$0.asked\"\ncat \"$0.answer\"\n";
        let path = folder.path().join("login");
        // Written by another process: one that forks meanwhile keeps nobody from running it.
        fs::write(folder.path().join("script"), script).unwrap();
        let copied = std::process::Command::new("cp").arg(folder.path().join("script")).arg(&path).status();
        assert!(copied.unwrap().success());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let program = Self { folder };
        program.answer(answer);
        program
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("login")
    }

    fn answer(&self, answer: &serde_json::Value) {
        fs::write(self.path().with_extension("answer"), answer.to_string()).unwrap();
    }

    fn asked(&self) -> Vec<serde_json::Value> {
        let asked = fs::read_to_string(self.path().with_extension("asked")).unwrap_or_default();
        asked.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn entry(&self) -> serde_json::Value {
        json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": self.path(), "interactiveMode": "Never",
            "provideClusterInfo": true,
        }})
    }
}

fn credential(status: serde_json::Value) -> serde_json::Value {
    json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status})
}

#[tokio::test]
async fn a_program_is_asked_once_until_what_it_said_is_over_or_refused() {
    let program =
        Program::new(&credential(json!({"token": "one", "expirationTimestamp": "2999-01-01T00:00:00Z"})));
    let credentials = credentials(program.entry()).unwrap();
    for _ in 0..2 {
        assert_eq!(authorization(&credentials).await.as_deref(), Some("Bearer one"));
    }
    assert_eq!(program.asked().len(), 1);
    let told = &program.asked()[0];
    assert_eq!(told["spec"]["cluster"]["server"], json!("https://api.example:6443"));
    assert_eq!((&told["kind"], &told["spec"]["interactive"]), (&json!("ExecCredential"), &json!(false)));

    let used = credentials.for_request().await.unwrap();
    program.answer(&credential(json!({"token": "two", "expirationTimestamp": "2001-01-01T00:00:00Z"})));
    let renewed = credentials.renew(&used).await.unwrap().unwrap();
    assert_eq!(renewed.authorization.unwrap(), "Bearer two");
    assert_eq!(program.asked().len(), 2);
    program.answer(&credential(json!({"token": "three"})));
    assert_eq!(
        authorization(&credentials).await.as_deref(),
        Some("Bearer three"),
        "what is over is asked for again"
    );
    // Somebody else has asked since it was refused to this one.
    let renewed = credentials.renew(&used).await.unwrap().unwrap();
    assert_eq!((renewed.authorization.unwrap(), program.asked().len()), ("Bearer three".parse().unwrap(), 3));
}

#[tokio::test]
async fn a_program_may_answer_with_a_certificate() {
    let (certificate, key) = pair();
    let program =
        Program::new(&credential(json!({"clientCertificateData": certificate, "clientKeyData": key})));
    let answer = credentials(program.entry()).unwrap().for_request().await.unwrap();
    assert!(answer.identity.is_some() && answer.authorization.is_none());
}

#[tokio::test]
async fn what_is_wrong_with_a_program_is_told_without_what_it_said() {
    let program = Program::new(&json!({}));
    let credentials = credentials(program.entry()).unwrap();
    let v1beta1 = json!({"apiVersion": "client.authentication.k8s.io/v1beta1", "kind": "ExecCredential", "status": {"token": "hunter2"}});
    for (answer, expected) in [
        (json!({"token": "hunter2"}), "has not said an ExecCredential"),
        (v1beta1, "has not said an ExecCredential of client.authentication.k8s.io/v1"),
        (credential(json!({})), "has said neither"),
        (credential(json!({"clientKeyData": "hunter2"})), "a key without its certificate"),
        (credential(json!({"token": "hunter2\n"})), "characters that no token has"),
        (credential(json!({"token": ["hunter2"]})), "line 1 of it is wrong"),
    ] {
        program.answer(&answer);
        let error = credentials.for_request().await.unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("login"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_program_that_is_not_there_is_told_with_its_hint() {
    let exec = |more: serde_json::Value| {
        let mut exec =
            json!({"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "/gone/login"});
        exec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        credentials(json!({ "exec": exec }))
    };
    let gone = exec(
        json!({"installHint": "install it from example.com", "env": [{"name": "A", "value": "hunter2"}]}),
    );
    let error = gone.unwrap().for_request().await.unwrap_err().to_string();
    assert!(error.contains("/gone/login") && error.contains("install it from example.com"), "{error}");
    let v1 = exec(json!({"apiVersion": "client.authentication.k8s.io/v1"})).map(drop).unwrap_err();
    assert!(v1.contains("interactiveMode"), "{v1}");
    let alpha = exec(json!({"apiVersion": "client.authentication.k8s.io/v1alpha1"})).map(drop).unwrap_err();
    assert!(alpha.contains("v1alpha1"), "{alpha}");
    let old = credentials(json!({"auth-provider": {"name": "gcp", "config": {"x": "hunter2"}}}))
        .map(drop)
        .unwrap_err();
    assert!(old.contains("\"gcp\"") && !old.contains("hunter2"), "{old}");
    assert!(Path::new("/gone").symlink_metadata().is_err());
}
