use std::{fs, os::unix::fs::symlink};

use tempfile::TempDir;

use super::*;

/// Providers that are shell scripts, with a folder for what they leave.
struct Scripts {
    folder: TempDir,
    providers: CredentialProviders,
}

impl Scripts {
    /// A provider `p` for `r.io` and what is below `x.io`, that notes its question and then does what `script` says.
    fn new(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // A file that was just written cannot always be executed: another thread may be about to start a program, which
        // holds it open for a moment. The shell can.
        symlink("/bin/sh", folder.path().join("p")).unwrap();
        let text = format!("cat >> {}/asked; echo >> {0}/asked\n{script}\n", folder.path().display());
        fs::write(folder.path().join("script"), text).unwrap();
        let config = folder.path().join("config.yaml");
        let text = format!(
            "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: p\n\
             \x20 apiVersion: credentialprovider.kubelet.k8s.io/v1\n  matchImages: [r.io, \"*.x.io\"]\n\
             \x20 defaultCacheDuration: 1h\n  args: [{}/script, argument]\n  env: [{{name: WHO, value: variable}}]\n",
            folder.path().display()
        );
        fs::write(&config, text).unwrap();
        let providers = CredentialProviders::load(&config, folder.path()).unwrap();
        Self { folder, providers }
    }

    fn answering(cache: &str, duration: &str) -> Self {
        Self::new(&format!(
            r#"echo '{{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1",
                "cacheKeyType":"{cache}",{duration}"auth":{{"r.io":{{"username":"'$WHO'","password":"'$1'"}}}}}}'"#
        ))
    }

    async fn find(&self, repository: &str) -> FoundCredentials {
        let mut found = FoundCredentials::default();
        self.providers.collect(repository, &mut found).await;
        found
    }

    fn asked(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("asked")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn a_provider_is_asked_about_its_images_only_and_its_answer_is_matched() {
    let scripts = Scripts::answering("Image", "");
    let expected = Credential { username: "variable".into(), password: "argument".into() };
    assert_eq!(scripts.find("r.io/a").await.credentials, [expected]);
    assert_eq!(scripts.find("a.x.io/a").await.credentials, [], "the answer is for another registry");
    assert_eq!(scripts.find("other.io/a").await, FoundCredentials::default());
    let asked = scripts.asked();
    assert_eq!(asked.len(), 2);
    let question: serde_json::Value = serde_json::from_str(&asked[0]).unwrap();
    let expected = serde_json::json!({
        "kind": "CredentialProviderRequest", "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "image": "r.io/a",
    });
    assert_eq!(question, expected);
}

#[tokio::test]
async fn answers_are_kept_for_what_they_say() {
    for (cache, duration, runs) in [
        ("Image", "", 2),
        ("Registry", "", 1),
        ("Global", r#""cacheDuration":"10m","#, 1),
        ("Registry", r#""cacheDuration":"0s","#, 4),
    ] {
        let scripts = Scripts::answering(cache, duration);
        for repository in ["r.io/a", "r.io/a", "r.io/b", "r.io/b"] {
            assert_eq!(scripts.find(repository).await.credentials.len(), 1);
        }
        assert_eq!(scripts.asked().len(), runs, "{cache} {duration}");
    }
}

#[tokio::test]
async fn who_asks_for_the_same_at_the_same_time_shares_a_run() {
    let scripts = Scripts::answering("Image", r#""cacheDuration":"0s","#);
    let all = futures::future::join_all((0..20).map(|_| scripts.find("r.io/a"))).await;
    assert!(all.iter().all(|found| found.credentials.len() == 1));
    assert_eq!(scripts.asked().len(), 1);
}

#[tokio::test]
async fn failures_name_the_provider_and_no_secret() {
    for (script, expected) in [
        ("echo hunter2 >&2; exit 1", "the credential provider \"p\" failed"),
        ("echo hunter2", "answered something that is no CredentialProviderResponse"),
    ] {
        let found = Scripts::new(script).find("r.io/a").await;
        assert!(found.credentials.is_empty());
        let [trouble] = found.troubles.as_slice() else { panic!("{found:?}") };
        assert!(trouble.contains(expected) && !trouble.contains("hunter2"), "{trouble}");
    }
}

#[test]
fn a_provider_without_a_program_is_named_at_the_start() {
    let scripts = Scripts::new("");
    let config = scripts.folder.path().join("config.yaml");
    let elsewhere = tempfile::tempdir().unwrap();
    let error = CredentialProviders::load(&config, elsewhere.path()).unwrap_err();
    assert!(error.contains("\"p\" has no program"), "{error}");
    fs::write(elsewhere.path().join("p"), "").unwrap();
    assert!(CredentialProviders::load(&config, elsewhere.path()).is_err(), "it cannot be executed");
}
