//! Brings the extensions of a cluster into the table of this replica, and says how far each has come.
//!
//! A version that cannot be published changes nothing: what is published goes on, module and configurations as they were. A module is
//! fetched when what is asked for changes, and, where its source is to be asked each time, every few minutes.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use k8s_openapi::{api::core::v1::Secret, jiff::Timestamp};
use kubewasm_control::follow::Followed;
use kubewasm_modules::{Credential, Digest};
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};

use super::{
    grants::GrantState,
    publish::{ModuleState, PublishInputs, PublishPlan},
    references::{ObjectState, ReferencedObjects, pull_secret_of},
    resolve::ConfigurationFailure,
};
use crate::{
    fetch::{
        FetchFailure, FetchReason, FetchedModule, ModuleFetcher, proxy_wasm::AbiVersion,
        source::ModuleRequest,
    },
    name::ExtensionName,
    table::{ExtensionTable, PublishedVersion},
    wasm_extension::{PullPolicy, WasmExtension, WasmExtensionSpec},
};

/// How soon a fetch is tried again that failed, and how late at most.
const RETRY: Duration = Duration::from_secs(1);
const LATEST_RETRY: Duration = Duration::from_secs(300);
/// How long this replica waits for modules of the first extensions before it is ready all the same.
const READY_PATIENCE: Duration = Duration::from_secs(30);

/// The extensions of the cluster, or of some namespaces of it: by the number of the watch, of which there is one for each.
pub type ClusterExtensions = Followed<usize, WasmExtension>;

/// Where modules come from.
#[async_trait]
pub trait ModuleSupply: fmt::Debug + Send + Sync + 'static {
    /// See [`ModuleRequest::new`].
    ///
    /// # Errors
    /// [`FetchFailure`].
    fn request(&self, spec: &WasmExtensionSpec) -> Result<ModuleRequest, FetchFailure>;

    /// See [`ModuleFetcher::fetch`]. The Secret is the extension's pull secret.
    ///
    /// # Errors
    /// [`FetchFailure`].
    async fn fetch(
        &self,
        namespace: &str,
        request: &ModuleRequest,
        secret: Option<Arc<Secret>>,
    ) -> Result<FetchedModule, FetchFailure>;

    /// See [`ModuleFetcher::kept`].
    async fn kept(&self, namespace: &str, request: &ModuleRequest) -> Option<FetchedModule>;
}

/// Reads pull secrets.
pub trait PullSecrets: fmt::Debug + Send + Sync + 'static {
    /// What a Secret has for an image, best first.
    ///
    /// # Errors
    /// Why it cannot be used, in a sentence with nothing of what it holds.
    fn credentials(&self, image: &str, secret: &Arc<Secret>) -> Result<Vec<Credential>, String>;
}

/// Modules of the module store.
#[derive(Debug)]
pub struct StoreModules {
    /// Fetches them.
    pub fetcher: Arc<ModuleFetcher>,
    /// Reads what registries are to be shown.
    pub secrets: Arc<dyn PullSecrets>,
}

#[async_trait]
impl ModuleSupply for StoreModules {
    fn request(&self, spec: &WasmExtensionSpec) -> Result<ModuleRequest, FetchFailure> {
        ModuleRequest::new(&spec.image, self.fetcher.directories())
            .map_err(|error| FetchFailure::new(FetchReason::InvalidImage, error.to_string()))
    }

    async fn fetch(
        &self,
        namespace: &str,
        request: &ModuleRequest,
        secret: Option<Arc<Secret>>,
    ) -> Result<FetchedModule, FetchFailure> {
        let credentials = match &secret {
            Some(secret) => self
                .secrets
                .credentials(&request.name.to_string(), secret)
                .map_err(|why| FetchFailure::new(FetchReason::PullSecretUnusable, why))?,
            None => Vec::new(),
        };
        self.fetcher.fetch(namespace, request, &credentials).await
    }

    async fn kept(&self, namespace: &str, request: &ModuleRequest) -> Option<FetchedModule> {
        self.fetcher.kept(namespace, request).await
    }
}

