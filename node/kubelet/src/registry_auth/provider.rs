//! The kubelet's [credential providers]: programs that an operator configures, each for some images.
//!
//! A provider is told the image's repository and answers with credentials and with how long, and for which other images,
//! they are good. Who asks for the same at the same time shares one run.
//!
//! [credential providers]: https://kubernetes.io/docs/tasks/administer-cluster/kubelet-credential-provider/

mod answer;
mod cache;
mod config;

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::{process::Command, sync::Semaphore};

use self::{
    answer::ProviderAnswer,
    cache::{AnswerCache, CachedFor},
    config::ProviderSettings,
};
use super::{
    FoundCredentials,
    child::{self, Answer},
    keyring::{self, Keyring},
    once::Once,
};
use crate::runtime::Credential;

/// As upstream's.
const TIME: Duration = Duration::from_secs(60);
/// Runs of one provider at the same time.
const AT_ONCE: usize = 4;

/// Credentials by key.
type Auth = Arc<Vec<(String, Credential)>>;
type ProviderOutcome = Result<Auth, String>;

/// All providers, in the order of the configuration. Cheap to clone; all clones share what is cached.
#[derive(Clone, Debug, Default)]
pub struct CredentialProviders(Vec<Arc<CredentialProvider>>);

/// One provider.
#[derive(Debug)]
struct CredentialProvider {
    settings: ProviderSettings,
    program: std::path::PathBuf,
    cache: Mutex<AnswerCache<Auth>>,
    running: Once<ProviderOutcome>,
    slots: Semaphore,
}

impl CredentialProviders {
    /// Reads `--image-credential-provider-config`, a file or a directory of files, and finds the programs in
    /// `--image-credential-provider-bin-dir`.
    ///
    /// # Errors
    /// A sentence that names what is wrong and where.
    pub fn load(config: &Path, bin_dir: &Path) -> Result<Self, String> {
        let mut providers = Vec::new();
        for settings in config::read(config)? {
            let program = std::path::absolute(bin_dir.join(&settings.name)).map_err(|e| e.to_string())?;
            if rustix::fs::access(&program, rustix::fs::Access::EXEC_OK).is_err() || !program.is_file() {
                return Err(format!(
                    "{}: the credential provider {:?} has no program {} that can be run",
                    config.display(),
                    settings.name,
                    program.display()
                ));
            }
            providers.push(Arc::new(CredentialProvider {
                settings,
                program,
                cache: Mutex::default(),
                running: Once::default(),
                slots: Semaphore::new(AT_ONCE),
            }));
        }
        Ok(Self(providers))
    }

    /// Adds what the providers have for the images of `repository`.
    pub(super) async fn collect(&self, repository: &str, found: &mut FoundCredentials) {
        let asked = self.0.iter().filter(|provider| provider.is_for(repository));
        let answers = futures::future::join_all(asked.map(|provider| provider.ask(repository))).await;
        let mut ring = Keyring::default();
        for answer in answers {
            match answer {
                Ok(auth) => auth.iter().for_each(|(key, credential)| ring.add(key, credential.clone())),
                Err(trouble) => found.troubles.push(trouble),
            }
        }
        found.credentials.extend(ring.into_matching(repository));
    }
}

impl CredentialProvider {
    fn is_for(&self, repository: &str) -> bool {
        self.settings.match_images.iter().any(|key| keyring::matches(key, repository))
    }

    async fn ask(self: &Arc<Self>, repository: &str) -> ProviderOutcome {
        if let Some(auth) = self.cached(repository) {
            return Ok(auth);
        }
        let (this, image) = (Arc::clone(self), repository.to_owned());
        self.running.join(repository, async move { this.run(&image).await }).await
    }

    fn cached(&self, repository: &str) -> Option<Auth> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(repository, Instant::now())
    }

    async fn run(&self, repository: &str) -> ProviderOutcome {
        // It is never closed, so that acquiring cannot fail.
        let _slot = self.slots.acquire().await.ok();
        // A run for another image may have answered for the whole registry.
        if let Some(auth) = self.cached(repository) {
            return Ok(auth);
        }
        let ProviderSettings { name, api_version, args, env, default_cache_duration, .. } = &self.settings;
        let failed = |problem: &str| format!("the credential provider {name:?} {problem}");
        let mut command = Command::new(&self.program);
        command.args(args).envs(env.iter().map(|variable| (&variable.name, &variable.value)));
        let question = answer::question(api_version, repository);
        let answer = child::ask(command, &question, TIME).await;
        let Answer { succeeded, output, end } = answer.map_err(|problem| failed(&problem))?;
        if !succeeded {
            tracing::warn!(provider = name, image = repository, end, "a credential provider failed");
            return Err(failed("failed; the node's log has what it said"));
        }
        let ProviderAnswer { auth, cached_for, duration } =
            answer::read(api_version, &output).map_err(|problem| failed(&problem))?;
        let auth = Arc::new(auth);
        let duration = duration.unwrap_or(*default_cache_duration);
        self.keep(cached_for, repository, &auth, duration);
        Ok(auth)
    }

    fn keep(&self, cached_for: CachedFor, repository: &str, auth: &Auth, duration: Duration) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.put(cached_for, repository, Arc::clone(auth), duration, Instant::now());
    }
}

#[cfg(test)]
mod tests;
