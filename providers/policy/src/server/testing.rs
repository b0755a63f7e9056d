//! Policies for tests: programs that say one thing, whatever they are asked, and a shelf that has them.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use kubewasm_host::compile;
use tokio::sync::Semaphore;

use super::registry::{PolicyRegistry, RegistryOptions};
use crate::{
    evaluator::Evaluator,
    host::LocalHost,
    metadata::{ExecutionMode, Metadata},
    modules::{FoundModule, MachineCode, ModuleFailure, Modules},
    request::Settings,
    spec::{GroupSpec, Mode, PolicySpec, ProgramSpec, Spec},
};

/// Modules by their names. Those of one text are one module.
#[derive(Debug)]
pub(super) struct Shelf {
    dir: tempfile::TempDir,
    modules: HashMap<String, (String, Option<Metadata>)>,
    /// Whoever finds one takes a turn.
    pub(super) turns: Semaphore,
    waiting: AtomicUsize,
    /// Most that ever waited for a turn at once.
    pub(super) most_waiting: AtomicUsize,
}

/// Of programs of WASI.
pub(super) fn metadata(execution_mode: ExecutionMode) -> Metadata {
    Metadata { execution_mode, ..Metadata::default() }
}

/// A program that writes this to its standard output.
pub(super) fn says(text: &str) -> String {
    let escaped: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    body(&format!(
        r#"(data (i32.const 1024) "{escaped}")
           (func (export "_start")
             (i32.store (i32.const 8) (i32.const 1024)) (i32.store (i32.const 12) (i32.const {}))
             (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16))))"#,
        text.len()
    ))
}

/// A program that takes any settings, and never comes to a verdict.
pub(super) fn loops() -> String {
    body(
        r#"(data (i32.const 1024) "{\"valid\":true}")
           (func (export "_start")
             (drop (call $sizes (i32.const 0) (i32.const 4)))
             ;; "policy.wasm", "validate" and their ends are 21 bytes
             (if (i32.eq (i32.load (i32.const 4)) (i32.const 21)) (then (loop $again (br $again))))
             (i32.store (i32.const 8) (i32.const 1024)) (i32.store (i32.const 12) (i32.const 14))
             (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16))))"#,
    )
}

fn body(rest: &str) -> String {
    format!(
        r#"(module
          (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "args_sizes_get" (func $sizes (param i32 i32) (result i32)))
          (memory (export "memory") 1) {rest})"#
    )
}

impl Shelf {
    pub(super) fn new<'a>(modules: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let wasi = Some(metadata(ExecutionMode::Wasi));
        let modules =
            modules.into_iter().map(|(name, text)| (name.to_owned(), (text, wasi.clone()))).collect();
        Self {
            dir: tempfile::tempdir().unwrap(),
            modules,
            turns: Semaphore::new(Semaphore::MAX_PERMITS),
            waiting: AtomicUsize::new(0),
            most_waiting: AtomicUsize::new(0),
        }
    }

    pub(super) fn with(mut self, name: &str, text: String, metadata: Option<Metadata>) -> Self {
        self.modules.insert(name.to_owned(), (text, metadata));
        self
    }

    /// Nobody finds anything until turns are added.
    pub(super) fn closed(self) -> Self {
        Self { turns: Semaphore::new(0), ..self }
    }
}

#[async_trait]
impl Modules for Shelf {
    async fn find(&self, name: &str) -> Result<Arc<dyn FoundModule>, ModuleFailure> {
        let waiting = self.waiting.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_waiting.fetch_max(waiting, Ordering::SeqCst);
        self.turns.acquire().await.unwrap().forget();
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        let failure = |is_transient| ModuleFailure { message: format!("{name} is not there"), is_transient };
        let (text, metadata) = self.modules.get(name).ok_or_else(|| failure(name == "later"))?;
        // The name is as good a digest as any where each text has one name.
        let digest = name.split('@').next().unwrap().to_owned();
        let file = self.dir.path().join(&digest);
        Ok(Arc::new(ShelfModule { digest, file, text: text.clone(), metadata: metadata.clone() }))
    }
}

#[derive(Debug)]
struct ShelfModule {
    digest: String,
    file: PathBuf,
    text: String,
    metadata: Option<Metadata>,
}

#[async_trait]
impl FoundModule for ShelfModule {
    fn digest(&self) -> String {
        self.digest.clone()
    }

    fn metadata(&self) -> Option<&Metadata> {
        self.metadata.as_ref()
    }

    async fn compile(&self) -> Result<MachineCode, ModuleFailure> {
        let path = self.file.with_extension("code");
        std::fs::write(&self.file, wat::parse_str(&self.text).unwrap()).unwrap();
        let kind = compile::compile_file(&self.file, &path).unwrap();
        Ok(MachineCode { path, kind })
    }
}

/// A registry whose policies are on this shelf.
pub(super) fn registry(shelf: Arc<Shelf>) -> PolicyRegistry {
    let evaluator = Evaluator::new(&shelf.dir.path().join("empty"), Arc::new(LocalHost)).unwrap();
    PolicyRegistry::new(Arc::new(evaluator), shelf, RegistryOptions::default())
}

pub(super) fn program(module: &str) -> ProgramSpec {
    ProgramSpec {
        module: module.to_owned(),
        settings: Settings::default(),
        context_aware_resources: [].into(),
        timeout: None,
    }
}

/// A policy that may change nothing.
pub(super) fn policy(module: &str) -> PolicySpec {
    PolicySpec { program: program(module), mode: Mode::Protect, allowed_to_mutate: false, message: None }
}

/// A group whose members are named as their modules are.
pub(super) fn group(members: &[&str], expression: &str) -> Spec {
    Spec::Group(GroupSpec {
        policies: members.iter().map(|name| ((*name).to_owned(), program(name))).collect::<BTreeMap<_, _>>(),
        expression: expression.to_owned(),
        message: "the group refuses".to_owned(),
        mode: Mode::Protect,
    })
}

pub(super) const ACCEPTS: &str = r#"{"valid":true,"accepted":true}"#;
pub(super) const REFUSES: &str = r#"{"valid":true,"accepted":false,"message":"no","code":400}"#;
pub(super) const CHANGES: &str = r#"{"valid":true,"accepted":true,"mutated_object":{"a":2}}"#;
