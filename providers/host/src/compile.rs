//! Compiling a module, in a process of its own.
//!
//! ```text
//!   agent: ChildCompiler                          child: child_main
//!     module, opened ───────────── stdin ───────►  [jail]: gives up all but its streams
//!     out, made      ◄──────────── stdout ───────  inspects, compiles with the engine of the module's generation
//!     facts, or why not ◄───────── stderr ───────  says what the module is, or what is wrong with it
//! ```
//!
//! Compiling is the one thing done with a module that takes seconds and hundreds of megabytes, on input
//! that anybody may have made; and nobody else parses a module. It happens in a child process with nothing to lose:
//! [`ChildCompiler`] runs this program as `compile`, which is [`child_main`], under limits on memory, processor time and
//! priority, without files, network, rights and environment. What goes wrong there is an error with a text here.

mod child;
mod jail;

use std::{
    fmt,
    fs::{File, OpenOptions},
    io,
    os::unix::{fs::OpenOptionsExt as _, process::ExitStatusExt as _},
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, Once},
    time::Duration,
};

use tokio::{io::AsyncReadExt as _, process::Command};

pub use crate::features::MissingFeature;
pub use child::{ChildError, ChildOptions, child_main, compile_file};

use crate::{
    engine::{self, EngineError},
    inspect::Facts,
    kind::Generation,
    program::Program,
};

/// Largest module that is compiled, in bytes.
pub const MODULE_LIMIT: u64 = 512 << 20;

/// Address space of the child, and the most that it may write. A Go program of 19 MB takes 410 MB.
const ADDRESS_SPACE: u64 = 4 << 30;
/// Processor time of the child, over all its threads. The same program takes 7 s.
const CPU_SECONDS: u64 = 120;
/// A child that neither computes nor ends, waiting for a disk that hangs, is given up.
const WALL_CLOCK: Duration = Duration::from_secs(600);
/// How much of what the child says is kept, in bytes: more than the facts about any module.
const ANSWER_LIMIT: u64 = 256 << 10;
/// How much of an error is kept, in bytes.
const ERROR_LIMIT: usize = 4096;
/// Counted up when the same module is found to be something else than before.
const FACTS_REVISION: u32 = 3;

/// Where the children of a compiler are kept besides the limits that they take upon themselves: a cgroup, say.
pub trait Enclosure: fmt::Debug + Send + Sync {
    /// Takes a child in that has just been started; called where blocking is fine. Nothing is an enclosure that cannot
    /// be had.
    fn enclose(&self, pid: u32) -> Option<Box<dyn Enclosed>>;
}

/// A child that is enclosed; dropped when it has ended.
pub trait Enclosed: Send + Sync {
    /// Whether the child was killed for want of memory.
    fn ran_out_of_memory(&self) -> bool;
}

/// Compiles modules in child processes of a [`Program`].
#[derive(Clone, Debug)]
pub struct ChildCompiler {
    program: Program,
    key: String,
    enclosure: Option<Arc<dyn Enclosure>>,
    options: ChildOptions,
}

