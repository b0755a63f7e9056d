//! Compiling a module, in a process of its own.
//!
//! Compiling is the one thing done with a module that takes seconds and hundreds of megabytes, on input
//! that anybody may have made. It happens in a child process with little to lose: [`ChildCompiler`] runs
//! this program as `compile --input <module> --output <file>`, which is [`child_main`], under limits on
//! memory, processor time and priority. What goes wrong there is an error with a text here.

use std::{
    io::{self, Write},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Resource, Rlimit};
use tokio::io::AsyncReadExt;

use crate::{
    engine::{self, EngineError},
    inspect::{self, InspectError},
    kind::{Generation, Kind},
    names,
    program::Program,
};

/// Largest module that is compiled, in bytes; also the most that is read to inspect one.
pub const MODULE_LIMIT: u64 = 512 << 20;

/// Address space of the child. A Go program of 19 MB takes 410 MB.
const ADDRESS_SPACE: u64 = 4 << 30;
/// Processor time of the child, over all its threads. The same program takes 7 s.
const CPU_SECONDS: u64 = 120;
const NICE: i32 = 10;
/// A child that neither computes nor ends, waiting for a disk that hangs, is given up.
const WALL_CLOCK: Duration = Duration::from_secs(600);
/// How much of what the child says is kept.
const STDERR_LIMIT: usize = 4096;

