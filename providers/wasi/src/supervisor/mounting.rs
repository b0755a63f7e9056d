//! The files of a container: asked of the mounter, and handed over to a worker.

use std::{
    io::{self, Read as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prost::Message as _;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::process::Command;

use super::{SupervisorError, SupervisorOptions, WorkerFailure, process};
use crate::{files::passing, mounter::MounterOptions, protocol::wire, spec::InstanceSpec};

/// How long the files of a container may take: an image that is copied, a disk that was asleep. What comes later is
/// thrown away.
const MAKE: Duration = Duration::from_secs(300);
/// How long a worker may take to receive them.
const HANDOVER: Duration = Duration::from_secs(30);

/// The mounter of an agent: a process that is started when it is needed, and again when it has died.
#[derive(Debug, Default)]
pub(super) struct Mounter {
    /// The socket on which it takes requests.
    control: Mutex<Option<Arc<OwnedFd>>>,
}

/// What came of handing over the files of an instance.
#[derive(Debug)]
pub(super) enum Handed {
    /// The worker has them, and drops what no start has claimed when this is dropped.
    Over(#[expect(dead_code, reason = "open until it is dropped")] UnixStream),
    /// Some instance has them already, perhaps this one. Says so, for people.
    Before(String),
}

impl Mounter {
    /// Starts the process if there is none. Must be called within a tokio runtime.
    pub(super) fn start(&self, options: &SupervisorOptions) -> Result<Arc<OwnedFd>, SupervisorError> {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(control) = &*control {
            return Ok(Arc::clone(control));
        }
        let started =
            spawn(options).map_err(|source| WorkerFailure::Files { what: "start the mounter", source })?;
        Ok(Arc::clone(control.insert(Arc::new(started))))
    }

    /// Has the files of an instance made, and hands them to the worker that listens on `handovers`. Blocking.
    pub(super) fn hand_over(
        &self,
        spec: &InstanceSpec,
        options: &SupervisorOptions,
        handovers: &Path,
    ) -> Result<Handed, SupervisorError> {
        let request = request(spec);
        let (response, fds) = self.ask(&request, options)?;
        let files = match response.result {
            Some(wire::files_response::Result::Files(files)) => files,
            Some(wire::files_response::Result::Failure(failure)) => {
                return match failure.kind() {
                    wire::files_failure::Kind::InUse => Ok(Handed::Before(failure.message)),
                    wire::files_failure::Kind::Config => Err(SupervisorError::Config(failure.message)),
                    wire::files_failure::Kind::Unspecified => {
                        Err(WorkerFailure::NoFiles(failure.message).into())
                    }
                };
            }
            None => return Err(WorkerFailure::NoFiles("the mounter's answer is empty".to_owned()).into()),
        };
        let handover = wire::Handover { id: spec.id.clone(), files: Some(files) };
        let handed = hand_over(&handover, &fds, handovers);
        handed.map_err(|source| {
            WorkerFailure::Files { what: "hand a container's files to its worker", source }.into()
        })
    }

    fn ask(
        &self,
        request: &[u8],
        options: &SupervisorOptions,
    ) -> Result<(wire::FilesResponse, Vec<OwnedFd>), SupervisorError> {
        let failed = |source: io::Error| {
            SupervisorError::from(WorkerFailure::Files { what: "have the mounter make files", source })
        };
        loop {
            let (control, is_new) = {
                let known = self.control.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let is_new = known.is_none();
                (known.map_or_else(|| self.start(options), Ok)?, is_new)
            };
            match converse(&control, request) {
                Ok((response, fds)) => {
                    let response = wire::FilesResponse::decode(&*response).map_err(io::Error::other);
                    return Ok((response.map_err(failed)?, fds));
                }
                // It has died, now or earlier. Whatever it did meanwhile for this container went with it.
                Err(error) if is_death(&error) => {
                    let mut kept = self.control.lock().unwrap_or_else(PoisonError::into_inner);
                    if kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, &control)) {
                        *kept = None;
                    }
                    drop(kept);
                    if is_new {
                        return Err(failed(error));
                    }
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

fn is_death(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionRefused | ConnectionReset | UnexpectedEof)
}

fn request(spec: &InstanceSpec) -> Vec<u8> {
    let log_dir = spec.log_path.parent().unwrap_or(Path::new("/"));
    let request = wire::FilesRequest {
        root: Some((&spec.root).into()),
        working_dir: spec.working_dir.clone().unwrap_or_default(),
        log_dir: log_dir.to_string_lossy().into_owned(),
    };
    request.encode_to_vec()
}

/// Asks over a pair of sockets of the question's own: answers may come in another order, and what nobody waits for any
/// more is closed.
fn converse(control: &OwnedFd, request: &[u8]) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (ours, theirs) = UnixStream::pair()?;
    passing::send_with(control, &[0], &[theirs.as_fd()])?;
    drop(theirs);
    ours.set_read_timeout(Some(MAKE))?;
    passing::send(&ours, request, &[])?;
    passing::receive(&ours)
}

fn hand_over(handover: &wire::Handover, fds: &[OwnedFd], handovers: &Path) -> io::Result<Handed> {
    let mut socket = UnixStream::connect(handovers)?;
    socket.set_read_timeout(Some(HANDOVER))?;
    socket.set_write_timeout(Some(HANDOVER))?;
    let fds: Vec<_> = fds.iter().map(OwnedFd::as_fd).collect();
    passing::send(&socket, &handover.encode_to_vec(), &fds)?;
    socket.read_exact(&mut [0])?;
    Ok(Handed::Over(socket))
}

/// Starts a mounter that nobody speaks to, so that it ends as soon as it is confined. What it says when it cannot be is
/// the error.
pub(super) async fn check(options: &SupervisorOptions) -> io::Result<()> {
    let (_, theirs) = pair()?;
    let mut command = command(options);
    command.stdin(Stdio::from(theirs));
    process::succeeds(&mut command).await
}

fn pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

fn command(options: &SupervisorOptions) -> Command {
    let mut command = options.program.command("mounter");
    let (dir, confinement) = (options.dir.clone(), options.confinement);
    command.args(MounterOptions { dir, no_mounts: false, confinement }.args());
    process::inherit_little(&mut command);
    command
}

fn spawn(options: &SupervisorOptions) -> io::Result<OwnedFd> {
    let (ours, theirs) = pair()?;
    let mut command = command(options);
    command.stdin(Stdio::from(theirs));
    command.stderr(Stdio::from(process::open_log(&options.dir.join("mounter.log"))?));
    let mut child = command.spawn()?;
    tracing::debug!(pid = child.id(), "started the mounter");
    tokio::spawn(async move {
        match child.wait().await {
            Ok(status) if status.success() => {}
            Ok(status) => {
                tracing::warn!(%status, "the mounter has died; another is started when it is needed")
            }
            Err(error) => tracing::warn!(%error, "cannot tell how the mounter ended"),
        }
    });
    Ok(ours)
}
