//! The worker: a process that hosts instances for an agent, and outlives it.
//!
//! ```text
//!   socket ─► [service] ─► [table] ◄─ exits ── one task per instance ─► [crate::host] ─► guest
//!                │            │                                          (guests' threads)
//!                └── Watch ◄──┘ changes
//!            (control threads)
//! ```
//!
//! Guests have threads of their own, at a lower priority than those that do everything else ([threads]), so
//! that however busy the guests are, the worker answers, notices exits and stops them.
//!
//! The table keeps what happened until the agent says `Remove`: an agent that comes back learns the
//! true exit codes and times of what ended meanwhile. The worker ends on `Shutdown`, on SIGTERM, with its
//! parent if told so, and when its socket has been deleted, because then nobody could ever find it again
//! while a successor may already run the same pods. SIGINT and SIGHUP are ignored: they are meant for the
//! program in the foreground, which is the agent.

mod confine;
mod hosting;
mod process;
mod service;
mod table;
mod threads;

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kubewasm_host::{DEFAULT_MEMORY_LIMIT, Host, HostError, HostOptions, capacity};
use tokio_util::sync::CancellationToken;

pub(crate) use process::{is_locked, lock_path};

use crate::{
    files::{self, Files, UserMapError, Way},
    logs::LogOptions,
    protocol::Versions,
};

/// How long guests have to end when the worker is told to by a signal, or by the end of its parent.
const GRACE_AT_SIGNAL: Duration = Duration::from_secs(5);
/// How long open calls may take to end.
const DRAIN: Duration = Duration::from_secs(2);

/// How a worker runs. On the command line, as [`WorkerOptions::args`] writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerOptions {
    /// Where it listens. The directory is made if need be, and is the worker's own.
    pub socket: PathBuf,
    /// End when standard input ends: the parent holds the other end, and dies holding it.
    pub with_parent: bool,
    /// Bytes; for instances without a limit of their own.
    pub default_memory_limit: u64,
    /// When log files are rotated.
    pub log: LogOptions,
    /// Make no mounts, as on a host that allows none.
    pub no_mounts: bool,
    /// Files and directories that it must not see, as far as the host allows it.
    pub hidden: Vec<PathBuf>,
    /// Protocol versions that it speaks. Not on the command line: others than its own are for tests.
    pub versions: Versions,
}

