//! The file system that a guest sees: one directory tree per container, made of its image, what it writes,
//! and its mounts.
//!
//! ```text
//!                      worker start                    container start                       container end
//!                 ┌───────────────────┐
//!                 │ [namespace]       │   RootSpec ──[plan]──► Plan (pure: what goes where, in which order)
//!                 │  private mounts?  │                          │
//!                 └─┬──────────┬──────┘                          ▼
//!               yes │          │ no              ┌─ [mounts]: overlay or directory, bind mounts ─► one preopen, `/`
//!                   ▼          ▼                 │      (places of mounts: [walk])                        │
//!                 Way::Mounts  Way::Preopens ────┤                                                    Root::detach
//!                                                └─ [preopens]: directory or [copy], one preopen per mount
//! ```
//!
//! With mounts the kernel does all the work: a guest has one preopened directory, `/`, and reading and writing
//! through it costs what the files below cost. Everything is mounted in a mount namespace that belongs to the
//! worker, so that nothing is seen or left behind outside, however the worker ends.
//!
//! Where the host allows no such namespace, a guest has several preopened directories, and single files are
//! linked or copied. docs/decisions/0005-root-file-system.md says why it is done like this.

mod copy;
mod mounts;
mod namespace;
mod plan;
mod preopens;
mod walk;

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use kubewasm_host::Preopen;

pub use namespace::{UserMapError, Way, enter};
pub use plan::PlanError;

use crate::spec::RootSpec;
use plan::Plan;

/// Makes the file systems of containers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Files {
    way: Way,
}

/// Why a container's file system could not be made.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
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
        "cannot show the single file {host} at {guest}: {why}; this host allows the worker no mounts (its log says why), without which only directories can be shown there"
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
    /// Whether they are made of mounts, in a mount namespace of this process' own.
    #[must_use]
    pub fn has_mounts(&self) -> bool {
        matches!(self.way, Way::Mounts { .. })
    }

    /// Makes them in this way, which [`enter`] found at the start of the process.
    #[must_use]
    pub fn new(way: Way) -> Self {
        Self { way }
    }

    /// Makes the file system of one container. Blocking: it makes directories and mounts, and where there can
    /// be no overlay it copies the image.
    ///
    /// # Errors
    /// [`FilesError`]; nothing stays mounted then.
    pub fn make(&self, spec: &RootSpec, working_dir: Option<&str>) -> Result<Root, FilesError> {
        let Some(scratch) = &spec.scratch else {
            return Ok(Root::bare(spec.image.as_deref()));
        };
        let plan = Plan::new(spec, working_dir)?;
        let mut root = match &self.way {
            Way::Mounts { user_namespace } => mounts::make(&plan, scratch, *user_namespace)?,
            Way::Preopens { .. } => preopens::make(&plan, scratch)?,
        };
        root.has_volumes = !spec.mounts.is_empty();
        Ok(root)
    }
}

/// The file system of one container, for as long as the container runs.
#[derive(Debug)]
pub struct Root {
    preopens: Vec<Preopen>,
    /// Where the tree of mounts hangs, if there is one.
    mounted: Option<PathBuf>,
    detached: AtomicBool,
    /// What preopens name by descriptor.
    held: Vec<OwnedFd>,
    has_volumes: bool,
}

impl Root {
    fn new(preopens: Vec<Preopen>, mounted: Option<PathBuf>) -> Self {
        Self { preopens, mounted, detached: AtomicBool::new(false), held: Vec::new(), has_volumes: false }
    }

    /// The image's files and no more, or nothing at all; never to be written to.
    fn bare(image: Option<&Path>) -> Self {
        let preopen = |image: &Path| Preopen { host: image.to_owned(), guest: "/".into(), writable: false };
        Self::new(image.map(preopen).into_iter().collect(), None)
    }

    /// The directories that the guest is given, `/` first. None for a guest without files.
    #[must_use]
    pub fn preopens(&self) -> &[Preopen] {
        &self.preopens
    }

    /// Whether there is something that neither an image nor a guest made: in a volume there may be anything.
    #[must_use]
    pub fn has_volumes(&self) -> bool {
        self.has_volumes
    }

    /// Takes all mounts away; what is open stays usable until it is closed. Further calls do nothing.
    pub fn detach(&self) {
        if let Some(root) = &self.mounted
            && !self.detached.swap(true, Ordering::SeqCst)
        {
            mounts::detach(root);
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        self.detach();
    }
}
