//! Loaded modules, shared by all their instances for as long as there are any.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use tokio::sync::Mutex;
use wasmtime::{
    InstancePre,
    component::{self, Component},
};
use wasmtime_wasi::{p2, p3};
use wasmtime_wasi_http as wasi_http;

use crate::{
    host::{Host, Linked},
    imports,
    kind::ModuleKind,
    pool::Allocation,
    precompiled::{self, PrecompiledError},
    stack::Stack,
    state::GuestState,
};

/// A module with its imports resolved, ready for any number of instances.
pub struct Loaded {
    pub(super) entry: EntryPoint,
    pub(super) linked: Arc<Linked>,
    /// It is a module of WASI 0.1 that may accept connections.
    pub(super) accepts: bool,
}

/// What is called to run it.
pub(super) enum EntryPoint {
    /// `_start` of a WASI 0.1 command.
    Core(InstancePre<GuestState>),
    /// `wasi:cli/run@0.2` of a component.
    Component(p2::bindings::CommandPre<GuestState>),
    /// `wasi:cli/run@0.3` of a component.
    ComponentP3(p3::bindings::CommandPre<GuestState>),
    /// `wasi:http/incoming-handler@0.2` of a component, for each request.
    Http(wasi_http::p2::bindings::ProxyPre<GuestState>),
    /// `wasi:http/handler@0.3` of a component, for each request.
    HttpP3(wasi_http::p3::bindings::ServicePre<GuestState>),
    /// What its embedder calls of a core module.
    EmbeddedCore(InstancePre<GuestState>),
    /// The same of a component.
    EmbeddedComponent(component::InstancePre<GuestState>),
}

impl Loaded {
    /// Whether it is a module of WASI 0.1.
    pub(super) fn is_core(&self) -> bool {
        matches!(self.entry, EntryPoint::Core(_) | EntryPoint::EmbeddedCore(_))
    }
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.entry {
            EntryPoint::Core(_) => "Loaded(core module)",
            EntryPoint::Component(_) => "Loaded(component)",
            EntryPoint::ComponentP3(_) => "Loaded(component of WASI 0.3)",
            EntryPoint::Http(_) => "Loaded(component that serves HTTP)",
            EntryPoint::HttpP3(_) => "Loaded(component of WASI 0.3 that serves HTTP)",
            EntryPoint::EmbeddedCore(_) => "Loaded(core module that is called)",
            EntryPoint::EmbeddedComponent(_) => "Loaded(component that is called)",
        })
    }
}

/// A module could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The precompiled file is missing, not ours, or of another version.
    #[error("{0}")]
    Precompiled(String),
    /// It imports what WASI does not have, or its entry point has another type.
    #[error("the module cannot be linked: {0}")]
    Link(String),
}

impl From<PrecompiledError> for LoadError {
    fn from(error: PrecompiledError) -> Self {
        Self::Precompiled(error.to_string())
    }
}

/// One place per module that is in use, or was the last time somebody looked. The outer lock is held for
/// moments; the inner one while the module loads, so that it loads once.
#[derive(Default)]
pub(super) struct Cache {
    slots: Mutex<HashMap<CacheKey, Arc<CacheSlot>>>,
}

/// A module on an engine, and how it is run.
type CacheKey = (PathBuf, ModuleKind, Stack);

type CacheSlot = Mutex<Weak<Loaded>>;

impl Cache {
    pub(super) async fn get(
        &self,
        host: &Arc<Host>,
        path: &Path,
        kind: ModuleKind,
        stack: Stack,
    ) -> Result<Arc<Loaded>, LoadError> {
        let slot = self.slot((path.to_owned(), kind, stack)).await;
        let mut slot = slot.lock().await;
        if let Some(loaded) = slot.upgrade() {
            return Ok(loaded);
        }
        let task = {
            let (host, path) = (Arc::clone(host), path.to_owned());
            tokio::task::spawn_blocking(move || load(&host, &path, kind, stack))
        };
        let loaded =
            task.await.map_err(|error| LoadError::Precompiled(format!("cannot load: {error}")))??;
        let loaded = Arc::new(loaded);
        *slot = Arc::downgrade(&loaded);
        Ok(loaded)
    }

    async fn slot(&self, key: CacheKey) -> Arc<CacheSlot> {
        let mut slots = self.slots.lock().await;
        if let Some(slot) = slots.get(&key) {
            return Arc::clone(slot);
        }
        // A new module is rare enough to look over the old ones. A slot that cannot be looked into is in use.
        slots.retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|weak| weak.strong_count() > 0)
        });
        let slot = Arc::<CacheSlot>::default();
        slots.insert(key, Arc::clone(&slot));
        slot
    }
}

/// Resolves the imports of a component.
fn resolve(linked: &Linked, component: &Component) -> Result<component::InstancePre<GuestState>, LoadError> {
    linked.component.instantiate_pre(component).map_err(|error| {
        let missing = imports::missing(&linked.component, component);
        LoadError::Link(match missing.is_empty() {
            true => format!("{error:#}"),
            false => format!(
                "it imports what no host interface here is: {}; build it without these",
                missing.join(", ")
            ),
        })
    })
}

