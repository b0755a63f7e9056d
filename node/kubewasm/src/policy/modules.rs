//! The module store, as a server of policies sees it.

use std::{fmt, sync::Arc};

use anyhow::Context as _;
use async_trait::async_trait;
use kubewasm_host::{compile::ChildCompiler, program::Program};
use kubewasm_modules::{PullError, PullFailure, Store};
use kubewasm_policy::{
    metadata::Metadata,
    modules::{FoundModule, MachineCode, ModuleFailure, Modules},
};
use kubewasm_wasi::provider::StoreCompiler;

use super::source::{Found, PolicySource, find};
use crate::module::{self, ModuleSession};

/// Finds the modules of policies in the store, and pulls those that are not there.
#[derive(Debug)]
pub(super) struct StoreModules {
    session: ModuleSession,
    compiler: StoreCompiler,
}

impl StoreModules {
    /// Nobody looks at how far transfers are.
    pub(super) fn new(session: ModuleSession) -> anyhow::Result<Self> {
        let compiler = ChildCompiler::new(Program::current())?.into();
        Ok(Self { session: session.quiet(), compiler })
    }
}

#[async_trait]
impl Modules for StoreModules {
    async fn find(&self, name: &str) -> Result<Arc<dyn FoundModule>, ModuleFailure> {
        let found = async { find(&self.session, &name.parse::<PolicySource>()?).await };
        let found = found.await.map_err(|error| failure(name, &error))?;
        let (store, compiler) = (self.session.store.clone(), self.compiler.clone());
        Ok(Arc::new(StoreModule { store, compiler, found }))
    }
}

/// A module of the store, which is held.
pub(crate) struct StoreModule {
    /// The store.
    pub(crate) store: Store,
    /// What compiles it, unless that was done before.
    pub(crate) compiler: StoreCompiler,
    /// The module.
    pub(crate) found: Found,
}

impl fmt::Debug for StoreModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StoreModule").field(&self.found.module).finish()
    }
}

#[async_trait]
impl FoundModule for StoreModule {
    fn digest(&self) -> String {
        self.found.module.digest.to_string()
    }

    fn metadata(&self) -> Option<&Metadata> {
        self.found.metadata.as_ref()
    }

    async fn compile(&self) -> Result<MachineCode, ModuleFailure> {
        let name = &self.found.image.reference;
        let compiled = async {
            let compiled = self.store.precompiled(Some(name), &self.found.module, &self.compiler, "").await;
            let compiled = compiled.with_context(|| format!("cannot compile {name}"))?;
            let kind = compiled.facts.kind.parse()?;
            Ok::<_, anyhow::Error>(MachineCode { path: compiled.path, kind })
        };
        compiled.await.map_err(|error| failure(name, &error))
    }
}

/// Why a module is not to be had.
pub(crate) fn failure(module: impl fmt::Display, error: &anyhow::Error) -> ModuleFailure {
    let (text, module) = (module::text(error), module.to_string());
    let message = if text.contains(&module) { text } else { format!("{module}: {text}") };
    let pull = error.downcast_ref::<PullError>();
    let is_transient = pull.is_some_and(|pull| matches!(pull.reason, PullFailure::Unavailable(_)));
    ModuleFailure { message, is_transient }
}
