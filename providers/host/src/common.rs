//! What the guests of one setup have in common: it is made once, also where an instance is made for each request.

use std::path::Path;

use wasmtime_wasi::{FsPerms, WasiCtxBuilder, filesystem::WasiFilesystemCtx};

use crate::{
    lookup::GuestLookups,
    setup::{Preopen, PrepareError},
    sockets::GuestSockets,
};

/// What the guests of one setup have in common.
pub(crate) struct Common {
    /// Those of a guest that opens none.
    pub(crate) sockets: GuestSockets,
    /// Those of a guest that asks for none.
    pub(crate) lookups: GuestLookups,
    /// The directories that they are given, which are open.
    pub(crate) files: WasiFilesystemCtx,
}

impl std::fmt::Debug for Common {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Common").field("sockets", &self.sockets).finish_non_exhaustive()
    }
}

/// Opens the directories of guests, who find them after so many listeners; one without any has an empty root.
pub(crate) fn files(
    empty_root: &Path,
    preopens: &[Preopen],
    listeners: usize,
) -> Result<WasiFilesystemCtx, PrepareError> {
    let mut builder = WasiCtxBuilder::new();
    let mut open = |host: &Path, guest: &str, perms: FsPerms| {
        let opened = builder.preopened_dir(host, guest, perms);
        opened.map(drop).map_err(|error| PrepareError::Root {
            path: host.display().to_string(),
            reason: format!("{error:#}"),
        })
    };
    // The places of the listeners among the descriptors.
    for _ in 0..listeners {
        open(empty_root, "", FsPerms::ReadOnly)?;
    }
    for Preopen { host, guest, writable } in preopens {
        open(host, guest, if *writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly })?;
    }
    if preopens.is_empty() {
        open(empty_root, "/", FsPerms::ReadOnly)?;
    }
    Ok(builder.build().filesystem().clone())
}
