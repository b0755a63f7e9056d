//! The worker task of one pod: the only one that acts for it, and the edge of the pure lifecycle.
//!
//! ```text
//!          ┌────────────── look: runtime.observe ◄───────────────┐
//!          ▼                                                     │
//!   lifecycle::Turn ─► save ─► act (spawned) ─► status::of ─► wait for: a newer pod, an outcome,
//!                                                             a wake-up of the runtime, the time
//! ```
//!
//! What is decided is saved before it is taken over and acted on, so that a task that is torn off at any point can be
//! taken up by the next agent, and one that cannot save comes to the same decision again. What has happened (an
//! exit, the outcome of an action) is taken in at once; the provider keeps an exit until it is on disk.
//!
//! `admitting` asks who else has a say in it, `actions` begins what the lifecycle asks for, `following` keeps providers up to date with objects, `outcome` takes in what has come of it, `storage` sees to the
//! volumes, `sandbox` to a network of the pod's own, `resize` to what containers are given while they run, and `report` tells the world. All are parts of [`PodTask`]; nothing else has hold of it. `journal`
//! writes the record, `strays` ends what runs and should not.

mod actions;
mod admitting;
mod following;
mod journal;
mod network;
mod outcome;
mod report;
mod resize;
pub(crate) mod sandbox;
mod start_clock;
mod storage;
mod strays;
mod sync_trace;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, PodStatus};
use tokio::{
    sync::{Notify, watch},
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use admitting::Admitting;
use following::Following;
use journal::Journal;
use outcome::{Spawned, TaskOutcome};
use report::Finalize;
use sandbox::Sandbox;
use start_clock::StartClock;
use storage::Storage;
use strays::Strays;
use sync_trace::SyncTrace;

use super::{
    admission::Rejection,
    adopt,
    allocation::Allocation,
    cleanup, clock,
    container_id::container_id,
    ephemeral,
    handlers::Ongoing,
    lifecycle::{
        ContainerKind, EndingCause, Moment, Note, Now, PodName, PodState, PodTurn, Spec, Stage,
        resize::PendingResize,
    },
    publisher::Publisher,
    reason::{EventReason, TerminatedReason},
    shared::{Shared, tell},
    status, termination,
};
use crate::{
    eviction::Orders,
    logs,
    retry::Backoff,
    runtime::{ContainerState, Exit, Presence},
};

/// How often a pod is looked at when nothing happens.
const RESYNC: Duration = Duration::from_secs(60);

/// How soon a record that could not be written is tried again, at first and at last.
const FIRST_SAVE_DELAY: Duration = Duration::from_secs(1);
const LONGEST_SAVE_DELAY: Duration = Duration::from_secs(10);
/// How soon the provider is asked again about what it cannot tell, and about a start of an earlier agent's.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What a pod should be.
#[derive(Clone, Debug)]
pub(super) enum Desired {
    /// As its source has it, but for its resources, which are what it was given; `object` is what its status is written to: the pod itself, or the mirror of a
    /// static pod, while there is one.
    Pod { pod: Arc<Pod>, object: Option<Arc<Pod>>, resize: ResizeDecision },
    /// Its source does not have it any more.
    Gone,
}

/// What has come of it that a pod asks for other resources than it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ResizeDecision {
    /// It does not, or has been given them.
    Settled,
    /// It waits.
    Pending(PendingResize),
    /// Nothing yet: not all pods of the node are known.
    NotYet,
}

pub(super) struct PodTask {
    shared: Arc<Shared>,
    name: PodName,
    reference: ObjectReference,
    pod: Arc<Pod>,
    object: Option<Arc<Pod>>,
    spec: Spec,
    /// What has been saved, or will be: all that has happened is in it, and nothing that was only decided.
    state: PodState,
    journal: Journal,
    /// The state is on disk.
    on_disk: bool,
    save_backoff: Backoff,
    /// That it cannot be saved has been told.
    told_of_disk: bool,
    /// Attempts that have ended, which the provider keeps until that is on disk.
    ended: Vec<(String, u32)>,
    desired: watch::Receiver<Desired>,
    wake: Arc<Notify>,
    outcomes: JoinSet<Spawned>,
    pulls: HashMap<String, AbortHandle>,
    /// Containers whose start is under way here, and what calls it off.
    starting: HashMap<String, CancellationToken>,
    strays: Strays,
    following: Following,
    ongoing: Ongoing,
    publisher: Publisher,
    /// Since when the API server does not have the newest status.
    unpublished_since: Option<Instant>,
    start_clock: StartClock,
    trace: SyncTrace,
    /// Why the pod is looked at, by upstream's names.
    sync: &'static str,
    status: Option<PodStatus>,
    finalize: Finalize,
    admitting: Admitting,
    storage: Storage,
    sandbox: Sandbox,
    /// To be told to go.
    orders: Orders,
    /// What was told of why the pod has no addresses yet.
    told_of_network: Option<String>,
    /// The pod was over before this node had any record of it: nothing is published for it.
    foreign: bool,
}

