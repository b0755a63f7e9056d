//! Why a host could not be set up.

use std::io;

use crate::engine::EngineError;

/// The host could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// WASI could not be defined; a fault of this program.
    #[error("cannot define WASI: {0}")]
    Link(String),
    /// A plugin could not be linked.
    #[error("cannot link the host interface {plugin}: {reason}")]
    Plugin {
        /// Which, as its `Debug` says.
        plugin: String,
        /// What it or the linker says.
        reason: String,
    },
    /// The empty directory could not be made.
    #[error("cannot create the empty directory {path}: {source}")]
    EmptyRoot {
        /// The directory.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}
