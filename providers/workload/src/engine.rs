//! The engine: compiles components, and keeps what was compiled.

use std::{
    collections::HashMap,
    fmt,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use kubewasm_host::{
    AnyPlugin, Generation, Host, HostOptions, LoadedComponent, ModuleKind, Resolver, engine, inspect,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;

use crate::error::{CompileError, EngineBuildError};

/// Compiles components and runs them. Clones are the same engine; one is enough for a process.
#[derive(Clone)]
pub struct Engine(Arc<EngineInner>);

struct EngineInner {
    host: Arc<Host>,
    directory: Directory,
    /// By generation; names all that the machine code depends on.
    keys: HashMap<Generation, String>,
    /// Those that are being compiled: each once.
    compiled: tokio::sync::Mutex<HashMap<String, Arc<OnceCell<Compiled>>>>,
}

/// Where compiled components, volumes and the empty root of guests are.
struct Directory {
    path: PathBuf,
    /// Made for this engine, and removed with it.
    is_own: bool,
}

/// Machine code of a component.
#[derive(Clone, Debug)]
pub(crate) struct Compiled {
    path: PathBuf,
    generation: Generation,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("directory", &self.0.directory.path).finish_non_exhaustive()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.is_own {
            // Whoever still has a volume open keeps its contents; the rest is of no use to anybody.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Settings of an [`Engine`].
#[derive(Debug, Default)]
pub struct EngineBuilder {
    directory: Option<PathBuf>,
    default_memory_limit: Option<u64>,
    resolver: Option<Resolver>,
    plugins: Vec<Arc<dyn AnyPlugin>>,
}

impl EngineBuilder {
    /// Keeps compiled components in a directory of the caller's, so that they are not compiled again by the next process. It must
    /// belong to this user, and nobody else may write to it: what is in there is run.
    #[must_use]
    pub fn with_directory(self, path: impl Into<PathBuf>) -> Self {
        Self { directory: Some(path.into()), ..self }
    }

    /// Bytes for components that say nothing of memory. 1 GiB without it.
    #[must_use]
    pub fn with_default_memory_limit(self, bytes: u64) -> Self {
        Self { default_memory_limit: Some(bytes), ..self }
    }

    /// How components' names become addresses. The system's way without it.
    #[must_use]
    pub fn with_resolver(self, resolver: Resolver) -> Self {
        Self { resolver: Some(resolver), ..self }
    }

    /// Adds an interface for all components, with nothing of a workload's.
    #[must_use]
    pub fn with_plugin(mut self, plugin: Arc<dyn AnyPlugin>) -> Self {
        self.plugins.push(plugin);
        self
    }

    /// Makes the engine.
    ///
    /// # Errors
    /// [`EngineBuildError`].
    pub fn build(self) -> Result<Engine, EngineBuildError> {
        let directory = Directory::make(self.directory)?;
        let mut options = HostOptions::new(directory.empty_root());
        options.plugins = self.plugins;
        if let Some(limit) = self.default_memory_limit {
            options.default_memory_limit = limit;
        }
        if let Some(resolver) = self.resolver {
            options.resolver = resolver;
        }
        let host = Arc::new(Host::new(options)?);
        let key = |generation: Generation| engine::key(generation).map(|key| (generation, key));
        let keys = Generation::ALL.into_iter().map(key).collect::<Result<_, _>>()?;
        Ok(Engine(Arc::new(EngineInner { host, directory, keys, compiled: tokio::sync::Mutex::default() })))
    }
}

impl Directory {
    fn make(wanted: Option<PathBuf>) -> Result<Self, EngineBuildError> {
        let is_own = wanted.is_none();
        let path = wanted.unwrap_or_else(fresh_name);
        let make = || -> io::Result<()> {
            let mut private = DirBuilder::new();
            private.mode(0o700);
            // Somebody else's of that name is refused, and not used.
            if is_own {
                private.create(&path)?
            } else {
                private.recursive(true).create(&path)?
            }
            private.recursive(true);
            for part in ["code", "volumes", "empty"] {
                private.create(path.join(part))?;
            }
            Ok(())
        };
        make().map_err(|source| EngineBuildError::Directory { path: path.display().to_string(), source })?;
        Ok(Self { path, is_own })
    }

    fn empty_root(&self) -> PathBuf {
        self.path.join("empty")
    }
}

fn fresh_name() -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    std::env::temp_dir().join(format!("kubewasm-workload-{}-{now}-{count}", std::process::id()))
}

impl Engine {
    /// Settings for one.
    #[must_use]
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    pub(crate) fn host(&self) -> &Arc<Host> {
        &self.0.host
    }

    pub(crate) fn empty_root(&self) -> PathBuf {
        self.0.directory.empty_root()
    }

    /// Where the volumes of workloads are made.
    pub(crate) fn volumes(&self) -> PathBuf {
        self.0.directory.path.join("volumes")
    }

    /// Compiles a component, unless it has been.
    pub(crate) async fn compile(
        &self,
        bytes: &Bytes,
        digest: Option<&str>,
    ) -> Result<Compiled, CompileError> {
        let found = digest_of(bytes);
        if let Some(wanted) = digest.filter(|wanted| *wanted != found) {
            return Err(CompileError::Digest { wanted: wanted.to_owned(), found });
        }
        let cell = Arc::clone(self.0.compiled.lock().await.entry(found.clone()).or_default());
        let (engine, bytes, name) = (self.clone(), bytes.clone(), found.clone());
        let compile = || async move {
            let task = tokio::task::spawn_blocking(move || engine.compile_now(&bytes, &name));
            task.await.unwrap_or_else(|error| Err(CompileError::Compiler(error.to_string())))
        };
        let compiled = cell.get_or_try_init(compile).await.cloned();
        // From now on the file is there to be found.
        self.0.compiled.lock().await.remove(&found);
        compiled
    }

    fn compile_now(&self, bytes: &[u8], digest: &str) -> Result<Compiled, CompileError> {
        let surface = inspect::surface(bytes)?;
        if surface.form == inspect::ModuleForm::Core {
            return Err(CompileError::CoreModule);
        }
        let is_p3 = surface.imports.iter().chain(&surface.exports).any(|name| name.contains("@0.3."));
        let generations = match is_p3 {
            true => &[Generation::Concurrent][..],
            // Functions that are asynchronous can be there without any interface of WASI 0.3.
            false => &[Generation::Blocking, Generation::Concurrent],
        };
        let mut first_error = None;
        for generation in generations {
            match self.compile_for(*generation, bytes, digest) {
                Ok(compiled) => return Ok(compiled),
                Err(error) => drop(first_error.get_or_insert(error)),
            }
        }
        Err(first_error.unwrap_or_else(|| CompileError::Compiler("there is no engine for it".to_owned())))
    }

    fn compile_for(
        &self,
        generation: Generation,
        bytes: &[u8],
        digest: &str,
    ) -> Result<Compiled, CompileError> {
        let refused = |error: String| CompileError::Compiler(error);
        let key = self.0.keys.get(&generation).map_or("", String::as_str);
        let name = format!("{}-{key}", digest.trim_start_matches("sha256:"));
        let path = self.0.directory.path.join("code").join(name);
        if !path.exists() {
            let engine = self.0.host.engine(generation).map_err(|error| refused(error.to_string()))?;
            let code = engine::precompile(&engine, ModuleKind::EmbeddedComponent, bytes)
                .map_err(|error| refused(format!("{error:#}")))?;
            write(&path, &code)
                .map_err(|source| CompileError::Write { path: path.display().to_string(), source })?;
        }
        Ok(Compiled { path, generation })
    }

    /// Loads what was compiled: `pooled` for instances that come and go.
    pub(crate) async fn load(
        &self,
        compiled: &Compiled,
        pooled: bool,
    ) -> Result<LoadedComponent, CompileError> {
        Ok(self.0.host.load_component(&compiled.path, compiled.generation, pooled).await?)
    }
}

/// Whole, or not at all; for nobody else to write.
fn write(path: &Path, code: &[u8]) -> io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_extension(format!("{}-{count}.tmp", std::process::id()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let written = file.write_all(code).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // It is of no use.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// The digest of a component's bytes: `sha256:…`.
fn digest_of(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        // A `String` takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
