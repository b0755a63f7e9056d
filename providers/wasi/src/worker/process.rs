//! The worker as a process: its directory, its lock, its signals, its limits.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Resource, Rlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::WorkerError;

/// Longest path of a Unix socket on Linux, without the NUL that ends it.
const SOCKET_PATH_LIMIT: usize = 107;
/// How often the worker looks whether its socket is still there.
const LOOK: Duration = Duration::from_secs(5);

/// File that a worker holds locked for as long as it lives; the kernel lets go of it, however it ends.
pub(crate) fn lock_path(socket: &Path) -> PathBuf {
    socket.with_extension("lock")
}

/// Socket on which a worker is handed the files of instances. No longer than the other.
pub(crate) fn handovers_path(socket: &Path) -> PathBuf {
    socket.with_extension("in")
}

/// Whether a worker lives that holds the lock of this socket. A lock that cannot be looked at (no descriptor is left,
/// say) may be held: nobody is declared dead for want of something here.
pub(crate) fn is_locked(socket: &Path) -> bool {
    let path = lock_path(socket);
    let looked = match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(file) => match file.try_lock() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    };
    looked.unwrap_or_else(|error| {
        tracing::warn!(lock = %path.display(), %error, "cannot tell whether a worker lives; going by that it does");
        true
    })
}

/// The worker's directory, which it alone uses.
#[derive(Debug)]
pub(super) struct Home {
    socket: PathBuf,
    /// Inode of the lock file; another one means another worker.
    inode: u64,
    /// Locked until it is dropped.
    _lock: File,
}

impl Home {
    /// Makes the directory and takes the lock.
    pub(super) fn take(socket: &Path) -> Result<Self, WorkerError> {
        let length = socket.as_os_str().as_bytes().len();
        if length > SOCKET_PATH_LIMIT {
            let socket = socket.display().to_string();
            return Err(WorkerError::SocketPath { socket, length, most: SOCKET_PATH_LIMIT });
        }
        make_home(socket)?;
        let path = lock_path(socket);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = lock.map_err(|source| setup("open", &path, source))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(WorkerError::AlreadyRunning { socket: socket.display().to_string() });
            }
            Err(TryLockError::Error(source)) => return Err(setup("lock", &path, source)),
        }
        // For people who look for it; nothing here reads it.
        lock.set_len(0)
            .and_then(|()| writeln!(&lock, "{}", std::process::id()))
            .map_err(|source| setup("write", &path, source))?;
        let inode = lock.metadata().map_err(|source| setup("read", &path, source))?.ino();
        Ok(Self { socket: socket.to_owned(), inode, _lock: lock })
    }

    /// A directory for guests without files.
    pub(super) fn empty_root(&self) -> PathBuf {
        self.socket.with_extension("empty")
    }

    /// Listens on the sockets, in place of those that a worker before us left.
    pub(super) fn listen(&self) -> Result<Sockets, WorkerError> {
        // The second one first: an agent looks at the other.
        let handovers = listen(&handovers_path(&self.socket))?;
        Ok(Sockets { calls: listen(&self.socket)?, handovers })
    }

    /// Takes the sockets away: nobody will answer there any more. One that is left tells of a death.
    pub(super) fn leave(&self) {
        // It may be gone already; that may even be why the worker ends.
        for path in [&self.socket, &handovers_path(&self.socket)] {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Returns when the directory has been deleted, or taken over by somebody else.
    pub(super) async fn deleted(&self) {
        let mut look = tokio::time::interval(LOOK);
        loop {
            look.tick().await;
            let ours = |meta: std::fs::Metadata| meta.ino() == self.inode;
            let lock_is_ours = tokio::fs::metadata(lock_path(&self.socket)).await.is_ok_and(ours);
            if !lock_is_ours || tokio::fs::symlink_metadata(&self.socket).await.is_err() {
                return;
            }
        }
    }
}

/// What a worker listens on. Made early: it makes no Unix sockets later.
#[derive(Debug)]
pub(super) struct Sockets {
    /// Of the protocol.
    pub(super) calls: UnixListener,
    /// Where it is handed files.
    pub(super) handovers: UnixListener,
}

fn listen(path: &Path) -> Result<UnixListener, WorkerError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(setup("remove the old socket", path, error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(|source| setup("listen on", path, source))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .and_then(|()| listener.set_nonblocking(true))
        .map_err(|source| setup("protect", path, source))?;
    Ok(listener)
}

/// Makes the directory of the worker with this socket, and returns it.
pub(super) fn make_home(socket: &Path) -> Result<&Path, WorkerError> {
    let dir = socket.parent().unwrap_or(Path::new("."));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .and_then(|()| std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)))
        .map_err(|source| setup("create the directory", dir, source))?;
    Ok(dir)
}

fn setup(what: &'static str, path: &Path, source: io::Error) -> WorkerError {
    WorkerError::Setup { what, path: path.display().to_string(), source }
}

/// Makes SIGTERM end the worker, and SIGINT and SIGHUP do nothing.
pub(super) fn catch_signals(end: &CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let end = end.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        tracing::info!("SIGTERM: the worker ends");
        end.cancel();
    });
    for kind in [SignalKind::interrupt(), SignalKind::hangup()] {
        // Having a handler is what keeps the default action away, for good.
        drop(signal(kind)?);
    }
    Ok(())
}

/// Cancels `end` when standard input ends.
pub(super) fn end_with_stdin(end: CancellationToken) -> io::Result<()> {
    let read = move || {
        // Nobody writes anything; an error is an end, too.
        let _ = io::stdin().lock().read_to_end(&mut Vec::new());
        end.cancel();
    };
    std::thread::Builder::new().name("parent".into()).spawn(read)?;
    Ok(())
}

/// Every instance has a log and a root directory open, and files of its own.
pub(super) fn raise_file_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_has_one_worker() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("node").join("worker.sock");
        assert!(!is_locked(&socket), "nobody was here");
        let home = Home::take(&socket).unwrap();
        assert!(is_locked(&socket));
        assert!(matches!(Home::take(&socket), Err(WorkerError::AlreadyRunning { .. })));
        drop(home);
        assert!(!is_locked(&socket));
        Home::take(&socket).unwrap();
    }

    #[test]
    fn a_lock_that_cannot_be_looked_at_may_be_held() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("worker.lock")).unwrap();
        assert!(is_locked(&dir.path().join("worker.sock")), "a directory cannot be opened for writing");
    }

    #[test]
    fn a_home_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("node");
        std::fs::create_dir(&home).unwrap();
        let _taken = Home::take(&home.join("worker.sock")).unwrap();
        assert_eq!(std::fs::metadata(&home).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn socket_paths_that_do_not_fit_are_explained() {
        let socket = Path::new("/tmp").join("x".repeat(100)).join("worker.sock");
        let error = Home::take(&socket).unwrap_err().to_string();
        assert!(error.contains("has 117 bytes, and Unix sockets have at most 107"), "{error}");
    }

    #[test]
    fn stale_sockets_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::take(&dir.path().join("worker.sock")).unwrap();
        drop(home.listen().unwrap());
        let _sockets = home.listen().unwrap();
        let socket = dir.path().join("worker.sock");
        for path in [handovers_path(&socket), socket] {
            assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
}
