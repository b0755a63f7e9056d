//! Credentials for registries that this machine itself has, for all pods.
//!
//! ```text
//! config.json ─► docker_config ─┬─ auths ────────────────────────────────────┐
//!                               └─ credHelpers, credsStore ─► helper ─ exec ─┼─► keyring ─► for an image, best first
//! CredentialProviderConfig ─► provider ─ exec, cache ────────────────────────┘
//! ```
//!
//! [`NodeCredentials`] answers for one image. The [`Keyring`] decides which entry is for which image, as upstream's
//! `pkg/credentialprovider` does, and does so for pull secrets as well. Programs are run by `child`, with bounded time and
//! output; what they are asked goes to their standard input, and what they answer into no text.

mod child;
pub(crate) mod docker_config;
mod helper;
pub(crate) mod keyring;
mod once;
mod provider;

use std::path::PathBuf;

pub(crate) use self::docker_config::DockerConfig;
pub(crate) use self::keyring::Keyring;
pub use self::provider::CredentialProviders;
use self::{docker_config::ConfigProblem, helper::Helpers};
use crate::runtime::Credential;

/// The credentials that this machine has for registries.
#[derive(Debug, Default)]
pub struct NodeCredentials {
    /// `config.json` files; the first one that exists counts.
    files: Vec<PathBuf>,
    helpers: Helpers,
    providers: CredentialProviders,
}

/// Credentials for one image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundCredentials {
    /// In the order in which they are to be tried.
    pub credentials: Vec<Credential>,
    /// What has failed on the way, each in a sentence that names it and holds no secret.
    pub troubles: Vec<String>,
}

impl NodeCredentials {
    /// Those of the first of `files` that exists, which are read again for each image, and those of `providers`.
    #[must_use]
    pub fn new(files: Vec<PathBuf>, providers: CredentialProviders) -> Self {
        Self { files, helpers: Helpers::default(), providers }
    }

    /// The credentials for an image: of the file and its helpers, then of the providers.
    pub async fn for_image(&self, image: &str) -> FoundCredentials {
        let mut found = FoundCredentials::default();
        if !keyring::is_of_registry(image) {
            return found;
        }
        let repository = keyring::repository(image);
        match self.config().await {
            Ok(Some(config)) => self.of_file(&config, &repository, &mut found).await,
            Ok(None) => {}
            Err(trouble) => found.troubles.push(trouble),
        }
        self.providers.collect(&repository, &mut found).await;
        for trouble in &found.troubles {
            tracing::warn!(image, "{trouble}");
        }
        found
    }

    async fn config(&self) -> Result<Option<DockerConfig>, String> {
        for path in &self.files {
            match tokio::fs::read(path).await {
                Ok(bytes) => {
                    let config = DockerConfig::parse(&bytes);
                    return config.map(Some).map_err(|problem| format!("{} {problem}", path.display()));
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
            }
        }
        Ok(None)
    }

    async fn of_file(&self, config: &DockerConfig, repository: &str, found: &mut FoundCredentials) {
        if let Some((name, server)) = config.helper(repository) {
            match self.helpers.ask(name, &server).await {
                Ok(credential) => found.credentials.extend(credential),
                Err(trouble) => found.troubles.push(trouble),
            }
        }
        let mut ring = Keyring::default();
        for (key, entry) in config.entries() {
            match entry {
                Ok(Some(credential)) => ring.add(key, Ok(credential)),
                Ok(None) => {}
                Err(problem) => ring.add(key, Err(problem)),
            }
        }
        for entry in ring.into_matching(repository) {
            match entry {
                Ok(credential) => found.credentials.push(credential),
                Err(problem) => found.troubles.push(format!("the node's config.json {problem}")),
            }
        }
    }
}

impl From<ConfigProblem> for String {
    fn from(problem: ConfigProblem) -> Self {
        problem.to_string()
    }
}

#[cfg(test)]
mod tests;
