//! What a store holds besides the guest itself.

use wasmtime_wasi::{WasiCtxView, WasiView, p1::WasiP1Ctx};

use super::{bounds::Bounds, errno::Directories, memory::MemoryGuard};

/// State of one instance. The 0.1 context contains a 0.2 one, so that one type serves both.
pub(super) struct GuestState {
    pub(super) wasi: WasiP1Ctx,
    pub(super) memory: MemoryGuard,
    pub(super) directories: Directories,
    pub(super) bounds: Bounds,
    /// Open file descriptors of WASI 0.1.
    pub(super) descriptors: usize,
    /// See [`super::Setup::has_volumes`].
    pub(super) has_volumes: bool,
}

impl WasiView for GuestState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}
