//! What an operator may set.

use std::{path::PathBuf, time::Duration};

/// Limits of a store and ways to registries. Every limit is there because an image comes from a stranger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Registries (`host` or `host:port`, as in image names) that may speak plain HTTP. Those on this machine
    /// (`localhost`, 127.0.0.0/8, ::1) always may; HTTPS is tried first everywhere.
    pub insecure_registries: Vec<String>,
    /// PEM files of certificate authorities to trust besides the system's.
    pub certificate_authorities: Vec<PathBuf>,
    /// How long a connection to a registry may take.
    pub connect_timeout: Duration,
    /// How long a registry may send nothing in the middle of an answer.
    pub stall_timeout: Duration,
    /// Bytes of one layer, packed.
    pub layer_limit: u64,
    /// Bytes of all layers of an image: packed, and again unpacked.
    pub image_limit: u64,
    /// Files, directories and links of an unpacked image.
    pub entry_limit: u64,
    /// Modules that are compiled at the same time. If more than one, one is always left for other lanes than the busiest.
    pub compile_jobs: usize,
    /// How long a module is refused without trying again when its compiler met a limit; twice as long each time.
    pub compile_retry: Duration,
    /// How long a module is refused that is wrong, and the longest that any is.
    pub compile_refusal: Duration,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            insecure_registries: Vec::new(),
            certificate_authorities: Vec::new(),
            connect_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            layer_limit: 1 << 30,
            image_limit: 4 << 30,
            entry_limit: 200_000,
            compile_jobs: cores().max(2),
            compile_retry: Duration::from_secs(60),
            compile_refusal: Duration::from_secs(3600),
        }
    }
}

/// Processors that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
