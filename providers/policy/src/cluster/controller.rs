//! The leader's work: webhook configurations, certificates and statuses.
//!
//! A pass looks at all there is and does what is next of everything. There is a pass whenever something changes, and every few
//! seconds. Passes that change nothing ask the API server for nothing.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use futures::{StreamExt as _, stream};
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Secret},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    core::DynamicObject,
};
use kubewasm_control::{
    explain::{code, explain},
    follow::Followed,
    replicas::Heartbeats,
};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    FIELD_MANAGER, FINALIZER,
    identity::PolicyKind,
    loader::{ClusterPolicies, Progress},
    plan::{PolicyStep, PolicyView},
    policy::ClusterPolicy,
    report::Replica,
    resource::DEFAULT_SERVER,
    rotation::{Rotation, RotationStep, RotationTimes, Surroundings},
    secret::Certificates,
    status::PolicyStatus,
    webhook::{WebhookConfiguration, WebhookKind, WebhookTarget},
};

/// How soon there is a pass after something has changed: changes come in groups.
const GATHER: Duration = Duration::from_millis(50);
/// How late there is one at the latest.
const PERIOD: Duration = Duration::from_secs(5);
/// How long one request to the API server may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long what the API server refuses is not tried again, unless something else is asked for.
const REFUSED: Duration = Duration::from_secs(60);
/// Policies that something is done for at once.
const AT_ONCE: usize = 8;

/// The webhook configurations of this server.
pub type Webhooks = Followed<WebhookKind, WebhookConfiguration>;
/// The replicas of this server.
pub type Replicas = Followed<(), Replica>;
/// The Secret of this server.
pub type ServerSecret = Followed<(), SecretState>;

/// The Secret, as it was last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretState {
    /// Of the object, for a change of this version of it alone.
    pub version: Option<String>,
    /// What is in it.
    pub certificates: Certificates,
}

impl SecretState {
    /// Reads it.
    #[must_use]
    pub fn read(secret: &Secret) -> Self {
        Self { version: secret.metadata.resource_version.clone(), certificates: Certificates::read(secret) }
    }
}

/// What the leader looks at.
#[derive(Clone, Debug)]
pub struct ControllerInputs {
    /// The policies of the cluster.
    pub policies: watch::Receiver<ClusterPolicies>,
    /// How far they are here.
    pub progress: watch::Receiver<Progress>,
    /// The webhook configurations.
    pub webhooks: watch::Receiver<Webhooks>,
    /// The replicas.
    pub replicas: watch::Receiver<Replicas>,
    /// The Secret.
    pub secret: watch::Receiver<ServerSecret>,
}

impl ControllerInputs {
    async fn changed(&mut self) {
        tokio::select! {
            _ = self.policies.changed() => {}
            _ = self.progress.changed() => {}
            _ = self.webhooks.changed() => {}
            _ = self.replicas.changed() => {}
            _ = self.secret.changed() => {}
        }
    }
}

/// Does the leader's work, for as long as it is the leader.
pub struct Controller {
    client: Client,
    target: WebhookTarget,
    secret_name: String,
    inputs: ControllerInputs,
    rotation: Rotation,
    heartbeats: Heartbeats,
    /// What the API server has not taken, by the name of the webhook.
    refusals: Mutex<HashMap<String, Refusal>>,
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller").field("target", &self.target).finish_non_exhaustive()
    }
}

/// What the API server has not taken.
#[derive(Clone, Debug)]
struct Refusal {
    what: WebhookConfiguration,
    message: String,
    at: Instant,
}

#[derive(Debug, thiserror::Error)]
enum ControlError {
    #[error("{}", explain(.0))]
    Api(#[from] kube::Error),
    #[error("the API server does not answer in time")]
    Silent,
    #[error("the name is taken by a webhook configuration of somebody else's")]
    Taken,
    /// It was said when it was found out.
    #[error("{0}")]
    StillRefused(String),
}

impl ControlError {
    /// It is no use to ask for the same again.
    fn is_refusal(&self) -> bool {
        match self {
            Self::Api(error) => matches!(code(error), Some(400 | 422)),
            Self::Taken | Self::StillRefused(_) => true,
            Self::Silent => false,
        }
    }

    /// It is gone, or has changed meanwhile: the next look tells.
    fn is_stale(&self) -> bool {
        matches!(self, Self::Api(error) if matches!(code(error), Some(404 | 409)))
    }
}

/// Everything that a pass looks at, as it was when it began.
struct Scene {
    policies: ClusterPolicies,
    progress: Progress,
    webhooks: Webhooks,
    replicas: Replicas,
    secret: ServerSecret,
}

impl Controller {
    /// One that has done nothing yet.
    #[must_use]
    pub fn new(
        client: Client,
        target: WebhookTarget,
        secret_name: &str,
        times: RotationTimes,
        inputs: ControllerInputs,
    ) -> Self {
        Self {
            client,
            target,
            secret_name: secret_name.to_owned(),
            inputs,
            rotation: Rotation::new(times),
            heartbeats: Heartbeats::default(),
            refusals: Mutex::default(),
        }
    }

