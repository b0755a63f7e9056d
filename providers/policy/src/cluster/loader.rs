//! Loads the policies of a cluster into the registry of this replica, and says how far each has come.
//!
//! A version that cannot be loaded changes nothing: what was served goes on. A policy that is gone is served a while longer, because
//! API servers hear of it in their own time.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use kubewasm_control::follow::Followed;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};

use super::{
    identity::{PolicyKind, PolicyName},
    policy::{ClusterPolicy, PolicyVersion},
    status::Newest,
};
use crate::{
    server::{failure::LoadFailure, registry::PolicyRegistry},
    spec::{Mode, Spec},
};

/// How long a policy is served that is gone: the API server's webhook configurations are gone before it, and it asks nobody any
/// more a moment later.
const LINGER: Duration = Duration::from_secs(30);
/// How soon a load is tried again that failed for what may pass, and how late at most.
const RETRY: Duration = Duration::from_secs(5);
const LATEST_RETRY: Duration = Duration::from_secs(300);

/// Where policies are loaded to.
#[async_trait]
pub trait PolicySink: fmt::Debug + Send + Sync + 'static {
    /// See [`PolicyRegistry::put`].
    ///
    /// # Errors
    /// [`LoadFailure`].
    async fn put(&self, id: &str, spec: Spec) -> Result<(), LoadFailure>;
    /// See [`PolicyRegistry::remove`].
    fn remove(&self, id: &str);
    /// See [`PolicyRegistry::refuse_unless_served`].
    fn refuse_unless_served(&self, id: &str, message: &str);
}

#[async_trait]
impl PolicySink for PolicyRegistry {
    async fn put(&self, id: &str, spec: Spec) -> Result<(), LoadFailure> {
        Self::put(self, id, spec).await
    }

    fn remove(&self, id: &str) {
        Self::remove(self, id);
    }

    fn refuse_unless_served(&self, id: &str, message: &str) {
        Self::refuse_unless_served(self, id, message);
    }
}

/// The policies of a cluster, of all servers.
pub type ClusterPolicies = Followed<PolicyKind, ClusterPolicy>;

/// How far policies have come in this replica.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// All that there were when the replica began were tried.
    pub is_ready: bool,
    /// Each policy.
    pub policies: BTreeMap<PolicyName, PolicyProgress>,
}

/// How far one policy has come.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyProgress {
    /// The newest version of it.
    pub version: PolicyVersion,
    /// What has become of that.
    pub newest: Newest,
    /// What is served.
    pub served: Option<ServedVersion>,
}

/// A version that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedVersion {
    /// Which.
    pub version: PolicyVersion,
    /// What becomes of its verdicts.
    pub mode: Mode,
}

impl PolicyProgress {
    /// What is served of the object that there is now.
    #[must_use]
    pub fn served_of_this(&self) -> Option<&ServedVersion> {
        self.served.as_ref().filter(|served| served.version.uid == self.version.uid)
    }
}

/// Loads policies.
#[derive(Debug)]
pub struct Loader {
    sink: Arc<dyn PolicySink>,
    /// Whose policies are ours.
    server: String,
    progress: Progress,
    tasks: HashMap<PolicyName, PolicyTask>,
    loads: JoinSet<Loaded>,
}

/// What is to be done for a policy.
#[derive(Debug, Default)]
struct PolicyTask {
    load: Option<AbortHandle>,
    failures: u32,
    retry: Option<Instant>,
    /// When it is not served any more.
    end: Option<Instant>,
}

impl PolicyTask {
    fn due(&self) -> Option<Instant> {
        [self.retry, self.end].into_iter().flatten().min()
    }

    fn stop(&mut self) {
        if let Some(load) = self.load.take() {
            load.abort();
        }
        self.retry = None;
    }
}

/// A load that has ended.
#[derive(Debug)]
struct Loaded {
    name: PolicyName,
    version: PolicyVersion,
    mode: Mode,
    outcome: Result<(), LoadFailure>,
}

impl Loader {
    /// Nothing is loaded yet.
    #[must_use]
    pub fn new(sink: Arc<dyn PolicySink>, server: &str) -> Self {
        Self {
            sink,
            server: server.to_owned(),
            progress: Progress::default(),
            tasks: HashMap::new(),
            loads: JoinSet::new(),
        }
    }

