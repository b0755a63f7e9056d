//! One task per pod UID.
//!
//! The manager hands every pod to its task and wakes tasks when the provider has news. It decides nothing
//! about a pod. What it does decide is whose turn it is, of two pods that share a name, and what belongs to
//! nobody: containers and folders of pods that no source knows, which are removed once every source has
//! given its first complete list, and never before. A task that panics is begun again, a little later each time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Pod;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

mod preempting;
mod resizes;

use preempting::RoomMaking;
use resizes::RetryTrigger;

use super::{
    admission::{self, Amounts, Rejection, preemption::Occupant, resources},
    allocation::Allocation,
    board::{Board, FullName, is_mirror},
    cleanup::remove_pod,
    lifecycle::spec::{CONFIG_SOURCE_ANNOTATION, HTTP_SOURCE, is_static},
    panics::{self, caught},
    reason::EventReason,
    resize_metrics::ResizeMetrics,
    shared::Shared,
    status::is_terminal,
    task::{self, Desired, PodTask, ResizeDecision},
};
use crate::retry::Backoff;

/// How soon a task that has panicked is begun again, at first and at last.
const FIRST_RESTART: Duration = Duration::from_secs(1);
const LATEST_RESTART: Duration = Duration::from_secs(5 * 60);

/// How often the manager comes round when nothing happens, for `/healthz` to see that it does.
const LEAST_ROUND: Duration = Duration::from_secs(60);

/// Where a pod comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PodSource {
    /// The API server.
    Api,
    /// A file on the node.
    File,
    /// The URL of `staticPodURL`.
    Http,
}

impl PodSource {
    fn of(pod: &Pod) -> Self {
        match pod.metadata.annotations.as_ref().and_then(|all| all.get(CONFIG_SOURCE_ANNOTATION)) {
            Some(source) if source == HTTP_SOURCE => Self::Http,
            _ if is_static(pod) => Self::File,
            _ => Self::Api,
        }
    }
}

/// What a source says about its pods.
#[derive(Debug)]
pub enum Update {
    /// A pod is new or has changed. Of the API server's, it may be the mirror of a static pod.
    Set(Box<Pod>),
    /// The pod of this UID is gone.
    Gone(String),
    /// These are the UIDs of all pods that this source has.
    Synced(PodSource, HashSet<String>),
}

struct PodHandle {
    /// As its source has it.
    wanted: Arc<Pod>,
    /// As it runs: with what it was given.
    pod: Arc<Pod>,
    allocation: Allocation,
    resize: ResizeDecision,
    /// Since when a resize waits.
    resize_waits: Option<Instant>,
    /// Its source does not have it any more.
    gone: bool,
    /// What it takes of the node, as long as it is not over.
    footprint: Amounts,
    desired: watch::Sender<Desired>,
    wake: Arc<Notify>,
    /// The node does not take it.
    rejection: Option<Rejection>,
    restarts: Backoff,
    /// When its task was begun, or is to begin.
    begun: Instant,
}

/// What has ended.
enum EndedTask {
    /// A task, and nothing is left of its pod.
    Pod(String),
    /// A task that has panicked, and with what.
    Panicked { uid: String, panic: String },
    /// The removal of what was left of a pod that nobody knew.
    Removal(String),
}

/// Owns the pod tasks.
pub struct PodManager {
    shared: Arc<Shared>,
    handles: HashMap<String, PodHandle>,
    tasks: JoinSet<EndedTask>,
    /// UIDs of pods that nobody knew, of which something is still being removed.
    removing: HashSet<String>,
    /// Pods by UID whose turn comes when another one of their name, or of their UID, has ended.
    waiting: BTreeMap<String, Arc<Pod>>,
    /// Sources that have not told of all their pods yet.
    unsynced: HashSet<PodSource>,
    /// Static pods and their mirrors; `None` where there are none.
    board: Option<watch::Sender<Board>>,
    resize_metrics: ResizeMetrics,
}

impl std::fmt::Debug for PodManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PodManager").field("pods", &self.handles.len()).finish_non_exhaustive()
    }
}

