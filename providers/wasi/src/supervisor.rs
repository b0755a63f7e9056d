//! The agent's side: finds or starts workers, and keeps the view of what they host.
//!
//! ```text
//!         files ─► [mounting] ─► mounter process, open directories ──┐
//!   start/stop/remove/exec ─► [Supervisor] ─► [group] ─► worker process
//!                                  │             │ Watch
//!   observe, instances ◄── [view] ◄┴─────────────┘
//!                             └── pod UIDs whose instances changed ─► wake-ups
//! ```
//!
//! Instances that share a worker form a group; the group's directory holds the worker's socket and its lock.
//! A supervisor that starts finds the sockets of living workers and adopts them. A worker is dead when
//! nobody holds its lock, which the kernel sees to; its running instances are then lost, in the view too,
//! and the next start brings up another worker, later and later if workers keep dying. One that lives and does not
//! answer is not dead: what it hosts is neither lost nor absent until it answers or dies.
//!
//! Which group an id belongs to is the agent's own knowledge, kept in [`claims`]; what workers say of others' ids is
//! refused.

mod adopt;
mod backoff;
mod claims;
mod connect;
mod death;
mod error;
mod group;
mod idle;
mod listens;
mod mounting;
mod network;
mod process;
mod replace;
mod requests;
mod resize;
mod start;
mod stats;
mod streams;
mod tables;
mod tally;
mod view;
mod wake;
mod watch;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use kubewasm_host::{DEFAULT_MEMORY_LIMIT, program::Program};
use kubewasm_kubelet::{
    runtime::{NetworkRules, ServiceTable},
    traces,
};
use kubewasm_network::{NetworkError, PodNetwork};
use kubewasm_rules::Addresses;
use tokio::sync::{mpsc, oneshot};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};

use crate::{
    cgroup::Parent,
    confine::Confinement,
    instance::Instance,
    isolation,
    logs::LogOptions,
    protocol::{Versions, wire},
    spec::InstanceSpec,
};
pub use claims::{Claim, ClaimError};
pub use error::GroupError;
pub use resize::ResizeFailure;
pub use streams::{ForwardedConnection, ImageProgram};
pub(crate) use tally::WorkerTally;
pub use view::Sighting;

use claims::Claims;
use group::{Common, Group};
use idle::{Groups, Kept};
use mounting::Mounter;
use start::{Start, Starts};
use view::{Ledger, View};

/// How long a worker that was started or found may take to answer and to tell all it knows.
const READY: Duration = Duration::from_secs(20);
/// See [`SupervisorOptions::adopt`].
const ADOPT: Duration = Duration::from_secs(10);
/// See [`SupervisorOptions::keep_alive`].
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long calls may take that need no guest's help. What has not been answered by then may have been done.
const CALL: Duration = Duration::from_secs(30);

/// How long an exec goes on whose caller has set no time of its own.
const EXEC: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a worker without instances is kept: starting one costs more than keeping one.
const LINGER: Duration = Duration::from_secs(10);
/// How long a worker may take to say what is used: whoever asks wants it now, or not at all.
const STATS: Duration = Duration::from_secs(5);

/// How workers are kept.
#[derive(Clone, Debug)]
pub struct SupervisorOptions {
    /// Directory that holds one directory per group.
    pub dir: PathBuf,
    /// The program whose subcommand `worker` is a worker.
    pub program: Program,
    /// Workers end with this process, instead of waiting for the next.
    pub with_parent: bool,
    /// Bytes; for instances without a limit of their own.
    pub default_memory_limit: u64,
    /// When log files are rotated.
    pub log: LogOptions,
    /// How long a worker without instances is kept.
    pub linger: Duration,
    /// How long a supervisor that starts waits for the workers that it finds before it goes on without those that do
    /// not answer.
    pub adopt: Duration,
    /// A connection on which nothing comes back for this long, and as long again, is given up: its calls have no
    /// answer then.
    pub keep_alive: Duration,
    /// Files and directories that workers must not see, as far as the host allows it.
    pub hidden: Vec<PathBuf>,
    /// Directories in those that workers see nevertheless, and may not change.
    pub shown: Vec<PathBuf>,
    /// Whether workers run that cannot be confined as a whole.
    pub confinement: Confinement,
    /// Pods have addresses of their own, in network namespaces that workers are started in; by this name the node is
    /// told from others on this machine. `None`: all workers are in the agent's.
    pub network: Option<String>,
    /// Workers get memory cgroups of their own below one of the node, where the host allows it; `None` makes none.
    pub cgroups: Option<CgroupOptions>,
    /// Protocol versions to speak with workers; others than its own are for tests.
    pub versions: Versions,
}

