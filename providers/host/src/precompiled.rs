//! Loading of precompiled code: the one place where this crate trusts bytes to be machine code.

use std::{io, os::unix::fs::MetadataExt, path::Path};

use wasmtime::{Engine, Module, component::Component};

/// Why a precompiled file was not loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrecompiledError {
    /// The file is not there or cannot be read.
    #[error("cannot read precompiled module {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Somebody else could have written the file.
    #[error(
        "refusing precompiled module {path}: it holds machine code and belongs to user {owner} with mode {mode:o}; it must belong to user {us} or root and be writable by nobody else"
    )]
    Untrusted {
        /// The file.
        path: String,
        /// Its owner.
        owner: u32,
        /// Its permission bits.
        mode: u32,
        /// Who we are.
        us: u32,
    },
    /// Compiled by another version or with other settings, or damaged.
    #[error("cannot load precompiled module {path}: {reason}")]
    Load {
        /// The file.
        path: String,
        /// What wasmtime says.
        reason: String,
    },
}

/// Maps a precompiled core module.
pub(crate) fn module(engine: &Engine, path: &Path) -> Result<Module, PrecompiledError> {
    check(path)?;
    // SAFETY: the file must be what `Engine::precompile_module` wrote, unchanged for as long as the module
    // lives. `check` has seen that only this user or root can write it; this program writes such files
    // only in its compiling child, to a temporary name that is renamed when complete, and never again.
    // Output of another version of wasmtime is refused by wasmtime itself.
    #[expect(unsafe_code, reason = "the one module that loads precompiled code")]
    let module = unsafe { Module::deserialize_file(engine, path) };
    module.map_err(|error| load_error(path, &error))
}

/// Maps a precompiled component.
pub(crate) fn component(engine: &Engine, path: &Path) -> Result<Component, PrecompiledError> {
    check(path)?;
    // SAFETY: as in `module`, for what `Engine::precompile_component` wrote.
    #[expect(unsafe_code, reason = "the one module that loads precompiled code")]
    let component = unsafe { Component::deserialize_file(engine, path) };
    component.map_err(|error| load_error(path, &error))
}

fn check(path: &Path) -> Result<(), PrecompiledError> {
    let meta = std::fs::metadata(path)
        .map_err(|source| PrecompiledError::Io { path: path.display().to_string(), source })?;
    let us = rustix::process::geteuid().as_raw();
    if trusted(meta.uid(), meta.mode(), us) {
        Ok(())
    } else {
        let mode = meta.mode() & 0o7777;
        Err(PrecompiledError::Untrusted { path: path.display().to_string(), owner: meta.uid(), mode, us })
    }
}

/// Whether nobody but `us` or root can have written a file.
fn trusted(owner: u32, mode: u32, us: u32) -> bool {
    (owner == us || owner == 0) && mode & 0o022 == 0
}

fn load_error(path: &Path, error: &wasmtime::Error) -> PrecompiledError {
    PrecompiledError::Load { path: path.display().to_string(), reason: format!("{error:#}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_our_own_are_trusted() {
        for (owner, mode, us, expected) in [
            (1000, 0o100_644, 1000, true),
            (0, 0o100_600, 1000, true),
            (1001, 0o100_644, 1000, false),
            (1000, 0o100_664, 1000, false),
            (1000, 0o100_646, 1000, false),
            (0, 0o100_666, 0, false),
        ] {
            assert_eq!(trusted(owner, mode, us), expected, "owner {owner} mode {mode:o} us {us}");
        }
    }

    #[test]
    fn what_is_no_artifact_is_refused() {
        let engine = crate::engine::new(crate::Generation::Blocking).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        std::fs::write(&path, b"\0asm\x01\0\0\0").unwrap();
        assert!(matches!(module(&engine, &path), Err(PrecompiledError::Load { .. })));
        assert!(matches!(component(&engine, &path), Err(PrecompiledError::Load { .. })));
        let missing = dir.path().join("gone");
        assert!(matches!(module(&engine, &missing), Err(PrecompiledError::Io { .. })));
    }
}
