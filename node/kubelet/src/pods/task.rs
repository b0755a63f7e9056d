//! The worker task of one pod: the only one that acts for it, and the edge of the pure lifecycle.
//!
//! ```text
//!          ┌────────────── look: runtime.observe ◄───────────────┐
//!          ▼                                                     │
//!   lifecycle::step ─► save ─► act (spawned) ─► status::of ─► wait for: a newer pod, an outcome,
//!                                                             a wake-up of the runtime, the time
//! ```
//!
//! The state is saved before anything is acted on, so that a task that is torn off at any point can be
//! taken up by the next agent.
//!
//! `actions` begins what the lifecycle asks for, `outcome` takes in what has come of it, `storage` sees to the
//! volumes, and `report` tells the world. All four are parts of [`PodTask`]; nothing else has hold of it.

mod actions;
mod outcome;
mod report;
mod storage;

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, PodStatus};
use tokio::{
    sync::{Notify, watch},
    task::{AbortHandle, JoinSet},
};

use outcome::Outcome;
use report::Finalize;
use storage::Storage;

use super::{
    addresses,
    admission::Rejection,
    adopt,
    container_id::container_id,
    ephemeral,
    handlers::Ongoing,
    lifecycle::{self, EndingCause, PodName, Spec, State},
    publisher::Publisher,
    shared::Shared,
    status, termination,
};
use crate::{
    logs,
    runtime::{ContainerState, Exit},
};

/// How often a pod is looked at when nothing happens.
const RESYNC: Duration = Duration::from_secs(60);

/// What a pod should be.
#[derive(Clone, Debug)]
pub(super) enum Desired {
    /// As its source has it; `object` is what its status is written to: the pod itself, or the mirror of a
    /// static pod, while there is one.
    Pod { pod: Arc<Pod>, object: Option<Arc<Pod>> },
    /// Its source does not have it any more.
    Gone,
}

pub(super) struct PodTask {
    shared: Arc<Shared>,
    name: PodName,
    reference: ObjectReference,
    pod: Arc<Pod>,
    object: Option<Arc<Pod>>,
    spec: Spec,
    state: State,
    saved: State,
    desired: watch::Receiver<Desired>,
    wake: Arc<Notify>,
    outcomes: JoinSet<Outcome>,
    pulls: HashMap<String, AbortHandle>,
    ongoing: Ongoing,
    publisher: Publisher,
    status: Option<PodStatus>,
    finalize: Finalize,
    storage: Storage,
    /// The pod was over before this node had any record of it: nothing is published for it.
    foreign: bool,
}

