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

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, PodStatus};
use tokio::{
    sync::{Notify, watch},
    task::{AbortHandle, JoinSet},
};

use super::{
    admission::Rejection,
    adopt,
    api::ApiError,
    container_id::container_id,
    handlers::{Attempt, Ongoing},
    index,
    launch::{self, Launch},
    lifecycle::{self, Action, EndingCause, Note, PodName, ProbeKind, Spec, State, Trouble},
    publisher::Publisher,
    pull::{self, PullPolicy},
    records::remove_tree,
    shared::{Shared, tell},
    status, termination,
};
use crate::{
    logs,
    runtime::{ContainerState, Exit, Image},
};

/// How often a pod is looked at when nothing happens.
const RESYNC: Duration = Duration::from_secs(60);

/// How long a failed final DELETE waits.
const FINALIZE_RETRY: Duration = Duration::from_secs(2);

/// What a pod should be.
#[derive(Clone, Debug)]
pub(super) enum Desired {
    /// As its source has it; `object` is what its status is written to: the pod itself, or the mirror of a
    /// static pod, while there is one.
    Pod { pod: Arc<Pod>, object: Option<Arc<Pod>> },
    /// Its source does not have it any more.
    Gone,
}

/// What has come of something that the task had spawned.
enum Outcome {
    Pulled {
        container: String,
        result: Result<Image, Trouble>,
    },
    Started {
        container: String,
        result: Result<Timestamp, Trouble>,
    },
    PostStarted {
        container: String,
        attempt: u32,
        result: Result<(), Trouble>,
    },
    PreStopped {
        container: String,
        attempt: u32,
    },
    /// No success either way: it could not be carried out.
    Probed {
        container: String,
        attempt: u32,
        kind: ProbeKind,
        success: Option<bool>,
    },
    /// The UID is that of the object it was written to.
    Published {
        uid: Option<String>,
        result: Result<Box<Pod>, ApiError>,
    },
    Finalized(Result<(), ApiError>),
    Done,
}

