use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use futures::future::join_all;
use tokio::sync::{Notify, Semaphore};

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

    async fn compile(&self, module: &Path, out: &Path) -> Result<Facts, PrecompileError> {
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
            return Err(PrecompileError::Failed("no memory left".to_owned()));
        }
        fs::copy(module, out).unwrap();
        Ok(Facts { kind: "copy".to_owned(), ..Facts::default() })
    }
}

/// Who waits, where that does not matter.
const LANE: &str = "default";

async fn module(fixture: &Fixture, name: &str) -> Module {
    let path = fixture.file(name, &[EMPTY_MODULE, name.as_bytes()].concat());
    let image = fixture.store.import(&path).await.unwrap();
    fixture.store.module(&image, name).await.unwrap()
}

/// Returns when so many callers wait for their turn.
async fn waiting(fixture: &Fixture, count: usize) {
    while fixture.store.inner.compilations.state().callers.len() != count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_module_is_compiled_once_per_compiler_and_kept() {
    let fixture = Fixture::new();
    let module = module(&fixture, "m").await;
    let compiler = Copier { key: "engine-1".to_owned(), ..Copier::default() };
    let results = join_all((0..8).map(|_| fixture.store.precompiled(None, &module, &compiler, LANE))).await;
    let kept = results[0].clone().unwrap();
    assert!(results.into_iter().all(|result| result.unwrap() == kept));
    assert_eq!(compiler.runs.load(Ordering::SeqCst), 1);
    assert_eq!(kept.path.file_name().unwrap().to_str().unwrap(), format!("{}-engine-1", module.digest.hex()));
    assert_eq!(kept.facts.kind, "copy");

    let reopened = Store::open(&fixture.root(), StoreOptions::default()).unwrap();
    assert_eq!(reopened.precompiled(None, &module, &compiler, LANE).await.unwrap(), kept);
    let other = Copier { key: "engine/2 \0".to_owned(), ..Copier::default() };
    assert_ne!(reopened.precompiled(None, &module, &other, LANE).await.unwrap(), kept);
    assert_eq!((compiler.runs.load(Ordering::SeqCst), other.runs.load(Ordering::SeqCst)), (1, 1));

    // Facts that a power cut has spoiled, or that an older version did not write, are found out again.
    fs::write(facts_of(&kept.path), "{").unwrap();
    assert_eq!(reopened.precompiled(None, &module, &compiler, LANE).await.unwrap(), kept);
    assert_eq!(compiler.runs.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_failure_is_remembered_for_a_while_and_leaves_nothing() {
    let fixture = Fixture::new();
    let module = module(&fixture, "m").await;
    let compiler = Copier { fails: AtomicBool::new(true), key: "k".to_owned(), ..Copier::default() };
    for _ in 0..3 {
        let error = fixture.store.precompiled(None, &module, &compiler, LANE).await.unwrap_err();
        assert_eq!(error.to_string(), "the compiler failed: no memory left");
    }
    assert_eq!(compiler.runs.load(Ordering::SeqCst), 1);
    assert!(files(&fixture.root().join("precompiled")).is_empty());

    let hasty = Fixture::with(StoreOptions { compile_retry: Duration::ZERO, ..StoreOptions::default() });
    assert!(hasty.store.precompiled(None, &module, &compiler, LANE).await.is_err());
    compiler.fails.store(false, Ordering::SeqCst);
    assert!(hasty.store.precompiled(None, &module, &compiler, LANE).await.is_ok());
}

#[tokio::test]
async fn who_waits_takes_over_from_who_gives_up() {
    let fixture = Fixture::new();
    let module = module(&fixture, "m").await;
    let compiler = Copier { gate: Some(Semaphore::new(0)), key: "k".to_owned(), ..Copier::default() };
    let first = Box::pin(fixture.store.precompiled(None, &module, &compiler, LANE));
    let second = fixture.store.precompiled(None, &module, &compiler, LANE);
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
    let lanes = ["a", "b"].into_iter().cycle();
    let all = join_all(
        modules
            .iter()
            .zip(lanes)
            .map(|(module, lane)| fixture.store.precompiled(None, module, &compiler, lane)),
    );
    let open = async {
        // Two are inside, and everybody else has come to wait.
        waiting(&fixture, 4).await;
        while compiler.active.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        compiler.gate.as_ref().unwrap().add_permits(1);
    };
    let (results, ()) = futures::join!(all, open);
    assert!(results.iter().all(Result::is_ok));
    assert_eq!(compiler.runs.load(Ordering::SeqCst), 6);
    assert_eq!(compiler.most_active.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn compiled_forms_of_a_module_are_listed_by_their_compiler() {
    let fixture = Fixture::new();
    let (one, other) = (module(&fixture, "one").await, module(&fixture, "other").await);
    for key in ["engine-2", "engine 1"] {
        let compiler = Copier { key: key.to_owned(), ..Copier::default() };
        fixture.store.precompiled(None, &one, &compiler, LANE).await.unwrap();
        let listed = fixture.store.compiled(&one.digest).unwrap();
        let size_bytes = fs::metadata(&one.path).unwrap().len();
        assert!(
            listed.contains(&CompiledFor {
                key: Store::compiled_key(&compiler),
                size_bytes,
                signed_by: None
            }),
            "{key}"
        );
    }
    assert_eq!(fixture.store.compiled(&one.digest).unwrap().len(), 2, "facts are no form of a module");
    assert_eq!(fixture.store.compiled(&other.digest).unwrap(), []);
}

#[test]
fn keys_that_are_no_file_names_are_hashed() {
    assert_eq!(file_key("wasmtime-48.0.8+x86_64"), "wasmtime-48.0.8+x86_64");
    for key in ["", "a/b", "..\0", "é", &"x".repeat(65)] {
        assert_eq!(file_key(key), Digest::of(key.as_bytes()).hex(), "{key:?}");
    }
}

/// A hundred new modules in one lane, and one in another, which is compiled before the second of the hundred.
#[tokio::test]
async fn a_crowd_in_one_lane_does_not_hold_up_another() {
    let fixture = Fixture::with(StoreOptions { compile_jobs: 1, ..StoreOptions::default() });
    let mut modules = Vec::new();
    for number in 0..100 {
        modules.push(module(&fixture, &format!("m{number}")).await);
    }
    let neighbour = module(&fixture, "neighbour").await;
    let compiler = Copier { gate: Some(Semaphore::new(0)), key: "k".to_owned(), ..Copier::default() };
    let crowd =
        join_all(modules.iter().map(|module| fixture.store.precompiled(None, module, &compiler, "crowd")));
    let one = async {
        waiting(&fixture, 99).await;
        let compiled = async {
            fixture.store.precompiled(None, &neighbour, &compiler, "one").await.unwrap();
            compiler.runs.load(Ordering::SeqCst)
        };
        let open = async {
            waiting(&fixture, 99 + 1).await;
            compiler.gate.as_ref().unwrap().add_permits(1);
        };
        futures::join!(compiled, open).0
    };
    let (results, runs) = futures::join!(crowd, one);
    assert!(results.iter().all(Result::is_ok));
    assert!(runs <= 3, "{runs} compilations had begun when the neighbour's was done");
}

/// Who waits for what another lane has in its crowd waits in its own lane for it.
#[tokio::test]
async fn a_module_of_a_crowd_is_compiled_when_somebody_else_wants_it() {
    let fixture = Fixture::with(StoreOptions { compile_jobs: 1, ..StoreOptions::default() });
    let mut modules = Vec::new();
    for number in 0..20 {
        modules.push(module(&fixture, &format!("m{number}")).await);
    }
    let compiler = Copier { gate: Some(Semaphore::new(0)), key: "k".to_owned(), ..Copier::default() };
    let crowd =
        join_all(modules.iter().map(|module| fixture.store.precompiled(None, module, &compiler, "crowd")));
    let one = async {
        waiting(&fixture, 19).await;
        let compiled = async {
            fixture.store.precompiled(None, &modules[19], &compiler, "one").await.unwrap();
            compiler.runs.load(Ordering::SeqCst)
        };
        let open = async {
            waiting(&fixture, 19 + 1).await;
            compiler.gate.as_ref().unwrap().add_permits(1);
        };
        futures::join!(compiled, open).0
    };
    let (results, runs) = futures::join!(crowd, one);
    assert!(results.iter().all(Result::is_ok));
    assert!(runs <= 3, "{runs} compilations had begun when the neighbour's was done");
    assert_eq!(compiler.runs.load(Ordering::SeqCst), 20);
}

#[tokio::test]
async fn who_gives_up_waiting_is_not_compiled_for() {
    let fixture = Fixture::with(StoreOptions { compile_jobs: 1, ..StoreOptions::default() });
    let (first, second) = (module(&fixture, "a").await, module(&fixture, "b").await);
    let compiler = Copier { gate: Some(Semaphore::new(0)), key: "k".to_owned(), ..Copier::default() };
    let first = fixture.store.precompiled(None, &first, &compiler, LANE);
    let leaving = async {
        compiler.entered.notified().await;
        let second = Box::pin(fixture.store.precompiled(None, &second, &compiler, LANE));
        drop(futures::future::select(second, Box::pin(waiting(&fixture, 1))).await);
        compiler.gate.as_ref().unwrap().add_permits(2);
    };
    futures::join!(first, leaving).0.unwrap();
    assert_eq!(compiler.runs.load(Ordering::SeqCst), 1);
    assert!(fixture.store.inner.compilations.state().callers.is_empty());
}
