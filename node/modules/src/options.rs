//! What an operator may set.

use std::{fmt, path::PathBuf, time::Duration};

use crate::signature::SignaturePolicy;

/// Limits of a store and ways to registries. Every limit is there because an image comes from a stranger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreOptions {
    /// Registries (`host` or `host:port`, as in image names) that may speak plain HTTP. Those on this machine
    /// (`localhost`, 127.0.0.0/8, ::1) always may; HTTPS is tried first everywhere.
    pub insecure_registries: Vec<String>,
    /// Directories with a directory for each registry (`host_port_`, `host:port` or `_default`), in which a `hosts.toml`
    /// says, [as for containerd](https://github.com/containerd/containerd/blob/main/docs/hosts.md), where the registry
    /// and its mirrors are. The first that there is counts. Read at each pull.
    pub registry_config_directories: Vec<PathBuf>,
    /// Directories from which `file://` images may be taken, with all below them; `/` for all of this machine.
    pub file_directories: Vec<PathBuf>,
    /// How `s3://` images are reached, over what the environment says.
    pub s3: S3Options,
    /// PEM files of certificate authorities to trust besides the system's.
    pub certificate_authorities: Vec<PathBuf>,
    /// Which images must be signed, and by whom.
    pub signature_policy: SignaturePolicy,
    /// [`crate::Compiler::key`] of the compiler for which pulls bring compiled code along, where the policy trusts
    /// somebody's; `None` for none.
    pub compiler_key: Option<String>,
    /// How long a connection to a registry may take.
    pub connect_timeout: Duration,
    /// How long a source may send nothing in the middle of an answer. A body that brings less than 64 KiB in that time has
    /// stalled, too.
    pub stall_timeout: Duration,
    /// Blobs and modules that are downloaded at the same time, over all pulls.
    pub parallel_downloads: usize,
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
            registry_config_directories: Vec::new(),
            file_directories: Vec::new(),
            s3: S3Options::default(),
            certificate_authorities: Vec::new(),
            signature_policy: SignaturePolicy::default(),
            compiler_key: None,
            connect_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            parallel_downloads: 32,
            layer_limit: 1 << 30,
            image_limit: 4 << 30,
            entry_limit: 200_000,
            compile_jobs: cores().max(2),
            compile_retry: Duration::from_secs(60),
            compile_refusal: Duration::from_secs(3600),
        }
    }
}

/// Settings of S3 by the names of their environment variables (`AWS_ENDPOINT_URL`, `AWS_REGION`, …), which they go before.
/// Its `Debug` shows the names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct S3Options(Vec<(String, String)>);

impl S3Options {
    /// Settings by name and value.
    #[must_use]
    pub fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(pairs.into_iter().collect())
    }

    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

/// Processors that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