    /// Goes on for ever; whoever is not the leader any more drops it.
    pub async fn run(mut self) {
        loop {
            let wait = self.pass().await;
            tokio::select! {
                () = self.inputs.changed() => sleep(GATHER).await,
                () = sleep(wait) => {}
            }
        }
    }

    fn scene(&mut self) -> Scene {
        let inputs = &mut self.inputs;
        Scene {
            policies: inputs.policies.borrow_and_update().clone(),
            progress: inputs.progress.borrow_and_update().clone(),
            webhooks: inputs.webhooks.borrow_and_update().clone(),
            replicas: inputs.replicas.borrow_and_update().clone(),
            secret: inputs.secret.borrow_and_update().clone(),
        }
    }

    /// Does what is next. Returns how long nothing else is.
    async fn pass(&mut self) -> Duration {
        let scene = self.scene();
        // Before all is known, what is there would be taken for what is left over.
        let is_known = scene.policies.has_all(&PolicyKind::ALL)
            && scene.webhooks.has_all(&WebhookKind::ALL)
            && scene.replicas.has_all(&[()])
            && scene.secret.has_all(&[()]);
        if !is_known {
            return PERIOD;
        }
        let (replicas, gone) =
            self.heartbeats.sort(scene.replicas.values().map(AsRef::as_ref), Instant::now());
        let wait = match self.rotation(&scene, &replicas).await {
            Ok(wait) => wait.min(PERIOD),
            Err(error) => {
                tracing::error!("cannot look after the certificates: {error}");
                PERIOD
            }
        };
        let bundle = scene.secret.values().next().map(|secret| secret.certificates.authorities());
        let bundle = bundle.filter(|authorities| !authorities.is_empty());

        let mut uniques = BTreeSet::new();
        let mut views = Vec::new();
        for policy in scene.policies.values() {
            if policy.server.is_empty() && self.target.server == DEFAULT_SERVER {
                self.say(policy, &PolicyStatus::unscheduled()).await;
            }
            if policy.server != self.target.server {
                continue;
            }
            let unique = policy.name.unique();
            let webhooks = WebhookKind::ALL.map(|kind| scene.webhooks.get(kind, &unique).map(AsRef::as_ref));
            uniques.insert(unique);
            views.push(PolicyView {
                policy,
                progress: scene.progress.policies.get(&policy.name),
                replicas: &replicas,
                webhooks,
                bundle: bundle.as_deref(),
                target: &self.target,
            });
        }
        let this = &*self;
        stream::iter(views).for_each_concurrent(AT_ONCE, |view| this.advance(view)).await;
        for webhook in scene.webhooks.values().filter(|webhook| !uniques.contains(&webhook.name)) {
            this.delete_webhook(webhook.kind, &webhook.name, "its policy is gone").await;
        }
        this.forget(&uniques);
        this.remove_leases(&gone).await;
        wait
    }

    /// Looks after the certificates.
    async fn rotation(&mut self, scene: &Scene, replicas: &[&Replica]) -> Result<Duration, String> {
        let state = scene.secret.values().next();
        let none = Certificates::default();
        let certificates = state.map_or(&none, |state| &state.certificates);
        let hosts = self.target.address.hosts();
        let surroundings = Surroundings {
            hosts: &hosts,
            bundles: scene.webhooks.values().map(|webhook| webhook.bundle()).collect(),
            shown: replicas.iter().map(|replica| replica.report.certificate.as_deref()).collect(),
        };
        let step = self
            .rotation
            .step(certificates, &surroundings, SystemTime::now(), Instant::now())
            .map_err(|error| error.to_string())?;
        let new = match step {
            RotationStep::Wait(wait) => return Ok(wait),
            RotationStep::Write(new) => new,
        };
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.target.namespace);
        let version = state.and_then(|state| state.version.clone());
        let secret = new.secret(&self.secret_name, &self.target.server, version.clone());
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let written = patiently(async {
            match version {
                Some(_) => api.replace(&self.secret_name, &params, &secret).await,
                None => api.create(&params, &secret).await,
            }
        });
        match written.await {
            Ok(_) => {
                let what = match (&new.next, new.previous.is_empty()) {
                    (Some(_), _) => "a new certificate is made; webhooks are told of its authority",
                    (None, false) => "the new certificate is shown",
                    (None, true) => "authorities of former certificates are not trusted any more",
                };
                tracing::info!(secret = self.secret_name, "{what}");
            }
            Err(error) if error.is_stale() => {}
            Err(error) => return Err(format!("the Secret {} is not written: {error}", self.secret_name)),
        }
        Ok(PERIOD)
    }