/// How far extensions have come in this replica.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadProgress {
    /// All that there were when the replica began were tried.
    pub is_ready: bool,
    /// Each extension.
    pub extensions: BTreeMap<ExtensionName, ExtensionProgress>,
}

/// How far one extension has come.
#[derive(Clone, Debug, PartialEq)]
pub struct ExtensionProgress {
    /// Which object it is.
    pub uid: String,
    /// Which generation of it this is about.
    pub generation: i64,
    /// What has become of its module.
    pub module: ModuleProgress,
    /// When its module was last fetched, or found to be the same.
    pub last_fetched: Option<Timestamp>,
    /// What is in the way of its configurations; also what is wrong with the whole of it.
    pub configuration: ConfigurationProgress,
    /// What Envoys get.
    pub published: Option<PublishedFacts>,
}

/// What has become of a module.
#[derive(Clone, Debug, PartialEq)]
pub enum ModuleProgress {
    /// It is being fetched.
    Fetching,
    /// It is not to be had; it is tried again unless that is in vain.
    Failed(FetchFailure),
    /// It is here. Where its source could not be asked for a newer one, why.
    Fetched(Option<FetchFailure>),
}

/// Whether an extension's configurations have their texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigurationProgress {
    /// They have, or there are none.
    Resolved,
    /// Not yet, or not as things are.
    Failed(ConfigurationFailure),
    /// The spec as a whole cannot be read.
    Invalid(String),
}

/// What Envoys get of an extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedFacts {
    /// Its version.
    pub version: PublishedVersion,
    /// Of which generation it was made.
    pub generation: i64,
    /// The module's digest.
    pub digest: Digest,
    /// The module's bytes.
    pub size: u64,
    /// The module's ABI.
    pub abi: AbiVersion,
}

/// Fetches and publishes extensions.
#[derive(Debug)]
pub struct Loader {
    table: ExtensionTable,
    supply: Arc<dyn ModuleSupply>,
    /// How often a source is asked that is to be asked each time.
    refresh: Duration,
    progress: LoadProgress,
    tasks: HashMap<ExtensionName, ExtensionTask>,
    fetches: JoinSet<Fetch>,
    /// When it is ready at the latest.
    ready_at: Option<Instant>,
}

/// What is to be done for an extension.
#[derive(Debug)]
struct ExtensionTask {
    uid: String,
    request: Option<ModuleRequest>,
    module: ModuleState,
    last_fetched: Option<Timestamp>,
    /// Why the source could not be asked again.
    stale: Option<FetchFailure>,
    fetch: Option<AbortHandle>,
    /// Version of the Secret that was last shown.
    secret_version: Option<String>,
    failures: u32,
    due: Option<Instant>,
    /// What is published is made of these.
    inputs: Option<PublishInputs>,
    serving: Option<FetchedModule>,
    published: Option<PublishedFacts>,
}

impl ExtensionTask {
    fn new(uid: &str) -> Self {
        Self {
            uid: uid.to_owned(),
            request: None,
            module: ModuleState::Fetching,
            last_fetched: None,
            stale: None,
            fetch: None,
            secret_version: None,
            failures: 0,
            due: None,
            inputs: None,
            serving: None,
            published: None,
        }
    }

    fn stop(&mut self) {
        if let Some(fetch) = self.fetch.take() {
            fetch.abort();
        }
        self.due = None;
    }

    fn fail(&mut self, failure: FetchFailure) {
        self.stop();
        self.module = ModuleState::Failed(failure);
    }
}

/// A fetch that has ended.
#[derive(Debug)]
struct Fetch {
    name: ExtensionName,
    request: ModuleRequest,
    outcome: Result<FetchedModule, FetchFailure>,
    /// What was here all the same.
    kept: Option<FetchedModule>,
}

