//! The agent's side: finds or starts workers, and keeps the view of what they host.
//!
//! ```text
//!   start/stop/remove/exec ─► [Supervisor] ─► [group] ─► worker process
//!                                  │             │ Watch
//!   observe, instances ◄── [view] ◄┴─────────────┘
//!                             └── pod UIDs whose instances changed ─► wake-ups
//! ```
//!
//! Instances that share a worker form a group; the group's directory holds the worker's socket and its lock.
//! A supervisor that starts finds the sockets of living workers and adopts them. A worker is dead when
//! nobody holds its lock, which the kernel sees to; its running instances are then lost, in the view too,
//! and the next start brings up another worker, later and later if workers keep dying.

mod backoff;
mod group;
mod view;
mod watch;

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::sync::{Mutex, mpsc};

use crate::{
    host::DEFAULT_MEMORY_LIMIT, instance::Instance, logs::LogOptions, program::Program, protocol::wire,
    spec::InstanceSpec,
};
use group::{Group, GroupError};
use view::View;

/// How long a worker that was started or found may take to answer and to tell all it knows.
const READY: Duration = Duration::from_secs(20);
/// How long calls may take that need no guest's help.
const CALL: Duration = Duration::from_secs(30);

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
        }
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
    /// The worker cannot be started or reached. May pass.
    #[error("{0}")]
    Worker(String),
    /// The module cannot run. Does not pass.
    #[error("{0}")]
    Module(String),
    /// What the instance is configured with cannot be. Does not pass by itself.
    #[error("{0}")]
    Config(String),
    /// There is no such instance, or it does not run any more.
    #[error("{0}")]
    NotRunning(String),
}

/// How an exec ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit code; meaningless when `timed_out`.
    pub exit_code: i32,
    /// stdout and stderr as they came.
    pub output: Vec<u8>,
    /// It was killed because its time was over.
    pub timed_out: bool,
}

/// Keeps the workers of a node.
#[derive(Debug)]
pub struct Supervisor {
    options: SupervisorOptions,
    view: Arc<View>,
    groups: Mutex<HashMap<String, Arc<Group>>>,
}

impl Supervisor {
    /// Adopts the workers that are there. When this returns, the view knows what they host.
    ///
    /// # Errors
    /// [`SupervisorError::Dir`]. A worker that is there and does not answer is not an error here, but of
    /// the calls that need it.
    pub async fn open(options: SupervisorOptions) -> Result<Self, SupervisorError> {
        let dir = options.dir.clone();
        let names = tokio::task::spawn_blocking(move || groups_with_workers(&dir)).await.unwrap_or_default();
        let supervisor = Self { options, view: Arc::default(), groups: Mutex::default() };
        let adopt = names.iter().map(async |name| {
            let group = supervisor.group(name).await;
            match group.client(false).await {
                Ok(_) => tracing::info!(group = %name, "adopted a worker"),
                Err(error) => {
                    tracing::error!(group = %name, %error, "a worker is there and cannot be adopted")
                }
            }
        });
        futures::future::join_all(adopt).await;
        Ok(supervisor)
    }

    /// Starts an instance in the worker of a group, bringing one up if need be. The view knows it when this
    /// returns.
    ///
    /// # Errors
    /// [`SupervisorError`]; the instance does not run then.
    pub async fn start(&self, group: &str, spec: &InstanceSpec) -> Result<(), SupervisorError> {
        let group = self.group(group).await;
        let mut client = group.client(true).await?;
        // Before the answer the worker may already tell of it.
        self.view.expect(&spec.id, group.name());
        let request = wire::StartRequest { spec: Some(spec.into()) };
        let result = call(client.worker.start(request)).await;
        let instance = result.and_then(|response| {
            let instance = response.instance.ok_or_else(|| bad_answer("it names no instance"))?;
            Instance::try_from(instance).map_err(|error| bad_answer(&error.to_string()))
        });
        match instance {
            Ok(instance) => {
                self.view.changed(group.name(), &client.incarnation, instance);
                if !client.alive.load(Ordering::SeqCst) {
                    // Its watch may have reported the loss before this instance was known.
                    client.lost(&self.view, group.name(), "the worker that hosted it is gone");
                }
                Ok(())
            }
            Err(error) => {
                if matches!(error, SupervisorError::Worker(_)) {
                    // It may have started, and only the answer was lost.
                    let request = wire::RemoveRequest { id: spec.id.clone() };
                    if let Err(error) = call(client.worker.remove(request)).await {
                        tracing::warn!(instance = %spec.name, %error, "cannot tell whether an instance started");
                    }
                }
                self.view.removed(&spec.id);
                Err(error)
            }
        }
    }