impl PodTask {
    /// Takes up a pod: reads what is remembered of it, and asks the provider what has become of it. It reads files,
    /// so that it belongs on a thread that may block.
    pub(super) fn new(
        shared: Arc<Shared>,
        pod: Arc<Pod>,
        mut desired: watch::Receiver<Desired>,
        wake: Arc<Notify>,
        rejection: Option<Rejection>,
        seen: Instant,
    ) -> Self {
        shared.metrics.pod_taken_up(seen.elapsed());
        let now = clock::now();
        let (pod, object, resize, gone) = match desired.borrow_and_update().clone() {
            Desired::Pod { pod, object, resize } => (pod, object, resize, false),
            Desired::Gone => (pod, None, ResizeDecision::NotYet, true),
        };
        let meta = &pod.metadata;
        let name = PodName {
            name: meta.name.clone().unwrap_or_default(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
        };
        let reference = reference(&pod);
        let spec = Spec::of(&pod);
        let record = shared.records.load(&name.uid, now).unwrap_or_else(|error| {
            tracing::error!(pod = %name, %error, "cannot read the pod's record; going by its status");
            None
        });
        let has_record = record.is_some();
        let start_clock = StartClock::new(seen, has_record);
        let trace = SyncTrace::new(shared.tracer.clone(), &name, seen, has_record);
        let foreign = !has_record && status::is_terminal(pod.status.as_ref());
        let mut state = record.unwrap_or_else(|| adopt::state_of(&pod, now));
        if spec.is_static {
            state.begin_after_shutdown();
        }
        state.resume(
            &spec,
            shared.limits,
            |container, attempt| shared.runtime.observe(&container_id(&name.uid, container, attempt)),
            |container, attempt| has_log(&shared, &name, container, attempt),
            now,
        );
        if let Some(rejection) = rejection {
            shared.metrics.rejected(&rejection.reason);
            shared.recorder.warning(&reference, &rejection.reason, rejection.message.clone());
            state.record_verdict(rejection.verdict(), now);
        }
        if gone {
            state.record_vanished(now);
        }
        state.record_allocation(Allocation::of(&pod), pod.metadata.generation);
        let admitting = if foreign { Admitting::Done } else { Admitting::begin(&shared, has_record, &state) };
        let storage = match foreign {
            true => Storage::Gone,
            false if admitting.is_done() => Storage::begin(&shared, &pod, &reference, &state),
            false => Storage::Held,
        };
        let mut task = Self {
            journal: Journal::new(shared.records.clone(), name.uid.clone()),
            on_disk: false,
            save_backoff: Backoff::new(FIRST_SAVE_DELAY, LONGEST_SAVE_DELAY),
            told_of_disk: false,
            ended: Vec::new(),
            admitting,
            storage,
            sandbox: Sandbox::default(),
            orders: shared.desk.orders(&name.uid),
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
            starting: HashMap::new(),
            strays: Strays::default(),
            following: Following::default(),
            ongoing: Ongoing::default(),
            publisher: Publisher::default(),
            unpublished_since: None,
            start_clock,
            trace,
            sync: "create",
            status: None,
            finalize: Finalize::No,
            told_of_network: None,
            foreign,
        };
        task.take_resize(resize);
        task
    }

    /// Runs until the pod is gone from its source and nothing is left of it.
    pub(super) async fn run(mut self) {
        loop {
            let now = clock::now();
            let begun = Instant::now();
            let unclear = self.look(now).await;
            let mut wake_at = now.steady.after(if unclear { LOOK_AGAIN } else { RESYNC });
            if let Some(at) = self.turn(now).await {
                wake_at = wake_at.min(at);
            }
            self.follow_objects();
            self.trace_end();
            self.publish(now);
            self.settle_trace();
            let why = if self.state.ending.is_some() { "kill" } else { self.sync };
            self.shared.metrics.pod_synced(why, begun.elapsed());
            self.sync = "sync";
            if self.state.is_over() {
                self.shared.probes.forget(&self.name, &self.spec);
            }
            if self.is_gone() && self.state.is_over() {
                break;
            }
            let retries = [self.publisher.due_at(), self.unmount(now.steady), self.finalize(now.steady)];
            for at in retries.into_iter().flatten().filter(|at| *at > now.steady) {
                wake_at = wake_at.min(at);
            }
            self.wait(wake_at).await;
        }
        self.clean_up().await;
    }

    /// Decides, saves and acts; returns when to look again.
    async fn turn(&mut self, now: Now) -> Option<Moment> {
        let is_admitted = self.settle_admission(now.steady);
        let has_addresses = is_admitted && self.settle_addresses(now.steady).await;
        let stray = self.end_strays(now.steady) || !has_addresses;
        if self.state.ending.is_some() {
            self.starting.values().for_each(CancellationToken::cancel);
        }
        let turn = PodTurn::of(&self.name, &self.spec, &self.state, self.shared.limits, now);
        let held = stray && !turn.is_ending();
        self.on_disk = !held && self.save(&turn, now).await;
        let step = if self.on_disk { turn.saved(&mut self.state) } else { turn.unsaved(&mut self.state) };
        if self.on_disk {
            for (container, attempt) in std::mem::take(&mut self.ended) {
                self.forget(container, attempt);
            }
        }
        for action in step.actions {
            self.act(action);
        }
        let retry = (!self.on_disk && !held).then(|| now.steady.after(self.save_backoff.next()));
        let look = stray.then(|| now.steady.after(LOOK_AGAIN));
        step.wake_at.into_iter().chain(retry).chain(look).min()
    }

    /// True when what was decided is on disk.
    async fn save(&mut self, turn: &PodTurn, now: Now) -> bool {
        if self.foreign {
            return true;
        }
        match self.journal.save(turn.record(), turn.ends_something(), now).await {
            Ok(()) => {
                self.save_backoff.reset();
                self.told_of_disk = false;
                true
            }
            Err(error) => {
                tracing::error!(pod = %self.name, error, "cannot save the pod's record; nothing is begun until then");
                if !std::mem::replace(&mut self.told_of_disk, true) {
                    let message =
                        format!("cannot save the record of the pod; nothing is begun until then: {error}");
                    self.warn(message);
                }
                false
            }
        }
    }

    /// An event about this node's trouble with the pod.
    fn warn(&self, message: String) {
        let note = Note { container: None, warning: true, reason: EventReason::FailedSync, message };
        tell(&self.shared.recorder, &self.reference, &self.spec, &note);
    }

    async fn wait(&mut self, until: Moment) {
        let left = until.since(clock::now().steady);
        tokio::select! {
            changed = self.desired.changed() => {
                // The sender is dropped when the agent ends; so does this task, from outside.
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
                self.take_desired();
            }
            () = self.wake.notified() => {}
            order = self.storage.excess(), if self.state.verdict.is_none() => self.evict(order),
            order = self.orders.next(), if self.state.verdict.is_none() => self.evict(order),
            Some(outcome) = self.outcomes.join_next() => self.take_in(outcome),
            () = tokio::time::sleep(left) => {}
        }
        // Whatever else is there already is taken in before the next look.
        while let Some(outcome) = self.outcomes.try_join_next() {
            self.take_in(outcome);
        }
    }

    fn take_desired(&mut self) {
        self.sync = "update";
        let desired = self.desired.borrow_and_update().clone();
        match desired {
            Desired::Pod { pod, object, resize } => {
                if uid(object.as_deref()) != self.object_uid() {
                    // Another mirror has been told nothing yet.
                    self.publisher = Publisher::default();
                }
                self.spec = Spec::of(&pod);
                self.storage.update(&pod);
                (self.pod, self.object) = (pod, object);
                self.state.record_allocation(Allocation::of(&self.pod), self.pod.metadata.generation);
                self.take_resize(resize);
            }
            Desired::Gone => self.state.record_vanished(clock::now()),
        }
    }

    fn object_uid(&self) -> Option<&str> {
        uid(self.object.as_deref())
    }

    fn is_gone(&self) -> bool {
        self.state.ending.as_ref().is_some_and(|e| e.cause == EndingCause::Vanished)
    }

    /// Takes in what the provider sees; true when something was not to be told yet.
    async fn look(&mut self, now: Now) -> bool {
        let mut unclear = false;
        let names: Vec<String> = self.state.containers.keys().cloned().collect();
        for name in names {
            let record = self.state.container(&name);
            let inherited = record.stage == Stage::Starting && !self.starting.contains_key(&name);
            if record.running().is_none() && !inherited {
                continue;
            }
            let attempt = record.newest_attempt();
            let id = container_id(&self.name.uid, &name, attempt);
            let presence = self.shared.runtime.observe(&id);
            if inherited {
                let began = has_log(&self.shared, &self.name, &name, attempt);
                self.state.record_inherited_start(&self.spec, &name, &presence, began, now);
                unclear |= self.state.container(&name).stage == Stage::Starting;
                continue;
            }
            unclear |= presence == Presence::CannotTell;
            let message = match &presence {
                Presence::Known(ContainerState::Exited(exit)) => {
                    self.termination_message(&name, attempt, exit).await
                }
                _ => None,
            };
            self.state.record_observation(&name, &presence, message, now);
            if self.state.container(&name).running().is_none() {
                if let Presence::Known(ContainerState::Exited(exit)) = &presence {
                    let (kind, reason) = (self.container_type(&name), TerminatedReason::of(exit));
                    self.shared.metrics.container_terminated(kind, exit.exit_code, &reason.to_string());
                    if reason == TerminatedReason::OOMKilled {
                        self.shared.oom_events.note(&self.name.uid, &name);
                    }
                }
                self.ongoing.end(&id);
                self.ended.push((name, attempt));
            }
        }
        unclear
    }

    async fn termination_message(&self, name: &str, attempt: u32, exit: &Exit) -> Option<String> {
        let PodName { name: pod, namespace, uid } = &self.name;
        let log = logs::file(&self.shared.logs_dir, namespace, pod, uid, name, attempt);
        let own = self.shared.records.termination_message(uid, name, attempt);
        let (pod, container, exit) = (Arc::clone(&self.pod), self.container(name)?, exit.clone());
        let read = move || termination::message(&pod, &container, &exit, &own, &log);
        tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| {
            tracing::error!(pod = %self.name, container = name, %error, "the termination message could not be read");
            None
        })
    }