fn load(host: &Host, path: &Path, kind: ModuleKind, stack: Stack) -> Result<Loaded, LoadError> {
    match kind {
        ModuleKind::CoreCommand
        | ModuleKind::CliComponent
        | ModuleKind::CliComponentP3
        | ModuleKind::EmbeddedCore
        | ModuleKind::EmbeddedComponent => {
            load_on(host, path, kind, stack, Allocation::OnDemand)
        }
        ModuleKind::HttpComponent | ModuleKind::HttpComponentP3 => {
            load_on(host, path, kind, stack, Allocation::Pooled).or_else(|error| {
                let loaded = load_on(host, path, kind, stack, Allocation::OnDemand)?;
                tracing::warn!(path = %path.display(), %error, "a module does not fit into the pool: its instances are mapped one by one");
                Ok(loaded)
            })
        }
    }
}

fn load_on(
    host: &Host,
    path: &Path,
    kind: ModuleKind,
    stack: Stack,
    allocation: Allocation,
) -> Result<Loaded, LoadError> {
    let linked = host.linked(kind.generation(), stack, allocation);
    let linked = linked.map_err(|error| LoadError::Link(error.to_string()))?;
    let link_error = |error: wasmtime::Error| LoadError::Link(format!("{error:#}"));
    match kind {
        ModuleKind::CoreCommand => {
            let module = precompiled::module(&linked.engine, path)?;
            let entry = module.get_export("_start").and_then(|export| export.func().cloned());
            if !entry.is_some_and(|entry| entry.params().len() == 0 && entry.results().len() == 0) {
                return Err(LoadError::Link(
                    "`_start` is not a function without parameters and results".to_owned(),
                ));
            }
            let accepts = module.imports().any(|import| import.name() == "sock_accept");
            let pre = linked.core.instantiate_pre(&module).map_err(link_error)?;
            Ok(Loaded { entry: EntryPoint::Core(pre), linked, accepts })
        }
        ModuleKind::CliComponent => {
            let component = precompiled::component(&linked.engine, path)?;
            let pre = resolve(&linked, &component)?;
            let pre = p2::bindings::CommandPre::new(pre).map_err(link_error)?;
            Ok(Loaded { entry: EntryPoint::Component(pre), linked, accepts: false })
        }
        ModuleKind::CliComponentP3 => {
            let component = precompiled::component(&linked.engine, path)?;
            let pre = resolve(&linked, &component)?;
            let pre = p3::bindings::CommandPre::new(pre).map_err(link_error)?;
            Ok(Loaded { entry: EntryPoint::ComponentP3(pre), linked, accepts: false })
        }
        ModuleKind::HttpComponent => {
            let component = precompiled::component(&linked.engine, path)?;
            let pre = linked.component.instantiate_pre(&component).map_err(link_error)?;
            let pre = wasi_http::p2::bindings::ProxyPre::new(pre).map_err(link_error)?;
            Ok(Loaded { entry: EntryPoint::Http(pre), linked, accepts: false })
        }
        ModuleKind::HttpComponentP3 => {
            let component = precompiled::component(&linked.engine, path)?;
            let pre = linked.component.instantiate_pre(&component).map_err(link_error)?;
            let pre = wasi_http::p3::bindings::ServicePre::new(pre).map_err(link_error)?;
            Ok(Loaded { entry: EntryPoint::HttpP3(pre), linked, accepts: false })
        }
        ModuleKind::EmbeddedCore => {
            let module = precompiled::module(&linked.engine, path)?;
            let pre = linked.core.instantiate_pre(&module).map_err(link_error)?;
            Ok(Loaded { entry: EntryPoint::EmbeddedCore(pre), linked, accepts: false })
        }
        ModuleKind::EmbeddedComponent => {
            let component = precompiled::component(&linked.engine, path)?;
            let pre = resolve(&linked, &component)?;
            Ok(Loaded { entry: EntryPoint::EmbeddedComponent(pre), linked, accepts: false })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HostOptions, engine, inspect};

    #[tokio::test]
    async fn modules_that_serve_http_are_pooled_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let host = Arc::new(Host::new(HostOptions::new(dir.path().join("empty"))).unwrap());
        let http = include_str!("../../../tests/guests/http-0.3.wat");
        let hello = include_str!("../../../tests/guests/hello-0.2.wat");
        for (guest, text, is_pooled) in [("http", http, true), ("hello", hello, false)] {
            let bytes = wat::parse_str(text).unwrap();
            let kind = inspect::inspect(&bytes).unwrap();
            let code = engine::precompile(&host.engine(kind.generation()).unwrap(), kind, &bytes).unwrap();
            let path = dir.path().join(guest);
            std::fs::write(&path, code).unwrap();
            let loaded = host.load(&path, kind, Stack::DEFAULT).await.unwrap();
            let found = loaded.linked.engine.pooling_allocator_metrics().is_some();
            assert_eq!(found, is_pooled, "{guest}");
        }
    }
}
