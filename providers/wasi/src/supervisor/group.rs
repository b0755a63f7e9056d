//! One group: its worker, while there is one, and whether it is still needed.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use kubewasm_network::PodNetwork;
use tokio::sync::{Mutex, Notify};
use tonic::Code;

use super::{
    CALL, InstancePlace, SupervisorOptions,
    backoff::WorkerDeaths,
    claims::Claims,
    connect::{Client, Link, Meeting, Met},
    death::Kills,
    error::GroupError,
    mounting::Mounter,
    network,
    process::{self, Started},
    replace,
    tables::Tables,
    tally::WorkerTally,
    view::View,
};
use crate::{
    cgroup::{Cgroup, OF_A_WORKER, Parent},
    protocol::wire,
    worker,
};

/// What all groups share.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) options: SupervisorOptions,
    pub(super) view: Arc<View>,
    pub(super) claims: Arc<Claims>,
    pub(super) kills: Arc<Kills>,
    /// Where workers have cgroups of their own, if they can.
    pub(super) cgroups: Option<Parent>,
    /// Who makes the files of containers.
    pub(super) mounter: Mounter,
    /// The network of pods that have addresses of their own.
    pub(super) network: Option<PodNetwork>,
    /// What workers know of the network.
    pub(super) tables: Arc<Tables>,
    /// What is counted of workers.
    pub(super) tally: Arc<WorkerTally>,
}

/// One group of instances that share a worker.
#[derive(Debug)]
pub(super) struct Group {
    name: String,
    common: Arc<Common>,
    /// Starts that are under way.
    starting: AtomicUsize,
    /// Notified when the group may not be needed any more.
    look: Arc<Notify>,
    state: Mutex<GroupState>,
}

#[derive(Debug, Default)]
struct GroupState {
    link: Option<Box<Link>>,
    backoff: WorkerDeaths,
    /// The worker's own cgroup.
    cgroup: Option<OwnCgroup>,
}

/// The cgroup of one worker.
#[derive(Debug)]
struct OwnCgroup {
    cgroup: Cgroup,
    /// The limit that it was given by this agent.
    limit: Option<Limit>,
}

/// What a worker may have, in bytes; `None` is as much as all of them may.
type Limit = Option<u64>;

/// A start that is under way: the group's worker is needed.
#[derive(Debug)]
pub(super) struct Need<'a>(&'a Group);

impl Drop for Need<'_> {
    fn drop(&mut self) {
        self.0.starting.fetch_sub(1, Ordering::SeqCst);
        self.0.look.notify_one();
    }
}