impl PodManager {
    /// A manager without pods, all of which will come from the API server.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            handles: HashMap::new(),
            tasks: JoinSet::new(),
            removing: HashSet::new(),
            waiting: BTreeMap::new(),
            unsynced: HashSet::from([PodSource::Api]),
            board: None,
            resize_metrics: ResizeMetrics::default(),
        }
    }

    /// There are static pods too; they and their mirrors are shown on `board`.
    #[must_use]
    pub fn with_static_pods(mut self, board: watch::Sender<Board>) -> Self {
        self.unsynced.insert(PodSource::File);
        self.board = Some(board);
        self
    }

    /// There are static pods of a URL, too.
    #[must_use]
    pub fn with_pods_of_url(mut self) -> Self {
        self.unsynced.insert(PodSource::Http);
        self
    }

    /// Counts resizes on `metrics`.
    #[must_use]
    pub fn with_resize_metrics(self, metrics: ResizeMetrics) -> Self {
        Self { resize_metrics: metrics, ..self }
    }

    /// Runs until `cancel`, or until the source ends. The tasks end with it; containers do not.
    pub async fn run(mut self, mut updates: mpsc::Receiver<Update>, cancel: CancellationToken) {
        let mut wakeups = self.shared.runtime.wakeups();
        let mut rounds = tokio::time::interval(LEAST_ROUND);
        loop {
            self.shared.index.come_round(Instant::now());
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = rounds.tick() => self.retry_resizes(RetryTrigger::Periodic),
                update = updates.recv() => match update {
                    Some(update) => self.update(update).await,
                    None => break,
                },
                Some(uid) = next(&mut wakeups) => {
                    if let Some(handle) = self.handles.get(&uid) {
                        handle.wake.notify_one();
                    }
                }
                Some(ended) = self.tasks.join_next() => match ended {
                    Ok(ended) => self.ended(ended),
                    // Panics are caught inside; this is the end of the program.
                    Err(error) => tracing::debug!(%error, "the task of a pod was cut off"),
                },
            }
        }
    }

    async fn update(&mut self, update: Update) {
        match update {
            Update::Set(pod) => self.set(Arc::from(pod)),
            Update::Gone(uid) => {
                self.gone(&uid);
                self.retain_mirrors(|mirror| mirror != uid);
            }
            Update::Synced(source, present) => {
                let pods = self.handles.iter().map(|(uid, handle)| (uid, &handle.pod)).chain(&self.waiting);
                let absent =
                    pods.filter(|(uid, pod)| PodSource::of(pod) == source && !present.contains(*uid));
                for uid in absent.map(|(uid, _)| uid.clone()).collect::<Vec<_>>() {
                    self.gone(&uid);
                }
                if source == PodSource::Api {
                    self.retain_mirrors(|mirror| present.contains(mirror));
                    self.show(Board::set_mirrors_known);
                }
                self.unsynced.remove(&source);
                if self.unsynced.is_empty() {
                    self.shared.index.set_all_known();
                    self.show(Board::set_complete);
                    self.retry_resizes(RetryTrigger::PodsAdded);
                    self.remove_orphans().await;
                }
            }
        }
    }

    fn set(&mut self, pod: Arc<Pod>) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        if self.board.is_some() && is_mirror(&pod) {
            self.set_mirror(pod);
            return;
        }
        if let Some(handle) = self.handles.get_mut(&uid).filter(|handle| !handle.gone) {
            self.resize_metrics.request(&handle.wanted, &pod);
            handle.wanted = Arc::clone(&pod);
            self.settle_resize(&uid, RetryTrigger::PodUpdated);
            self.retry_resizes(RetryTrigger::PodUpdated);
        } else if self.must_wait(&uid, &pod) {
            self.waiting.insert(uid, pod);
            return;
        } else {
            self.begin(uid, &pod);
        }
        if is_static(&pod) {
            self.show(|board| board.put_pod(pod));
        }
    }

    /// A pod that has come back has to wait for its own end; a static pod, for that of another version of it,
    /// because both would use what belongs to the name.
    fn must_wait(&self, uid: &str, pod: &Pod) -> bool {
        let has_name =
            |handle: &PodHandle| is_static(&handle.pod) && FullName::of(&handle.pod) == FullName::of(pod);
        self.handles.contains_key(uid)
            || self.removing.contains(uid)
            || (is_static(pod) && self.handles.values().any(has_name))
    }

    fn begin(&mut self, uid: String, wanted: &Arc<Pod>) {
        let object = self.object_of(wanted);
        let allocation = self.allocation_of(&uid, wanted);
        let pod = &allocation.applied_to(wanted);
        let (room, rejection) = match self.admit(&uid, pod) {
            Ok(room) => (room, None),
            Err(rejection) => (None, Some(rejection)),
        };
        let resize = ResizeDecision::NotYet;
        let (desired, _) =
            watch::channel(Desired::Pod { pod: Arc::clone(pod), object, resize: resize.clone() });
        // With the status that its source has, until the task has computed one.
        self.shared.index.put(&uid, Arc::clone(pod));
        let handle = PodHandle {
            wanted: Arc::clone(wanted),
            pod: Arc::clone(pod),
            allocation,
            resize,
            resize_waits: None,
            gone: false,
            footprint: resources::footprint(pod),
            desired,
            wake: Arc::new(Notify::new()),
            rejection,
            restarts: Backoff::new(FIRST_RESTART, LATEST_RESTART),
            begun: Instant::now(),
        };
        self.begin_task(uid.clone(), &handle, Duration::ZERO, room);
        self.handles.insert(uid.clone(), handle);
        self.settle_resize(&uid, RetryTrigger::PodsAdded);
    }

    fn begin_task(&mut self, uid: String, handle: &PodHandle, delay: Duration, room: Option<RoomMaking>) {
        let (shared, pod, wake) =
            (Arc::clone(&self.shared), Arc::clone(&handle.pod), Arc::clone(&handle.wake));
        let (desired, rejection, seen) = (handle.desired.subscribe(), handle.rejection.clone(), handle.begun);
        let task = async move {
            tokio::time::sleep(delay).await;
            if let Some(room) = room {
                room.make(&shared, desired.clone()).await;
            }
            // What is remembered of the pod is read from disk.
            let take_up = move || PodTask::new(shared, pod, desired, wake, rejection, seen);
            match tokio::task::spawn_blocking(take_up).await {
                Ok(task) => task.run().await,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(cut_off) => tracing::debug!(error = %cut_off, "the task of a pod was cut off"),
                },
            }
        };
        self.tasks.spawn(async move {
            match caught(task).await {
                Ok(()) => EndedTask::Pod(uid),
                Err(panic) => EndedTask::Panicked { uid, panic },
            }
        });
    }

    /// The pod as the API server has it: itself, or its mirror, if there is one.
    fn object_of(&self, pod: &Arc<Pod>) -> Option<Arc<Pod>> {
        match &self.board {
            Some(board) if is_static(pod) => board.borrow().mirror_of(pod),
            _ => Some(Arc::clone(pod)),
        }
    }

    fn set_mirror(&mut self, mirror: Arc<Pod>) {
        let pod = self.board.as_ref().and_then(|board| board.borrow().pod_of(&mirror));
        if let Some(uid) = &mirror.metadata.uid {
            self.shared.index.put_mirror(uid, FullName::of(&mirror));
        }
        self.show(|board| board.put_mirror(mirror));
        pod.into_iter().for_each(|pod| self.pass_on_mirror(&pod));
    }

    fn retain_mirrors(&mut self, keep: impl Fn(&str) -> bool) {
        let mut lost = Vec::new();
        self.shared.index.retain_mirrors(&keep);
        self.show(|board| lost = board.retain_mirrors(keep));
        lost.iter().for_each(|pod| self.pass_on_mirror(pod));
    }

    /// Tells the task of a static pod which mirror it has now.
    fn pass_on_mirror(&self, pod: &Arc<Pod>) {
        let handle =
            pod.metadata.uid.as_ref().and_then(|uid| self.handles.get(uid)).filter(|handle| !handle.gone);
        if let Some(handle) = handle {
            let resize = ResizeDecision::Settled;
            let object = self.object_of(pod);
            handle.desired.send_replace(Desired::Pod { pod: Arc::clone(pod), object, resize });
        }
    }

    fn show(&self, change: impl FnOnce(&mut Board)) {
        if let Some(board) = &self.board {
            board.send_modify(change);
        }
    }

    /// Whether the node takes a pod that it has not taken yet, and who has to make room for it first. Pods come here one at
    /// a time, so two of them can never be given the same room.
    fn admit(&self, uid: &str, pod: &Pod) -> Result<Option<RoomMaking>, Rejection> {
        let Some(view) = &self.shared.admission else { return Ok(None) };
        if self.shared.records.knows(uid) || pod.metadata.deletion_timestamp.is_some() || is_over(pod) {
            return Ok(None);
        }
        admission::admit_under(pod, *self.shared.desk.pressure().borrow())?;
        let taken = self.taken();
        let mut used = Amounts::new();
        taken.clone().for_each(|(_, handle)| resources::add(&mut used, &handle.footprint));
        let lacking =
            admission::admit(pod, &view.borrow(), &used, taken.clone().map(|(_, handle)| &*handle.pod))?;
        if self.shared.desk.is_shutting_down() {
            return Err(admission::node_shuts_down());
        }
        let occupants =
            taken.map(|(uid, handle)| Occupant { uid, pod: &handle.pod, footprint: &handle.footprint });
        RoomMaking::plan(pod, &occupants.collect::<Vec<_>>(), &lacking)
    }

    /// The pods that take room on the node: those that are not over.
    fn taken(&self) -> impl Iterator<Item = (&String, &PodHandle)> + Clone {
        self.handles.iter().filter(|(uid, _)| !self.shared.index.get(uid).is_some_and(|p| is_over(&p)))
    }

    fn gone(&mut self, uid: &str) {
        self.waiting.remove(uid);
        if let Some(handle) = self.handles.get_mut(uid) {
            handle.gone = true;
            handle.desired.send_replace(Desired::Gone);
            let pod = Arc::clone(&handle.pod);
            self.show(|board| board.end_pod(&pod));
        }
    }

    fn ended(&mut self, ended: EndedTask) {
        match ended {
            EndedTask::Pod(uid) => {
                let Some(handle) = self.handles.remove(&uid) else { return };
                self.show(|board| board.remove_pod(&handle.pod));
                if let Some(again) = self.waiting.get(&uid) {
                    self.shared.metrics.pod_restarted(is_static(again));
                }
            }
            EndedTask::Panicked { uid, panic } => {
                self.take_up_again(uid, &panic);
                return;
            }
            EndedTask::Removal(uid) => {
                self.removing.remove(&uid);
            }
        }
        self.retry_resizes(RetryTrigger::PodsRemoved);
        // Nothing is left of it; those that have waited for it have another try.
        for pod in std::mem::take(&mut self.waiting).into_values() {
            self.set(pod);
        }
    }

    /// The task of a pod has panicked. What it had begun has ended with it, and its record says how far it was.
    fn take_up_again(&mut self, uid: String, panic: &str) {
        let Some(mut handle) = self.handles.remove(&uid) else { return };
        if handle.begun.elapsed() > LATEST_RESTART * 2 {
            handle.restarts.reset();
        }
        let delay = handle.restarts.next();
        handle.begun = Instant::now() + delay;
        let meta = &handle.pod.metadata;
        let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
        tracing::error!(
            pod = format!("{}_{}({uid})", name.unwrap_or_default(), namespace.unwrap_or_default()),
            panic,
            seconds = delay.as_secs(),
            "the task of a pod has panicked; it is taken up again"
        );
        let message = format!("internal error: {panic}; the pod is taken up again in {} s", delay.as_secs());
        self.shared.recorder.warning(
            &task::reference(&handle.pod),
            EventReason::FailedSync.as_str(),
            message,
        );
        self.begin_task(uid.clone(), &handle, delay, None);
        self.handles.insert(uid, handle);
    }

    /// Begins to remove what belongs to pods that no source knows.
    async fn remove_orphans(&mut self) {
        let shared = Arc::clone(&self.shared);
        let list = move || {
            let uids = shared.records.uids().unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot list the records of pods");
                Vec::new()
            });
            let in_memory = shared.volumes.uids().unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot list the volumes in memory");
                BTreeSet::new()
            });
            let containers =
                shared.runtime.containers().containers.into_iter().map(|container| container.pod_uid);
            let sandboxes = shared.runtime.sandboxes();
            uids.into_iter().chain(in_memory).chain(containers).chain(sandboxes).collect::<BTreeSet<String>>()
        };
        let uids = tokio::task::spawn_blocking(list).await.unwrap_or_else(|error| {
            let panic = error.try_into_panic().map(|panic| panics::message(panic.as_ref()));
            tracing::error!(?panic, "cannot list what is left of pods");
            BTreeSet::new()
        });
        for uid in uids {
            let is_known = self.handles.contains_key(&uid)
                || self.waiting.contains_key(&uid)
                || self.removing.contains(&uid);
            if is_known {
                continue;
            }
            tracing::info!(pod = uid, "removing what is left of a pod that is gone");
            self.removing.insert(uid.clone());
            let shared = Arc::clone(&self.shared);
            self.tasks.spawn(async move {
                while let Err(panic) = caught(remove_pod(&shared, &uid, None)).await {
                    tracing::error!(
                        pod = uid,
                        panic,
                        "what is left of a pod could not be removed; trying again"
                    );
                    tokio::time::sleep(LATEST_RESTART).await;
                }
                EndedTask::Removal(uid)
            });
        }
    }
}

fn is_over(pod: &Pod) -> bool {
    is_terminal(pod.status.as_ref())
}

/// The next wake-up; none for ever when there is no channel.
async fn next(wakeups: &mut Option<mpsc::Receiver<String>>) -> Option<String> {
    match wakeups {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