    /// What kind of container it is, as metrics have it.
    fn container_type(&self, name: &str) -> &'static str {
        match self.spec.container(name).map(|container| container.kind) {
            Some(ContainerKind::Init | ContainerKind::Sidecar) => "init_container",
            Some(ContainerKind::Ephemeral) => "ephemeral_container",
            Some(ContainerKind::Regular) | None => "container",
        }
    }

    fn container(&self, name: &str) -> Option<Container> {
        ephemeral::container(&self.pod, name)
    }

    /// Removes everything that is left of a pod that is gone.
    async fn clean_up(mut self) {
        self.outcomes.shutdown().await;
        std::mem::replace(&mut self.storage, Storage::Gone).stop().await;
        self.journal.close().await;
        let PodName { name, namespace, uid } = &self.name;
        let logs = logs::pod_dir(&self.shared.logs_dir, namespace, name, uid);
        cleanup::remove_pod(&self.shared, uid, Some(logs)).await;
        self.shared.policies.note(uid, None);
        self.shared.oom_events.forget(uid);
        self.shared.index.remove(uid);
    }
}

/// How events name the pod that they are about.
pub(crate) fn reference(pod: &Pod) -> ObjectReference {
    let meta = &pod.metadata;
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// An attempt may have run: its log is made before its guest's first instruction.
fn has_log(shared: &Shared, pod: &PodName, container: &str, attempt: u32) -> bool {
    let PodName { name, namespace, uid } = pod;
    logs::file(&shared.logs_dir, namespace, name, uid, container, attempt).exists()
}

fn uid(pod: Option<&Pod>) -> Option<&str> {
    pod?.metadata.uid.as_deref()
}