impl Group {
    pub(super) fn new(name: &str, common: Arc<Common>) -> Self {
        Self {
            name: name.to_owned(),
            common,
            starting: AtomicUsize::new(0),
            look: Arc::default(),
            state: Mutex::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Notified when the group may not be needed any more.
    pub(super) fn look(&self) -> &Notify {
        &self.look
    }

    /// Keeps the group's worker from being stopped for want of instances.
    pub(super) fn need(&self) -> Need<'_> {
        self.starting.fetch_add(1, Ordering::SeqCst);
        Need(self)
    }

    /// Nothing runs here, nothing has ended and waits to be noted, and nothing is being started.
    pub(super) fn is_idle(&self) -> bool {
        self.starting.load(Ordering::SeqCst) == 0 && !self.common.view.has(&self.name)
    }

    /// The worker, if one lives.
    pub(super) async fn client(&self) -> Result<Client, GroupError> {
        self.find(None).await
    }

    /// The worker; one is started where none lives.
    pub(super) async fn client_for(&self, place: &InstancePlace) -> Result<Client, GroupError> {
        self.find(Some(place)).await
    }

    async fn find(&self, place: Option<&InstancePlace>) -> Result<Client, GroupError> {
        let mut state = self.state.lock().await;
        if let Some(client) = state.living(&self.common.tally) {
            if let Some(place) = place {
                self.limit(&mut state, limit_of(place)).await;
            }
            return Ok(client);
        }
        let mut met = None;
        if worker::is_locked(&self.socket()) {
            // It may be in a cgroup of its own already, or come from an agent that made none for it.
            if let Some(pid) = process::holder(&self.socket()) {
                self.enter_cgroup(&mut state, pid.as_raw_pid().unsigned_abs(), None).await;
            }
            match self.meet(&mut state, None).await? {
                Met::Worker(link) => met = Some(link),
                Met::Stranger(stranger) => {
                    let ours = self.common.options.versions;
                    if !replace::end(&self.name, &self.socket(), *stranger, ours, &self.common.view).await {
                        let pid = process::holder(&self.socket()).map(|pid| pid.to_string());
                        let (group, pid) = (self.name.clone(), pid.unwrap_or_default());
                        return Err(GroupError::Stays { group, pid });
                    }
                }
            }
        }
        let link = match (met, place) {
            (Some(link), _) => link,
            (None, None) => return Err(GroupError::NoWorker { group: self.name.clone() }),
            (None, Some(place)) => self.start(&mut state, place).await?,
        };
        let client = link.client.clone();
        state.link = Some(link);
        Ok(client)
    }

    /// Starts a worker and waits until it answers.
    async fn start(&self, state: &mut GroupState, place: &InstancePlace) -> Result<Box<Link>, GroupError> {
        if let Some(pause) = state.backoff.pause(Instant::now()) {
            let log = process::log(&self.socket()).display().to_string();
            let (group, deaths) = (self.name.clone(), state.backoff.deaths());
            return Err(GroupError::Backoff { group, deaths, pause, log });
        }
        let namespace =
            network::enter(self.common.network.as_ref(), &self.name, place.namespace.as_deref()).await?;
        let started = process::spawn(&self.socket(), &self.common.options, namespace.as_deref())
            .map_err(|source| GroupError::Spawn { group: self.name.clone(), source })?;
        self.common.tally.started();
        tracing::debug!(group = %self.name, pid = started.pid, "started a worker");
        if let Some(pid) = started.pid {
            self.enter_cgroup(state, pid, Some(limit_of(place))).await;
        }
        match self.meet(state, Some(started)).await? {
            Met::Worker(link) => Ok(link),
            Met::Stranger(stranger) => {
                let (group, ours) = (self.name.clone(), self.common.options.versions);
                let theirs = stranger.speaks();
                process::signal(&self.socket(), rustix::process::Signal::KILL);
                state.backoff.died(Duration::ZERO, Instant::now());
                Err(GroupError::Protocol { group, theirs, ours })
            }
        }
    }

    async fn meet(&self, state: &mut GroupState, started: Option<Started>) -> Result<Met, GroupError> {
        let Common { options, view, claims, kills, tables, .. } = &*self.common;
        let meeting = Meeting { group: &self.name, options, view, claims, kills, tables, look: &self.look };
        let met = meeting.meet(started).await;
        if met.is_err() {
            self.common.tally.died();
            state.backoff.died(Duration::ZERO, Instant::now());
        }
        // Also of one that hosts nothing: it is not needed.
        self.look.notify_one();
        met
    }

    /// Gives a worker a cgroup of its own, where that is possible; without a limit, it keeps the one that it has.
    async fn enter_cgroup(&self, state: &mut GroupState, pid: u32, limit: Option<Limit>) {
        let Some(parent) = self.common.cgroups.clone() else { return };
        let name = self.name.clone();
        let enter = move || {
            let cgroup = parent.child(&name)?;
            if let Some(limit) = limit {
                cgroup.limit(limit)?;
            }
            cgroup.add(pid)?;
            Ok::<_, crate::cgroup::CgroupError>(cgroup)
        };
        match tokio::task::spawn_blocking(enter).await {
            Ok(Ok(cgroup)) => state.cgroup = Some(OwnCgroup { cgroup, limit }),
            Ok(Err(error)) => {
                tracing::warn!(group = %self.name, %error, "a worker has no cgroup of its own")
            }
            Err(error) => tracing::error!(group = %self.name, %error, "a worker has no cgroup of its own"),
        }
    }

    /// Removes the cgroup of a worker that is gone.
    async fn leave_cgroup(&self, state: &mut GroupState) {
        state.cgroup = None;
        let Some(parent) = self.common.cgroups.clone() else { return };
        let cgroup = parent.at(&self.name);
        self.common.kills.forget(&cgroup);
        let remove = move || {
            cgroup.remove().unwrap_or_else(|error| tracing::warn!(%error, "a cgroup stays"));
            parent.leave();
        };
        if let Err(error) = tokio::task::spawn_blocking(remove).await {
            tracing::error!(group = %self.name, %error, "a cgroup stays");
        }
    }

    /// Changes what the only pod of this group may have, while `resize` tells its worker: what is more is given before, and
    /// what is less is taken when the worker has agreed, because the kernel would end it for what it has.
    pub(super) async fn around_resize<T, E>(
        &self,
        memory_limit: Option<u64>,
        resize: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let limit = memory_limit.map(|bytes| bytes.saturating_add(OF_A_WORKER));
        let is_more = |known: Limit| known.is_some_and(|known| limit.is_none_or(|limit| limit > known));
        {
            let mut state = self.state.lock().await;
            if state.cgroup.as_ref().and_then(|own| own.limit).is_some_and(is_more) {
                self.limit(&mut state, limit).await;
            }
        }
        let resized = resize.await?;
        let mut state = self.state.lock().await;
        self.limit(&mut state, limit).await;
        Ok(resized)
    }

    /// Keeps the limit of the worker's cgroup up to date: pods can be resized.
    async fn limit(&self, state: &mut GroupState, limit: Limit) {
        let Some(own) = state.cgroup.as_mut().filter(|own| own.limit != Some(limit)) else { return };
        own.limit = Some(limit);
        let cgroup = own.cgroup.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || cgroup.limit(limit)).await {
            tracing::warn!(group = %self.name, %error, "the memory limit of a worker was not changed");
        }
    }

