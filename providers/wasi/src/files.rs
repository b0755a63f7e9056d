//! The file system that a guest sees: one directory tree per container, made of its image, what it writes,
//! and its mounts.
//!
//! ```text
//!                     mounter start                    container start
//!                 ┌───────────────────┐
//!                 │ [namespace]       │   RootSpec ──[plan]──► Plan (pure: what goes where, in which order)
//!                 │  private mounts?  │                          │
//!                 └─┬──────────┬──────┘                          ▼
//!               yes │          │ no              ┌─ [mounts]: overlay or directory, bind mounts ─► one directory, `/`
//!                   ▼          ▼                 │      (places of mounts: [walk])
//!                 Way::Mounts  Way::Preopens ────┤
//!                                                └─ [preopens]: directory or [copy], one directory per mount
//! ```
//!
//! This is done by the [mounter](crate::mounter), which hands what it has made to the container's worker as open
//! directories. With mounts the kernel does all the work: a guest has one preopened directory, `/`, and reading and
//! writing through it costs what the files below cost. The mounts hang nowhere ([mount_api]): they live for as long as
//! the worker has the directory open, are seen by nobody else, and nothing is left behind, however the worker ends.
//!
//! Where the host allows no mounts, a guest has several preopened directories, and single files are
//! linked or copied. docs/decisions/0005-root-file-system.md says why it is done like this.

mod copy;
pub(crate) mod mount_api;
mod mounts;
mod namespace;
pub(crate) mod passing;
mod plan;
mod preopens;
mod walk;

use std::{
    fs::{File, TryLockError},
    io,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::{Mode, OFlags};

pub use namespace::{UserMapError, Way, enter};
pub use plan::PlanError;

use crate::spec::RootSpec;
use mount_api::Reach;
use plan::RootPlan;

/// Makes the file systems of containers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Files {
    way: Way,
}

/// A directory that a guest is given.
#[derive(Debug)]
pub struct Directory {
    /// The directory itself.
    pub fd: OwnedFd,
    /// Where the guest sees it.
    pub guest: String,
    /// Whether the host lets a write pass on to the kernel, which may have its own opinion.
    pub writable: bool,
}

/// All the files that belong to one container. They are there for as long as what is open here is open in any process.
#[derive(Debug)]
pub struct Made {
    /// The directories that the guest is given, `/` first. None for a guest without files.
    pub directories: Vec<Directory>,
    /// Whether there is something that neither an image nor a guest made: in a volume there may be anything.
    pub has_volumes: bool,
    /// The directory of the container's log.
    pub log: OwnedFd,
    /// Locked for as long as the container has its directory. Nothing for one that has none.
    pub lock: Option<OwnedFd>,
}

/// Why a container's file system could not be made.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// Another guest runs there, perhaps the very one that is to be started.
    #[error("the container's directory {path} is in use")]
    InUse {
        /// On this host.
        path: String,
    },
    /// The directory of the container's log.
    #[error("cannot open the directory of the log {path}: {source}")]
    Log {
        /// On this host.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The specification asks for what cannot be.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The directory for what the container writes.
    #[error("cannot make the container's directory {path}: {source}")]
    Scratch {
        /// On this host.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The image's files.
    #[error("cannot show the files of the image, which are in {path}: {source}")]
    Image {
        /// On this host.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// What is to be mounted is not there, or is not what it says.
    #[error("cannot mount {host} at {guest}: {source}")]
    Mount {
        /// On this host.
        host: String,
        /// In the guest.
        guest: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// There is no place for it in the guest.
    #[error("cannot make {guest} in the container's file system: {source}")]
    Place {
        /// In the guest.
        guest: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A single file, on a host that cannot mount.
    #[error(
        "cannot show the single file {host} at {guest}: {why}; this host allows no mounts (workers/mounter.log in the node's root directory says why), without which only directories can be shown there"
    )]
    SingleFile {
        /// On this host.
        host: String,
        /// In the guest.
        guest: String,
        /// What was tried.
        why: String,
    },
    /// An image that would have to be copied and is too large for that.
    #[error(
        "the image has more than {limit}, and its files must be copied, because {why}; keep --root-dir on a file system that can hold the upper layer of an overlay, such as ext4 or xfs"
    )]
    TooLarge {
        /// The bound that was met.
        limit: String,
        /// Why there is no overlay.
        why: String,
    },
}

impl FilesError {
    /// Whether the container's specification is to blame, so that trying again is of no use.
    #[must_use]
    pub fn is_config(&self) -> bool {
        matches!(self, Self::Plan(_) | Self::SingleFile { .. })
    }
}

impl Files {
    /// Makes them in this way, which [`enter`] found at the start of the process.
    #[must_use]
    pub fn new(way: Way) -> Self {
        Self { way }
    }

    /// Makes the file system of one container whose log is in `log_dir`. Blocking: it makes directories and mounts,
    /// and where there can be no overlay it copies the image. Who tries again for a container that runs is told that
    /// its directory is in use.
    ///
    /// # Errors
    /// [`FilesError`]; nothing stays mounted then.
    pub fn make(
        &self,
        spec: &RootSpec,
        working_dir: Option<&str>,
        log_dir: &Path,
    ) -> Result<Made, FilesError> {
        let lock = spec.scratch.as_deref().map(lock).transpose()?;
        let log_error = |source| FilesError::Log { path: log_dir.display().to_string(), source };
        let log = self.show(log_dir, false).map_err(log_error)?;
        let directories = match (&spec.scratch, &spec.image) {
            (None, None) => Vec::new(),
            // The image's files and no more, never to be written to.
            (None, Some(image)) => {
                let failed = |source| FilesError::Image { path: image.display().to_string(), source };
                let fd = self.show(image, true).map_err(failed)?;
                vec![Directory { fd, guest: "/".into(), writable: false }]
            }
            (Some(scratch), _) => {
                let plan = RootPlan::new(spec, working_dir)?;
                match &self.way {
                    Way::Mounts(how) => vec![mounts::make(&plan, scratch, *how)?],
                    Way::Preopens { .. } => preopens::make(&plan, scratch)?,
                }
            }
        };
        Ok(Made { directories, has_volumes: !spec.mounts.is_empty(), log, lock })
    }

    /// Opens a directory for somebody who is to see nothing but what is in it, as far as there are mounts.
    fn show(&self, path: &Path, read_only: bool) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
        let Way::Mounts(_) = self.way else { return Ok(dir) };
        let shown = mount_api::clone(&dir, Reach::One)?;
        let attributes = mount_api::RESTRICTED | if read_only { mount_api::READ_ONLY } else { 0 };
        mount_api::seal(&shown, attributes, Reach::One)?;
        Ok(shown)
    }
}

/// Takes a container's directory, which is made if need be.
fn lock(scratch: &Path) -> Result<OwnedFd, FilesError> {
    mounts::directory(scratch, 0o700)?;
    let path = scratch.join("lock");
    let failed = mounts::scratch_error(&path);
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.map_err(&failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file.into()),
        Err(TryLockError::WouldBlock) => Err(FilesError::InUse { path: scratch.display().to_string() }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}
