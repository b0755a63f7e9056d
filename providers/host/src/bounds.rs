//! Bounds on what a guest can grab besides memory and processor time. All follow from the container's memory
//! limit and from how many files the process may have open; the user reads them in docs/configuration.md.

/// Open files of a guest of WASI 0.1 at most, preopened ones and standard streams included.
const FILES: usize = 1024;
/// Resources of a guest at most: files, streams, sockets, pollables, errors that were not dropped.
const RESOURCES: usize = 4096;
/// Resources of a guest with little memory.
const LEAST_RESOURCES: usize = 512;
/// What wasmtime remembers of tasks, streams and futures of a guest of WASI 0.3, for each resource that it may have: of a
/// stream or a future there are three things.
const CONCURRENT_PER_RESOURCE: usize = 4;
/// A resource with a buffer holds no more than this on the host, in bytes.
const BUFFER: u64 = 64 << 10;
/// Bytes that one call hands to the host at most; wasmtime's default.
const CALL: u64 = 128 << 20;
/// Random bytes that a component may ask for in one call. They are made without letting others have a turn,
/// which for as many takes some milliseconds.
const RANDOM: u64 = 4 << 20;

/// The bounds of one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// File descriptors that a guest of WASI 0.1 has at a time.
    pub(super) files: usize,
    /// Resources that the guest has at a time.
    pub(super) resources: usize,
    /// What wasmtime remembers of its tasks, streams and futures.
    pub(super) concurrent: usize,
    /// Bytes that one call hands to the host.
    pub(super) call: usize,
    /// Random bytes of one call.
    pub(super) random: u64,
}

impl Bounds {
    /// Bounds for a container that may use so many bytes, in a process that may open so many files.
    pub(super) fn new(memory: u64, open_files: u64) -> Self {
        let by_memory = usize::try_from(memory / BUFFER).unwrap_or(usize::MAX);
        // One guest alone does not use up the files of all.
        let by_process = usize::try_from(open_files / 4).unwrap_or(usize::MAX);
        let resources = by_memory.clamp(LEAST_RESOURCES, RESOURCES).min(by_process);
        Self {
            files: FILES.min(resources / 2),
            resources,
            concurrent: resources.saturating_mul(CONCURRENT_PER_RESOURCE),
            call: usize::try_from(memory.min(CALL)).unwrap_or(usize::MAX),
            random: RANDOM,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_follow_memory_and_the_limit_of_open_files() {
        const MIB: u64 = 1 << 20;
        for (memory, open_files, files, resources, call) in [
            (1024 * MIB, 1 << 20, 1024, 4096, 128 * MIB),
            (128 * MIB, 1 << 20, 1024, 2048, 128 * MIB),
            (64 * MIB, 1 << 20, 512, 1024, 64 * MIB),
            (MIB, 1 << 20, 256, 512, MIB),
            (1024 * MIB, 4096, 512, 1024, 128 * MIB),
            (1024 * MIB, 1024, 128, 256, 128 * MIB),
            (0, u64::MAX, 256, 512, 0),
            (u64::MAX, u64::MAX, 1024, 4096, 128 * MIB),
        ] {
            let bounds = Bounds::new(memory, open_files);
            assert_eq!(
                (bounds.files, bounds.resources, bounds.call as u64),
                (files, resources, call),
                "{memory} bytes, {open_files} files"
            );
        }
    }
}