impl SupervisorOptions {
    /// The defaults, with workers below `dir`.
    pub fn new(dir: impl Into<PathBuf>, program: Program) -> Self {
        Self {
            dir: dir.into(),
            program,
            with_parent: false,
            default_memory_limit: DEFAULT_MEMORY_LIMIT,
            log: LogOptions::default(),
            linger: LINGER,
            adopt: ADOPT,
            keep_alive: KEEP_ALIVE,
            hidden: Vec::new(),
            shown: Vec::new(),
            confinement: Confinement::default(),
            network: None,
            cgroups: None,
            versions: Versions::OURS,
        }
    }
}

/// How the cgroups of workers and compilers are limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupOptions {
    /// Bytes that all of them may have together: what the node can allocate. `None` for no limit.
    pub memory: Option<u64>,
}

/// Where an instance is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstancePlace {
    /// Name of the group whose worker hosts it: a plain name for a directory.
    pub group: String,
    /// What belongs together is alone in this group: its cgroup has a limit.
    pub alone: bool,
    /// Bytes that all guests of such a group may have together; `None` for no limit.
    pub memory_limit: Option<u64>,
    /// The network namespace that the group's worker is started in, by the file that it is mounted on, where it is the
    /// group's alone and made by others.
    pub namespace: Option<PathBuf>,
}

impl From<&str> for InstancePlace {
    /// A group that anybody may share.
    fn from(group: &str) -> Self {
        Self { group: group.to_owned(), alone: false, memory_limit: None, namespace: None }
    }
}

/// Why the supervisor could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The directory of workers cannot be used.
    #[error("cannot use the directory of workers {path}: {source}")]
    Dir {
        /// The directory.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Workers would not be confined as they have to be.
    #[error("workers do not start: {0}")]
    Confinement(#[source] io::Error),
    /// The worker cannot be started or asked, or could not do it. May pass.
    #[error(transparent)]
    Worker(#[from] WorkerFailure),
    /// The module cannot run, as its worker says. Does not pass.
    #[error("{0}")]
    Module(String),
    /// What the instance is configured with cannot be, as its worker says. Does not pass by itself.
    #[error("{0}")]
    Config(String),
    /// The network of pods cannot be set up or changed. May pass.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The id cannot be had.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// Somebody asked for the end of an instance before it had started.
    #[error("the start was given up")]
    GivenUp,
    /// There is no such instance, or it does not run any more.
    #[error("container {0} does not run")]
    NotRunning(String),
    /// Its worker was started by a kubewasm that connects nobody to what runs.
    #[error(
        "the container runs in a worker of an older version of kubewasm; restart the pod to connect to it"
    )]
    OldWorker,
    /// Nobody takes a connection to a port of a pod, as its worker says.
    #[error("{0}")]
    Connection(String),
    /// The worker that may host it does not answer.
    #[error("it cannot be told whether container {0} runs: a worker does not answer")]
    CannotTell(String),
}

