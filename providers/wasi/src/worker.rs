//! The worker: a process that hosts instances for an agent, and outlives it.
//!
//! ```text
//!   socket ─► [service] ─► [table] ◄─ exits ── one task per instance ─► [crate::host] ─► guest
//!                │            │                         ▲                (guests' threads)
//!   socket ─► [handover] ─────────── open directories ──┘
//!                └── Watch ◄──┘ changes
//!            (control threads)
//! ```
//!
//! Guests have threads of their own, at a lower priority than those that do everything else ([threads]), so
//! that however busy the guests are, the worker answers, notices exits and stops them.
//!
//! A worker opens no files of its pods: the agent hands them over before it starts an instance ([handover]).
//!
//! The table keeps what happened until the agent says `Remove`: an agent that comes back learns the
//! true exit codes and times of what ended meanwhile. The worker ends on `Shutdown`, on SIGTERM, with its
//! parent if told so, and when its socket has been deleted, because then nobody could ever find it again
//! while a successor may already run the same pods. SIGINT and SIGHUP are ignored: they are meant for the
//! program in the foreground, which is the agent.

mod charge;
mod handover;
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
use tokio::net::UnixListener;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub(crate) use process::{handovers_path, is_locked, lock_path};

use crate::{
    confine::{self, ConfinedView, Confinement},
    files::{self, UserMapError, Way},
    logs::LogOptions,
    protocol::Versions,
    provider::annotations::STACK_ADVICE,
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
    /// Enter no mount namespace, as on a host that allows none.
    pub no_mounts: bool,
    /// Files and directories that it must not see, as far as the host allows it.
    pub hidden: Vec<PathBuf>,
    /// Directories in those that it sees nevertheless.
    pub shown: Vec<PathBuf>,
    /// Whether it runs where it cannot be confined as a whole.
    pub confinement: Confinement,
    /// It has been started in a network namespace of its own, where every port can be listened on without a capability.
    pub own_network: bool,
    /// End when it is confined, instead of hosting anything: to find out whether it can be.
    pub check: bool,
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
            shown: Vec::new(),
            confinement: Confinement::default(),
            own_network: false,
            check: false,
            versions: Versions::OURS,
        }
    }

    /// The options as arguments of the subcommand `worker`, which must read them back: `--socket <path>`,
    /// `--default-memory-limit <bytes>`, `--log-max-size <bytes>`, `--log-max-files <count>`, `--confinement <name>`,
    /// `--hidden <path>` and `--shown <path>` for each of those, and, if so, `--with-parent`, `--no-mounts`,
    /// `--own-network` and `--check`.
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
        args.extend(["--confinement".into(), self.confinement.to_string().into()]);
        for (flag, paths) in [("--hidden", &self.hidden), ("--shown", &self.shown)] {
            args.extend(paths.iter().flat_map(|path| [flag.into(), path.clone().into()]));
        }
        for (flag, is_set) in [
            ("--with-parent", self.with_parent),
            ("--no-mounts", self.no_mounts),
            ("--own-network", self.own_network),
            ("--check", self.check),
        ] {
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
    /// The host does not allow all that was required.
    #[error("workers cannot be confined here as --confinement=required asks for: {}", .missing.join("; "))]
    Confinement {
        /// What is not restricted, and why.
        missing: Vec<String>,
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
pub fn run(options: WorkerOptions) -> Result<(), WorkerError> {
    let check = options.check;
    let confined = confine(options)?;
    if check { Ok(()) } else { confined.serve() }
}

/// A process that has given up what a worker gives up, and hosts nothing yet.
#[derive(Debug)]
pub struct Confined {
    options: WorkerOptions,
    home: process::Home,
    sockets: process::Sockets,
    /// What was given up, for people.
    measures: Vec<String>,
}

/// Makes a worker of this process, as far as to confine it. For [`run`], and for those who want to see what a worker can
/// still do; the same holds for it.
///
/// # Errors
/// [`WorkerError`].
pub fn confine(mut options: WorkerOptions) -> Result<Confined, WorkerError> {
    kubewasm_host::confine::close_inherited().map_err(WorkerError::Runtime)?;
    leave_directory(&mut options)?;
    let dir = process::make_home(&options.socket)?;
    let mounts = enter_namespace(&options, dir)?;
    let view = ConfinedView { home: dir, hidden: &options.hidden, shown: &options.shown, mounts };
    let mut measures = confine::narrow(&view);
    process::raise_file_limit();
    let home = process::Home::take(&options.socket)?;
    let sockets = home.listen()?;
    measures.extend(confine::worker(options.own_network));
    let measures = confine::judge(&measures, options.confinement)
        .map_err(|missing| WorkerError::Confinement { missing })?;
    tracing::info!(?measures, "the worker is confined");
    Ok(Confined { options, home, sockets, measures })
}

impl Confined {
    fn serve(self) -> Result<(), WorkerError> {
        let runtimes = threads::Runtimes::new().map_err(WorkerError::Runtime)?;
        let result = runtimes.control().block_on(serve(self, runtimes.threads()));
        runtimes.shutdown();
        result
    }
}

/// Leaves the agent's working directory, from which a path leads to what is going to be hidden below it.
fn leave_directory(options: &mut WorkerOptions) -> Result<(), WorkerError> {
    let failed = |what, path: &Path| {
        let path = path.display().to_string();
        move |source| WorkerError::Setup { what, path, source }
    };
    let paths = [&mut options.hidden, &mut options.shown].into_iter().flatten();
    for path in std::iter::once(&mut options.socket).chain(paths) {
        *path = std::path::absolute(&path).map_err(failed("find", path))?;
    }
    std::env::set_current_dir("/").map_err(failed("enter", Path::new("/")))
}

/// Gives the process mounts of its own. False where the host does not allow it.
fn enter_namespace(options: &WorkerOptions, dir: &Path) -> Result<bool, WorkerError> {
    let way = if options.no_mounts {
        Way::Preopens { why: "the worker was told to make no mounts".to_owned() }
    } else {
        files::enter(dir)?
    };
    if let Way::Preopens { why } = &way {
        tracing::warn!(why, "this host allows no mounts: the worker sees all of its files");
    }
    Ok(matches!(way, Way::Mounts(_)))
}

async fn serve(confined: Confined, threads: hosting::Threads) -> Result<(), WorkerError> {
    let Confined { options, home, sockets, measures } = confined;
    let end = CancellationToken::new();
    process::catch_signals(&end).map_err(WorkerError::Runtime)?;
    if options.with_parent {
        process::end_with_stdin(end.clone()).map_err(WorkerError::Runtime)?;
    }
    let host = Host::new(HostOptions {
        default_memory_limit: options.default_memory_limit,
        stack_advice: STACK_ADVICE,
        ..HostOptions::new(home.empty_root())
    })?;
    let hosting = hosting::Hosting::new(Arc::new(host), threads, options.log, capacity::guests());
    let served = CancellationToken::new();
    let listen = |listener| UnixListener::from_std(listener).map_err(WorkerError::Runtime);
    let (calls, handovers) = (listen(sockets.calls)?, listen(sockets.handovers)?);
    let _handovers = AbortOnDropHandle::new(tokio::spawn(hosting.handovers().clone().serve(handovers)));
    let server = tonic::transport::Server::builder()
        .add_service(service::server(hosting.clone(), served.clone(), options.versions, measures))
        .serve_with_incoming_shutdown(tokio_stream::wrappers::UnixListenerStream::new(calls), {
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
