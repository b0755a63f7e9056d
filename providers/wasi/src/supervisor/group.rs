//! One group: its worker process, the connection to it, and the watch that feeds the view.

use std::{
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::{process::ChildStdin, sync::Mutex, task::JoinHandle};
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::{Channel, Endpoint};

use super::{
    CALL, READY, SupervisorError, SupervisorOptions,
    backoff::Backoff,
    view::{Dead, View},
    watch::Watch,
};
use crate::{
    protocol::{
        PROTOCOL_MAX, PROTOCOL_MIN, speaks,
        wire::{self, worker_client::WorkerClient},
    },
    worker::{self, WorkerOptions},
};

/// Between two looks at a worker that does not answer yet, or any more.
const LOOK: Duration = Duration::from_millis(50);
/// A connection on which nothing comes back for this long is given up.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// A worker says little; what it said before is thrown away beyond this, in bytes.
const WORKER_LOG_LIMIT: u64 = 1 << 20;

/// Where the worker of a group listens.
pub(super) fn socket(dir: &Path, name: &str) -> PathBuf {
    dir.join(name).join("worker.sock")
}

/// Why there is no worker to talk to.
#[derive(Debug, thiserror::Error)]
pub(super) enum GroupError {
    /// None lives, and none was asked for.
    #[error("no worker runs for group {group}")]
    NoWorker {
        /// The group.
        group: String,
    },
    /// Workers die one after the other; wait.
    #[error(
        "the worker of group {group} died {deaths} times in a row; the next one is started in {} s (see {log})",
        .pause.as_secs() + 1
    )]
    Backoff {
        /// The group.
        group: String,
        /// How many.
        deaths: u32,
        /// Until the next attempt.
        pause: Duration,
        /// Where the dead ones said why.
        log: String,
    },
    /// The process could not be started.
    #[error("cannot start a worker for group {group}: {source}")]
    Spawn {
        /// The group.
        group: String,
        #[source]
        source: io::Error,
    },
    /// It ended instead of answering.
    #[error("the worker of group {group} ended while it started ({status}); see {log}")]
    EndedEarly {
        /// The group.
        group: String,
        /// How it ended.
        status: String,
        /// Where it said why.
        log: String,
    },
    /// It lives and does not answer.
    #[error("the worker of group {group} does not answer: {reason}")]
    NoAnswer {
        /// The group.
        group: String,
        /// What was tried last.
        reason: String,
    },
    /// It is of another age.
    #[error(
        "the worker of group {group} speaks protocol {min} to {max}, and this program {PROTOCOL_MIN} to {PROTOCOL_MAX}; drain the node, end the worker (process {pid}), and start again"
    )]
    Protocol {
        /// The group.
        group: String,
        /// Oldest version it speaks.
        min: u32,
        /// Newest version it speaks.
        max: u32,
        /// Its process id.
        pid: u32,
    },
}

impl From<GroupError> for SupervisorError {
    fn from(error: GroupError) -> Self {
        Self::Worker(error.to_string())
    }
}

/// A worker that answers.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) worker: WorkerClient<Channel>,
    pub(super) incarnation: String,
    pub(super) pid: u32,
    /// False once nobody holds the worker's lock any more.
    pub(super) alive: Arc<AtomicBool>,
}

impl Client {
    /// Tells the view that what ran in this worker is lost.
    pub(super) fn lost(&self, view: &View, group: &str, why: &str) {
        view.lost(group, Dead::One(&self.incarnation), why, Timestamp::now());
    }
}

/// One group of instances that share a worker.
#[derive(Debug)]
pub(super) struct Group {
    name: String,
    options: SupervisorOptions,
    view: Arc<View>,
    /// Held while a worker is found or started, so that there is one.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    link: Option<Link>,
    backoff: Backoff,
}

/// The connection to a worker that lived when it was last looked at.
#[derive(Debug)]
struct Link {
    client: Client,
    since: Instant,
    /// Feeds the view; ends with the worker.
    _watcher: AbortOnDropHandle<()>,
    /// The end of the pipe that the worker's life hangs on, if it does.
    _lifeline: Option<ChildStdin>,
}

/// A process that was just started.
struct Started {
    exit: JoinHandle<io::Result<ExitStatus>>,
    lifeline: Option<ChildStdin>,
}