/// Where the final DELETE is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finalize {
    No,
    InFlight,
    RetryAt(Timestamp),
    Done,
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
        let foreign = record.is_none() && adopt::is_terminal(&pod);
        let mut state = record.unwrap_or_else(|| adopt::state_of(&pod, now));
        state.resume(
            &spec,
            |container, attempt| shared.runtime.observe(&container_id(&name.uid, container, attempt)),
            now,
        );
        if let Some(rejection) = rejection {
            shared.recorder.warning(&reference, &rejection.reason, rejection.message.clone());
            state.record_verdict(rejection.verdict(), now);
        }
        Self {
            saved: State::default(),
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
            for id in forget {
                self.forget(id);
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
            if self.is_gone() && self.state.is_over() {
                break;
            }
            let retries = [self.publisher.retry_at(), self.finalize(now)];
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

    /// Takes in what the provider sees; returns the ids of attempts that have ended.
    fn look(&mut self, now: Timestamp) -> Vec<String> {
        let mut ended = Vec::new();
        let names: Vec<String> = self.state.containers.keys().cloned().collect();
        for name in names {
            let record = self.state.container(&name);
            if record.running().is_none() {
                continue;
            }
            let id = container_id(&self.name.uid, &name, record.newest_attempt());
            let observed = self.shared.runtime.observe(&id);
            let message = match &observed {
                Some(ContainerState::Exited(exit)) => self.termination_message(&name, exit),
                _ => None,
            };
            self.state.record_observation(&name, observed.as_ref(), message, now);
            if self.state.container(&name).running().is_none() {
                self.ongoing.end(&id);
                ended.push(id);
            }
        }
        ended
    }

    fn termination_message(&mut self, name: &str, exit: &Exit) -> Option<String> {
        let attempt = self.state.container(name).newest_attempt();
        let PodName { name: pod, namespace, uid } = &self.name;
        let log = logs::file(&self.shared.logs_dir, namespace, pod, uid, name, attempt);
        termination::message(&self.container(name)?, exit, &log)
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

    fn forget(&mut self, id: String) {
        let shared = Arc::clone(&self.shared);
        self.outcomes.spawn(async move {
            if let Err(error) = shared.runtime.remove(&id).await {
                tracing::debug!(container = id, %error, "an ended container could not be removed; it goes with its pod");
            }
            Outcome::Done
        });
    }

    fn container(&self, name: &str) -> Option<Container> {
        let spec = self.pod.spec.as_ref()?;
        spec.containers.iter().chain(spec.init_containers.iter().flatten()).find(|c| c.name == name).cloned()
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Event(note) => self.tell(&note),
            Action::Pull { container, image } => self.pull(container, image),
            Action::AbortPull { container } => {
                if let Some(handle) = self.pulls.remove(&container) {
                    handle.abort();
                }
            }
            Action::Start { container, attempt } => self.start(container, attempt),
            Action::PostStart { container } => self.post_start(container),
            Action::PreStop { container, within } => self.pre_stop(container, within),
            Action::Probe { container, kind } => self.probe(container, kind),
            Action::Stop { container, attempt, grace } => self.stop(&container, attempt, grace),
        }
    }

    fn tell(&self, note: &Note) {
        tell(&self.shared.recorder, &self.reference, &self.spec, note);
    }

    fn pull(&mut self, container: String, image: String) {
        let (shared, reference, spec) = (Arc::clone(&self.shared), self.reference.clone(), self.spec.clone());
        let pod = Arc::clone(&self.pod);
        let policy = self.container(&container).and_then(|c| c.image_pull_policy);
        let policy = PullPolicy::of(policy.as_deref(), &image);
        let name = container.clone();
        let handle = self.outcomes.spawn(async move {
            let note = |note: Note| tell(&shared.recorder, &reference, &spec, &note);
            let credentials = shared.credentials(&pod, &image, note).await;
            let result =
                pull::pull(shared.runtime.as_ref(), &container, &image, policy, &credentials, note).await;
            Outcome::Pulled { container, result }
        });
        self.pulls.insert(name, handle);
    }

    fn start(&mut self, name: String, attempt: u32) {
        let image = self.state.container(&name).image.clone();
        let (Some(container), Some(image)) = (self.container(&name), image) else {
            // The lifecycle asks for what the spec has, once its image is there; if it ever does not, that is
            // said, and tried again.
            let trouble = Trouble {
                reason: "CreateContainerError".to_owned(),
                message: format!("container {name} has no specification or no image"),
            };
            self.state.record_start(&self.spec, &name, Err(trouble), Timestamp::now());
            return;
        };
        let (shared, pod) = (Arc::clone(&self.shared), Arc::clone(&self.pod));
        let (reference, spec) = (self.reference.clone(), self.spec.clone());
        self.outcomes.spawn(async move {
            let node = shared.node.borrow().clone();
            let launch = Launch {
                runtime: shared.runtime.as_ref(),
                api: shared.api.as_ref(),
                node: &node,
                logs_dir: &shared.logs_dir,
                records: &shared.records,
            };
            let result = launch.start(&pod, &container, &image, attempt).await;
            let note = |reason, message: &str| {
                let (container, message) = (Some(name.clone()), message.to_owned());
                let note = Note { container, warning: false, reason, message };
                tell(&shared.recorder, &reference, &spec, &note);
            };
            match &result {
                Ok(_) => {
                    note("Created", "Container created");
                    note("Started", "Container started");
                }
                Err(trouble) => tell(&shared.recorder, &reference, &spec, &launch::note(&name, trouble)),
            }
            Outcome::Started { container: name, result }
        });
    }

    /// The running attempt of a container, for its probes and hooks.
    fn attempt(&mut self, name: &str) -> Attempt {
        let container = self.container(name).unwrap_or_default();
        let record = self.state.container(name);
        let (number, image) = (record.newest_attempt(), record.image.clone());
        let id = container_id(&self.name.uid, name, number);
        let (recorder, reference, spec) =
            (self.shared.recorder.clone(), self.reference.clone(), self.spec.clone());
        Attempt {
            runtime: Arc::clone(&self.shared.runtime),
            api: Arc::clone(&self.shared.api),
            node: self.shared.node.borrow().clone(),
            logs_dir: self.shared.logs_dir.clone(),
            records: self.shared.records.clone(),
            pod: Arc::clone(&self.pod),
            name: self.name.clone(),
            container,
            number,
            image,
            spec: self.ongoing.spec(&id),
            id,
            tell: Box::new(move |note| tell(&recorder, &reference, &spec, &note)),
        }
    }

    fn post_start(&mut self, container: String) {
        let attempt = self.attempt(&container);
        let (id, number) = (attempt.id.clone(), attempt.number);
        let handle = self.outcomes.spawn(async move {
            Outcome::PostStarted { container, attempt: number, result: attempt.post_start().await }
        });
        self.ongoing.hook(&id, handle);
    }

    fn pre_stop(&mut self, container: String, within: Duration) {
        let attempt = self.attempt(&container);
        let (id, number) = (attempt.id.clone(), attempt.number);
        let handle = self.outcomes.spawn(async move {
            attempt.pre_stop(within).await;
            Outcome::PreStopped { container, attempt: number }
        });
        self.ongoing.hook(&id, handle);
    }

    fn probe(&mut self, container: String, kind: ProbeKind) {
        let attempt = self.attempt(&container);
        self.outcomes.spawn(async move {
            Outcome::Probed { container, attempt: attempt.number, kind, success: attempt.probe(kind).await }
        });
    }

    fn stop(&mut self, container: &str, attempt: u32, grace: Duration) {
        let (shared, id) = (Arc::clone(&self.shared), container_id(&self.name.uid, container, attempt));
        let pod = self.name.clone();
        self.outcomes.spawn(async move {
            let mut delay = Duration::from_millis(100);
            // A provider that cannot be reached either comes back or is found to be gone, and its
            // containers with it; this task is then ended with its pod.
            while let Err(error) = shared.runtime.stop(&id, grace).await {
                tracing::warn!(%pod, container = id, %error, "cannot stop a container; trying again");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(Duration::from_secs(5));
                if shared.runtime.observe(&id).is_none() {
                    break;
                }
            }
            Outcome::Done
        });
    }

    fn record(&mut self, outcome: Outcome) {
        let now = Timestamp::now();
        match outcome {
            Outcome::Pulled { container, result } => {
                self.pulls.remove(&container);
                self.state.record_pull(&container, result, now);
            }
            Outcome::Started { container, result } => {
                self.state.record_start(&self.spec, &container, result, now);
            }
            Outcome::PostStarted { container, attempt, result } => {
                self.state.record_post_start(&container, attempt, result);
            }
            Outcome::PreStopped { container, attempt } => self.state.record_pre_stop(&container, attempt),
            Outcome::Probed { container, attempt, kind, success } => match success {
                Some(success) => {
                    self.state.record_probe(&self.spec, &container, attempt, kind, success);
                }
                None => self.state.record_probe_given_up(&container, attempt, kind),
            },
            // The mirror that it was written to is not the one of now.
            Outcome::Published { uid, .. } if uid.as_deref() != self.object_uid() => {}
            Outcome::Published { result: Ok(pod), .. } => self.publisher.succeeded(&pod),
            Outcome::Published { result: Err(ApiError::Gone), .. } => {
                // The source will say so too; until then there is nobody to tell.
                self.publisher.failed(now);
            }
            Outcome::Published { result: Err(ApiError::Later(error)), .. } => {
                tracing::debug!(pod = %self.name, error, "the status could not be written; trying again");
                self.publisher.failed(now);
            }
            Outcome::Finalized(Ok(()) | Err(ApiError::Gone)) => self.finalize = Finalize::Done,
            Outcome::Finalized(Err(ApiError::Later(error))) => {
                tracing::debug!(pod = %self.name, error, "the pod could not be let go; trying again");
                self.finalize = Finalize::RetryAt(after(now, FINALIZE_RETRY));
            }
            Outcome::Done => {}
        }
    }

    /// Computes the status, shows it, and writes it if it is new.
    fn publish(&mut self, now: Timestamp) {
        if self.foreign {
            self.shared.index.put(&self.name.uid, Arc::clone(&self.pod));
            return;
        }
        let node = self.shared.node.borrow().clone();
        let version = self.shared.runtime.version();
        let object_status = self.object.as_ref().and_then(|object| object.status.as_ref());
        let api_conditions = object_status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let context = status::Context {
            host_ips: &node.host_ips,
            pod_ips: &node.pod_ips,
            runtime: version.split_once("://").map_or(version.as_str(), |(scheme, _)| scheme),
            previous: self.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or(api_conditions),
        };
        let status = status::of(&self.pod, &self.name, &self.spec, &self.state, context, now);
        if let Some(object) = &self.object {
            self.publisher.observe(object, &status);
        }
        if self.status.as_ref() != Some(&status) {
            self.shared.index.put(&self.name.uid, Arc::new(index::shown(&self.pod, &status)));
        }
        if !self.is_gone()
            && let Some(object) = self.object.clone()
            && let Some(status) = self.publisher.next(&status, now)
        {
            let shared = Arc::clone(&self.shared);
            self.outcomes.spawn(async move {
                let result = shared.api.publish(&object, &status).await.map(Box::new);
                Outcome::Published { uid: uid(Some(&object)).map(str::to_owned), result }
            });
        }
        self.status = Some(status);
    }

    /// Lets go of a deleted pod once its last status is in the API; returns when to try again.
    fn finalize(&mut self, now: Timestamp) -> Option<Timestamp> {
        let settled = self.foreign || self.status.as_ref().is_some_and(|s| self.publisher.is_settled(s));
        let due = match self.finalize {
            Finalize::No => true,
            Finalize::RetryAt(at) => at <= now,
            Finalize::InFlight | Finalize::Done => false,
        };
        if self.spec.deletion.is_some() && self.state.is_over() && settled && due {
            self.finalize = Finalize::InFlight;
            let (shared, pod) = (Arc::clone(&self.shared), Arc::clone(&self.pod));
            self.outcomes.spawn(async move { Outcome::Finalized(shared.api.finalize(&pod).await) });
        }
        match self.finalize {
            Finalize::RetryAt(at) => Some(at),
            _ => None,
        }
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
        for result in [remove_tree(&logs), self.shared.records.remove(&uid)] {
            if let Err(error) = result {
                tracing::warn!(pod = %self.name, %error, "something of a pod that is gone could not be removed");
            }
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
