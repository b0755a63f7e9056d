//! Precompiled modules: made once per module and compiler, kept, and handed out as files.
//!
//! The engine is behind [`Compiler`]; the store decides when it runs. One compilation per module at a time,
//! a few in all, the result in place by one rename. A failure is remembered for a while and in memory only,
//! so that a pod that crashes and restarts does not compile a hopeless module each time, and a new engine or a
//! new start gives it another chance.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::Semaphore;

use crate::{
    Store,
    digest::Digest,
    error::{CompileError, StoreError},
    module::Module,
    options::StoreOptions,
};

/// Failures that are remembered; the oldest goes first.
const FAILURES_LIMIT: usize = 256;
const KEY_LIMIT: usize = 64;

/// Turns a module into what an engine loads without compiling.
#[async_trait]
pub trait Compiler: Send + Sync {
    /// Names everything that the result depends on besides the module: engine, version, settings, processor.
    /// Results of equal keys are interchangeable.
    fn key(&self) -> String;

    /// Compiles the file `module` and writes the result to the new file `out`.
    ///
    /// # Errors
    /// See [`CompileError`]; what was written to `out` is then thrown away.
    async fn compile(&self, module: &Path, out: &Path) -> Result<(), CompileError>;
}

/// Compilations that are under way, and those that failed.
#[derive(Debug)]
pub(crate) struct Compilations {
    permits: Semaphore,
    retry: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Who compiles a file name holds its lock; the others wait and then look again.
    running: HashMap<String, Weak<tokio::sync::Mutex<()>>>,
    failures: HashMap<String, (Instant, CompileError)>,
}

impl Compilations {
    pub(crate) fn new(options: &StoreOptions) -> Self {
        Self {
            permits: Semaphore::new(options.compile_jobs.clamp(1, Semaphore::MAX_PERMITS)),
            retry: options.compile_retry,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut state = self.state();
        state.running.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = state.running.get(name).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        state.running.insert(name.to_owned(), Arc::downgrade(&turn));
        turn
    }

    fn failure(&self, name: &str) -> Option<CompileError> {
        let mut state = self.state();
        state.failures.retain(|_, (since, _)| since.elapsed() < self.retry);
        state.failures.get(name).map(|(_, error)| error.clone())
    }

    fn remember(&self, name: &str, error: &CompileError) {
        // A full disk says nothing about the module.
        if matches!(error, CompileError::Store(_)) {
            return;
        }
        let mut state = self.state();
        if state.failures.len() >= FAILURES_LIMIT {
            let oldest =
                state.failures.iter().min_by_key(|(_, (since, _))| *since).map(|(name, _)| name.clone());
            oldest.and_then(|name| state.failures.remove(&name));
        }
        state.failures.insert(name.to_owned(), (Instant::now(), error.clone()));
    }
}

impl Store {
    /// The precompiled form of `module`, made by `compiler` unless the store has it.
    ///
    /// Concurrent calls for one module and key compile once. When the caller that compiles gives up (drops
    /// the future), the next one that waits compiles in its place. The file goes with the last image that has
    /// the module: hold the image ([`Store::hold`]) until the file is loaded.
    ///
    /// # Errors
    /// [`CompileError`]; the same again, without compiling, while the failure is fresh
    /// ([`StoreOptions::compile_retry`]).
    pub async fn precompiled(
        &self,
        module: &Module,
        compiler: &dyn Compiler,
    ) -> Result<PathBuf, CompileError> {
        let name = format!("{}-{}", module.digest.hex(), file_key(&compiler.key()));
        let place = self.inner.layout.precompiled().join(&name);
        if place.exists() {
            return Ok(place);
        }
        let compilations = &self.inner.compilations;
        let turn = compilations.turn(&name);
        let _turn = turn.lock().await;
        if place.exists() {
            return Ok(place);
        }
        if let Some(failure) = compilations.failure(&name) {
            return Err(failure);
        }
        // The semaphore is never closed, so that acquiring cannot fail.
        let _permit = compilations.permits.acquire().await.ok();
        match self.compile(module, compiler, &place).await {
            Ok(()) => Ok(place),
            Err(error) => {
                compilations.remember(&name, &error);
                Err(error)
            }
        }
    }

    async fn compile(
        &self,
        module: &Module,
        compiler: &dyn Compiler,
        place: &Path,
    ) -> Result<(), CompileError> {
        let workspace = self.inner.layout.workspace()?;
        let out = workspace.path().join("compiled");
        compiler.compile(&module.path, &out).await?;
        let finish = || -> io::Result<()> {
            File::open(&out)?.sync_all()?;
            fs::rename(&out, place)
        };
        Ok(finish().map_err(StoreError::io("keep the compiled module in", place))?)
    }
}

/// A compiler's key as part of a file name: as it is when that can be, else its digest.
fn file_key(key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'+');
    if !key.is_empty() && key.len() <= KEY_LIMIT && key.bytes().all(plain) {
        key.to_owned()
    } else {
        Digest::of(key.as_bytes()).hex()
    }
}

#[cfg(test)]
mod tests;
