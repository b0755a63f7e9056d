//! Meeting a worker: the first words, and the first picture.

use std::{
    io,
    process::ExitStatus,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kubewasm_host::exit::Exit;
use tokio::{
    process::ChildStdin,
    sync::Notify,
    task::{JoinError, JoinHandle},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use super::{
    READY, SupervisorOptions,
    death::{Kills, describe},
    error::GroupError,
    process::{self, LOOK, Started},
    view::{Dead, View},
    watch::Watch,
};
use crate::{
    cgroup::Cgroup,
    protocol::{
        Versions,
        wire::{self, worker_client::WorkerClient},
    },
    worker,
};

/// A connection on which nothing comes back for this long is given up.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A worker that answers.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) worker: WorkerClient<Channel>,
    pub(super) incarnation: String,
    pub(super) pid: u32,
    /// When it was found that nobody holds the worker's lock any more.
    pub(super) died: Arc<OnceLock<Instant>>,
}

impl Client {
    pub(super) fn is_alive(&self) -> bool {
        self.died.get().is_none()
    }

    /// Tells the view how what ran in this worker ended.
    pub(super) fn lost(&self, view: &View, group: &str, exit: &Exit) {
        view.lost(group, Dead::One(&self.incarnation), exit, Timestamp::now());
    }
}

/// The connection to a worker that lived when it was last looked at.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) since: Instant,
    /// Feeds the view; ends with the worker.
    _watcher: AbortOnDropHandle<()>,
    /// The end of the pipe that the worker's life hangs on, if it does.
    _lifeline: Option<ChildStdin>,
}

/// A worker that answers and cannot be spoken to.
pub(super) struct Stranger {
    pub(super) worker: WorkerClient<Channel>,
    /// What it speaks; nothing where even that was not understood.
    pub(super) versions: Option<Versions>,
    pub(super) incarnation: String,
}

impl Stranger {
    /// What it speaks, for people.
    pub(super) fn speaks(&self) -> String {
        self.versions.map_or_else(|| "something else".to_owned(), |versions| versions.to_string())
    }
}

/// Who was met.
pub(super) enum Met {
    /// One that can be worked with.
    Worker(Box<Link>),
    /// One of another age.
    Stranger(Box<Stranger>),
}

/// What it takes to meet the worker of a group.
pub(super) struct Meeting<'a> {
    pub(super) group: &'a str,
    pub(super) options: &'a SupervisorOptions,
    pub(super) view: &'a Arc<View>,
    pub(super) kills: &'a Arc<Kills>,
    /// Told when something of the group was removed.
    pub(super) look: &'a Arc<Notify>,
}

impl Meeting<'_> {
    /// Says hello and takes the first picture. A worker that lives and does not answer stays alone.
    pub(super) async fn meet(self, started: Option<Started>) -> Result<Met, GroupError> {
        let socket = process::socket(&self.options.dir, self.group);
        let (mut exit, lifeline) = match started {
            Some(Started { exit, lifeline, .. }) => (Some(exit), lifeline),
            None => (None, None),
        };
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))
            .map_err(|error| self.no_answer(error.to_string()))?
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let mut worker = WorkerClient::new(endpoint.connect_lazy());
        let ours = self.options.versions;
        let hello = async {
            loop {
                let request = wire::HelloRequest { protocol_min: ours.min, protocol_max: ours.max };
                let failure = match worker.hello(request).await {
                    Ok(answer) => return Ok(Some(answer.into_inner())),
                    // There is a server, and its protocol is none that we know.
                    Err(status) if status.code() == Code::Unimplemented => return Ok(None),
                    Err(status) => status,
                };
                let ended = exit.as_ref().is_some_and(JoinHandle::is_finished);
                if let Some(exit) = exit.take_if(|_| ended) {
                    return Err(self.ended_early(exit.await));
                }
                if exit.is_none() && !worker::is_locked(&socket) {
                    return Err(GroupError::NoWorker { group: self.group.to_owned() });
                }
                tracing::debug!(group = self.group, %failure, "the worker does not answer yet");
                tokio::time::sleep(LOOK).await;
            }
        };
        let hello = match tokio::time::timeout(READY, hello).await {
            Ok(answer) => answer?,
            Err(_) => return Err(self.no_answer(format!("no hello within {} s", READY.as_secs()))),
        };
        let Some(hello) = hello else {
            let stranger = Stranger { worker, versions: None, incarnation: String::new() };
            return Ok(Met::Stranger(Box::new(stranger)));
        };
        let wire::HelloResponse {
            protocol_min: min, protocol_max: max, pid, incarnation, confinement, ..
        } = hello;
        let theirs = Versions { min, max };
        let Some(version) = ours.common(theirs) else {
            let stranger = Stranger { worker, versions: Some(theirs), incarnation };
            return Ok(Met::Stranger(Box::new(stranger)));
        };
        if self.options.with_parent {
            // Nobody is told of a worker that ends with the command that has started it.
            tracing::debug!(group = self.group, pid, version, ?confinement, "a worker is ready");
        } else {
            tracing::info!(group = self.group, pid, version, ?confinement, "a worker is ready");
        }
        let client = Client { worker, incarnation, pid, died: Arc::default() };
        self.view.lost(
            self.group,
            Dead::AllBut(&client.incarnation),
            &Exit::lost("the worker that hosted it is gone"),
            Timestamp::now(),
        );
        let cgroup = Cgroup::of(pid);
        if let Some(cgroup) = &cgroup {
            self.kills.note(cgroup);
        }
        let mut watch = Watch {
            group: self.group.to_owned(),
            socket,
            client: client.clone(),
            view: Arc::clone(self.view),
            kills: Arc::clone(self.kills),
            cgroup,
            look: Arc::clone(self.look),
        };
        let (synced, first) = tokio::sync::oneshot::channel();
        let watcher = tokio::spawn(async move { watch.until_dead(exit, synced).await });
        let link = Link {
            client,
            since: Instant::now(),
            _watcher: AbortOnDropHandle::new(watcher),
            _lifeline: lifeline,
        };
        match tokio::time::timeout(READY, first).await {
            Ok(Ok(())) => Ok(Met::Worker(Box::new(link))),
            Ok(Err(_)) | Err(_) => Err(self.no_answer("it does not tell what it hosts".to_owned())),
        }
    }

    fn ended_early(&self, exit: Result<io::Result<ExitStatus>, JoinError>) -> GroupError {
        let status = describe(exit.ok().and_then(Result::ok));
        let log = process::log(&process::socket(&self.options.dir, self.group)).display().to_string();
        GroupError::EndedEarly { group: self.group.to_owned(), status, log }
    }

    fn no_answer(&self, reason: String) -> GroupError {
        GroupError::NoAnswer { group: self.group.to_owned(), reason }
    }
}