/// What is wrong with a worker.
#[derive(Debug, thiserror::Error)]
pub enum WorkerFailure {
    /// There is none to talk to.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// It did not answer in time.
    #[error("the worker did not answer within {} s", CALL.as_secs())]
    NoAnswer,
    /// It died before it had answered.
    #[error("the worker of group {group} (process {pid}) died while it started the container")]
    Died {
        /// The group.
        group: String,
        /// Its process id.
        pid: u32,
    },
    /// Its files cannot be made or handed over.
    #[error("cannot {what}: {source}")]
    Files {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The mounter says that the files of a container cannot be had.
    #[error("{0}")]
    NoFiles(String),
    /// It says that it could not do it.
    #[error("the worker could not do it: {0}")]
    Refused(String),
    /// The call failed on its way.
    #[error("the worker could not do it: {}", .0.message())]
    Call(#[source] Box<tonic::Status>),
}

/// How an exec ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit code.
    pub exit_code: i32,
    /// stdout and stderr as they came.
    pub output: Vec<u8>,
}

/// Keeps the workers of a node.
#[derive(Debug)]
pub struct Supervisor {
    common: Arc<Common>,
    groups: Arc<Groups>,
    starts: Starts,
    /// Adoptions that are under way; they end with the supervisor.
    _adoptions: Vec<AbortOnDropHandle<()>>,
    /// Cancelled with the supervisor: starts that are under way are left to the next.
    life: CancellationToken,
    _life: DropGuard,
}

impl Supervisor {
    /// Adopts the workers that are there, and removes what dead ones have left. When this returns, the view
    /// knows what they host. A worker that cannot be spoken to is replaced: it ends, and what it hosted.
    ///
    /// A worker that is there and does not answer in time is asked again beside all else; until it has answered,
    /// [`Supervisor::sighting`] cannot tell of what it may host.
    ///
    /// # Errors
    /// [`SupervisorError::Dir`] when it cannot be found out which workers there are, and
    /// [`SupervisorError::Confinement`] where that is required.
    pub async fn open(options: SupervisorOptions) -> Result<Self, SupervisorError> {
        let (dir, within) = (options.dir.clone(), options.adopt);
        let stock = {
            let dir = dir.clone();
            tokio::task::spawn_blocking(move || {
                let alive = process::take_stock(&dir)?;
                claims::retain(&dir, &alive)?;
                let of = |group: String| claims::read(&dir, &group).map(|claims| (group, claims));
                alive.into_iter().map(of).collect::<io::Result<Vec<_>>>()
            })
        };
        let stock = stock.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let stock =
            stock.map_err(|source| SupervisorError::Dir { path: dir.display().to_string(), source })?;
        if options.confinement == Confinement::Required {
            process::check(&options).await.map_err(SupervisorError::Confinement)?;
            mounting::check(&options).await.map_err(SupervisorError::Confinement)?;
        }
        let cgroups = match options.cgroups {
            Some(cgroups) => {
                let dir = dir.clone();
                tokio::task::spawn_blocking(move || open_cgroups(&dir, cgroups)).await.ok().flatten()
            }
            None => None,
        };
        let network = match &options.network {
            Some(name) => Some(network::open(name, &dir, &stock).await?),
            None => None,
        };
        let (view, kills) = (Arc::<View>::default(), Arc::default());
        let claims = Arc::new(Claims::new(&dir, Arc::clone(&view)));
        let common = Arc::new(Common {
            options,
            view,
            claims,
            kills,
            cgroups,
            mounter: Mounter::default(),
            network,
            tables: Arc::default(),
            tally: Arc::default(),
        });
        let life = CancellationToken::new();
        let supervisor = Self {
            common,
            groups: Arc::default(),
            starts: Starts::default(),
            _adoptions: Vec::new(),
            life: life.clone(),
            _life: life.drop_guard(),
        };
        let (mut first, mut adoptions) = (Vec::new(), Vec::new());
        for (name, claims) in stock {
            let ledger = if claims.is_some() { Ledger::Kept } else { Ledger::Missing };
            supervisor.view().is_silent(&name, ledger, claims.unwrap_or_default());
            let (tried, first_try) = oneshot::channel();
            let adopt = adopt::adopt(supervisor.group(&name).await, Arc::clone(&supervisor.common), tried);
            adoptions.push(AbortOnDropHandle::new(tokio::spawn(adopt)));
            first.push(first_try);
        }
        if tokio::time::timeout(within, futures::future::join_all(first)).await.is_err() {
            tracing::warn!(
                "going on without the workers that do not answer; what they host is not known yet"
            );
        }
        Ok(Self { _adoptions: adoptions, ..supervisor })
    }

    /// Kills the workers of the groups of this name, of whatever age, and waits until they are gone.
    ///
    /// # Errors
    /// [`SupervisorError::Dir`] when it cannot be found out which workers there are, [`SupervisorError::Worker`] when one
    /// stays.
    pub(crate) async fn kill_workers(&self, base: &str) -> Result<(), SupervisorError> {
        network::kill(&self.common.options.dir, base).await
    }

    /// What is counted of workers.
    pub(crate) fn tally(&self) -> Arc<WorkerTally> {
        Arc::clone(&self.common.tally)
    }

    /// The network of pods that have addresses of their own.
    pub(crate) fn network(&self) -> Option<&PodNetwork> {
        self.common.network.as_ref()
    }

    /// Makes these the Services that workers know: those that are here soon, and those that come before anything is started
    /// in them. What an earlier agent has told them counts until this is called.
    pub fn set_services(&self, services: &ServiceTable) {
        self.common.tables.set_services(services);
    }

