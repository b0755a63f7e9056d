//! The leader's work: statuses and Events.
//!
//! A pass looks at all there is and says what has changed. There is a pass whenever something changes, and every few seconds. Passes
//! that find nothing new ask the API server for nothing.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    time::Duration,
};

use futures::{StreamExt as _, stream};
use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
    core::DynamicObject,
};
use kubewasm_control::{
    explain::{code, explain},
    follow::Followed,
    replicas::Heartbeats,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    FIELD_MANAGER,
    events::{EventRecorder, events},
    loader::{ClusterExtensions, ExtensionProgress, LoadProgress},
    report::Replica,
    status::{manifest, status},
};
use crate::{
    subscribers::{ExtensionSubscribers, Subscribers},
    wasm_extension::{WasmExtension, WasmExtensionStatus, api_resource},
};

/// How soon there is a pass after something has changed: a thousand Envoys answer one by one.
const GATHER: Duration = Duration::from_millis(200);
/// How late there is one at the latest.
const PERIOD: Duration = Duration::from_secs(5);
/// How long one request to the API server may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long what was written may not be seen by the watch; what is another then, somebody else has written.
const WATCH_LAG: Duration = Duration::from_secs(10);
/// Extensions whose statuses are written at once.
const AT_ONCE: usize = 8;

/// The replicas of this server.
pub type Replicas = Followed<(), Replica>;

/// What the leader looks at.
#[derive(Clone, Debug)]
pub struct ControllerInputs {
    /// The extensions.
    pub extensions: watch::Receiver<ClusterExtensions>,
    /// The numbers of all watches of them.
    pub watches: Vec<usize>,
    /// How far they are here.
    pub progress: watch::Receiver<LoadProgress>,
    /// The replicas.
    pub replicas: watch::Receiver<Replicas>,
    /// The Envoys of this replica.
    pub subscribers: Subscribers,
}

/// Does the leader's work, for as long as it is the leader.
pub struct Controller {
    client: Client,
    /// The namespace of the Leases.
    namespace: String,
    identity: String,
    inputs: ControllerInputs,
    heartbeats: Heartbeats,
    recorder: EventRecorder,
    /// What was written last, and when: the watch tells of it a moment later.
    written: HashMap<String, (WasmExtensionStatus, Instant)>,
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controller").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// A status that is to be written.
struct Saying<'a> {
    extension: &'a WasmExtension,
    before: Option<WasmExtensionStatus>,
    status: WasmExtensionStatus,
}

impl Controller {
    /// One that has done nothing yet.
    #[must_use]
    pub fn new(client: Client, namespace: &str, identity: &str, inputs: ControllerInputs) -> Self {
        Self {
            recorder: EventRecorder::new(client.clone(), identity),
            client,
            namespace: namespace.to_owned(),
            identity: identity.to_owned(),
            inputs,
            heartbeats: Heartbeats::default(),
            written: HashMap::new(),
        }
    }

    /// Goes on for ever; whoever is not the leader any more drops it.
    pub async fn run(mut self) {
        let mut subscribers = self.inputs.subscribers.changes();
        loop {
            self.pass().await;
            tokio::select! {
                () = changed(&mut self.inputs, &mut subscribers) => sleep(GATHER).await,
                () = sleep(PERIOD) => {}
            }
        }
    }

