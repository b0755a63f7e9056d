//! Precompiled modules: made once per module and compiler, kept, and handed out as files.
//!
//! ```text
//!   precompiled(image, module, compiler, lane) ─► kept already? ─► refused lately? ─► [queue] ─► Compiler ─► kept
//! ```
//!
//! The engine is behind [`Compiler`]; the store decides when it runs. One compilation per module at a time,
//! a few in all, lanes in turns ([queue]), the result in place by renames. A failure is remembered for a while and in
//! memory only ([failures]), so that a pod that crashes and restarts does not compile a hopeless module each time, and a
//! new engine or a new start gives it another chance.
//!
//! What the compiler finds out about a module ([`Facts`]) is kept beside the result, and is there before it.

mod failures;
mod queue;

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use self::{
    failures::Failures,
    queue::{FairQueue, Ticket},
};
use crate::{
    Store,
    digest::Digest,
    error::{PrecompileError, StoreError},
    image::ImageName,
    layout::Layout,
    module::Module,
    options::StoreOptions,
};

const KEY_LIMIT: usize = 64;
/// What follows the name of a result in that of its facts.
const FACTS: &str = ".facts.json";

/// Turns a module into what an engine loads without compiling.
#[async_trait]
pub trait Compiler: Send + Sync {
    /// Names everything that the result depends on besides the module: engine, version, settings, processor.
    /// Results of equal keys are interchangeable.
    fn key(&self) -> String;

    /// Compiles the file `module`, writes the result to the new file `out`, and says what the module is. Dropping the
    /// future ends the compilation.
    ///
    /// # Errors
    /// See [`PrecompileError`]; what was written to `out` is then thrown away.
    async fn compile(&self, module: &Path, out: &Path) -> Result<Facts, PrecompileError>;
}

/// What a compiler has found out about a module. All names are the module's own, cut to what is fit to be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// How it is run; the compiler's word for it.
    pub kind: String,
    /// How else it can be run, in the same words; the best way first.
    #[serde(default)]
    pub other_kinds: Vec<String>,
    /// What it wants of its host: the first ones, where they are many. Interfaces, or modules of imports.
    pub imports: Vec<String>,
    /// What it wants of modules, as `module::name`: the first ones, where they are many.
    #[serde(default)]
    pub functions: Vec<String>,
    /// What it offers: the first ones, where they are many.
    pub exports: Vec<String>,
}

/// A compiled module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Precompiled {
    /// The file that an engine loads. It belongs to the store and must not be changed.
    pub path: PathBuf,
    /// What the module is.
    pub facts: Facts,
}

/// A compiled form of a module that the store has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledFor {
    /// [`Compiler::key`] of who made it; its digest where the key does not fit into a file's name.
    pub key: String,
    /// Bytes of it.
    pub size_bytes: u64,
    /// What the policy called the key by which it was trusted when it was fetched; `None` for what was compiled here.
    pub signed_by: Option<String>,
}

/// Compilations that are waited for or under way, and those that failed.
#[derive(Debug)]
pub(crate) struct Compilations(Mutex<CompilationState>);

#[derive(Debug)]
struct CompilationState {
    queue: FairQueue,
    next: Ticket,
    callers: HashMap<Ticket, oneshot::Sender<Turn>>,
    failures: Failures,
}

/// What a caller has waited for.
#[derive(Debug)]
enum Turn {
    /// It has a place, and is to compile.
    Begin,
    /// Somebody else has compiled, or failed to.
    Ended(Result<(), PrecompileError>),
}

impl Compilations {
    pub(crate) fn new(options: &StoreOptions) -> Self {
        Self(Mutex::new(CompilationState {
            queue: FairQueue::new(options.compile_jobs),
            next: 0,
            callers: HashMap::new(),
            failures: Failures::new(options.compile_retry, options.compile_refusal),
        }))
    }

    fn state(&self) -> MutexGuard<'_, CompilationState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, lane: &str, name: &str) -> Caller<'_> {
        let (sender, turn) = oneshot::channel();
        let mut state = self.state();
        let ticket = state.next;
        state.next += 1;
        state.callers.insert(ticket, sender);
        state.queue.enter(ticket, lane, name);
        state.call();
        Caller { ticket, turn, of: self }
    }
}

impl CompilationState {
    /// Calls everybody whose turn it is.
    fn call(&mut self) {
        while let Some(ticket) = self.queue.next() {
            // One that does not listen any more is about to leave.
            let _ = self.callers.remove(&ticket).map(|caller| caller.send(Turn::Begin));
        }
    }
}

/// A place in the queue, or at work; left when it is dropped.
struct Caller<'a> {
    ticket: Ticket,
    turn: oneshot::Receiver<Turn>,
    of: &'a Compilations,
}

impl Caller<'_> {
    /// Tells those who wait for the same how it has ended, and remembers a failure.
    fn end(&self, name: &str, result: &Result<(), PrecompileError>) {
        let mut state = self.of.state();
        match result {
            Ok(()) => state.failures.forget(name),
            Err(error) => state.failures.remember(name, error, Instant::now()),
        }
        for ticket in state.queue.waiting_for(name) {
            state.queue.leave(ticket);
            let _ = state.callers.remove(&ticket).map(|caller| caller.send(Turn::Ended(result.clone())));
        }
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        let mut state = self.of.state();
        state.callers.remove(&self.ticket);
        state.queue.leave(self.ticket);
        state.call();
    }
}

