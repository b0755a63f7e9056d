//! `CredentialProviderConfig` of `kubelet.config.k8s.io`: which providers there are, and for which images.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use crate::duration;

const VERSIONS: [&str; 3] =
    ["kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1"];
/// Versions of the questions that providers understand; what is asked here is the same in all of them.
const PROVIDER_VERSIONS: [&str; 3] = [
    "credentialprovider.kubelet.k8s.io/v1",
    "credentialprovider.kubelet.k8s.io/v1beta1",
    "credentialprovider.kubelet.k8s.io/v1alpha1",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProviderConfigFile {
    api_version: String,
    kind: String,
    providers: Vec<ProviderSettings>,
}

/// One provider, as it is configured.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ProviderSettings {
    /// The name of its program.
    pub(super) name: String,
    /// The version in which it is asked.
    pub(super) api_version: String,
    /// Keys of the images that it is asked about.
    pub(super) match_images: Vec<String>,
    /// How long an answer is good that does not say so.
    #[serde(with = "duration")]
    pub(super) default_cache_duration: Duration,
    #[serde(default)]
    pub(super) args: Vec<String>,
    /// Variables besides those of the node itself.
    #[serde(default)]
    pub(super) env: Vec<ProviderVariable>,
    #[serde(default)]
    token_attributes: Option<serde::de::IgnoredAny>,
}

/// A variable of a provider's environment. It may hold a secret, and so this type has no `Debug`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProviderVariable {
    pub(super) name: String,
    pub(super) value: String,
}

// Arguments and variables may be secret.
impl std::fmt::Debug for ProviderSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProviderSettings").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Reads a file, or the `.yaml`, `.yml` and `.json` files of a directory in the order of their names.
pub(super) fn read(path: &Path) -> Result<Vec<ProviderSettings>, String> {
    let unreadable = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| {
            format!("cannot read the credential provider configuration {path}: {error}")
        }
    };
    let mut providers: Vec<ProviderSettings> = Vec::new();
    for file in files(path).map_err(unreadable(path))? {
        let text = fs::read_to_string(&file).map_err(unreadable(&file))?;
        for provider in parse(&text).map_err(|problem| format!("{}: {problem}", file.display()))? {
            if providers.iter().any(|known| known.name == provider.name) {
                let name = provider.name;
                return Err(format!("{}: there are two credential providers {name:?}", file.display()));
            }
            providers.push(provider);
        }
    }
    if providers.is_empty() {
        return Err(format!("{}: there is no credential provider in it", path.display()));
    }
    Ok(providers)
}

fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let is_one =
            path.extension().is_some_and(|ending| ["json", "yaml", "yml"].iter().any(|e| ending == *e));
        if is_one && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn parse(text: &str) -> Result<Vec<ProviderSettings>, String> {
    // Values of variables may be secret, and serde's text may repeat what is of the wrong type.
    let file: ProviderConfigFile = serde_yaml_ng::from_str(text).map_err(|error| {
        let text = error.to_string();
        let place = error.location().map_or(String::new(), |place| format!("line {}: ", place.line()));
        let known =
            ["unknown field", "missing field", "duplicate field"].iter().any(|known| text.contains(known));
        let what = if known {
            text.split(", expected one of").next().unwrap_or_default()
        } else {
            "it cannot be understood"
        };
        format!("{place}{what}; it must be a CredentialProviderConfig")
    })?;
    if file.kind != "CredentialProviderConfig" || !VERSIONS.contains(&file.api_version.as_str()) {
        return Err(format!(
            "this is {:?} of {:?}; expected \"CredentialProviderConfig\" of {:?}",
            file.kind, file.api_version, VERSIONS[0]
        ));
    }
    for provider in &file.providers {
        check(provider)
            .map_err(|problem| format!("the credential provider {:?} {problem}", provider.name))?;
    }
    Ok(file.providers)
}

fn check(provider: &ProviderSettings) -> Result<(), String> {
    let ProviderSettings { name, api_version, match_images, token_attributes, .. } = provider;
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', ' ']) {
        return Err("has a name that cannot be that of a program".to_owned());
    }
    if !PROVIDER_VERSIONS.contains(&api_version.as_str()) {
        return Err(format!(
            "has the apiVersion {api_version:?}; known are {}",
            PROVIDER_VERSIONS.join(", ")
        ));
    }
    if match_images.is_empty() || match_images.iter().any(String::is_empty) {
        return Err("has no matchImages, or an empty one: say which images it is for".to_owned());
    }
    if token_attributes.is_some() {
        return Err(
            "has tokenAttributes, and tokens of service accounts are not given to providers by this node; \
             remove it, or give pods imagePullSecrets"
                .to_owned(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: ecr
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: [\"*.dkr.ecr.*.amazonaws.com\"]
  defaultCacheDuration: 12h
  args: [get]
  env: [{name: A, value: hunter2}]
";

    #[test]
    fn a_configuration() {
        let providers = parse(GOOD).unwrap();
        assert_eq!(providers[0].default_cache_duration, Duration::from_hours(12));
        assert_eq!((providers[0].args[0].as_str(), providers[0].env[0].name.as_str()), ("get", "A"));
        assert!(!format!("{providers:?}").contains("hunter2"));
    }

    #[test]
    fn what_is_wrong_is_named_without_secrets() {
        for (from, to, expected) in [
            ("kind: Cred", "kind: X", "expected \"CredentialProviderConfig\""),
            ("config.k8s.io/v1", "config.k8s.io/v9", "expected"),
            ("name: ecr", "name: ../ecr", "cannot be that of a program"),
            ("kubelet.k8s.io/v1\n  match", "kubelet.k8s.io/v9\n  match", "known are"),
            ("[\"*.dkr.ecr.*.amazonaws.com\"]", "[]", "matchImages"),
            (
                "defaultCacheDuration",
                "defaultCacheDurations",
                "line 7: providers[0]: unknown field `defaultCacheDurations`",
            ),
            ("  defaultCacheDuration: 12h\n", "", "missing field `defaultCacheDuration`"),
            ("value: hunter2", "value: [hunter2]", "it cannot be understood"),
            ("  args", "  tokenAttributes: {cacheType: Token}\n  args", "tokenAttributes"),
        ] {
            let text = GOOD.replace(from, to);
            assert_ne!(text, GOOD, "{from}");
            let error = parse(&text).unwrap_err();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_directory_is_read_in_order_and_has_each_provider_once() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap_err().contains("no credential provider"));
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("b.yaml", GOOD);
        write("a.yml", &GOOD.replace("ecr", "acr"));
        write("ignored.txt", "nonsense");
        let names: Vec<_> = read(folder.path()).unwrap().into_iter().map(|p| p.name).collect();
        assert_eq!(names, ["acr", "ecr"]);
        write("c.json", GOOD);
        assert!(read(folder.path()).unwrap_err().contains("two credential providers"));
        assert!(read(&folder.path().join("none")).unwrap_err().contains("cannot read"));
    }
}
