//! The node's own admission: policies that the operator names in a file judge pods before anything of them is pulled or
//! started, and modules before they are started.
//!
//! ```text
//!   --admission-policies FILE ─[file]─► entries ─► PolicyRegistry ─[modules]─► programs that take their settings
//!   a pod (kubelet)            ─[questions]─► each policy in turn ─[verdicts]─► taken, refused, or later
//!   a module (provider)        ─[questions]─► each policy in turn ─[verdicts]─► started, refused, or later
//! ```
//!
//! It fails closed: what no policy can judge, the node does not take, and as long as a policy is not there, pods wait.

mod file;
mod imports;
mod metrics;
mod modules;
mod questions;
mod verdicts;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use kubewasm_kubelet::{
    admitter::{Admission, PodAdmitter},
    retry::RetryDelays,
};
use kubewasm_modules::Digest;
use kubewasm_policy::{
    evaluator::Evaluator,
    host::LocalHost,
    request::Question,
    server::{
        failure::LoadFailure,
        registry::{PolicyRegistry, RegistryOptions},
    },
    spec::Mode,
};
use kubewasm_wasi::provider::{ModuleJudge, ModuleQuestion, ModuleVerdict};
use prometheus_client::registry::Registry;
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

pub(crate) use self::modules::NodeModules;
use self::{
    file::{FailurePolicy, JudgedBy, PolicyEntry},
    metrics::AdmissionMetrics,
    verdicts::PolicyVerdict,
};
use crate::{policy::document, runtime::Judges};

/// How soon the program of a policy is looked for again whose registry does not answer.
const RELOAD: RetryDelays = RetryDelays::new(Duration::from_secs(2), Duration::from_secs(60));
/// How long the start of a node waits for programs: what takes longer to fetch or to compile is waited for by pods, and not by
/// whoever looks whether the node is healthy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Modules that are remembered to have been let through. Those of more containers are judged once more.
const MOST_REMEMBERED: usize = 16_384;

/// The flag that names the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct AdmissionArgs {
    /// Policies that judge pods and modules on this node, before anything of a pod is pulled or started: a file in YAML or
    /// JSON, described in docs/policies.md [default: none do].
    #[arg(long, value_name = "FILE")]
    pub(crate) admission_policies: Option<PathBuf>,
}

impl AdmissionArgs {
    /// Reads the file, if there is one, and loads what it names. A program whose registry does not answer is looked for again
    /// in the background until `cancel`; whatever else is wrong is an error that names the file and the policy.
    pub(crate) async fn judges(
        &self,
        parts: impl FnOnce() -> anyhow::Result<AdmissionParts>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Judges> {
        let Some(file) = &self.admission_policies else { return Ok(Judges::default()) };
        let opened = NodeAdmission::open(file, parts()?, cancel).await;
        let admission = opened.with_context(|| format!("--admission-policies {}", file.display()))?;
        Ok(Judges { of_modules: Some(Arc::clone(&admission) as _), of_pods: Some(admission) })
    }
}

/// What a node's policies are run with.
#[derive(Debug)]
pub(crate) struct AdmissionParts {
    /// Name of the node.
    pub(crate) node: String,
    /// A directory of nothing, which is made.
    pub(crate) empty: PathBuf,
    /// Where the modules of policies are.
    pub(crate) modules: NodeModules,
    /// How long programs are waited for, before pods wait for them.
    pub(crate) patience: Duration,
}

/// The policies of a node.
#[derive(Debug)]
pub(crate) struct NodeAdmission {
    node: String,
    policies: Vec<Arc<NodePolicy>>,
    /// What runs programs, by the names of their policies.
    registry: PolicyRegistry,
    /// Calls at once. Whoever waits for one of these places does not use up its time yet, however many pods come at once.
    places: Semaphore,
    /// By UID of the pod and name of the container, what it was let through with.
    judged: Mutex<HashMap<(String, String), JudgedModule>>,
    metrics: AdmissionMetrics,
}

/// A policy of the node.
#[derive(Debug)]
struct NodePolicy {
    id: String,
    entry: PolicyEntry,
    /// Why its program is not here.
    problem: Mutex<String>,
}

/// A module as a policy knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct JudgedModule {
    name: String,
    image: Digest,
    module: Digest,
}

