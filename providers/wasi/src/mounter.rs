//! The mounter: a process that makes the files of containers for their agent, and hands them out as open directories.
//!
//! ```text
//!   agent ── one end of a pair of sockets ──► control socket (standard input)
//!     │                                            │ one of a few threads
//!     └── FilesRequest ═══════════════════════► [crate::files] ── mounts, in a namespace of this process' own
//!     ◄── FilesResponse, with descriptors ═════════┘
//! ```
//!
//! It is the one process that mounts, so that no worker has the right to. It keeps nothing: what it has made belongs to
//! whoever holds the descriptors, and the agent may end, or start another mounter, at any time. An answer that nobody
//! takes is closed, and its mounts with it. It ends with its agent, by the end of standard input.

use std::{
    ffi::OsString,
    fs::DirBuilder,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{fs::DirBuilderExt as _, net::UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prost::Message as _;

use crate::{
    confine::{self, Confinement},
    files::{Files, FilesError, Made, UserMapError, Way, enter, passing},
    protocol::wire,
    spec::RootSpec,
};

/// Containers whose files are made at a time. Each waits for disks more than it computes.
const THREADS: usize = 16;
/// An agent that has asked for an answer sends its question at once, and takes the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a mounter runs. On the command line, as [`MounterOptions::args`] writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MounterOptions {
    /// A directory to try mounts with. It is made if need be, and nothing in it changes.
    pub dir: PathBuf,
    /// Make no mounts, as on a host that allows none.
    pub no_mounts: bool,
    /// Whether it runs where it cannot be confined as a whole.
    pub confinement: Confinement,
}

impl MounterOptions {
    /// The options as arguments of the subcommand `mounter`, which must read them back: `--dir <path>`,
    /// `--confinement <name>` and, if so, `--no-mounts`.
    #[must_use]
    pub fn args(&self) -> Vec<OsString> {
        let mut args = vec![OsString::from("--dir"), self.dir.clone().into()];
        args.extend(["--confinement".into(), self.confinement.to_string().into()]);
        args.extend(self.no_mounts.then(|| "--no-mounts".into()));
        args
    }
}

/// Why a mounter did not start.
#[derive(Debug, thiserror::Error)]
pub enum MounterError {
    /// The directory cannot be used.
    #[error("cannot use the directory {path}: {source}")]
    Dir {
        /// The directory.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Files, threads or standard input cannot be used.
    #[error("cannot set up the mounter: {0}")]
    Setup(#[source] io::Error),
    /// The host does not allow all that was required.
    #[error("the mounter cannot be confined here as --confinement=required asks for: {}", .missing.join("; "))]
    Confinement {
        /// What is not restricted, and why.
        missing: Vec<String>,
    },
    /// The process is of no use.
    #[error(transparent)]
    UserMap(#[from] UserMapError),
}

/// What the subcommand `mounter` does: serves the agent that has the other end of standard input, a Unix socket of packets.
/// Must be called while the process has one thread.
///
/// # Errors
/// [`MounterError`], before anything is served.
pub fn run(options: &MounterOptions) -> Result<(), MounterError> {
    kubewasm_host::confine::close_inherited().map_err(MounterError::Setup)?;
    let dir_error = |path: &Path| {
        let path = path.display().to_string();
        move |source| MounterError::Dir { path, source }
    };
    let dir = std::path::absolute(&options.dir).map_err(dir_error(&options.dir))?;
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(dir_error(&dir))?;
    std::env::set_current_dir("/").map_err(dir_error(Path::new("/")))?;
    let way = if options.no_mounts {
        Way::Preopens { why: "the mounter was told to make no mounts".to_owned() }
    } else {
        enter(&dir)?
    };
    match &way {
        Way::Mounts(how) => tracing::debug!(?how, "containers have one root of mounts"),
        Way::Preopens { why } => tracing::warn!(
            why,
            "this host allows no mounts: containers have a preopened directory for each of their volumes, images are \
             copied, and single files cannot always be shown"
        ),
    }
    let measures = confine::judge(&confine::mounter(), options.confinement)
        .map_err(|missing| MounterError::Confinement { missing })?;
    tracing::debug!(?measures, "the mounter is confined");
    let files = Arc::new(Files::new(way));
    for _ in 1..THREADS {
        let files = Arc::clone(&files);
        let serve = move || serve(&files);
        std::thread::Builder::new().name("mounter".into()).spawn(serve).map_err(MounterError::Setup)?;
    }
    serve(&files);
    Ok(())
}

/// Answers whoever sends an end of a pair of sockets, until standard input ends.
fn serve(files: &Files) {
    loop {
        let mut fds = Vec::new();
        match passing::receive_with(&io::stdin(), &mut [0], &mut fds) {
            Ok(1..) => {}
            Ok(0) => return,
            Err(error) => {
                tracing::error!(%error, "the mounter cannot be spoken to any more");
                return;
            }
        }
        for fd in fds {
            if let Err(error) = answer(files, &UnixStream::from(fd)) {
                // An agent that has ended, most of the time. What was made is closed here.
                tracing::debug!(%error, "the files of a container were not taken");
            }
        }
    }
}

fn answer(files: &Files, socket: &UnixStream) -> io::Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let (request, _) = passing::receive(socket)?;
    let request = wire::FilesRequest::decode(&*request).map_err(io::Error::other)?;
    let root = RootSpec::from(request.root.unwrap_or_default());
    let working_dir = Some(request.working_dir).filter(|dir| !dir.is_empty());
    let made = files.make(&root, working_dir.as_deref(), Path::new(&request.log_dir));
    let (result, fds) = match made {
        Ok(made) => {
            let (files, fds) = to_wire(made);
            (wire::files_response::Result::Files(files), fds)
        }
        Err(error) => (wire::files_response::Result::Failure(failure(&error)), Vec::new()),
    };
    let response = wire::FilesResponse { result: Some(result) }.encode_to_vec();
    let fds: Vec<_> = fds.iter().map(OwnedFd::as_fd).collect();
    passing::send(socket, &response, &fds)
}

/// What was made as a message, and the descriptors that go with it.
fn to_wire(made: Made) -> (wire::Files, Vec<OwnedFd>) {
    let Made { directories, has_volumes, log, lock } = made;
    let locked = lock.is_some();
    let (directories, mut fds): (Vec<_>, Vec<_>) = directories
        .into_iter()
        .map(|dir| (wire::Directory { guest_path: dir.guest, writable: dir.writable }, dir.fd))
        .unzip();
    fds.push(log);
    fds.extend(lock);
    (wire::Files { directories, has_volumes, locked }, fds)
}

fn failure(error: &FilesError) -> wire::FilesFailure {
    use wire::files_failure::Kind;
    let kind = match error {
        FilesError::InUse { .. } => Kind::InUse,
        error if error.is_config() => Kind::Config,
        _ => Kind::Unspecified,
    };
    wire::FilesFailure { kind: kind.into(), message: error.to_string() }
}