    /// Ends the worker and what it hosts.
    pub(super) async fn shutdown(&self, grace: Duration) {
        let Ok(mut client) = self.client().await else {
            return;
        };
        let grace_millis = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let request = client.worker.shutdown(wire::ShutdownRequest { grace_millis, only_if_empty: false });
        match tokio::time::timeout(grace.saturating_add(CALL), request).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(group = %self.name, %error, "cannot shut a worker down")
            }
            Err(_) => tracing::warn!(group = %self.name, "a worker takes too long to shut down"),
        }
        if !process::is_gone(&self.socket(), CALL).await {
            tracing::warn!(group = %self.name, pid = client.pid, "a worker was told to end and still lives");
        }
    }

    /// Ends the worker if nothing needs it, and removes what it leaves. True when nothing is left of the group:
    /// no worker, no files, and no memory of workers that died.
    ///
    /// No start can come in between: it counts itself before it waits for the state, which is held here; and
    /// the worker itself refuses if it hosts anything that is not known here.
    pub(super) async fn retire(&self) -> bool {
        let mut state = self.state.lock().await;
        if !self.is_idle() {
            return false;
        }
        if let Some(mut client) = state.living(&self.common.tally) {
            let request = wire::ShutdownRequest { grace_millis: 0, only_if_empty: true };
            let request = client.worker.shutdown(request);
            match tokio::time::timeout(CALL, request).await {
                Ok(Ok(_)) => {}
                Ok(Err(status)) if status.code() == Code::FailedPrecondition => return false,
                // It may be ending for another reason.
                Ok(Err(error)) => tracing::debug!(group = %self.name, %error, "a worker does not retire"),
                Err(_) => tracing::warn!(group = %self.name, "a worker does not answer"),
            }
            if !process::is_gone(&self.socket(), CALL).await {
                tracing::warn!(group = %self.name, pid = client.pid, "a worker that is not needed stays");
                return false;
            }
            tracing::info!(group = %self.name, pid = client.pid, "stopped a worker that nobody needed");
            state.link = None;
        } else if worker::is_locked(&self.socket()) {
            return false;
        }
        self.leave_cgroup(&mut state).await;
        network::leave(self.common.network.as_ref(), &self.name).await;
        if !state.backoff.is_calm(Instant::now()) {
            return false;
        }
        self.common.claims.end(&self.name).await;
        let dir = self.common.options.dir.join(&self.name);
        let remove = move || {
            if let Err(error) = kubewasm_trees::remove(&dir) {
                tracing::warn!(%error, "what a worker has left stays");
            }
        };
        tokio::task::spawn_blocking(remove).await.is_ok()
    }

    /// Where the worker listens.
    pub(super) fn socket(&self) -> PathBuf {
        process::socket(&self.common.options.dir, &self.name)
    }
}

/// What the worker of a place may have: its only pod's limit, and what it needs itself. Pods that share a worker are
/// held to theirs by the worker.
fn limit_of(place: &InstancePlace) -> Limit {
    let guests = place.memory_limit.filter(|_| place.alone)?;
    Some(guests.saturating_add(OF_A_WORKER))
}

impl GroupState {
    /// The worker that is linked, if it lives. One that has died is taken note of.
    fn living(&mut self, tally: &WorkerTally) -> Option<Client> {
        let link = self.link.as_ref()?;
        let Some(died) = link.client.died.get().copied() else { return Some(link.client.clone()) };
        tally.died();
        self.backoff.died(died.saturating_duration_since(link.since), died);
        self.link = None;
        self.cgroup = None;
        None
    }
}