/// Why a module was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The child could not be started or waited for.
    #[error("cannot run the compiler: {0}")]
    Spawn(#[source] io::Error),
    /// What the child reads or writes could not be opened.
    #[error("cannot open {path} for the compiler: {source}")]
    Open {
        /// The module, or where the result goes.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The child said no: the module is at fault, and compiling it again will not help.
    #[error("{0}")]
    Refused(String),
    /// The child met one of its limits.
    #[error("{0}")]
    Exhausted(String),
}

impl ChildCompiler {
    /// A compiler whose children are `program`'s subcommand `compile`.
    ///
    /// # Errors
    /// [`EngineError`] when this machine cannot run wasmtime.
    pub fn new(program: Program) -> Result<Self, EngineError> {
        let keys: Vec<_> = Generation::ALL.into_iter().map(engine::key).collect::<Result<_, _>>()?;
        Ok(Self {
            program,
            key: format!("{}-{FACTS_REVISION}", keys.join("+")),
            enclosure: None,
            options: ChildOptions::default(),
        })
    }

    /// Compiles nothing where the children cannot be confined as a whole.
    #[must_use]
    pub fn confined(self) -> Self {
        Self { options: ChildOptions { confined: true, ..self.options }, ..self }
    }

    /// Finds out whether modules can be compiled here at all, as the compiler has been told to.
    ///
    /// # Errors
    /// [`CompileError::Spawn`], or [`CompileError::Refused`] with what the host does not allow.
    pub async fn check(&self) -> Result<(), CompileError> {
        let mut command = self.command(&ChildOptions { check: true, ..self.options });
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let output = command.output().await.map_err(CompileError::Spawn)?;
        match output.status.success() {
            true => Ok(()),
            false => judge(output.status, &output.stderr, false).map(drop),
        }
    }

    fn command(&self, options: &ChildOptions) -> Command {
        let mut command = self.program.command("compile");
        // Nothing of the agent's environment concerns a compiler, and some of it may be secret.
        command.args(options.args()).env_clear().current_dir("/").kill_on_drop(true);
        command
    }

    /// Keeps the children in an enclosure.
    #[must_use]
    pub fn enclosed(self, enclosure: Arc<dyn Enclosure>) -> Self {
        Self { enclosure: Some(enclosure), ..self }
    }

    /// Name of all that the result depends on besides the module: the settings of all engines, because which one
    /// compiles it is found out with the rest.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Compiles `module` to the new file `out`. Dropping the future kills the child, and so does the end of the thread
    /// that first polls it: that of a runtime, say, and not a short-lived one.
    ///
    /// # Errors
    /// [`CompileError`]; what is in `out` then means nothing.
    pub async fn compile(&self, module: &Path, out: &Path) -> Result<Facts, CompileError> {
        let open = |path: &Path, options: &OpenOptions| {
            options
                .open(path)
                .map_err(|source| CompileError::Open { path: path.display().to_string(), source })
        };
        let input: File = open(module, OpenOptions::new().read(true))?;
        let output = open(out, OpenOptions::new().write(true).create_new(true).mode(0o600))?;
        let mut command = self.command(&self.options);
        command.stdin(Stdio::from(input)).stdout(Stdio::from(output)).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(CompileError::Spawn)?;
        // The command holds the files open too.
        drop(command);
        let enclosed = self.enclose(child.id()).await;
        let stderr = child.stderr.take();
        let run = async {
            let said = match stderr {
                Some(mut stderr) => read_bounded(&mut stderr).await.map_err(CompileError::Spawn)?,
                None => Vec::new(),
            };
            let status = child.wait().await.map_err(CompileError::Spawn)?;
            let out_of_memory = enclosed.as_ref().is_some_and(|enclosed| enclosed.ran_out_of_memory());
            judge(status, &said, out_of_memory)
        };
        tokio::time::timeout(WALL_CLOCK, run).await.unwrap_or_else(|_| {
            Err(CompileError::Exhausted(format!(
                "the compiler did not end within {} s",
                WALL_CLOCK.as_secs()
            )))
        })
    }

    async fn enclose(&self, pid: Option<u32>) -> Option<Box<dyn Enclosed>> {
        let (enclosure, pid) = (self.enclosure.clone()?, pid?);
        tokio::task::spawn_blocking(move || enclosure.enclose(pid)).await.ok().flatten()
    }
}

/// Reads to the end and keeps the beginning.
async fn read_bounded(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    (&mut *from).take(ANSWER_LIMIT).read_to_end(&mut kept).await?;
    tokio::io::copy(from, &mut tokio::io::sink()).await?;
    Ok(kept)
}

/// What the end of a child means, and what it said.
fn judge(status: ExitStatus, said: &[u8], out_of_memory: bool) -> Result<Facts, CompileError> {
    const SIGABRT: i32 = 6;
    const SIGKILL: i32 = 9;
    const SIGXCPU: i32 = 24;
    if status.success() {
        // Something below may have said something too.
        let said = said.trim_ascii_end().rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let child::Answer { facts, unrestricted } = serde_json::from_slice(said).map_err(|error| {
            CompileError::Refused(format!("the compiler's answer makes no sense: {error}"))
        })?;
        warn_once(&unrestricted);
        return Ok(facts);
    }
    let said = String::from_utf8_lossy(said.get(..ERROR_LIMIT).unwrap_or(said));
    let said = said.trim();
    // The allocator's last words; it then aborts.
    let met_limit = said.contains("memory allocation of") || said.contains("failed to allocate");
    Err(match status.signal() {
        _ if met_limit => CompileError::Exhausted(format!(
            "compiling the module needs more than {} GiB of memory",
            ADDRESS_SPACE >> 30
        )),
        Some(SIGKILL) if out_of_memory => CompileError::Exhausted(
            "the kernel ended it, which had no memory left for all containers and compilers of the node"
                .to_owned(),
        ),
        Some(SIGXCPU | SIGKILL) => CompileError::Exhausted(format!(
            "compiling the module was ended after {CPU_SECONDS} s of processor time, or killed for want of memory; a smaller or less optimised module may do"
        )),
        Some(SIGABRT) => CompileError::Refused(format!("the compiler gave up on the module: {said}")),
        Some(signal) => CompileError::Refused(format!("the compiler was ended by signal {signal}: {said}")),
        None if said.is_empty() => {
            CompileError::Refused(format!("the compiler failed without a word ({status})"))
        }
        None => CompileError::Refused(said.to_owned()),
    })
}

/// The host is the same for all compilers.
fn warn_once(unrestricted: &[String]) {
    static ONCE: Once = Once::new();
    if !unrestricted.is_empty() {
        ONCE.call_once(|| tracing::warn!(?unrestricted, "compilers are not confined as they should be"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::ModuleKind;

    #[test]
    fn the_end_of_a_child_is_understood() {
        let text =
            |raw, said: &str, killed| judge(ExitStatus::from_raw(raw), said.as_bytes(), killed).unwrap_err();
        let answer = r#"INFO something
{"facts":{"kind":"core-command","imports":["a"],"exports":[]},"unrestricted":[]}"#;
        let facts = judge(ExitStatus::from_raw(0), answer.as_bytes(), false).unwrap();
        assert_eq!(
            facts,
            Facts {
                kind: ModuleKind::CoreCommand,
                other_kinds: Vec::new(),
                imports: vec!["a".to_owned()],
                functions: Vec::new(),
                exports: Vec::new()
            }
        );
        for (raw, said, killed, expected) in [
            (0, "{", false, "the compiler's answer makes no sense"),
            (1 << 8, "the module does not compile: x", false, "the module does not compile: x"),
            (1 << 8, "", false, "failed without a word"),
            (24, "", false, "120 s of processor time"),
            (9, "", true, "no memory left for all containers and compilers"),
            (9, "", false, "or killed for want of memory"),
            (6, "memory allocation of 10 bytes failed", false, "more than 4 GiB"),
            (6, "assertion failed", false, "gave up on the module: assertion failed"),
            (11, "", true, "signal 11"),
        ] {
            let error = text(raw, said, killed).to_string();
            assert!(error.contains(expected), "{raw} {said}: {error}");
        }
        assert!(matches!(text(24, "", false), CompileError::Exhausted(_)));
        assert!(matches!(text(1 << 8, "x", false), CompileError::Refused(_)));
        assert_eq!(text(1 << 8, &"x".repeat(100_000), false).to_string().len(), ERROR_LIMIT);
    }

    #[tokio::test]
    async fn what_a_child_says_is_bounded() {
        let text = vec![b'x'; 1_000_000];
        let mut from = &*text;
        assert_eq!(read_bounded(&mut from).await.unwrap().len() as u64, ANSWER_LIMIT);
        assert!(from.is_empty(), "the rest is read, so that the child is not held up");
    }
}
