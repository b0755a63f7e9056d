//! What can go wrong, for callers that branch on it and for people who read it.
//!
//! Every error can be cloned, because callers that share one download or one compilation share its failure.
//! No text holds a credential or a query string of a URL (storage behind registries signs those).

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::digest::Digest;

/// The store's directory failed, or cannot do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be used at all.
    #[error("the module store {path} cannot be used: {detail}", path = path.display())]
    Unusable {
        /// The store's root.
        path: PathBuf,
        /// Why, and what to do.
        detail: String,
    },
    /// An operation on one file failed. May pass with time (a full disk, say).
    #[error("the module store failed to {action} {path}: {source}", path = path.display())]
    Io {
        /// What was tried: `read`, `write`, …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: Arc<io::Error>,
    },
    /// The image cannot be removed while containers use it.
    #[error("{image} is in use by a container; stop its containers first")]
    InUse {
        /// The name that was to be removed.
        image: String,
    },
    /// The image is not in the store, or no longer.
    #[error("{image} is not in the module store; pull it first")]
    Absent {
        /// The name that was asked for.
        image: String,
    },
    /// The image is in the store, and the policy for signatures does not take it for what is kept with it. A pull may
    /// find the signature that is missing.
    #[error("{image}: {detail}")]
    SignatureInvalid {
        /// The name that was asked for.
        image: String,
        /// What the policy asks for.
        detail: String,
    },
    /// The file to import is larger than a module may be.
    #[error("{path} is larger than {limit} bytes, which is this node's limit for a module", path = path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes that a module may have.
        limit: u64,
    },
    /// The file to import is no module.
    #[error(transparent)]
    Import(#[from] ModuleError),
}

impl StoreError {
    /// An [`StoreError::Io`] made from what failed where; for `map_err`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source: Arc::new(source) }
    }
}

/// An image was not pulled.
#[derive(Clone, Debug, thiserror::Error)]
#[error("failed to pull image {image:?}: {reason}")]
pub struct PullError {
    /// The image's full name.
    pub image: String,
    /// Why.
    #[source]
    pub reason: PullFailure,
}

/// Why an image was not pulled.
///
/// [`PullFailure::Unavailable`] and [`PullFailure::Store`] may pass by themselves; the rest pass when somebody
/// changes the registry, the credentials, the image or the node's configuration.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PullFailure {
    /// The registry or its token service did not answer, answered with a server error, or cut a transfer.
    #[error("the registry is unavailable: {0}")]
    Unavailable(String),
    /// The registry refused, with every credential and without one.
    #[error("access denied: {0}")]
    Denied(String),
    /// The registry does not have it.
    #[error("not found: {0}; check the name and the tag")]
    NotFound(String),
    /// What came is not what the digest names.
    #[error("{0}; what the registry keeps, or what came over the network, is damaged: push the image again")]
    Mismatch(String),
    /// The policy for signatures asks for one that is not there, or rejects the image; in whole sentences.
    #[error("{0}")]
    SignatureInvalid(String),
    /// Nothing in it that a Wasm node can run, or in a form that is not understood.
    #[error("{0}")]
    Unsupported(String),
    /// A limit of this node was met.
    #[error("{0}")]
    TooLarge(String),
    /// A layer has no bytes at all.
    #[error("layer {0} is empty (0 bytes); build the module and push the image again")]
    EmptyLayer(Digest),
    /// The manifest, the configuration or an archive is broken, or hostile.
    #[error("{0}")]
    Malformed(String),
    /// What the operator has configured for the source cannot be used.
    #[error("this node's configuration for it cannot be used: {0}")]
    Configuration(String),
    /// This machine could not keep it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PullFailure {
    /// The failure of a registry, with what its mirrors had said before it was asked.
    pub(crate) fn after_mirrors(mut self, mirrors: &[String]) -> Self {
        if mirrors.is_empty() {
            return self;
        }
        match &mut self {
            Self::Unavailable(text)
            | Self::Denied(text)
            | Self::NotFound(text)
            | Self::Mismatch(text)
            | Self::Unsupported(text)
            | Self::TooLarge(text)
            | Self::Malformed(text)
            | Self::Configuration(text) => {
                *text = format!("{text} (after its mirrors: {})", mirrors.join("; "))
            }
            Self::EmptyLayer(_) | Self::SignatureInvalid(_) | Self::Store(_) => {}
        }
        self
    }
}

/// Why a command of an image is no module that can be run.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ModuleError {
    /// A bare name that is nowhere on the image's PATH.
    #[error("exec: {command:?}: executable file not found in $PATH")]
    NotFound {
        /// The command's first word.
        command: String,
    },
    /// A path that leads nowhere, or to something that is no file.
    #[error("exec: {command:?}: {detail}")]
    NoFile {
        /// The command's first word.
        command: String,
        /// `no such file or directory`, `is a directory`, …
        detail: String,
    },
    /// A file, but of something else.
    #[error("exec: {command:?}: not a WebAssembly module: it looks like {looks_like}")]
    NotWasm {
        /// The command's first word.
        command: String,
        /// What the first bytes say, and what to do.
        looks_like: String,
    },
    /// A file of 0 bytes.
    #[error("exec: {command:?}: the module is empty (0 bytes); build it again")]
    Empty {
        /// The command's first word.
        command: String,
    },
    /// The store failed, or no longer has the image.
    #[error("exec: {command:?}: {source}")]
    Store {
        /// The command's first word.
        command: String,
        /// What failed.
        #[source]
        source: Box<StoreError>,
    },
}

/// Why there is no precompiled form of a module.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PrecompileError {
    /// The module is not valid, or needs what the engine does not have; in a whole sentence. Trying again is in vain.
    #[error("{0}")]
    Invalid(String),
    /// The compiler met a limit or died of the module. Trying again may help, or not.
    #[error("the compiler failed: {0}")]
    Failed(String),
    /// The compiler could not be run at all. May pass.
    #[error("the compiler cannot be run: {0}")]
    NotRun(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
