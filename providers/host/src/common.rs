//! What the guests of one setup have in common: it is made once, also where an instance is made for each request.

use std::path::Path;

use wasmtime_wasi::{FsPerms, WasiCtxBuilder, filesystem::WasiFilesystemCtx};

use crate::{
    lookup::GuestLookups,
    preview1::files::OpenPreopen,
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
    pub(crate) files: CommonFiles,
}

/// The directories that guests are given.
pub(crate) enum CommonFiles {
    /// Modules of WASI 0.1.
    Core(Vec<OpenPreopen>),
    /// Components.
    Component(WasiFilesystemCtx),
}

impl std::fmt::Debug for Common {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Common").field("sockets", &self.sockets).finish_non_exhaustive()
    }
}

impl CommonFiles {
    /// Opens the directories of guests; one without any has an empty root.
    pub(crate) fn open(is_core: bool, empty_root: &Path, preopens: &[Preopen]) -> Result<Self, PrepareError> {
        let empty = [Preopen { host: empty_root.to_owned(), guest: "/".to_owned(), writable: false }];
        let preopens = if preopens.is_empty() { &empty } else { preopens };
        if is_core {
            let open =
                |Preopen { host, guest, writable }: &Preopen| OpenPreopen::open(host, guest, *writable);
            return preopens.iter().map(open).collect::<Result<_, _>>().map(Self::Core);
        }
        let mut builder = WasiCtxBuilder::new();
        for Preopen { host, guest, writable } in preopens {
            let perms = if *writable { FsPerms::ReadWrite } else { FsPerms::ReadOnly };
            builder.preopened_dir(host, guest, perms).map_err(|error| PrepareError::Root {
                path: host.display().to_string(),
                reason: format!("{error:#}"),
            })?;
        }
        Ok(Self::Component(builder.build().filesystem().clone()))
    }
}