impl Store {
    /// The precompiled form of `module`, made by `compiler` unless the store has it, or has one of somebody whom the
    /// policy trusts with images called `image`. For `None` it is this store's own, whomever the policy trusts.
    ///
    /// Concurrent calls for one module and key compile once. When the caller that compiles gives up (drops
    /// the future), the next one that waits compiles in its place. Callers of one `lane` wait for each other before
    /// those of other lanes do: lanes take turns, and none has all of [`StoreOptions::compile_jobs`] if there are
    /// several. The file goes with the last image that has the module: hold the image ([`Store::hold`]) until the file
    /// is loaded.
    ///
    /// # Errors
    /// [`PrecompileError`]; the same again, without compiling, while the failure is fresh
    /// ([`StoreOptions::compile_retry`], [`StoreOptions::compile_refusal`]).
    pub async fn precompiled(
        &self,
        image: Option<&ImageName>,
        module: &Module,
        compiler: &dyn Compiler,
        lane: &str,
    ) -> Result<Precompiled, PrecompileError> {
        let key = compiler.key();
        let name = file_name(&module.digest, &key);
        let place = self.inner.layout.precompiled().join(&name);
        let compilations = &self.inner.compilations;
        loop {
            if let Some(kept) = self.kept(image, module, &key).await? {
                return Ok(kept);
            }
            if let Some(failure) = compilations.state().failures.get(&name, Instant::now()) {
                return Err(failure);
            }
            let mut caller = compilations.enter(lane, &name);
            match (&mut caller.turn).await {
                // It may have been compiled between the look and the turn, here or by another process.
                Ok(Turn::Begin) => {
                    if let Some(kept) = self.kept(image, module, &key).await? {
                        return Ok(kept);
                    }
                    let result = self.compile(module, compiler, &place).await;
                    caller.end(&name, &result.as_ref().map(|_| ()).map_err(Clone::clone));
                    return result;
                }
                Ok(Turn::Ended(result)) => result?,
                // The sender goes with the caller, and not before.
                Err(_) => {}
            }
        }
    }

    /// All compiled forms of a module that the store has.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the store cannot be read.
    pub fn compiled(&self, module: &Digest) -> Result<Vec<CompiledFor>, StoreError> {
        let layout = &self.inner.layout;
        let mut found = Vec::new();
        for (path, of) in layout.precompiled_modules()? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some((_, key)) = name.split_once('-').filter(|_| of == *module && !name.ends_with(FACTS))
            else {
                continue;
            };
            // It may be removed at any moment, with its image.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            found.push(CompiledFor { key: key.to_owned(), size_bytes: metadata.len(), signed_by: None });
        }
        for (key, size_bytes, signer) in self.inner.all_shared_code(module)? {
            found.push(CompiledFor { key: file_key(&key), size_bytes, signed_by: Some(signer) });
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// The name under which [`Store::compiled`] lists what `compiler` makes.
    #[must_use]
    pub fn compiled_key(compiler: &dyn Compiler) -> String {
        file_key(&compiler.key())
    }

    /// What the store has.
    async fn kept(
        &self,
        image: Option<&ImageName>,
        module: &Module,
        key: &str,
    ) -> Result<Option<Precompiled>, PrecompileError> {
        let (inner, image, module, key) =
            (Arc::clone(&self.inner), image.cloned(), module.digest, key.to_owned());
        let read = move || Ok(inner.code_of(image.as_ref(), &module, &key)?);
        tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(ended(&error)))
    }

    async fn compile(
        &self,
        module: &Module,
        compiler: &dyn Compiler,
        place: &Path,
    ) -> Result<Precompiled, PrecompileError> {
        let workspace = self.inner.layout.workspace()?;
        let out = workspace.path().join("compiled");
        let facts = compiler.compile(&module.path, &out).await?;
        let (inner, path) = (Arc::clone(&self.inner), place.to_owned());
        let keep = move || {
            inner.layout.write(&facts_of(&path), &facts)?;
            let finish = || -> io::Result<()> {
                File::open(&out)?.sync_all()?;
                fs::rename(&out, &path)
            };
            finish().map_err(StoreError::io("keep the compiled module in", &path))?;
            drop(workspace);
            Ok(Precompiled { path, facts })
        };
        tokio::task::spawn_blocking(keep).await.unwrap_or_else(|error| Err(ended(&error)))
    }
}

/// What `key` has compiled here of `module`; nothing if its facts cannot be read, so that it is compiled again.
pub(crate) fn own_code(
    layout: &Layout,
    module: &Digest,
    key: &str,
) -> Result<Option<Precompiled>, StoreError> {
    let path = layout.precompiled().join(file_name(module, key));
    if !path.exists() {
        return Ok(None);
    }
    let facts = layout.read(&facts_of(&path))?;
    Ok(facts.map(|facts| Precompiled { path, facts }))
}

fn file_name(module: &Digest, key: &str) -> String {
    format!("{}-{}", module.hex(), file_key(key))
}

/// The thread that worked for the store did not come to its end.
fn ended(error: &tokio::task::JoinError) -> PrecompileError {
    PrecompileError::NotRun(format!("the module store did not answer: {error}"))
}

fn facts_of(place: &Path) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push(FACTS);
    name.into()
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