    /// Asks an instance to end within `grace`. Unknown and exited ones are fine.
    ///
    /// # Errors
    /// [`SupervisorError::Worker`] when its worker cannot be reached; try again.
    pub async fn stop(&self, id: &str, grace: Duration) -> Result<(), SupervisorError> {
        let Some(group) = self.view.running_in(id) else {
            return Ok(());
        };
        let mut client = match self.group(&group).await.client(false).await {
            Ok(client) => client,
            Err(GroupError::NoWorker { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let grace_millis = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        call(client.worker.stop(wire::StopRequest { id: id.to_owned(), grace_millis })).await?;
        Ok(())
    }

    /// Forgets an instance, killing it first if it runs. Unknown ones are fine.
    ///
    /// # Errors
    /// [`SupervisorError::Worker`] when its worker cannot be reached; try again.
    pub async fn remove(&self, id: &str) -> Result<(), SupervisorError> {
        let Some(group) = self.view.group_of(id) else {
            return Ok(());
        };
        match self.group(&group).await.client(false).await {
            Ok(mut client) => {
                call(client.worker.remove(wire::RemoveRequest { id: id.to_owned() })).await?;
            }
            // What is left of it is the memory here.
            Err(GroupError::NoWorker { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.view.removed(id);
        Ok(())
    }

    /// Runs one more instance of a running instance's module to its end. Dropping the future ends it.
    ///
    /// # Errors
    /// [`SupervisorError`] when it could not be started.
    pub async fn exec(
        &self,
        id: &str,
        argv: &[String],
        timeout: Duration,
        output_limit: usize,
    ) -> Result<ExecOutput, SupervisorError> {
        let not_running = || SupervisorError::NotRunning(format!("container {id} does not run"));
        let group = self.view.running_in(id).ok_or_else(not_running)?;
        let mut client = match self.group(&group).await.client(false).await {
            Ok(client) => client,
            Err(GroupError::NoWorker { .. }) => return Err(not_running()),
            Err(error) => return Err(error.into()),
        };
        let request = wire::ExecRequest {
            id: id.to_owned(),
            argv: argv.to_vec(),
            timeout_millis: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            output_limit: output_limit as u64,
        };
        let answer = tokio::time::timeout(timeout.saturating_add(CALL), client.worker.exec(request)).await;
        let answer = answer.map_err(|_| no_answer())?.map_err(|status| of_status(&status))?.into_inner();
        let wire::ExecResponse { exit_code, output, timed_out } = answer;
        Ok(ExecOutput { exit_code, output, timed_out })
    }

    /// What is known of an instance.
    #[must_use]
    pub fn observe(&self, id: &str) -> Option<Instance> {
        self.view.get(id)
    }

    /// All instances that are known, running or ended.
    #[must_use]
    pub fn instances(&self) -> Vec<Instance> {
        self.view.all()
    }

    /// Takes the channel of the pod UIDs whose instances changed. The second call returns `None`.
    pub fn wakeups(&self) -> Option<mpsc::Receiver<String>> {
        self.view.wakeups()
    }

    /// Ends all workers and what they host.
    pub async fn shutdown(&self, grace: Duration) {
        let groups: Vec<_> = self.groups.lock().await.values().cloned().collect();
        futures::future::join_all(groups.iter().map(|group| group.shutdown(grace))).await;
    }

    async fn group(&self, name: &str) -> Arc<Group> {
        let mut groups = self.groups.lock().await;
        if let Some(group) = groups.get(name) {
            return Arc::clone(group);
        }
        let group = Arc::new(Group::new(name, &self.options, Arc::clone(&self.view)));
        groups.insert(name.to_owned(), Arc::clone(&group));
        group
    }
}

/// Names of the groups under a directory whose workers live.
fn groups_with_workers(dir: &Path) -> Vec<String> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::error!(dir = %dir.display(), %error, "cannot look for workers");
            return Vec::new();
        }
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| crate::worker::is_locked(&group::socket(dir, name)))
        .collect()
}

/// Awaits an answer for at most [`CALL`].
async fn call<T>(
    answer: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, SupervisorError> {
    let answer = tokio::time::timeout(CALL, answer).await.map_err(|_| no_answer())?;
    answer.map(tonic::Response::into_inner).map_err(|status| of_status(&status))
}

fn no_answer() -> SupervisorError {
    SupervisorError::Worker(format!("the worker did not answer within {} s", CALL.as_secs()))
}

fn bad_answer(why: &str) -> SupervisorError {
    SupervisorError::Worker(format!("the worker's answer cannot be understood: {why}"))
}

/// Whose fault a status says it is; the worker's service decides.
fn of_status(status: &tonic::Status) -> SupervisorError {
    let text = status.message().to_owned();
    match status.code() {
        tonic::Code::FailedPrecondition => SupervisorError::Module(text),
        tonic::Code::InvalidArgument => SupervisorError::Config(text),
        tonic::Code::NotFound => SupervisorError::NotRunning(text),
        _ => SupervisorError::Worker(format!("the worker could not do it: {text}")),
    }
}
