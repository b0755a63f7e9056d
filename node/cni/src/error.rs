//! Why a pod has no network, as its Events say it.

use std::{io, path::PathBuf};

use kubewasm_network::NetworkError;

use crate::{attachment::UntellableName, chain::ChainError, result::ResultError};

/// A sandbox could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// There is no network yet, or it is not ready. Passes when whoever brings it has done so.
    #[error("Network plugin returns error: {0}")]
    NotReady(String),
    /// It could not be made. What there was of it has been removed, or is removed before the next attempt.
    #[error("failed to setup network for sandbox \"{id}\": {source}")]
    SetUp {
        /// Its id.
        id: String,
        /// Why not.
        source: SandboxFailure,
    },
    /// It could not be removed; try again.
    #[error("failed to destroy network for sandbox \"{id}\": {source}")]
    TearDown {
        /// Its id.
        id: String,
        /// Why not.
        source: SandboxFailure,
    },
    /// What was written down of sandboxes cannot be read or changed.
    #[error("cannot use the record of a sandbox, {}: {source}", path.display())]
    Record {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// What has failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SandboxFailure(#[from] pub(crate) FailureCause);

#[derive(Debug, thiserror::Error)]
pub(crate) enum FailureCause {
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error(transparent)]
    Name(#[from] UntellableName),
    #[error(transparent)]
    Result(#[from] ResultError),
    #[error("the plugins have given the pod no address")]
    NoAddress,
    #[error("cannot {what} the network namespace {}: {source}", path.display())]
    Namespace { what: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("what was doing it has ended early: {0}")]
    Ended(String),
}
