//! The files of instances, as the agent hands them over before it starts them.
//!
//! A worker mounts nothing and opens no path of a pod: it has what it was handed, as open directories. They belong to the
//! worker alone then, whatever becomes of the agent, and go when the instance ends or the worker does.

use std::{
    collections::HashMap,
    io::{self, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kubewasm_host::Preopen;
use prost::Message as _;
use tokio::{
    io::AsyncReadExt as _,
    net::{UnixListener, UnixStream},
};

use crate::{
    files::{Directory, Made, passing},
    protocol::wire,
};

/// An agent that connects sends at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a connection could not be taken, for want of descriptors most likely.
const PAUSE: Duration = Duration::from_millis(100);

/// The files of an instance that was not started yet.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) root: Root,
    /// The directory of its log.
    pub(super) log: OwnedFd,
}

/// The directories of a guest, until the end of its instance.
#[derive(Debug)]
pub(super) struct Root(Mutex<Option<Arc<HeldDirectories>>>);

/// Directories that are open. Whoever uses their paths keeps this: the number of a descriptor that was closed may mean
/// another instance's.
#[derive(Debug)]
pub(super) struct HeldDirectories {
    pub(super) preopens: Vec<Preopen>,
    /// Whether there is something that neither an image nor a guest made: in a volume there may be anything.
    pub(super) has_volumes: bool,
    _open: Vec<OwnedFd>,
}

impl From<Made> for Given {
    fn from(made: Made) -> Self {
        let Made { directories, has_volumes, log, lock } = made;
        let preopen = |directory: &Directory| Preopen {
            host: path_of(&directory.fd),
            guest: directory.guest.clone(),
            writable: directory.writable,
        };
        let preopens = directories.iter().map(preopen).collect();
        let open = directories.into_iter().map(|directory| directory.fd).chain(lock).collect();
        let held = HeldDirectories { preopens, has_volumes, _open: open };
        Self { root: Root(Mutex::new(Some(Arc::new(held)))), log }
    }
}

impl Root {
    /// The directories; nothing once they were given up.
    pub(super) fn held(&self) -> Option<Arc<HeldDirectories>> {
        self.lock().clone()
    }

    /// Gives them up. They are closed, and what is mounted there is taken away, when nobody uses them any more. Blocking.
    pub(super) fn give_up(&self) {
        drop(self.lock().take());
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<HeldDirectories>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A path that means what is open, for as long as it is open.
pub(super) fn path_of(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// What was handed over and waits for its start. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Handovers(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    count: u64,
    /// By instance, with the number of the handover.
    given: HashMap<String, (u64, Given)>,
}

impl Handovers {
    /// Keeps files until somebody takes them, and returns the number of the handover.
    pub(super) fn put(&self, id: &str, given: Given) -> u64 {
        let mut waiting = self.lock();
        waiting.count += 1;
        let number = waiting.count;
        waiting.given.insert(id.to_owned(), (number, given));
        number
    }

    /// Takes the files of an instance, if there are some.
    pub(super) fn take(&self, id: &str) -> Option<Given> {
        self.lock().given.remove(id).map(|(_, given)| given)
    }

    /// Drops the files that came with a handover, unless they were taken.
    fn drop_unclaimed(&self, id: &str, number: u64) {
        let mut waiting = self.lock();
        if waiting.given.get(id).is_some_and(|(other, _)| *other == number) {
            waiting.given.remove(id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes handovers on a socket, for ever.
    pub(super) async fn serve(self, listener: UnixListener) {
        loop {
            match listener.accept().await {
                Ok((socket, _)) => {
                    let handovers = self.clone();
                    tokio::spawn(async move {
                        if let Err(error) = handovers.receive(socket).await {
                            tracing::warn!(%error, "an agent did not hand over what it wanted to");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot take a handover");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Takes one, and keeps it while the agent is there.
    async fn receive(&self, socket: UnixStream) -> io::Result<()> {
        let socket = socket.into_std()?;
        let handovers = self.clone();
        let received = tokio::task::spawn_blocking(move || handovers.receive_from(socket)).await;
        let (id, number, socket) = received.map_err(io::Error::other)??;
        let mut socket = UnixStream::from_std(socket)?;
        // It says nothing more; an error is an end, too.
        let _ = socket.read(&mut [0]).await;
        self.drop_unclaimed(&id, number);
        Ok(())
    }

    fn receive_from(&self, mut socket: StdUnixStream) -> io::Result<(String, u64, StdUnixStream)> {
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let (message, fds) = passing::receive(&socket)?;
        let wire::Handover { id, files } = wire::Handover::decode(&*message).map_err(io::Error::other)?;
        let made = of_wire(files.unwrap_or_default(), fds)
            .ok_or_else(|| io::Error::other("descriptors are missing, or are too many"))?;
        let number = self.put(&id, made.into());
        socket.write_all(&[1])?;
        socket.set_nonblocking(true)?;
        Ok((id, number, socket))
    }
}

/// What was made, from a message and the descriptors that came with it.
fn of_wire(files: wire::Files, mut fds: Vec<OwnedFd>) -> Option<Made> {
    let wire::Files { directories, has_volumes, locked } = files;
    if fds.len() != directories.len() + 1 + usize::from(locked) {
        return None;
    }
    let lock = if locked { Some(fds.pop()?) } else { None };
    let log = fds.pop()?;
    let directory = |(directory, fd): (wire::Directory, OwnedFd)| Directory {
        fd,
        guest: directory.guest_path,
        writable: directory.writable,
    };
    let directories = directories.into_iter().zip(fds).map(directory).collect();
    Some(Made { directories, has_volumes, log, lock })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fd() -> OwnedFd {
        tempfile::tempfile().unwrap().into()
    }

    fn given() -> Given {
        Made { directories: Vec::new(), has_volumes: false, log: fd(), lock: None }.into()
    }

    #[test]
    fn what_was_handed_over_is_taken_once() {
        let handovers = Handovers::default();
        let number = handovers.put("a", given());
        assert!(handovers.take("b").is_none());
        assert!(handovers.take("a").is_some() && handovers.take("a").is_none());
        handovers.put("a", given());
        handovers.drop_unclaimed("a", number);
        assert!(handovers.take("a").is_some(), "that of another handover stays");
        let number = handovers.put("a", given());
        handovers.drop_unclaimed("a", number);
        assert!(handovers.take("a").is_none());
    }

    #[test]
    fn descriptors_that_do_not_fit_the_message_are_refused() {
        let directory = || wire::Directory { guest_path: "/".into(), writable: true };
        for (directories, locked, count, expected) in [
            (1, true, 3, true),
            (1, false, 2, true),
            (0, false, 1, true),
            (1, true, 2, false),
            (0, false, 0, false),
            (1, false, 3, false),
        ] {
            let files = wire::Files {
                directories: (0..directories).map(|_| directory()).collect(),
                has_volumes: false,
                locked,
            };
            let made = of_wire(files, (0..count).map(|_| fd()).collect());
            assert_eq!(made.is_some(), expected, "{directories} {locked} {count}");
        }
    }

    #[test]
    fn directories_stay_open_for_those_who_use_them() {
        let (dir, lock) = (fd(), fd());
        let path = path_of(&dir);
        let directory = Directory { fd: dir, guest: "/".into(), writable: true };
        let made = Made { directories: vec![directory], has_volumes: false, log: fd(), lock: Some(lock) };
        let given = Given::from(made);
        let held = given.root.held().unwrap();
        given.root.give_up();
        assert!(given.root.held().is_none());
        assert!(std::fs::read_link(&path).is_ok());
        drop(held);
    }
}
