use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::future::join_all;
use tokio::sync::Notify;

use super::*;
use crate::testing::{EMPTY_MODULE, Fixture, files};

/// Copies the module, counts, and can be held up or told to fail.
#[derive(Default)]
struct Copier {
    runs: AtomicUsize,
    active: AtomicUsize,
    most_active: AtomicUsize,
    fails: AtomicBool,
    entered: Notify,
    gate: Option<Semaphore>,
    key: String,
}

#[async_trait]
impl Compiler for Copier {
    fn key(&self) -> String {
        self.key.clone()
    }

    async fn compile(&self, module: &Path, out: &Path) -> Result<(), CompileError> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let active = self.active.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_active.fetch_max(active, Ordering::SeqCst);
        self.entered.notify_one();
        if let Some(gate) = &self.gate {
            let _permit = gate.acquire().await.unwrap();
        }
        self.active.fetch_sub(1, Ordering::SeqCst);
        if self.fails.load(Ordering::SeqCst) {
            fs::write(out, "half").unwrap();
            return Err(CompileError::Invalid("no such instruction".to_owned()));
        }
        fs::copy(module, out).unwrap();
        Ok(())
    }
}

async fn module(fixture: &Fixture, name: &str) -> Module {
    let path = fixture.file(name, &[EMPTY_MODULE, name.as_bytes()].concat());
    let image = fixture.store.import(&path).await.unwrap();
    fixture.store.module(&image, name).await.unwrap()
}

#[tokio::test]
async fn a_module_is_compiled_once_per_compiler_and_kept() {
    let fixture = Fixture::new();
    let module = module(&fixture, "m").await;
    let compiler = Copier { key: "engine-1".to_owned(), ..Copier::default() };
    let results = join_all((0..8).map(|_| fixture.store.precompiled(&module, &compiler))).await;
    let path = results[0].clone().unwrap();
    assert!(results.into_iter().all(|result| result.unwrap() == path));
    assert_eq!(compiler.runs.load(Ordering::SeqCst), 1);
    assert_eq!(path.file_name().unwrap().to_str().unwrap(), format!("{}-engine-1", module.digest.hex()));

    let reopened = Store::open(&fixture.root(), StoreOptions::default()).unwrap();
    assert_eq!(reopened.precompiled(&module, &compiler).await.unwrap(), path);
    let other = Copier { key: "engine/2 \0".to_owned(), ..Copier::default() };
    assert_ne!(reopened.precompiled(&module, &other).await.unwrap(), path);
    assert_eq!((compiler.runs.load(Ordering::SeqCst), other.runs.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn a_failure_is_remembered_for_a_while_and_leaves_nothing() {
    let fixture = Fixture::new();
    let module = module(&fixture, "m").await;
    let compiler = Copier { fails: AtomicBool::new(true), key: "k".to_owned(), ..Copier::default() };
    for _ in 0..3 {
        let error = fixture.store.precompiled(&module, &compiler).await.unwrap_err();
        assert_eq!(error.to_string(), "the module cannot be compiled: no such instruction");
    }
    assert_eq!(compiler.runs.load(Ordering::SeqCst), 1);
    assert!(files(&fixture.root().join("precompiled")).is_empty());

    let hasty = Fixture::with(StoreOptions { compile_retry: Duration::ZERO, ..StoreOptions::default() });
    assert!(hasty.store.precompiled(&module, &compiler).await.is_err());
    compiler.fails.store(false, Ordering::SeqCst);
    assert!(hasty.store.precompiled(&module, &compiler).await.is_ok());
}

#[tokio::test]
async fn who_waits_takes_over_from_who_gives_up() {
    let fixture = Fixture::new();
    let module = module(&fixture, "m").await;
    let compiler = Copier { gate: Some(Semaphore::new(0)), key: "k".to_owned(), ..Copier::default() };
    let first = Box::pin(fixture.store.precompiled(&module, &compiler));
    let second = fixture.store.precompiled(&module, &compiler);
    // The first is inside the compiler when it is dropped.
    let first = futures::future::select(first, Box::pin(compiler.entered.notified())).await;
    drop(first);
    assert!(files(&fixture.root().join("precompiled")).is_empty());
    compiler.gate.as_ref().unwrap().add_permits(1);
    second.await.unwrap();
    assert_eq!(compiler.runs.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn no_more_modules_at_once_than_allowed() {
    let fixture = Fixture::with(StoreOptions { compile_jobs: 2, ..StoreOptions::default() });
    let mut modules = Vec::new();
    for number in 0..6 {
        modules.push(module(&fixture, &format!("m{number}")).await);
    }
    let compiler = Copier { gate: Some(Semaphore::new(0)), key: "k".to_owned(), ..Copier::default() };
    let all = join_all(modules.iter().map(|module| fixture.store.precompiled(module, &compiler)));
    let open = async {
        compiler.entered.notified().await;
        compiler.gate.as_ref().unwrap().add_permits(1);
    };
    let (results, ()) = futures::join!(all, open);
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(compiler.runs.load(Ordering::SeqCst), 6);
    assert_eq!(compiler.most_active.load(Ordering::SeqCst), 2);
}

#[test]
fn keys_that_are_no_file_names_are_hashed() {
    assert_eq!(file_key("wasmtime-48.0.8+x86_64"), "wasmtime-48.0.8+x86_64");
    for key in ["", "a/b", "..\0", "é", &"x".repeat(65)] {
        assert_eq!(file_key(key), Digest::of(key.as_bytes()).hex(), "{key:?}");
    }
}

#[test]
fn remembered_failures_are_bounded() {
    let compilations = Compilations::new(&StoreOptions::default());
    for number in 0..2 * FAILURES_LIMIT {
        compilations.remember(&number.to_string(), &CompileError::Failed("x".to_owned()));
    }
    assert_eq!(compilations.state().failures.len(), FAILURES_LIMIT);
    assert!(compilations.failure("0").is_none());
    assert!(compilations.failure(&(2 * FAILURES_LIMIT - 1).to_string()).is_some());
}