    /// Says what there is to say.
    async fn pass(&mut self) {
        let extensions = self.inputs.extensions.borrow_and_update().clone();
        let progress = self.inputs.progress.borrow_and_update().clone();
        let replicas = self.inputs.replicas.borrow_and_update().clone();
        if !extensions.has_all(&self.inputs.watches) || !replicas.has_all(&[()]) {
            return;
        }
        let (replicas, gone) = self.heartbeats.sort(replicas.values().map(AsRef::as_ref), Instant::now());
        let others: Vec<&Replica> =
            replicas.into_iter().filter(|replica| replica.identity != self.identity).collect();
        let now = Timestamp::now();
        let mut sayings = Vec::new();
        for extension in extensions.values() {
            let Some(here) = progress.extensions.get(&extension.name) else { continue };
            // The loader has not seen this generation yet.
            if here.uid != extension.uid || here.generation != extension.generation {
                continue;
            }
            let written = self.written.get(&extension.uid);
            let before = written.map(|(status, _)| status).or(extension.status.as_ref()).cloned();
            let (subscribers, behind) = self.of_all(extension, here, &others);
            let status = status(before.as_ref(), here, &subscribers, &behind, now);
            let is_on_its_way =
                written.is_some_and(|(written, at)| *written == status && at.elapsed() < WATCH_LAG);
            if extension.status.as_ref() != Some(&status) && !is_on_its_way {
                sayings.push(Saying { extension, before, status });
            }
        }
        let client = &self.client;
        let outcomes: Vec<_> = stream::iter(sayings)
            .map(|saying| async move {
                let is_written = say(client, &saying).await;
                is_written.then_some(saying)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let mut told = Vec::new();
        for Saying { extension, before, status } in outcomes.into_iter().flatten() {
            told.push((extension, events(before.as_ref(), &status), status));
        }
        let there: HashSet<&str> = extensions.values().map(|extension| extension.uid.as_str()).collect();
        self.written.retain(|uid, _| there.contains(uid.as_str()));
        for (extension, events, status) in told {
            for event in events {
                let recorded = timeout(PATIENCE, self.recorder.record(extension, event)).await;
                if let Ok(Err(error)) = recorded {
                    tracing::debug!(extension = %extension.name, "cannot write an Event: {}", explain(&error));
                }
            }
            self.written.insert(extension.uid.clone(), (status, Instant::now()));
        }
        self.remove_leases(&gone).await;
    }

    /// What the Envoys of all replicas make of an extension, and the replicas that publish another version.
    fn of_all<'a>(
        &self,
        extension: &WasmExtension,
        here: &ExtensionProgress,
        others: &[&'a Replica],
    ) -> (ExtensionSubscribers, Vec<&'a str>) {
        let mut subscribers = self.inputs.subscribers.get(&extension.name);
        let mut behind = Vec::new();
        for replica in others {
            // Of what has no room in its Lease, nothing is known.
            let Some(there) = replica.report.extensions.get(&extension.name) else { continue };
            subscribers.merge(&there.subscribers);
            if here.published.as_ref().map(|published| &published.version) != there.version.as_ref() {
                behind.push(replica.identity.as_str());
            }
        }
        (subscribers, behind)
    }

    async fn remove_leases(&self, gone: &[&str]) {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        for name in gone {
            match timeout(PATIENCE, api.delete(name, &DeleteParams::default())).await {
                Ok(Ok(_)) => tracing::info!("the replica of Lease {name} is gone"),
                Ok(Err(error)) if is_stale(&error) => {}
                Ok(Err(error)) => tracing::warn!("cannot delete Lease {name}: {}", explain(&error)),
                Err(_) => {
                    tracing::warn!("cannot delete Lease {name}: the API server does not answer in time")
                }
            }
        }
    }
}

async fn changed(inputs: &mut ControllerInputs, subscribers: &mut watch::Receiver<()>) {
    tokio::select! {
        _ = inputs.extensions.changed() => {}
        _ = inputs.progress.changed() => {}
        _ = inputs.replicas.changed() => {}
        _ = subscribers.changed() => {}
    }
}

/// It is gone, or has changed meanwhile: the next look tells.
fn is_stale(error: &kube::Error) -> bool {
    matches!(code(error), Some(404 | 409))
}

async fn say(client: &Client, saying: &Saying<'_>) -> bool {
    let extension = saying.extension;
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), extension.name.namespace(), &api_resource());
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let patch = Patch::Apply(manifest(extension, &saying.status));
    match timeout(PATIENCE, api.patch_status(extension.name.name(), &params, &patch)).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) if is_stale(&error) => false,
        Ok(Err(error)) => {
            tracing::warn!(extension = %extension.name, "cannot write the status of the extension: {}", explain(&error));
            false
        }
        Err(_) => {
            tracing::warn!(extension = %extension.name, "the API server does not answer in time; the status is not written");
            false
        }
    }
}