/// What has come of something that was judged.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Admitted,
    Refused(String),
    Later(String),
}

impl NodeAdmission {
    async fn open(
        file: &Path,
        parts: AdmissionParts,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Arc<Self>> {
        let AdmissionParts { node, empty, modules, patience } = parts;
        let entries = file::parse(&document(file).await?)?;
        let evaluator = Arc::new(Evaluator::new(&empty, Arc::new(LocalHost))?);
        let policy = |(id, entry)| {
            let problem = Mutex::new("it has not been loaded yet".to_owned());
            Arc::new(NodePolicy { id, entry, problem })
        };
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let admission = Arc::new(Self {
            node,
            policies: entries.into_iter().map(policy).collect(),
            registry: PolicyRegistry::new(evaluator, Arc::new(modules), RegistryOptions::default()),
            places: Semaphore::new(processors),
            judged: Mutex::default(),
            metrics: AdmissionMetrics::default(),
        });
        let mut loads = JoinSet::new();
        for policy in &admission.policies {
            let (admission, policy) = (Arc::clone(&admission), Arc::clone(policy));
            loads.spawn(async move {
                let loaded = admission.load(&policy).await;
                (policy, loaded)
            });
        }
        let deadline = Instant::now() + patience;
        while let Ok(Some(loaded)) = tokio::time::timeout_at(deadline, loads.join_next()).await {
            let Ok((policy, Err(failure))) = loaded else { continue };
            if !failure.is_transient() {
                bail!("{}: {failure}", policy.id);
            }
            tracing::warn!(policy = policy.id, %failure, "a policy is not here yet; pods wait for it");
        }
        if !loads.is_empty() {
            tracing::warn!("policies are still being compiled; pods wait for them");
        }
        if !admission.is_complete() {
            let (admission, cancel) = (Arc::clone(&admission), cancel.clone());
            let rest = async move {
                while loads.join_next().await.is_some() {}
                admission.load_rest().await;
            };
            tokio::spawn(async move { cancel.run_until_cancelled(rest).await });
        }
        tracing::info!(policies = admission.policies.len(), "the node's own policies judge pods and modules");
        Ok(admission)
    }

    /// Loads the program of a policy, if it takes one.
    async fn load(&self, policy: &NodePolicy) -> Result<(), LoadFailure> {
        let JudgedBy::Programs(spec) = &policy.entry.by else { return Ok(()) };
        let loaded = self.registry.put(&policy.id, spec.clone()).await;
        loaded.inspect_err(|failure| *policy.problem() = failure.to_string())
    }

    /// Loads what could not be loaded at first, until all of it is here.
    async fn load_rest(&self) {
        let mut delay = Duration::ZERO;
        while !self.is_complete() {
            delay = RELOAD.next_after(delay);
            tokio::time::sleep(delay).await;
            for policy in self.policies.iter().filter(|policy| !self.is_here(policy)) {
                match self.load(policy).await {
                    Ok(()) => tracing::info!(policy = policy.id, "a policy is here now"),
                    Err(failure) if failure.is_transient() => {
                        tracing::debug!(policy = policy.id, %failure, "a policy is not here yet");
                    }
                    // Its registry may have another one tomorrow.
                    Err(failure) => {
                        tracing::error!(policy = policy.id, %failure, "a policy cannot be used; pods wait for it");
                    }
                }
            }
        }
    }

    /// Asks policies one after another, in the order of their names, until one refuses `what`. `imports` are those of a module.
    async fn ask(
        &self,
        policies: &[&NodePolicy],
        question: &Question,
        imports: &[String],
        what: &str,
    ) -> Judgement {
        if let Some(missing) = policies.iter().find(|policy| self.is_missed(policy)) {
            let problem = missing.problem().clone();
            return Judgement::Later(format!(
                "policy \"{}\" of this node is not there yet, and {what} waits for it: {problem}",
                missing.id
            ));
        }
        for policy in policies {
            let verdict = match (&policy.entry.by, PolicyVerdict::of_unknown_imports(imports)) {
                (_, Some(unknown)) => unknown,
                (JudgedBy::Imports(denied), None) => PolicyVerdict::of_imports(imports, denied),
                (JudgedBy::Programs(_), None) => {
                    let Some(served) = self.registry.get(&policy.id) else {
                        tracing::warn!(
                            policy = policy.id,
                            "{what} is let through by a policy that is not here"
                        );
                        continue;
                    };
                    // It is never closed.
                    let _place = self.places.acquire().await;
                    PolicyVerdict::of(&served.judge(self.registry.evaluator(), question, None).await)
                }
            };
            self.metrics.count(&policy.id, policy.entry.mode, verdict.counted());
            if let Some(message) = verdict.refusal(&policy.id, &policy.entry, what) {
                return Judgement::Refused(message);
            }
        }
        Judgement::Admitted
    }

    /// All of them can judge.
    fn is_complete(&self) -> bool {
        self.policies.iter().all(|policy| self.is_here(policy))
    }

    /// It can judge.
    fn is_here(&self, policy: &NodePolicy) -> bool {
        matches!(policy.entry.by, JudgedBy::Imports(_)) || self.registry.get(&policy.id).is_some()
    }

    /// It cannot, and nothing is let through without it.
    fn is_missed(&self, policy: &NodePolicy) -> bool {
        let PolicyEntry { mode, failure_policy, .. } = policy.entry;
        mode == Mode::Protect && failure_policy == FailurePolicy::Fail && !self.is_here(policy)
    }

    fn judged(&self) -> MutexGuard<'_, HashMap<(String, String), JudgedModule>> {
        self.judged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of_pods(&self) -> Vec<&NodePolicy> {
        self.policies.iter().filter(|policy| policy.entry.judges_pods).map(AsRef::as_ref).collect()
    }

    fn of_modules(&self) -> Vec<&NodePolicy> {
        self.policies.iter().filter(|policy| policy.entry.judges_modules).map(AsRef::as_ref).collect()
    }
}

impl NodePolicy {
    fn problem(&self) -> MutexGuard<'_, String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl PodAdmitter for NodeAdmission {
    async fn admit(&self, pod: &Pod) -> Admission {
        let what = "the pod";
        let question = match questions::of_pod(pod, &self.node) {
            Ok(question) => question,
            Err(error) => {
                return Admission::Refused(format!("policies cannot be asked about {what}: {error}"));
            }
        };
        match self.ask(&self.of_pods(), &question, &[], what).await {
            Judgement::Admitted => Admission::Admitted,
            Judgement::Refused(message) => Admission::Refused(message),
            Judgement::Later(message) => Admission::Later(message),
        }
    }

    fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }
}

#[async_trait]
impl ModuleJudge for NodeAdmission {
    async fn judge(&self, question: ModuleQuestion<'_>) -> ModuleVerdict {
        let policies = self.of_modules();
        if policies.is_empty() {
            return ModuleVerdict::Admitted;
        }
        let container = question.container;
        let key = (container.pod_uid.clone(), container.name.clone());
        let module =
            JudgedModule { name: container.image.clone(), image: *question.image, module: *question.module };
        // A restart is no reason to judge anew what has not changed.
        if self.judged().get(&key) == Some(&module) {
            return ModuleVerdict::Admitted;
        }
        let what = format!("the module of container \"{}\"", container.name);
        let asked = match questions::of_module(&question) {
            Ok(asked) => asked,
            Err(error) => {
                return ModuleVerdict::Refused(format!("policies cannot be asked about {what}: {error}"));
            }
        };
        match self.ask(&policies, &asked, questions::imports(&question), &what).await {
            Judgement::Admitted => {
                let mut judged = self.judged();
                if judged.len() >= MOST_REMEMBERED {
                    judged.clear();
                }
                judged.insert(key, module);
                ModuleVerdict::Admitted
            }
            Judgement::Refused(message) => ModuleVerdict::Refused(message),
            Judgement::Later(message) => ModuleVerdict::Later(message),
        }
    }
}