impl WorkerOptions {
    /// The defaults, for a worker on this socket.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            with_parent: false,
            default_memory_limit: DEFAULT_MEMORY_LIMIT,
            log: LogOptions::default(),
            no_mounts: false,
            hidden: Vec::new(),
            versions: Versions::OURS,
        }
    }

    /// The options as arguments of the subcommand `worker`, which must read them back: `--socket <path>`,
    /// `--default-memory-limit <bytes>`, `--log-max-size <bytes>`, `--log-max-files <count>`, `--hidden <path>`
    /// for each of those, and, if so, `--with-parent` and `--no-mounts`.
    #[must_use]
    pub fn args(&self) -> Vec<OsString> {
        let mut args = vec![OsString::from("--socket"), self.socket.clone().into()];
        for (flag, value) in [
            ("--default-memory-limit", self.default_memory_limit),
            ("--log-max-size", self.log.max_size),
            ("--log-max-files", self.log.max_files.into()),
        ] {
            args.extend([flag.into(), value.to_string().into()]);
        }
        for path in &self.hidden {
            args.extend(["--hidden".into(), path.clone().into()]);
        }
        for (flag, is_set) in [("--with-parent", self.with_parent), ("--no-mounts", self.no_mounts)] {
            if is_set {
                args.push(flag.into());
            }
        }
        args
    }
}

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Another worker has this socket.
    #[error("another worker already runs on {socket}")]
    AlreadyRunning {
        /// The socket.
        socket: String,
    },
    /// The path of the socket is longer than Unix allows.
    #[error(
        "the socket path {socket} has {length} bytes, and Unix sockets have at most {most}; choose a shorter root directory"
    )]
    SocketPath {
        /// The socket.
        socket: String,
        /// Its length in bytes.
        length: usize,
        /// The longest that works.
        most: usize,
    },
    /// Files or the socket could not be set up.
    #[error("cannot {what} {path}: {source}")]
    Setup {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Threads or signals could not be set up.
    #[error("cannot set up the worker's threads and signals: {0}")]
    Runtime(#[source] io::Error),
    /// The process is of no use.
    #[error(transparent)]
    UserMap(#[from] UserMapError),
    /// WASI could not be set up.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The server failed.
    #[error("the worker's server failed: {0}")]
    Serve(String),
}

/// What the subcommand `worker` does: hosts instances until it is told to end. Must be called while the process
/// has one thread, and so not from within an async runtime; it makes its own. It closes all
/// files that the process has open, but for its standard streams.
///
/// # Errors
/// [`WorkerError`], before anything runs, but for [`WorkerError::Serve`].
pub fn run(mut options: WorkerOptions) -> Result<(), WorkerError> {
    kubewasm_host::confine::close_inherited().map_err(WorkerError::Runtime)?;
    leave_directory(&mut options)?;
    let files = enter_namespace(&options)?;
    let confinement = confine::apply(&options, files.has_mounts());
    tracing::info!(?confinement, "the worker is confined");
    let runtimes = threads::Runtimes::new().map_err(WorkerError::Runtime)?;
    let result = runtimes.control().block_on(serve(options, files, confinement, runtimes.threads()));
    runtimes.shutdown();
    result
}

/// Leaves the agent's working directory, from which a path leads to what is going to be hidden below it.
fn leave_directory(options: &mut WorkerOptions) -> Result<(), WorkerError> {
    let failed = |what, path: &Path| {
        let path = path.display().to_string();
        move |source| WorkerError::Setup { what, path, source }
    };
    for path in std::iter::once(&mut options.socket).chain(&mut options.hidden) {
        *path = std::path::absolute(&path).map_err(failed("find", path))?;
    }
    std::env::set_current_dir("/").map_err(failed("enter", Path::new("/")))
}

/// Finds out how guests get their files. From here on, mounts are the worker's own.
fn enter_namespace(options: &WorkerOptions) -> Result<Files, WorkerError> {
    let way = if options.no_mounts {
        Way::Preopens { why: "the worker was told to make no mounts".to_owned() }
    } else {
        files::enter(process::make_home(&options.socket)?)?
    };
    match &way {
        Way::Mounts { user_namespace } => tracing::info!(user_namespace, "guests have one root of mounts"),
        Way::Preopens { why } => tracing::warn!(
            why,
            "this host allows no mounts: guests have a preopened directory for each of their volumes, images are \
             copied, and single files cannot always be shown"
        ),
    }
    Ok(Files::new(way))
}

async fn serve(
    options: WorkerOptions,
    files: Files,
    confinement: Vec<String>,
    threads: hosting::Threads,
) -> Result<(), WorkerError> {
    let end = CancellationToken::new();
    process::catch_signals(&end).map_err(WorkerError::Runtime)?;
    process::raise_file_limit();
    let home = process::Home::take(&options.socket)?;
    if options.with_parent {
        process::end_with_stdin(end.clone()).map_err(WorkerError::Runtime)?;
    }
    let host = Host::new(HostOptions {
        default_memory_limit: options.default_memory_limit,
        ..HostOptions::new(home.empty_root())
    })?;
    let hosting = hosting::Hosting::new(Arc::new(host), files, threads, options.log, capacity::guests());
    let served = CancellationToken::new();
    let listener = home.listen()?;
    let server = tonic::transport::Server::builder()
        .add_service(service::server(hosting.clone(), served.clone(), options.versions, confinement))
        .serve_with_incoming_shutdown(tokio_stream::wrappers::UnixListenerStream::new(listener), {
            let served = served.clone();
            async move { served.cancelled().await }
        });
    let mut server = tokio::spawn(server);
    tracing::info!(socket = %options.socket.display(), "worker is ready");

    let finished = tokio::select! {
        result = &mut server => Some(result),
        () = served.cancelled() => None,
        () = end.cancelled() => None,
        () = home.deleted() => {
            tracing::error!(socket = %options.socket.display(), "the worker's socket was deleted: ending");
            None
        }
    };
    hosting.stop_all(GRACE_AT_SIGNAL).await;
    home.leave();
    served.cancel();
    let finished = match finished {
        Some(result) => result,
        None => match tokio::time::timeout(DRAIN, server).await {
            Ok(result) => result,
            Err(_) => return Ok(()),
        },
    };
    match finished {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(WorkerError::Serve(error.to_string())),
        Err(error) => Err(WorkerError::Serve(error.to_string())),
    }
}
