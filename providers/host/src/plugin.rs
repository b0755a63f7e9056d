//! Host interfaces that the embedder adds.

use std::{any::Any, fmt, marker::PhantomData};

use wasmtime::component::Linker;

use crate::{setup::Setup, state::GuestState};

/// A host interface: it is linked once for each engine, and has a state of its own in each guest.
///
/// `link` gets a [`PluginState`], by which host functions find that state in the [`GuestState`] that they are handed; with
/// bindings that wasmtime's `bindgen!` makes, that is
/// `add_to_linker::<_, HasSelf<_>>(linker, move |guest| state.of(guest))`.
pub trait Plugin: fmt::Debug + Send + Sync + 'static {
    /// What one guest has of this interface.
    type State: Send + 'static;

    /// Defines the interface's functions.
    ///
    /// # Errors
    /// What the linker says; the host is then not made.
    fn link(&self, linker: &mut Linker<GuestState>, state: PluginState<Self::State>) -> wasmtime::Result<()>;

    /// Defines functions for core modules of WASI 0.1, where there are any.
    ///
    /// # Errors
    /// As for [`Plugin::link`].
    fn link_core(
        &self,
        linker: &mut wasmtime::Linker<GuestState>,
        state: PluginState<Self::State>,
    ) -> wasmtime::Result<()> {
        let _ = (linker, state);
        Ok(())
    }

    /// The state of a guest that is being made.
    fn state(&self, setup: &Setup<'_>) -> Self::State;
}

/// Where a plugin's state is in the guests of one host.
pub struct PluginState<T> {
    index: usize,
    state: PhantomData<fn() -> T>,
}

impl<T> Clone for PluginState<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for PluginState<T> {}

impl<T> fmt::Debug for PluginState<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PluginState").field(&self.index).finish()
    }
}

impl<T: 'static> PluginState<T> {
    /// The state of this guest.
    pub fn of(self, guest: &mut GuestState) -> &mut T {
        let state = guest.plugins.0.get_mut(self.index).and_then(|state| state.downcast_mut());
        #[expect(clippy::expect_used, reason = "proven beside it")]
        // A `PluginState` is made by `AnyPlugin::link_as` only, for the linker of one host, whose functions are called
        // with guests of that host. Each of these has the states of all of its plugins, in their order (`States::new`),
        // and the one at this index was made by the plugin whose type of state this is.
        state.expect("a guest has the states of all plugins of its host")
    }
}

/// A [`Plugin`] of any state. Implemented for all of them.
pub trait AnyPlugin: fmt::Debug + Send + Sync + 'static {
    /// [`Plugin::link`], for the plugin that is the `index`th of its host.
    ///
    /// # Errors
    /// As there.
    fn link_as(&self, index: usize, linker: &mut Linker<GuestState>) -> wasmtime::Result<()>;

    /// [`Plugin::link_core`], for the same.
    ///
    /// # Errors
    /// As there.
    fn link_core_as(&self, index: usize, linker: &mut wasmtime::Linker<GuestState>) -> wasmtime::Result<()>;

    /// [`Plugin::state`].
    fn any_state(&self, setup: &Setup<'_>) -> Box<dyn Any + Send>;
}

impl<P: Plugin> AnyPlugin for P {
    fn link_as(&self, index: usize, linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
        self.link(linker, PluginState { index, state: PhantomData })
    }

    fn link_core_as(&self, index: usize, linker: &mut wasmtime::Linker<GuestState>) -> wasmtime::Result<()> {
        self.link_core(linker, PluginState { index, state: PhantomData })
    }

    fn any_state(&self, setup: &Setup<'_>) -> Box<dyn Any + Send> {
        Box::new(self.state(setup))
    }
}

/// The states of all plugins in one guest, in the order of [`HostOptions::plugins`](crate::HostOptions::plugins).
pub(crate) struct States(Vec<Box<dyn Any + Send>>);

impl States {
    pub(crate) fn new(plugins: &[std::sync::Arc<dyn AnyPlugin>], setup: &Setup<'_>) -> Self {
        Self(plugins.iter().map(|plugin| plugin.any_state(setup)).collect())
    }
}
