//! The compiling child as the module store's compiler, for each generation of engines.

use std::path::Path;

use async_trait::async_trait;
use kubewasm_host::{
    Generation,
    compile::{self, ChildCompiler},
    engine::EngineError,
    program::Program,
};
use kubewasm_modules::{CompileError, Compiler};

/// A compiler for each generation.
#[derive(Clone, Debug)]
pub(super) struct Compilers {
    blocking: StoreCompiler,
}

/// Compiles for the module store.
#[derive(Clone, Debug)]
pub(super) struct StoreCompiler(ChildCompiler);

impl Compilers {
    /// Compilers whose children are this program's.
    pub(super) fn new(program: &Program) -> Result<Self, EngineError> {
        let compiler = |generation| ChildCompiler::new(program.clone(), generation).map(StoreCompiler);
        Ok(Self { blocking: compiler(Generation::Blocking)? })
    }

    /// The one for modules of a generation.
    pub(super) fn of(&self, generation: Generation) -> &StoreCompiler {
        match generation {
            Generation::Blocking => &self.blocking,
        }
    }

    /// The keys of all generations, always in the same order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        Generation::ALL.into_iter().map(|generation| self.of(generation).0.key())
    }
}

#[async_trait]
impl Compiler for StoreCompiler {
    fn key(&self) -> String {
        self.0.key().to_owned()
    }

    async fn compile(&self, module: &Path, out: &Path) -> Result<(), CompileError> {
        self.0.compile(module, out).await.map_err(|error| match error {
            compile::CompileError::Refused(text) => CompileError::Invalid(text),
            compile::CompileError::Exhausted(_) | compile::CompileError::Spawn(_) => {
                CompileError::Failed(error.to_string())
            }
        })
    }
}
