//! The compiling child as the module store's compiler.

use std::path::Path;

use async_trait::async_trait;
use kubewasm_modules::{CompileError, Compiler};

use crate::compile::{self, ChildCompiler};

#[async_trait]
impl Compiler for ChildCompiler {
    fn key(&self) -> String {
        Self::key(self).to_owned()
    }

    async fn compile(&self, module: &Path, out: &Path) -> Result<(), CompileError> {
        Self::compile(self, module, out).await.map_err(|error| match error {
            compile::CompileError::Refused(text) => CompileError::Invalid(text),
            compile::CompileError::Exhausted(_) | compile::CompileError::Spawn(_) => {
                CompileError::Failed(error.to_string())
            }
        })
    }
}