    /// Makes these the rules of pods, whose node has these addresses: as [`Supervisor::set_services`].
    pub fn set_rules(&self, rules: &NetworkRules, node: Addresses) {
        self.common.tables.set_rules(rules, node);
    }

    /// Where cgroups of this node go, if it can have any.
    pub(crate) fn cgroups(&self) -> Option<&Parent> {
        self.common.cgroups.as_ref()
    }

    /// Starts an instance in the worker of a group, bringing one up if need be. Returns when the worker started it,
    /// however long that takes; the view knows it then. Dropping the future does not end the start.
    ///
    /// # Errors
    /// [`SupervisorError`]; the instance does not run then, and will not.
    pub async fn start(
        &self,
        place: impl Into<InstancePlace>,
        spec: &InstanceSpec,
    ) -> Result<Timestamp, SupervisorError> {
        let (place, id) = (place.into(), &spec.id);
        let listed = match self.starts.list(id) {
            Ok(listed) => listed,
            // Who asks twice waits for what comes of the first time.
            Err(pending) => {
                pending.over.cancelled().await;
                let known = self.view().get(id).map(|instance| instance.started_at);
                return known.ok_or(SupervisorError::GivenUp);
            }
        };
        let group = self.group(&place.group).await;
        let (pod_uid, label) = (spec.pod_uid.clone(), spec.label.clone());
        let claim = Claim { group: place.group.clone(), pod_uid, label };
        let start = Start { common: Arc::clone(&self.common), group, place, spec: spec.clone(), listed };
        let start = async move {
            // The group must not look idle before anything is claimed for it.
            let group = Arc::clone(&start.group);
            let _needed = group.need();
            start.common.claims.take(&start.spec.id, claim).await?;
            start.run().await
        };
        let start = traces::within(traces::current(), start);
        let started = tokio::spawn(self.life.clone().run_until_cancelled_owned(start)).await;
        started.ok().flatten().unwrap_or(Err(SupervisorError::GivenUp))
    }

