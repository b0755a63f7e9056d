//! The module store, as a server of policies sees it.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use kubewasm_modules::{PullError, PullFailure};
use kubewasm_policy::{
    metadata::Metadata,
    modules::{FoundModule, MachineCode, ModuleFailure, Modules},
};

use super::source::{Found, PolicySource, find};
use crate::module::{self, ModuleSession};

/// Finds the modules of policies in the store, and pulls those that are not there.
#[derive(Debug)]
pub(super) struct StoreModules(Arc<ModuleSession>);

impl StoreModules {
    /// Nobody looks at how far transfers are.
    pub(super) fn new(session: ModuleSession) -> Self {
        Self(Arc::new(session.quiet()))
    }
}

#[async_trait]
impl Modules for StoreModules {
    async fn find(&self, name: &str) -> Result<Arc<dyn FoundModule>, ModuleFailure> {
        let found = async { find(&self.0, &name.parse::<PolicySource>()?).await };
        let found = found.await.map_err(|error| failure(name, &error))?;
        Ok(Arc::new(StoreModule { session: Arc::clone(&self.0), found }))
    }
}

/// A module of the store, which is held.
struct StoreModule {
    session: Arc<ModuleSession>,
    found: Found,
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
        let compiled = async {
            let compiled = self.found.compiled(&self.session).await?;
            let kind = compiled.facts.kind.parse()?;
            Ok::<_, anyhow::Error>(MachineCode { path: compiled.path, kind })
        };
        compiled.await.map_err(|error| failure(&self.found.image.reference, &error))
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