impl Group {
    pub(super) fn new(name: &str, options: &SupervisorOptions, view: Arc<View>) -> Self {
        Self { name: name.to_owned(), options: options.clone(), view, state: Mutex::default() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The worker; one that lives is found, and with `start`, one is started where none lives.
    pub(super) async fn client(&self, start: bool) -> Result<Client, GroupError> {
        let mut state = self.state.lock().await;
        if let Some(link) = &state.link {
            if link.client.alive.load(Ordering::SeqCst) {
                return Ok(link.client.clone());
            }
            let lived = link.since.elapsed();
            state.link = None;
            state.backoff.died(lived, Instant::now());
        }
        let started = if worker::is_locked(&self.socket()) {
            None
        } else if start {
            if let Some(pause) = state.backoff.pause(Instant::now()) {
                let (group, deaths, log) = (self.name.clone(), state.backoff.deaths(), self.log());
                return Err(GroupError::Backoff { group, deaths, pause, log });
            }
            Some(self.spawn()?)
        } else {
            return Err(self.no_worker());
        };
        match self.connect(started).await {
            Ok(link) => {
                let client = link.client.clone();
                state.link = Some(link);
                Ok(client)
            }
            Err(error) => {
                state.backoff.died(Duration::ZERO, Instant::now());
                Err(error)
            }
        }
    }

    /// Ends the worker and what it hosts.
    pub(super) async fn shutdown(&self, grace: Duration) {
        let Ok(mut client) = self.client(false).await else {
            return;
        };
        let grace_millis = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        let request = client.worker.shutdown(wire::ShutdownRequest { grace_millis });
        match tokio::time::timeout(grace.saturating_add(CALL), request).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(group = %self.name, %error, "cannot shut a worker down")
            }
            Err(_) => tracing::warn!(group = %self.name, "a worker takes too long to shut down"),
        }
        let gone = async {
            while worker::is_locked(&self.socket()) {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(CALL, gone).await.is_err() {
            tracing::warn!(group = %self.name, pid = client.pid, "a worker was told to end and still lives");
        }
    }

    fn socket(&self) -> PathBuf {
        socket(&self.options.dir, &self.name)
    }

    fn log(&self) -> String {
        self.socket().with_extension("log").display().to_string()
    }

    fn spawn(&self) -> Result<Started, GroupError> {
        let spawn_error = |source| GroupError::Spawn { group: self.name.clone(), source };
        let log = self.open_log().map_err(spawn_error)?;
        let mut command = self.options.program.command("worker");
        let with_parent = self.options.with_parent;
        let options = WorkerOptions {
            socket: self.socket(),
            with_parent,
            default_memory_limit: self.options.default_memory_limit,
            log: self.options.log,
            no_mounts: false,
        };
        command.args(options.args());
        // A terminal's Ctrl-C is for the process group in front, which the worker must not be in.
        command.process_group(0).stderr(Stdio::from(log));
        if with_parent {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().map_err(spawn_error)?;
        tracing::info!(group = %self.name, pid = child.id(), "started a worker");
        let lifeline = child.stdin.take();
        // Somebody must take note of its end, or it stays a zombie for as long as we live.
        let exit = tokio::spawn(async move { child.wait().await });
        Ok(Started { exit, lifeline })
    }

    fn open_log(&self) -> io::Result<std::fs::File> {
        let path = self.socket().with_extension("log");
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        if log.metadata()?.len() > WORKER_LOG_LIMIT {
            log.set_len(0)?;
        }
        Ok(log)
    }

    /// Says hello and takes the first picture. A worker that lives and does not answer stays alone.
    async fn connect(&self, started: Option<Started>) -> Result<Link, GroupError> {
        let (mut exit, lifeline) = match started {
            Some(Started { exit, lifeline }) => (Some(exit), lifeline),
            None => (None, None),
        };
        let endpoint = Endpoint::from_shared(format!("unix:{}", self.socket().display()))
            .map_err(|error| self.no_answer(error.to_string()))?
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let mut worker = WorkerClient::new(endpoint.connect_lazy());
        let hello = async {
            loop {
                let request = wire::HelloRequest { protocol_min: PROTOCOL_MIN, protocol_max: PROTOCOL_MAX };
                let failure = match worker.hello(request).await {
                    Ok(answer) => return Ok(answer.into_inner()),
                    Err(status) => status,
                };
                let ended = exit.as_ref().is_some_and(JoinHandle::is_finished);
                if let Some(exit) = exit.take_if(|_| ended) {
                    return Err(self.ended_early(exit.await));
                }
                if exit.is_none() && !worker::is_locked(&self.socket()) {
                    return Err(self.no_worker());
                }
                tracing::debug!(group = %self.name, %failure, "the worker does not answer yet");
                tokio::time::sleep(LOOK).await;
            }
        };
        let hello = match tokio::time::timeout(READY, hello).await {
            Ok(answer) => answer?,
            Err(_) => return Err(self.no_answer(format!("no hello within {} s", READY.as_secs()))),
        };
        let wire::HelloResponse { protocol_min: min, protocol_max: max, pid, incarnation, .. } = hello;
        if !speaks(min, max) {
            return Err(GroupError::Protocol { group: self.name.clone(), min, max, pid });
        }
        let client = Client { worker, incarnation, pid, alive: Arc::new(AtomicBool::new(true)) };
        self.view.lost(
            &self.name,
            Dead::AllBut(&client.incarnation),
            "the worker that hosted it is gone",
            Timestamp::now(),
        );
        let mut watch =
            Watch { group: self.name.clone(), client: client.clone(), view: Arc::clone(&self.view) };
        let (synced, first) = tokio::sync::oneshot::channel();
        let socket = self.socket();
        let watcher = tokio::spawn(async move { watch.until_dead(&socket, exit, synced).await });
        let link = Link {
            client,
            since: Instant::now(),
            _watcher: AbortOnDropHandle::new(watcher),
            _lifeline: lifeline,
        };
        match tokio::time::timeout(READY, first).await {
            Ok(Ok(())) => Ok(link),
            Ok(Err(_)) | Err(_) => Err(self.no_answer("it does not tell what it hosts".to_owned())),
        }
    }

    fn ended_early(&self, exit: Result<io::Result<ExitStatus>, tokio::task::JoinError>) -> GroupError {
        let status = describe(exit.ok().and_then(Result::ok));
        GroupError::EndedEarly { group: self.name.clone(), status, log: self.log() }
    }

    fn no_worker(&self) -> GroupError {
        GroupError::NoWorker { group: self.name.clone() }
    }

    fn no_answer(&self, reason: String) -> GroupError {
        GroupError::NoAnswer { group: self.name.clone(), reason }
    }
}

/// How a process ended, for people.
pub(super) fn describe(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "it is not known how".to_owned(), |status| status.to_string())
}
