//! Components that are linked by who embeds the host: with what the host has for all, and with functions of the embedder's own.
//!
//! ```text
//!   precompiled file ─[Host::load_component]─► LoadedComponent ─┬─ linker(): WASI, plugins
//!                                                               │     + whatever the embedder defines
//!                                                               └─ link(linker, use) ─► Loaded: run, called, or serves HTTP
//! ```

use std::{path::Path, sync::Arc};

use wasmtime::component::{Component, Linker};
use wasmtime_wasi::{p2, p3};
use wasmtime_wasi_http as wasi_http;

use crate::{
    cache::{EntryPoint, LoadError, Loaded},
    host::{Host, Linked},
    imports,
    kind::Generation,
    pool::Allocation,
    precompiled,
    stack::Stack,
    state::GuestState,
};

/// How a component is used. The same can be used in several ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComponentUse {
    /// Its `wasi:cli/run` is run.
    Command,
    /// Its `wasi:http/incoming-handler` or, on an engine for WASI 0.3, its `wasi:http/handler` answers requests.
    Http,
    /// Its functions are called.
    Called,
}

/// A component whose machine code is loaded, and that is not linked yet.
#[derive(Clone)]
pub struct LoadedComponent {
    component: Component,
    linked: Arc<Linked>,
    generation: Generation,
}

impl std::fmt::Debug for LoadedComponent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadedComponent").field("generation", &self.generation).finish_non_exhaustive()
    }
}

impl Host {
    /// Loads a component that was precompiled for a generation, for one instance at a time or, if it is `pooled` and fits, for
    /// instances that come and go.
    ///
    /// # Errors
    /// [`LoadError::Precompiled`].
    pub async fn load_component(
        self: &Arc<Self>,
        path: &Path,
        generation: Generation,
        pooled: bool,
    ) -> Result<LoadedComponent, LoadError> {
        let (host, path) = (Arc::clone(self), path.to_owned());
        let load = move |allocation| -> Result<LoadedComponent, LoadError> {
            let linked = host.linked(generation, Stack::DEFAULT, allocation);
            let linked = linked.map_err(|error| LoadError::Precompiled(error.to_string()))?;
            let component = precompiled::component(&linked.engine, &path)?;
            Ok(LoadedComponent { component, linked, generation })
        };
        let task = tokio::task::spawn_blocking(move || {
            match pooled {
            true => load(Allocation::Pooled).or_else(|error: LoadError| {
                let loaded = load(Allocation::OnDemand)?;
                tracing::warn!(%error, "a component does not fit into the pool: its instances are mapped one by one");
                Ok(loaded)
            }),
            false => load(Allocation::OnDemand),
        }
        });
        task.await.map_err(|error| LoadError::Precompiled(format!("cannot load: {error}")))?
    }
}

impl LoadedComponent {
    /// The component, for those who want to know what it imports and exports.
    #[must_use]
    pub fn component(&self) -> &Component {
        &self.component
    }

    /// The engine that it is for.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// What the host has for any component: a copy, to which more can be added.
    #[must_use]
    pub fn linker(&self) -> Linker<GuestState> {
        self.linked.component.clone()
    }

    /// Names all that it imports and that is not in a linker; nothing where what is wrong with something is its type.
    #[must_use]
    pub fn missing(&self, linker: &Linker<GuestState>) -> Vec<String> {
        imports::missing(linker, &self.component)
    }

    /// Resolves its imports.
    ///
    /// # Errors
    /// [`LoadError::Link`].
    pub fn link(&self, linker: &Linker<GuestState>, used: ComponentUse) -> Result<Arc<Loaded>, LoadError> {
        let link_error = |error: wasmtime::Error| LoadError::Link(format!("{error:#}"));
        let pre = linker.instantiate_pre(&self.component).map_err(link_error)?;
        let entry = match (used, self.generation) {
            (ComponentUse::Called, _) => Ok(EntryPoint::EmbeddedComponent(pre)),
            (ComponentUse::Command, Generation::Blocking) => {
                p2::bindings::CommandPre::new(pre).map(EntryPoint::Component)
            }
            (ComponentUse::Command, Generation::Concurrent) => p3::bindings::CommandPre::new(pre.clone())
                .map(EntryPoint::ComponentP3)
                .or_else(|_| p2::bindings::CommandPre::new(pre).map(EntryPoint::Component)),
            (ComponentUse::Http, Generation::Blocking) => {
                wasi_http::p2::bindings::ProxyPre::new(pre).map(EntryPoint::Http)
            }
            (ComponentUse::Http, Generation::Concurrent) => {
                wasi_http::p3::bindings::ServicePre::new(pre.clone())
                    .map(EntryPoint::HttpP3)
                    .or_else(|_| wasi_http::p2::bindings::ProxyPre::new(pre).map(EntryPoint::Http))
            }
        };
        let entry = entry.map_err(link_error)?;
        Ok(Arc::new(Loaded { entry, linked: Arc::clone(&self.linked), accepts: false }))
    }
}