    /// Does what is next for a policy, and says how it is.
    async fn advance(&self, view: PolicyView<'_>) {
        let (policy, plan) = (view.policy, view.plan());
        let mut refused = None;
        for step in plan.steps {
            let done = match step {
                PolicyStep::AddFinalizer => self.set_finalizer(policy, true).await,
                PolicyStep::RemoveFinalizer => self.set_finalizer(policy, false).await,
                PolicyStep::Delete(kind) => {
                    self.delete_webhook(kind, &policy.name.unique(), "it is not needed any more").await;
                    Ok(())
                }
                PolicyStep::Apply(webhook) => {
                    let is_new = view.webhooks.iter().flatten().all(|there| there.kind != webhook.kind);
                    self.apply(*webhook, is_new).await.inspect_err(|error| {
                        if error.is_refusal() {
                            refused = Some(error.to_string());
                        }
                    })
                }
            };
            match done {
                Ok(()) => {}
                Err(ControlError::StillRefused(_)) => break,
                Err(error) if error.is_stale() => break,
                Err(error) => {
                    tracing::warn!(policy = %policy.name, "cannot do what is next for the policy: {error}");
                    break;
                }
            }
        }
        let Some(mut observed) = plan.observed else { return };
        observed.refusal = refused;
        self.say(policy, &PolicyStatus::new(policy, &observed, Timestamp::now())).await;
    }

    async fn apply(&self, webhook: WebhookConfiguration, is_new: bool) -> Result<(), ControlError> {
        let name = webhook.name.clone();
        if let Some(refusal) = self.refusals().get(&name)
            && refusal.what == webhook
            && refusal.at.elapsed() < REFUSED
        {
            return Err(ControlError::StillRefused(refusal.message.clone()));
        }
        let applied = self.apply_now(&webhook, is_new).await;
        match &applied {
            Ok(()) => {
                self.refusals().remove(&name);
                let kind = webhook.kind.resource().kind;
                tracing::info!("applied {kind} {name}");
            }
            Err(error) if error.is_refusal() => {
                let refusal = Refusal { what: webhook, message: error.to_string(), at: Instant::now() };
                self.refusals().insert(name, refusal);
            }
            Err(_) => {}
        }
        applied
    }

    async fn apply_now(&self, webhook: &WebhookConfiguration, is_new: bool) -> Result<(), ControlError> {
        let api = self.webhooks(webhook.kind);
        if is_new {
            let there = patiently(api.get_opt(&webhook.name)).await?;
            if there.is_some_and(|there| WebhookConfiguration::read(webhook.kind, &there).is_none()) {
                return Err(ControlError::Taken);
            }
        }
        let params = PatchParams::apply(FIELD_MANAGER).force();
        patiently(api.patch(&webhook.name, &params, &Patch::Apply(webhook.manifest()))).await?;
        Ok(())
    }

    fn webhooks(&self, kind: WebhookKind) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &kind.resource())
    }

    fn policies(&self, policy: &ClusterPolicy) -> Api<DynamicObject> {
        let resource = policy.name.kind.resource();
        match &policy.name.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    async fn delete_webhook(&self, kind: WebhookKind, name: &str, why: &str) {
        let api = self.webhooks(kind);
        match patiently(api.delete(name, &DeleteParams::default())).await {
            Ok(_) => tracing::info!("deleted {} {name}: {why}", kind.resource().kind),
            Err(error) if error.is_stale() => {}
            Err(error) => tracing::warn!("cannot delete {} {name}: {error}", kind.resource().kind),
        }
    }

    /// With the version that was looked at: finalizers of others, which may have come meanwhile, stay.
    async fn set_finalizer(&self, policy: &ClusterPolicy, is_wanted: bool) -> Result<(), ControlError> {
        let mut finalizers = policy.finalizers.clone();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        if is_wanted {
            finalizers.push(FINALIZER.to_owned());
        }
        let metadata = json!({ "resourceVersion": policy.resource_version, "finalizers": finalizers });
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        patiently(self.policies(policy).patch(&policy.name.name, &params, &patch)).await?;
        Ok(())
    }

    async fn say(&self, policy: &ClusterPolicy, status: &PolicyStatus) {
        if policy.status.as_ref() == Some(status) {
            return;
        }
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(status.manifest(policy));
        let written = patiently(self.policies(policy).patch_status(&policy.name.name, &params, &patch)).await;
        if let Err(error) = written
            && !error.is_stale()
        {
            tracing::warn!(policy = %policy.name, "cannot write the status of the policy: {error}");
        }
    }

    async fn remove_leases(&self, gone: &[&str]) {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.target.namespace);
        for name in gone {
            match patiently(api.delete(name, &DeleteParams::default())).await {
                Ok(_) => tracing::info!("the replica of Lease {name} is gone"),
                Err(error) if error.is_stale() => {}
                Err(error) => tracing::warn!("cannot delete Lease {name}: {error}"),
            }
        }
    }

    fn forget(&self, uniques: &BTreeSet<String>) {
        self.refusals().retain(|name, _| uniques.contains(name));
    }

    fn refusals(&self) -> MutexGuard<'_, HashMap<String, Refusal>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn patiently<T>(asked: impl Future<Output = Result<T, kube::Error>>) -> Result<T, ControlError> {
    Ok(timeout(PATIENCE, asked).await.map_err(|_| ControlError::Silent)??)
}
