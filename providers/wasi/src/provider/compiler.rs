//! The compiling child as the module store's compiler.

use std::path::Path;

use async_trait::async_trait;
use kubewasm_host::compile::{self, ChildCompiler};
use kubewasm_modules::{Compiler, Facts, PrecompileError};

/// Compiles for the module store.
#[derive(Clone, Debug)]
pub struct StoreCompiler(ChildCompiler);

impl From<ChildCompiler> for StoreCompiler {
    fn from(compiler: ChildCompiler) -> Self {
        Self(compiler)
    }
}

#[async_trait]
impl Compiler for StoreCompiler {
    fn key(&self) -> String {
        self.0.key().to_owned()
    }

    async fn compile(&self, module: &Path, out: &Path) -> Result<Facts, PrecompileError> {
        let facts = self.0.compile(module, out).await.map_err(|error| match error {
            compile::CompileError::Refused(text) => PrecompileError::Invalid(text),
            compile::CompileError::Exhausted(text) => PrecompileError::Failed(text),
            compile::CompileError::Spawn(_) | compile::CompileError::Open { .. } => {
                PrecompileError::NotRun(error.to_string())
            }
        })?;
        Ok(Facts {
            kind: facts.kind.to_string(),
            other_kinds: facts.other_kinds.iter().map(ToString::to_string).collect(),
            imports: facts.imports,
            functions: facts.functions,
            exports: facts.exports,
        })
    }
}
