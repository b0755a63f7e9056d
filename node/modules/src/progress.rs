//! How far a pull has come.

/// Bytes of an image's layers, packed as they travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Bytes that are here, downloaded or present before.
    pub done_bytes: u64,
    /// Bytes of all layers; 0 until the manifest has come.
    pub total_bytes: u64,
}

/// Is told how a pull goes on. Any `Fn(PullProgress)` will do.
///
/// Several callers that wait for one download are each told. Updates may be skipped, the last one is not:
/// before a successful pull returns, `done_bytes` equals `total_bytes`.
pub trait Progress: Send + Sync {
    /// Takes the newest state. Called from within the pull: return soon.
    fn update(&self, progress: PullProgress);
}

impl<F: Fn(PullProgress) + Send + Sync> Progress for F {
    fn update(&self, progress: PullProgress) {
        self(progress);
    }
}