/// What a loader looks at.
#[derive(Clone, Debug)]
pub struct LoaderInputs {
    /// The extensions.
    pub extensions: watch::Receiver<ClusterExtensions>,
    /// The numbers of all watches of them.
    pub watches: Vec<usize>,
    /// What they refer to.
    pub objects: watch::Receiver<ReferencedObjects>,
    /// What they may.
    pub grants: watch::Receiver<GrantState>,
}

impl Loader {
    /// Nothing is published yet. A `refresh` of zero asks no source again.
    #[must_use]
    pub fn new(table: ExtensionTable, supply: Arc<dyn ModuleSupply>, refresh: Duration) -> Self {
        Self {
            table,
            supply,
            refresh,
            progress: LoadProgress::default(),
            tasks: HashMap::new(),
            fetches: JoinSet::new(),
            ready_at: None,
        }
    }

    /// Follows the extensions for ever, and says how far they have come.
    pub async fn run(mut self, mut inputs: LoaderInputs, tell: watch::Sender<LoadProgress>) {
        loop {
            let extensions = inputs.extensions.borrow_and_update().clone();
            let objects = inputs.objects.borrow_and_update().clone();
            let grants = inputs.grants.borrow_and_update().clone();
            // Before all is known, what is missing would be taken for deleted.
            if extensions.has_all(&inputs.watches) {
                self.look(&extensions, &objects, &grants);
            }
            tell.send_if_modified(|told| {
                let is_new = *told != self.progress;
                if is_new {
                    told.clone_from(&self.progress);
                }
                is_new
            });
            let due = self.tasks.values().filter_map(|task| task.due);
            let due = due.chain(self.ready_at.filter(|_| !self.progress.is_ready)).min();
            let changed = tokio::select! {
                changed = inputs.extensions.changed() => changed,
                changed = inputs.objects.changed() => changed,
                changed = inputs.grants.changed() => changed,
                Some(fetch) = self.fetches.join_next() => {
                    if let Ok(fetch) = fetch {
                        self.note(fetch);
                    }
                    Ok(())
                }
                () = until(due) => Ok(()),
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Brings what is published in line with what there is.
    fn look(&mut self, extensions: &ClusterExtensions, objects: &ReferencedObjects, grants: &GrantState) {
        let now = Instant::now();
        let mut there = BTreeSet::new();
        for extension in extensions.values() {
            self.table.announce(&extension.name);
            there.insert(&extension.name);
        }
        for extension in extensions.values() {
            self.advance(extension, objects, grants, now);
        }
        let gone: Vec<ExtensionName> =
            self.tasks.keys().filter(|name| !there.contains(name)).cloned().collect();
        for name in gone {
            if let Some(mut task) = self.tasks.remove(&name) {
                task.stop();
            }
            self.progress.extensions.remove(&name);
            self.table.withdraw(&name);
            tracing::info!(extension = %name, "the extension is deleted");
        }
        self.table.complete();
        let ready_at = *self.ready_at.get_or_insert(now + READY_PATIENCE);
        let is_tried = |progress: &ExtensionProgress| {
            let is_pending = matches!(&progress.configuration, ConfigurationProgress::Failed(failure) if failure.is_pending());
            !is_pending && progress.module != ModuleProgress::Fetching
        };
        self.progress.is_ready |= ready_at <= now || self.progress.extensions.values().all(is_tried);
        if self.progress.is_ready {
            self.table.settle();
        }
    }

    fn advance(
        &mut self,
        extension: &WasmExtension,
        objects: &ReferencedObjects,
        grants: &GrantState,
        now: Instant,
    ) {
        let name = &extension.name;
        let task = self.tasks.entry(name.clone()).or_insert_with(|| ExtensionTask::new(&extension.uid));
        if task.uid != extension.uid {
            // Another object of this name: what is published is taken over, all else begins anew.
            task.stop();
            let published = task.published.take();
            *task = ExtensionTask { published, ..ExtensionTask::new(&extension.uid) };
        }
        let configuration = match &extension.spec {
            Err(problem) => {
                task.fail(FetchFailure::new(FetchReason::InvalidImage, problem.clone()));
                task.request = None;
                ConfigurationProgress::Invalid(problem.clone())
            }
            Ok(spec) => {
                match self.supply.request(spec) {
                    Err(failure) => {
                        task.fail(failure);
                        task.request = None;
                    }
                    Ok(request) => {
                        let secret = pull_secret_of(extension).map(|name| objects.get(&name).cloned());
                        want(task, name, request, secret, now, &self.supply, &mut self.fetches);
                    }
                }
                let plan = PublishPlan::new(name, spec, &task.module, objects, grants);
                if let (Some(inputs), ModuleState::Fetched(fetched)) = (plan.inputs, &task.module) {
                    if task.inputs.as_ref() != Some(&inputs) {
                        publish(
                            &self.table,
                            name,
                            extension.generation,
                            &inputs,
                            fetched,
                            &mut task.published,
                        );
                        (task.inputs, task.serving) = (Some(inputs), Some(fetched.clone()));
                    } else if let Some(published) = &mut task.published {
                        published.generation = extension.generation;
                    }
                } else {
                    follow_former(&self.table, name, task, objects, grants);
                }
                match plan.configurations {
                    Ok(_) => ConfigurationProgress::Resolved,
                    Err(failure) => ConfigurationProgress::Failed(failure),
                }
            }
        };
        let progress = ExtensionProgress {
            uid: extension.uid.clone(),
            generation: extension.generation,
            module: match &task.module {
                ModuleState::Fetching => ModuleProgress::Fetching,
                ModuleState::Failed(failure) => ModuleProgress::Failed(failure.clone()),
                ModuleState::Fetched(_) => ModuleProgress::Fetched(task.stale.clone()),
            },
            last_fetched: task.last_fetched,
            configuration,
            published: task.published.clone(),
        };
        let before = self.progress.extensions.insert(name.clone(), progress.clone());
        log(name, before.as_ref(), &progress);
    }

    fn note(&mut self, fetch: Fetch) {
        let Fetch { name, request, outcome, kept } = fetch;
        let Some(task) = self.tasks.get_mut(&name) else { return };
        if task.request.as_ref() != Some(&request) {
            return;
        }
        task.fetch = None;
        let now = Instant::now();
        let again = Some(self.refresh)
            .filter(|refresh| !refresh.is_zero() && request.policy == PullPolicy::Always)
            .map(|refresh| now + refresh);
        match outcome {
            Ok(fetched) => {
                (task.failures, task.stale, task.due) = (0, None, again);
                task.last_fetched = Some(Timestamp::now());
                task.module = ModuleState::Fetched(fetched);
            }
            Err(failure) => {
                let pause = RETRY.saturating_mul(2_u32.saturating_pow(task.failures)).min(LATEST_RETRY);
                task.failures = task.failures.saturating_add(1);
                task.due = (!failure.reason.is_final()).then(|| now + pause);
                if let (Some(kept), ModuleState::Fetching | ModuleState::Failed(_)) = (kept, &task.module) {
                    task.module = ModuleState::Fetched(kept);
                }
                match task.module {
                    // What it was before is still what it is, as far as anybody knows.
                    ModuleState::Fetched(_) => task.stale = Some(failure),
                    ModuleState::Fetching | ModuleState::Failed(_) => {
                        task.module = ModuleState::Failed(failure)
                    }
                }
            }
        }
    }
}

/// Sees to it that the module of an extension is fetched. The outer option of `secret` is whether there is a pull secret, the inner
/// one whether it was read.
fn want(
    task: &mut ExtensionTask,
    name: &ExtensionName,
    request: ModuleRequest,
    secret: Option<Option<ObjectState>>,
    now: Instant,
    supply: &Arc<dyn ModuleSupply>,
    fetches: &mut JoinSet<Fetch>,
) {
    let is_new = task.request.as_ref() != Some(&request);
    if is_new {
        task.stop();
        (task.failures, task.stale, task.module) = (0, None, ModuleState::Fetching);
        task.request = Some(request.clone());
    }
    let secret = match secret {
        None => None,
        Some(Some(ObjectState::Secret(secret))) => Some(secret),
        // It is being read.
        Some(None) => return,
        Some(Some(state)) => {
            if !matches!(task.module, ModuleState::Fetched(_)) {
                let why = match state {
                    ObjectState::Unreadable(why) => {
                        format!("the Secret of image.pull_secret cannot be read: {why}")
                    }
                    _ => "there is no Secret of the name that image.pull_secret says in this namespace"
                        .to_owned(),
                };
                task.fail(FetchFailure::new(FetchReason::PullSecretUnusable, why));
                task.secret_version = None;
            }
            return;
        }
    };
    let version = secret.as_ref().and_then(|secret| secret.metadata.resource_version.clone());
    let is_other_secret = version != task.secret_version;
    let is_due = task.due.is_some_and(|due| due <= now)
        || is_other_secret && !matches!(task.module, ModuleState::Fetched(_))
        || is_new;
    if !is_due || task.fetch.is_some() && !is_other_secret {
        return;
    }
    task.stop();
    task.secret_version = version;
    let (supply, name, namespace) = (Arc::clone(supply), name.clone(), name.namespace().to_owned());
    task.fetch = Some(fetches.spawn(async move {
        let outcome = supply.fetch(&namespace, &request, secret).await;
        let is_out_of_reach = matches!(&outcome, Err(failure) if failure.reason == FetchReason::Unavailable);
        let kept = if is_out_of_reach { supply.kept(&namespace, &request).await } else { None };
        Fetch { name, request, outcome, kept }
    }));
}

/// Brings the version that goes on, while a newer one cannot be published, in line with what it refers to.
fn follow_former(
    table: &ExtensionTable,
    name: &ExtensionName,
    task: &mut ExtensionTask,
    objects: &ReferencedObjects,
    grants: &GrantState,
) {
    let (Some(before), Some(fetched)) = (&task.inputs, &task.serving) else { return };
    let Some(generation) = task.published.as_ref().map(|published| published.generation) else { return };
    let module = ModuleState::Fetched(fetched.clone());
    let plan = PublishPlan::new(name, before.spec(), &module, objects, grants);
    let Some(inputs) = plan.inputs.filter(|inputs| inputs != before) else { return };
    publish(table, name, generation, &inputs, fetched, &mut task.published);
    task.inputs = Some(inputs);
}

fn publish(
    table: &ExtensionTable,
    name: &ExtensionName,
    generation: i64,
    inputs: &PublishInputs,
    fetched: &FetchedModule,
    published: &mut Option<PublishedFacts>,
) {
    let extension = inputs.publish(name, fetched);
    let version = extension.version().clone();
    *published = Some(PublishedFacts {
        version: version.clone(),
        generation,
        digest: fetched.module.digest,
        size: fetched.module.size(),
        abi: fetched.module.abi,
    });
    if table.publish(extension) {
        tracing::info!(extension = %name, generation, %version, "the extension is published");
    }
}

/// Says what has become worse.
fn log(name: &ExtensionName, before: Option<&ExtensionProgress>, now: &ExtensionProgress) {
    let generation = now.generation;
    if before.map(|before| &before.module) != Some(&now.module)
        && let ModuleProgress::Failed(failure) | ModuleProgress::Fetched(Some(failure)) = &now.module
    {
        tracing::warn!(extension = %name, generation, reason = failure.reason.as_str(), "cannot fetch the module: {failure}");
    }
    if before.map(|before| &before.configuration) != Some(&now.configuration) {
        match &now.configuration {
            ConfigurationProgress::Failed(failure) if !failure.is_pending() => {
                tracing::warn!(extension = %name, generation, "cannot resolve the configuration: {failure}");
            }
            ConfigurationProgress::Invalid(problem) => {
                tracing::warn!(extension = %name, generation, "{problem}");
            }
            ConfigurationProgress::Failed(_) | ConfigurationProgress::Resolved => {}
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