/// Why the child did not compile; for its standard error.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// The limits could not be set.
    #[error("cannot limit the compiler's resources: {0}")]
    Limits(#[source] io::Error),
    /// The module could not be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The module.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The module is larger than [`MODULE_LIMIT`].
    #[error("the module has {size} bytes, more than the {MODULE_LIMIT} that are compiled")]
    TooLarge {
        /// Its size in bytes.
        size: u64,
    },
    /// The module is nothing that can run.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// No engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The module is invalid, or needs what this engine does not have.
    #[error("the module does not compile: {0}")]
    Compile(String),
    /// The result could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// What the subcommand `compile` does: takes limits upon this process, compiles the module in `input`, and
/// writes machine code to `output`, complete and on disk when this returns.
///
/// # Errors
/// [`ChildError`]; its text belongs on standard error, with a non-zero exit code.
pub fn child_main(input: &Path, output: &Path) -> Result<(), ChildError> {
    limit_resources().map_err(|errno| ChildError::Limits(errno.into()))?;
    compile_file(input, output).map(drop)
}

/// Compiles the module in `input` in this process, and writes machine code to `output`, complete and on disk when this
/// returns. For modules that are trusted as the program itself is: nothing bounds time and memory.
///
/// # Errors
/// [`ChildError`].
pub fn compile_file(input: &Path, output: &Path) -> Result<Kind, ChildError> {
    let bytes = read_module(input)?;
    let kind = inspect::inspect(&bytes)?;
    names::check(&bytes)?;
    let engine = engine::new(kind.generation())?;
    let code = match kind {
        Kind::CoreCommand => engine.precompile_module(&bytes),
        Kind::CliComponent => engine.precompile_component(&bytes),
    };
    let code = code.map_err(|error| ChildError::Compile(format!("{error:#}")))?;
    write_synced(output, &code)
        .map_err(|source| ChildError::Write { path: output.display().to_string(), source })?;
    Ok(kind)
}

/// Reads a module whole, if it is not too large.
///
/// # Errors
/// [`ChildError::Read`] and [`ChildError::TooLarge`].
pub fn read_module(path: &Path) -> Result<Vec<u8>, ChildError> {
    let read_error = |source| ChildError::Read { path: path.display().to_string(), source };
    let size = std::fs::metadata(path).map_err(read_error)?.len();
    if size > MODULE_LIMIT {
        return Err(ChildError::TooLarge { size });
    }
    std::fs::read(path).map_err(read_error)
}

fn limit_resources() -> rustix::io::Result<()> {
    let limit = |resource, most| {
        // A lower limit that is already there stays; only root could raise it.
        let hard = rustix::process::getrlimit(resource).maximum.map_or(most, |hard| hard.min(most));
        rustix::process::setrlimit(resource, Rlimit { current: Some(hard), maximum: Some(hard) })
    };
    limit(Resource::Core, 0)?;
    limit(Resource::As, ADDRESS_SPACE)?;
    limit(Resource::Cpu, CPU_SECONDS)?;
    rustix::process::nice(NICE)?;
    Ok(())
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Compiles modules of one generation in child processes of a [`Program`].
#[derive(Clone, Debug)]
pub struct ChildCompiler {
    program: Program,
    key: String,
}

/// Why a module was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The child could not be started or waited for.
    #[error("cannot run the compiler: {0}")]
    Spawn(#[source] io::Error),
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
    pub fn new(program: Program, generation: Generation) -> Result<Self, EngineError> {
        Ok(Self { program, key: engine::key(generation)? })
    }

    /// Name of the settings that the result depends on; fit for a file name.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Compiles `module` to `out`. Dropping the future kills the child.
    ///
    /// # Errors
    /// [`CompileError`]; what is in `out` then means nothing.
    pub async fn compile(&self, module: &Path, out: &Path) -> Result<(), CompileError> {
        let mut command = self.program.command("compile");
        command.arg("--input").arg(module).arg("--output").arg(out);
        // Nothing of the agent's environment concerns a compiler, and some of it may be secret.
        command.env_clear().stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(CompileError::Spawn)?;
        let stderr = child.stderr.take();
        let run = async {
            let said = match stderr {
                Some(mut stderr) => read_bounded(&mut stderr).await.map_err(CompileError::Spawn)?,
                None => String::new(),
            };
            let status = child.wait().await.map_err(CompileError::Spawn)?;
            judge(status, &said)
        };
        tokio::time::timeout(WALL_CLOCK, run).await.unwrap_or_else(|_| {
            Err(CompileError::Exhausted(format!(
                "the compiler did not end within {} s",
                WALL_CLOCK.as_secs()
            )))
        })
    }
}

/// Reads to the end and keeps the beginning.
async fn read_bounded(from: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<String> {
    let mut kept = Vec::new();
    (&mut *from).take(STDERR_LIMIT as u64).read_to_end(&mut kept).await?;
    tokio::io::copy(from, &mut tokio::io::sink()).await?;
    Ok(String::from_utf8_lossy(&kept).trim().to_owned())
}

/// What the end of a child means.
fn judge(status: ExitStatus, said: &str) -> Result<(), CompileError> {
    const SIGABRT: i32 = 6;
    const SIGKILL: i32 = 9;
    const SIGXCPU: i32 = 24;
    if status.success() {
        return Ok(());
    }
    // The allocator's last words; it then aborts.
    let out_of_memory = said.contains("memory allocation of") || said.contains("failed to allocate");
    Err(match status.signal() {
        Some(SIGXCPU | SIGKILL) if !out_of_memory => CompileError::Exhausted(format!(
            "compiling the module was ended after {CPU_SECONDS} s of processor time, or killed for want of memory; a smaller or less optimised module may do"
        )),
        _ if out_of_memory => CompileError::Exhausted(format!(
            "compiling the module needs more than {} GiB of memory",
            ADDRESS_SPACE >> 30
        )),
        Some(SIGABRT) => CompileError::Refused(format!("the compiler gave up on the module: {said}")),
        Some(signal) => CompileError::Refused(format!("the compiler was ended by signal {signal}: {said}")),
        None if said.is_empty() => {
            CompileError::Refused(format!("the compiler failed without a word ({status})"))
        }
        None => CompileError::Refused(said.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_child_is_understood() {
        let text = |raw, said| judge(ExitStatus::from_raw(raw), said).unwrap_err();
        assert!(judge(ExitStatus::from_raw(0), "").is_ok());
        for (raw, said, expected) in [
            (1 << 8, "the module does not compile: x", "the module does not compile: x"),
            (1 << 8, "", "failed without a word"),
            (24, "", "120 s of processor time"),
            (6, "memory allocation of 10 bytes failed", "more than 4 GiB"),
            (6, "assertion failed", "gave up on the module: assertion failed"),
            (11, "", "signal 11"),
        ] {
            let error = text(raw, said).to_string();
            assert!(error.contains(expected), "{raw} {said}: {error}");
        }
        assert!(matches!(text(24, ""), CompileError::Exhausted(_)));
        assert!(matches!(text(1 << 8, "x"), CompileError::Refused(_)));
    }

    #[tokio::test]
    async fn what_a_child_says_is_bounded() {
        let text = "x".repeat(100_000);
        let mut from = text.as_bytes();
        assert_eq!(read_bounded(&mut from).await.unwrap().len(), STDERR_LIMIT);
        assert!(from.is_empty(), "the rest is read, so that the child is not held up");
    }

    #[test]
    fn modules_are_read_whole_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        assert!(matches!(read_module(&path), Err(ChildError::Read { .. })));
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(MODULE_LIMIT + 1).unwrap();
        assert!(matches!(read_module(&path), Err(ChildError::TooLarge { .. })));
    }
}