    /// Follows the policies for ever, and says how far they have come.
    pub async fn run(
        mut self,
        mut policies: watch::Receiver<ClusterPolicies>,
        tell: watch::Sender<Progress>,
    ) {
        loop {
            self.look(&policies.borrow_and_update().clone());
            tell.send_if_modified(|told| {
                let is_new = *told != self.progress;
                if is_new {
                    told.clone_from(&self.progress);
                }
                is_new
            });
            let due = self.tasks.values().filter_map(PolicyTask::due).min();
            tokio::select! {
                changed = policies.changed() => if changed.is_err() { return },
                Some(loaded) = self.loads.join_next() => if let Ok(loaded) = loaded { self.note(loaded) },
                () = until(due) => {}
            }
        }
    }

    /// Brings what is loaded in line with what there is.
    fn look(&mut self, policies: &ClusterPolicies) {
        let now = Instant::now();
        let ours = policies.values().filter(|policy| policy.server == self.server);
        let ours: BTreeMap<&PolicyName, &ClusterPolicy> =
            ours.map(|policy| (&policy.name, policy.as_ref())).collect();
        for policy in ours.values() {
            self.want(policy, now);
        }
        if !policies.has_all(&PolicyKind::ALL) {
            return;
        }
        let mut ended = Vec::new();
        for (name, task) in &mut self.tasks {
            if ours.contains_key(name) {
                continue;
            }
            task.stop();
            if *task.end.get_or_insert(now + LINGER) <= now {
                ended.push(name.clone());
            }
        }
        for name in ended {
            self.tasks.remove(&name);
            self.progress.policies.remove(&name);
            self.sink.remove(&name.unique());
            tracing::info!(policy = %name, "the policy is gone");
        }
        let is_tried =
            |progress: &PolicyProgress| !matches!(progress.newest, Newest::Unseen | Newest::Loading);
        self.progress.is_ready |= self.progress.policies.values().all(is_tried);
    }

    fn want(&mut self, policy: &ClusterPolicy, now: Instant) {
        let task = self.tasks.entry(policy.name.clone()).or_default();
        task.end = None;
        let known = self.progress.policies.get(&policy.name);
        let is_new = known.is_none_or(|known| known.version != policy.version);
        // A deletion is a new generation too, of the same spec; it goes on being served until it is gone.
        let is_served_to_its_end = policy.is_deleted
            && known
                .and_then(|known| known.served.as_ref())
                .is_some_and(|served| served.version.uid == policy.version.uid);
        let is_due = task.retry.is_some_and(|retry| retry <= now);
        if !is_new && !is_due || is_served_to_its_end {
            if is_served_to_its_end {
                task.retry = None;
            }
            return;
        }
        task.stop();
        if is_new {
            task.failures = 0;
        }
        let served = known.and_then(|known| known.served.clone());
        let newest = match &policy.asked {
            Ok(asked) => {
                let (sink, name, version) =
                    (Arc::clone(&self.sink), policy.name.clone(), policy.version.clone());
                let (spec, mode) = (asked.served.clone(), asked.hook.mode.into());
                task.load = Some(self.loads.spawn(async move {
                    let outcome = sink.put(&name.unique(), spec).await;
                    Loaded { name, version, mode, outcome }
                }));
                Newest::Loading
            }
            Err(message) => Newest::Failed { message: message.clone(), is_transient: false },
        };
        if let Newest::Failed { message, .. } = &newest {
            tracing::warn!(policy = %policy.name, generation = policy.version.generation, "cannot load the policy: {message}");
        }
        let progress = PolicyProgress { version: policy.version.clone(), newest, served };
        self.progress.policies.insert(policy.name.clone(), progress);
    }

    fn note(&mut self, loaded: Loaded) {
        let Loaded { name, version, mode, outcome } = loaded;
        let (Some(task), Some(progress)) = (self.tasks.get_mut(&name), self.progress.policies.get_mut(&name))
        else {
            return;
        };
        if progress.version != version {
            return;
        }
        task.load = None;
        let generation = version.generation;
        match outcome {
            Ok(()) => {
                tracing::info!(policy = %name, generation, "the policy is served");
                (task.failures, task.retry) = (0, None);
                progress.newest = Newest::Served;
                progress.served = Some(ServedVersion { version, mode });
            }
            // Another load of it is under way, which will be noted.
            Err(LoadFailure::Superseded) => {}
            Err(failure) => {
                let (message, is_transient) = (failure.to_string(), failure.is_transient());
                tracing::warn!(policy = %name, generation, "cannot load the policy: {message}");
                self.sink.refuse_unless_served(&name.unique(), &message);
                if is_transient {
                    let pause = RETRY.saturating_mul(2_u32.saturating_pow(task.failures)).min(LATEST_RETRY);
                    task.failures = task.failures.saturating_add(1);
                    task.retry = Some(Instant::now() + pause);
                }
                progress.newest = Newest::Failed { message, is_transient };
            }
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
