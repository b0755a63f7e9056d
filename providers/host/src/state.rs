//! What a store holds besides the guest itself.

use std::{any::Any, sync::Arc};

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtxView, WasiView};

use crate::{
    bounds::Bounds,
    lookup::GuestLookups,
    memory::MemoryGuard,
    outgoing::GuestHttp,
    plugin::States,
    preview1::{files::CoreWasi, sockets::CoreSockets},
    sockets::GuestSockets,
    traffic::Traffic,
};

/// State of one guest, which host functions of a [`Plugin`](crate::Plugin) are handed.
///
/// The 0.1 context contains a 0.2 one, so that one type serves both.
pub struct GuestState {
    /// Before its sockets themselves, so that what is known of who listens is given up before they are closed.
    pub(crate) guest_sockets: GuestSockets,
    /// What is WASI's. Components have only the part of it that wasmtime-wasi answers.
    pub(crate) core: CoreWasi,
    pub(crate) memory: MemoryGuard,
    pub(crate) bounds: Bounds,
    /// See [`Setup::has_volumes`](crate::Setup::has_volumes).
    pub(crate) has_volumes: bool,
    pub(crate) lookups: GuestLookups,
    /// Of a guest of WASI 0.1.
    pub(crate) core_sockets: CoreSockets,
    pub(crate) http: GuestHttp,
    pub(crate) plugins: States,
    pub(crate) extension: Option<Box<dyn Any + Send>>,
}

impl GuestState {
    /// What its embedder has in it ([`Setup::extension`](crate::Setup::extension)), if that is of this type.
    pub fn extension_mut<T: 'static>(&mut self) -> Option<&mut T> {
        self.extension.as_mut()?.downcast_mut()
    }

    /// The same, of whatever type, and the table of its resources, which both are of use to a host function.
    pub fn extension_and_table(&mut self) -> (Option<&mut (dyn Any + Send)>, &mut ResourceTable) {
        (self.extension.as_deref_mut(), self.core.context().table)
    }

    /// Where what goes through its sockets is counted.
    pub(crate) fn traffic(&self) -> &Arc<Traffic> {
        self.memory.account().traffic()
    }

    /// Where what it reads from files and writes to them is counted.
    pub(crate) fn files(&self) -> &Arc<Traffic> {
        self.memory.account().files()
    }
}

impl std::fmt::Debug for GuestState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestState").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.core.context()
    }
}