impl PodTask {
    pub(super) fn new(
        shared: Arc<Shared>,
        pod: Arc<Pod>,
        object: Option<Arc<Pod>>,
        desired: watch::Receiver<Desired>,
        wake: Arc<Notify>,
        rejection: Option<Rejection>,
    ) -> Self {
        let now = Timestamp::now();
        let meta = &pod.metadata;
        let name = PodName {
            name: meta.name.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
        };
        let reference = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: None,
        };
        let spec = Spec::of(&pod);
        let record = shared.records.load(&name.uid).unwrap_or_else(|error| {
            tracing::error!(pod = %name, %error, "cannot read the pod's record; going by its status");
            None
        });
        let foreign = record.is_none() && status::is_terminal(pod.status.as_ref());
        let mut state = record.unwrap_or_else(|| adopt::state_of(&pod, now));
        state.addresses = addresses::decide(&state.addresses, &shared.node.borrow().host_ips);
        state.resume(
            &spec,
            |container, attempt| shared.runtime.observe(&container_id(&name.uid, container, attempt)),
            |container, attempt| {
                let PodName { name, namespace, uid } = &name;
                logs::file(&shared.logs_dir, namespace, name, uid, container, attempt).exists()
            },
            now,
        );
        if let Some(rejection) = rejection {
            shared.recorder.warning(&reference, &rejection.reason, rejection.message.clone());
            state.record_verdict(rejection.verdict(), now);
        }
        let storage = if foreign { Storage::Gone } else { Storage::begin(&shared, &pod, &reference, &state) };
        Self {
            saved: State::default(),
            storage,
            shared,
            name,
            reference,
            pod,
            object,
            spec,
            state,
            desired,
            wake,
            outcomes: JoinSet::new(),
            pulls: HashMap::new(),
            ongoing: Ongoing::default(),
            publisher: Publisher::default(),
            status: None,
            finalize: Finalize::No,
            foreign,
        }
    }

    /// Runs until the pod is gone from its source and nothing is left of it; returns its UID.
    pub(super) async fn run(mut self) -> String {
        loop {
            let now = Timestamp::now();
            let forget = self.look(now);
            let step = lifecycle::step(&self.name, &self.spec, &mut self.state, self.shared.limits, now);
            let saved = self.save();
            for (container, attempt) in forget {
                self.forget(container, attempt);
            }
            // What could not be noted down is not acted on: it would not be known after a restart.
            let mut wake_at = after(now, RESYNC);
            if saved {
                for action in step.actions {
                    self.act(action);
                }
                wake_at = step.wake_at.map_or(wake_at, |at| at.min(wake_at));
            } else {
                wake_at = after(now, Duration::from_secs(1));
            }
            self.publish(now);
            if self.state.is_over() {
                self.shared.probes.forget(&self.name, &self.spec);
            }
            if self.is_gone() && self.state.is_over() {
                break;
            }
            let retries = [self.publisher.due_at(), self.unmount(now), self.finalize(now)];
            for at in retries.into_iter().flatten().filter(|at| *at > now) {
                wake_at = wake_at.min(at);
            }
            self.wait(wake_at).await;
        }
        self.clean_up().await
    }

    async fn wait(&mut self, until: Timestamp) {
        let left = Duration::try_from(until.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO);
        tokio::select! {
            changed = self.desired.changed() => {
                // The sender is dropped when the agent ends; so does this task, from outside.
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
                self.take_desired();
            }
            () = self.wake.notified() => {}
            message = self.storage.excess(), if self.state.verdict.is_none() => self.evict(message),
            Some(outcome) = self.outcomes.join_next() => match outcome {
                Ok(outcome) => self.record(outcome),
                Err(error) if error.is_cancelled() => {}
                Err(error) => tracing::error!(pod = %self.name, %error, "something done for a pod has panicked"),
            },
            () = tokio::time::sleep(left) => {}
        }
        // Whatever else is there already is taken in before the next look.
        while let Some(Ok(outcome)) = self.outcomes.try_join_next() {
            self.record(outcome);
        }
    }

    fn take_desired(&mut self) {
        let desired = self.desired.borrow_and_update().clone();
        match desired {
            Desired::Pod { pod, object } => {
                if uid(object.as_deref()) != self.object_uid() {
                    // Another mirror has been told nothing yet.
                    self.publisher = Publisher::default();
                }
                self.spec = Spec::of(&pod);
                self.storage.update(&pod);
                (self.pod, self.object) = (pod, object);
            }
            Desired::Gone => self.state.record_vanished(Timestamp::now()),
        }
    }

    fn object_uid(&self) -> Option<&str> {
        uid(self.object.as_deref())
    }

    fn is_gone(&self) -> bool {
        self.state.ending.as_ref().is_some_and(|e| e.cause == EndingCause::Vanished)
    }

    /// Takes in what the provider sees; returns the attempts that have ended.
    fn look(&mut self, now: Timestamp) -> Vec<(String, u32)> {
        let mut ended = Vec::new();
        let names: Vec<String> = self.state.containers.keys().cloned().collect();
        for name in names {
            let record = self.state.container(&name);
            if record.running().is_none() {
                continue;
            }
            let attempt = record.newest_attempt();
            let id = container_id(&self.name.uid, &name, attempt);
            let observed = self.shared.runtime.observe(&id);
            let message = match &observed {
                Some(ContainerState::Exited(exit)) => self.termination_message(&name, exit),
                _ => None,
            };
            self.state.record_observation(&name, observed.as_ref(), message, now);
            if self.state.container(&name).running().is_none() {
                self.ongoing.end(&id);
                ended.push((name, attempt));
            }
        }
        ended
    }

    fn termination_message(&mut self, name: &str, exit: &Exit) -> Option<String> {
        let attempt = self.state.container(name).newest_attempt();
        let PodName { name: pod, namespace, uid } = &self.name;
        let log = logs::file(&self.shared.logs_dir, namespace, pod, uid, name, attempt);
        let own = self.shared.records.termination_message(uid, name, attempt);
        termination::message(&self.pod, &self.container(name)?, exit, &own, &log)
    }

    /// True when the state on disk is the present one.
    fn save(&mut self) -> bool {
        if self.foreign || self.saved == self.state {
            return true;
        }
        match self.shared.records.save(&self.name.uid, &self.state) {
            Ok(()) => {
                self.saved = self.state.clone();
                true
            }
            Err(error) => {
                tracing::error!(pod = %self.name, %error, "cannot save the pod's record; it makes no progress until then");
                false
            }
        }
    }

    fn container(&self, name: &str) -> Option<Container> {
        ephemeral::container(&self.pod, name)
    }

    /// Removes everything that is left of a pod that is gone.
    async fn clean_up(mut self) -> String {
        self.outcomes.abort_all();
        let uid = self.name.uid.clone();
        for container in self.shared.runtime.containers().into_iter().filter(|c| c.pod_uid == uid) {
            if let Err(error) = self.shared.runtime.remove(&container.id).await {
                tracing::warn!(pod = %self.name, %error, "a container of a pod that is gone could not be removed");
            }
        }
        let logs = logs::pod_dir(&self.shared.logs_dir, &self.name.namespace, &self.name.name, &uid);
        std::mem::replace(&mut self.storage, Storage::Gone).stop().await;
        let (shared, of) = (Arc::clone(&self.shared), uid.clone());
        let remove = move || {
            let volumes = shared.volumes.remove(&shared.records, &of);
            // What is still mounted below the folder must not be removed with it.
            let record = volumes.and_then(|()| shared.records.remove(&of));
            [kubewasm_trees::remove(&logs), record]
        };
        let results =
            tokio::task::spawn_blocking(remove).await.unwrap_or_else(|error| [Err(error.into()), Ok(())]);
        for error in results.into_iter().filter_map(Result::err) {
            tracing::warn!(pod = %self.name, %error, "something of a pod that is gone could not be removed");
        }
        self.shared.index.remove(&uid);
        uid
    }
}

fn uid(pod: Option<&Pod>) -> Option<&str> {
    pod?.metadata.uid.as_deref()
}

fn after(at: Timestamp, duration: Duration) -> Timestamp {
    lifecycle::backoff::after(at, duration)
}
