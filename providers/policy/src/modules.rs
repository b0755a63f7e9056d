//! Where the modules of policies come from: a seam, since a store knows nothing of policies, nor they of it.

use std::{fmt, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use kubewasm_host::ModuleKind;

use crate::metadata::Metadata;

/// Finds modules by what a [`ProgramSpec`](crate::spec::ProgramSpec) names them by.
#[async_trait]
pub trait Modules: fmt::Debug + Send + Sync + 'static {
    /// Finds a module, and pulls it when it is not here.
    ///
    /// # Errors
    /// [`ModuleFailure`].
    async fn find(&self, module: &str) -> Result<Arc<dyn FoundModule>, ModuleFailure>;
}

/// A module that is here. While this lives, its files are not removed.
#[async_trait]
pub trait FoundModule: fmt::Debug + Send + Sync + 'static {
    /// That of its bytes: policies of one digest share their code.
    fn digest(&self) -> String;

    /// What it says of itself.
    fn metadata(&self) -> Option<&Metadata>;

    /// Its machine code, made now when that was not done before.
    ///
    /// # Errors
    /// [`ModuleFailure`].
    async fn compile(&self) -> Result<MachineCode, ModuleFailure>;
}

/// The machine code of a module.
#[derive(Clone, Debug)]
pub struct MachineCode {
    /// Where it is.
    pub path: PathBuf,
    /// Of what it is.
    pub kind: ModuleKind,
}

/// A module that is not to be had, or that does not compile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ModuleFailure {
    /// What is the matter, with the module's name.
    pub message: String,
    /// It may be otherwise later, without anybody's doing: a registry does not answer.
    pub is_transient: bool,
}
