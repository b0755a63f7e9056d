//! Meeting a worker: the first words, and the first picture.

use std::{
    io,
    path::Path,
    process::ExitStatus,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use kubewasm_host::exit::Exit;
use tokio::{
    net::UnixStream,
    process::ChildStdin,
    sync::{Mutex, Notify, watch},
    task::{JoinError, JoinHandle},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use super::{
    CALL, READY, SupervisorOptions,
    claims::Claims,
    death::{Kills, describe},
    error::GroupError,
    process::{self, LOOK, Started},
    tables::Tables,
    view::{Dead, View},
    watch::Watch,
};
use crate::{
    cgroup::Cgroup,
    isolation::domain_of,
    protocol::{
        Versions,
        wire::{self, worker_client::WorkerClient},
    },
    worker,
};

/// For a connection within this machine, of which nothing is read.
const CONNECT: Duration = Duration::from_secs(1);

/// Bytes that wait at most for a caller that does not read, in a connection that is its alone.
const WINDOW: u32 = 256 << 10;

/// A worker that answers.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) worker: WorkerClient<Channel>,
    pub(super) incarnation: String,
    pub(super) pid: u32,
    /// The protocol version that is spoken with it.
    pub(super) version: u32,
    /// When it was found that nobody holds the worker's lock any more.
    pub(super) died: Arc<OnceLock<Instant>>,
    /// The revision of the tables of the network that it has; 0 for none.
    pub(super) tables: Arc<watch::Sender<u64>>,
    /// Where connections are made for calls that carry streams.
    pub(super) streams: Endpoint,
    /// What the protocol that is spoken allows.
    versions: Versions,
    /// The session that the last Hello has begun.
    session: Arc<Mutex<String>>,
}

impl Client {
    pub(super) fn is_alive(&self) -> bool {
        self.died.get().is_none()
    }

    /// The present session.
    pub(super) async fn session(&self) -> String {
        self.session.lock().await.clone()
    }

    /// Sees to it that the session is a later one than `stale`: no start that was sent in that one, and has not been
    /// begun by now, is begun any more.
    pub(super) async fn renew(&self, stale: &str) -> Result<(), tonic::Status> {
        let mut session = self.session.lock().await;
        if *session != stale {
            return Ok(());
        }
        let next = new_session();
        let Versions { min: protocol_min, max: protocol_max } = self.versions;
        let request = wire::HelloRequest { protocol_min, protocol_max, session: next.clone() };
        let mut worker = self.worker.clone();
        let hello = tokio::time::timeout(CALL, worker.hello(request)).await;
        hello.map_err(|_| tonic::Status::deadline_exceeded("the worker does not answer"))??;
        *session = next;
        Ok(())
    }
}

/// A session that there never was before on this machine.
fn new_session() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let (pid, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    format!("{pid}-{}-{count}", Timestamp::now().as_nanosecond())
}

/// The process that listens on a socket, as the kernel knows it: a worker could say anything.
async fn listener(socket: &Path) -> Option<u32> {
    let stream = tokio::time::timeout(CONNECT, UnixStream::connect(socket)).await.ok()?.ok()?;
    u32::try_from(stream.peer_cred().ok()?.pid()?).ok().filter(|pid| *pid > 0)
}

/// The connection to a worker that lived when it was last looked at.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) since: Instant,
    /// Feeds the view; ends with the worker.
    _watcher: AbortOnDropHandle<()>,
    /// Keeps the worker's tables of the network up to date, where it has any.
    _tables: Option<AbortOnDropHandle<()>>,
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
    pub(super) claims: &'a Arc<Claims>,
    pub(super) kills: &'a Arc<Kills>,
    pub(super) tables: &'a Arc<Tables>,
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
            .http2_keep_alive_interval(self.options.keep_alive)
            .keep_alive_timeout(self.options.keep_alive)
            .keep_alive_while_idle(true);
        let mut worker = WorkerClient::new(endpoint.clone().connect_lazy());
        let ours = self.options.versions;
        let hello = async {
            loop {
                // One that went unanswered may be read later, and must not bring back a session that was in use.
                let session = new_session();
                let request = wire::HelloRequest {
                    protocol_min: ours.min,
                    protocol_max: ours.max,
                    session: session.clone(),
                };
                let failure = match worker.hello(request).await {
                    Ok(answer) => return Ok(Some((answer.into_inner(), session))),
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
        let Some((hello, session)) = hello else {
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
        let pid = match listener(&socket).await {
            Some(listener) if listener != pid => {
                let group = self.group;
                tracing::error!(
                    group,
                    says = pid,
                    listener,
                    "a worker says that it is another process than it is"
                );
                listener
            }
            _ => pid,
        };
        if self.options.with_parent {
            // Nobody is told of a worker that ends with the command that has started it.
            tracing::debug!(group = self.group, pid, version, ?confinement, "a worker is ready");
        } else {
            tracing::info!(group = self.group, pid, version, ?confinement, "a worker is ready");
        }
        let session = Arc::new(Mutex::new(session));
        let client = Client {
            worker,
            incarnation,
            pid,
            version,
            died: Arc::default(),
            tables: Arc::new(watch::Sender::new(0)),
            streams: endpoint.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW),
            versions: ours,
            session,
        };
        let loss = Exit::lost("the worker that hosted it is gone");
        let gone = self.view.lost(self.group, Dead::AllBut(&client.incarnation), &loss, Timestamp::now());
        self.claims.release(self.group, gone).await;
        let cgroup = Cgroup::of(pid);
        if let Some(cgroup) = &cgroup {
            self.kills.note(cgroup);
        }
        let mut watch = Watch {
            group: self.group.to_owned(),
            socket,
            client: client.clone(),
            view: Arc::clone(self.view),
            claims: Arc::clone(self.claims),
            refused: 0,
            kills: Arc::clone(self.kills),
            cgroup,
            look: Arc::clone(self.look),
        };
        let (synced, first) = tokio::sync::oneshot::channel();
        let watcher = tokio::spawn(async move { watch.until_dead(exit, synced).await });
        let watcher = AbortOnDropHandle::new(watcher);
        match tokio::time::timeout(READY, first).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(self.no_answer("it does not tell what it hosts".to_owned())),
        }
        let link = Link {
            _tables: self.tell_tables(&client).await?,
            client,
            since: Instant::now(),
            _watcher: watcher,
            _lifeline: lifeline,
        };
        Ok(Met::Worker(Box::new(link)))
    }

    /// Hands the worker the tables of the network, before anything is started in it, and goes on doing so.
    async fn tell_tables(&self, client: &Client) -> Result<Option<AbortOnDropHandle<()>>, GroupError> {
        if client.version < Versions::TABLES {
            // Where pods have the node's address, they are nobody's to know.
            if domain_of(self.group).is_none() {
                return Ok(None);
            }
            tracing::info!(
                group = self.group,
                pid = client.pid,
                version = client.version,
                "a worker of an earlier version of kubewasm knows no Services; its containers reach those when they are \
                 started again, by a newer worker"
            );
            return Ok(None);
        }
        let delivered = tokio::time::timeout(READY, self.tables.deliver(client, None)).await;
        let delivered =
            delivered.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("it takes too long")));
        let revision = delivered
            .map_err(|status| self.no_answer(format!("the network's tables: {}", status.message())))?;
        client.tables.send_replace(revision.unwrap_or(0));
        let keep = Arc::clone(self.tables).keep(self.group.to_owned(), client.clone(), revision);
        Ok(Some(AbortOnDropHandle::new(tokio::spawn(keep))))
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