    /// Asks an instance to end within `grace`, or gives up its start. Unknown and exited ones are fine.
    ///
    /// # Errors
    /// [`SupervisorError::Worker`] when its worker cannot be reached; try again.
    pub async fn stop(&self, id: &str, grace: Duration) -> Result<(), SupervisorError> {
        if let Some(pending) = self.starts.get(id) {
            pending.given_up.cancel();
            return Ok(());
        }
        let Some(group) = self.view().running_in(id) else {
            return self.must_be_known(id);
        };
        let mut client = match self.group(&group).await.client().await {
            Ok(client) => client,
            Err(GroupError::NoWorker { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let grace_millis = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        call(client.worker.stop(wire::StopRequest { id: id.to_owned(), grace_millis })).await?;
        Ok(())
    }

    /// Forgets an instance, killing it or giving up its start first. Unknown ones are fine. When this succeeds, nothing
    /// of it runs, and nothing will.
    ///
    /// # Errors
    /// [`SupervisorError::Worker`] when its worker cannot be reached; try again.
    pub async fn remove(&self, id: &str) -> Result<(), SupervisorError> {
        if let Some(pending) = self.starts.get(id) {
            pending.given_up.cancel();
            let over = tokio::time::timeout(CALL, pending.over.cancelled()).await;
            over.map_err(|_| WorkerFailure::NoAnswer)?;
        }
        let Some(claim) = self.view().claim_on(id) else {
            return self.must_be_known(id);
        };
        let group = self.group(&claim.group).await;
        match group.client().await {
            Ok(mut client) => {
                call(client.worker.remove(wire::RemoveRequest { id: id.to_owned() })).await?;
            }
            // What is left of it is the memory here.
            Err(GroupError::NoWorker { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.view().forget(id);
        self.common.claims.release(&claim.group, vec![id.to_owned()]).await;
        group.look().notify_one();
        Ok(())
    }

    /// Runs one more guest in a running container to its end: of the container's module, or of another program of its image.
    /// Dropping the future ends it.
    ///
    /// # Errors
    /// [`SupervisorError`] when it could not be started.
    pub async fn exec(
        &self,
        id: &str,
        argv: &[String],
        program: Option<&ImageProgram>,
        output_limit: usize,
    ) -> Result<ExecOutput, SupervisorError> {
        let mut client = self.host_of(id).await?;
        let request = wire::ExecRequest {
            id: id.to_owned(),
            argv: argv.to_vec(),
            timeout_millis: u64::try_from(EXEC.as_millis()).unwrap_or(u64::MAX),
            output_limit: output_limit as u64,
            program: program.map(Into::into),
        };
        let answer = client.worker.exec(request).await;
        let answer = answer.map_err(|status| match status.code() {
            tonic::Code::NotFound => SupervisorError::NotRunning(id.to_owned()),
            _ => of_status(status),
        })?;
        let answer = answer.into_inner();
        let wire::ExecResponse { exit_code, output, .. } = answer;
        Ok(ExecOutput { exit_code, output })
    }

    /// What is known of an instance.
    #[must_use]
    pub fn observe(&self, id: &str) -> Option<Instance> {
        self.view().get(id)
    }

    /// What can be said of an id, known or not.
    #[must_use]
    pub fn sighting(&self, id: &str) -> Sighting {
        self.view().sighting(id)
    }

    /// The claims on all ids of which something may run or has ended, and whether there are no others: false while a
    /// worker does not tell what it hosts on which no claims were kept.
    #[must_use]
    pub fn claims(&self) -> (Vec<(String, Claim)>, bool) {
        self.view().claims()
    }

    /// The claim on an id of which something may run or has ended.
    #[must_use]
    pub fn claim(&self, id: &str) -> Option<Claim> {
        self.view().claim_on(id)
    }

    /// Errs when an id that is not claimed may be hosted by a worker that does not answer.
    fn must_be_known(&self, id: &str) -> Result<(), SupervisorError> {
        match self.view().sighting(id) {
            Sighting::CannotTell => Err(SupervisorError::CannotTell(id.to_owned())),
            Sighting::Known(_) | Sighting::Starting | Sighting::Absent => Ok(()),
        }
    }

    /// All instances that are known, running or ended.
    #[must_use]
    pub fn instances(&self) -> Vec<Instance> {
        self.view().all()
    }

    /// Takes the channel of the pod UIDs whose instances changed. The second call returns `None`.
    pub fn wakeups(&self) -> Option<mpsc::Receiver<String>> {
        self.view().wakeups()
    }

    /// Ends all workers and what they host.
    pub async fn shutdown(&self, grace: Duration) {
        let kept = self.groups.lock().await;
        let groups: Vec<_> = kept.values().map(|kept| Arc::clone(&kept.group)).collect();
        drop(kept);
        futures::future::join_all(groups.iter().map(|group| group.shutdown(grace))).await;
    }

    async fn group(&self, name: &str) -> Arc<Group> {
        let mut groups = self.groups.lock().await;
        if let Some(kept) = groups.get(name) {
            return Arc::clone(&kept.group);
        }
        let group = Arc::new(Group::new(name, Arc::clone(&self.common)));
        let linger = self.common.options.linger;
        groups.insert(name.to_owned(), Kept::new(Arc::clone(&group), &self.groups, linger));
        group
    }

    fn view(&self) -> &View {
        &self.common.view
    }
}

/// The cgroup of all workers below `dir`: several nodes may share this machine.
fn open_cgroups(dir: &Path, options: CgroupOptions) -> Option<Parent> {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    match Parent::open(&isolation::digest(dir.as_os_str().as_encoded_bytes(), 8), options.memory) {
        Ok(parent) => {
            tracing::info!(cgroup = %parent.dir().display(), memory = options.memory, "workers have cgroups");
            Some(parent)
        }
        Err(error) => {
            tracing::warn!(
                %error,
                "workers have no memory cgroups: guests are held to their limits by their workers alone, and the \
                 kernel may end something else when the machine has no memory left"
            );
            None
        }
    }
}

/// Awaits an answer for at most [`CALL`].
async fn call<T>(
    answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, SupervisorError> {
    let answer = tokio::time::timeout(CALL, answer).await.map_err(|_| WorkerFailure::NoAnswer)?;
    answer.map(tonic::Response::into_inner).map_err(of_status)
}

/// Whose fault a status says it is; the worker's service decides.
fn of_status(status: tonic::Status) -> SupervisorError {
    let text = || status.message().to_owned();
    match status.code() {
        tonic::Code::FailedPrecondition => SupervisorError::Module(text()),
        tonic::Code::InvalidArgument => SupervisorError::Config(text()),
        _ => WorkerFailure::Call(Box::new(status)).into(),
    }
}

#[cfg(test)]
mod tests;
