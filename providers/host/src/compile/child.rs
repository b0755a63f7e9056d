//! The compiling child.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{MODULE_LIMIT, jail};
use crate::{
    engine::{self, EngineError},
    features::{self, MissingFeature},
    inspect::{self, Facts, InspectError},
    kind::ModuleKind,
    names,
};

/// Why the child did not compile; for its standard error.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// The host does not allow all that was required.
    #[error("compilers cannot be confined here as --confinement=required asks for: {}", .missing.join("; "))]
    Confinement {
        /// What is not restricted, and why.
        missing: Vec<String>,
    },
    /// The module could not be read.
    #[error("cannot read the module: {0}")]
    Read(#[source] io::Error),
    /// The module is larger than [`MODULE_LIMIT`].
    #[error("the module has more than the {MODULE_LIMIT} bytes that are compiled")]
    TooLarge,
    /// The module is nothing that can run.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// No engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The module needs a feature of WebAssembly that is off.
    #[error("the module uses {}, which guests do not have here: {}{found}", .feature.name, .feature.advice)]
    Feature {
        /// Which, and what to do.
        feature: MissingFeature,
        /// Where, in parentheses and with a space before; nothing where that says no more.
        found: String,
    },
    /// The module is invalid, or needs what this engine does not have.
    #[error("the module does not compile: {0}")]
    Compile(String),
    /// The result could not be written.
    #[error("cannot write the compiled module: {0}")]
    Write(#[source] io::Error),
}

/// How the child runs. On the command line, as [`ChildOptions::args`] writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChildOptions {
    /// Compile nothing where the host does not allow all that is to be given up.
    pub confined: bool,
    /// End when confined, instead of compiling anything.
    pub check: bool,
}

impl ChildOptions {
    /// The options as arguments of the subcommand `compile`, which must read them back: `--confined` and `--check`.
    pub fn args(self) -> impl Iterator<Item = &'static str> {
        [(self.confined, "--confined"), (self.check, "--check")]
            .into_iter()
            .filter_map(|(is_set, arg)| is_set.then_some(arg))
    }
}

/// What the child says on its standard error when it has compiled.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) facts: Facts,
    /// Of what the host did not let it give up.
    pub(super) unrestricted: Vec<String>,
}

/// What the subcommand `compile` does: gives up what it does not need, compiles the module on standard input, writes
/// machine code to standard output, and says on standard error what the module is. Must be called while the process has
/// one thread.
///
/// # Errors
/// [`ChildError`]; its text belongs on standard error, with a non-zero exit code.
pub fn child_main(options: ChildOptions) -> Result<(), ChildError> {
    let unrestricted = jail::enter();
    if options.confined && !unrestricted.is_empty() {
        return Err(ChildError::Confinement { missing: unrestricted });
    }
    if options.check {
        return Ok(());
    }
    let (facts, code) = compile(&read_module(io::stdin().lock(), MODULE_LIMIT)?)?;
    let mut output = io::stdout().lock();
    output.write_all(&code).and_then(|()| output.flush()).map_err(ChildError::Write)?;
    let answer = Answer { facts, unrestricted };
    let text = serde_json::to_string(&answer).map_err(|error| ChildError::Write(error.into()))?;
    writeln!(io::stderr().lock(), "{text}").map_err(ChildError::Write)
}

/// Compiles the module in `input` in this process, and writes machine code to `output`, complete and on disk when this
/// returns. For modules that are trusted as the program itself is: nothing bounds time and memory.
///
/// # Errors
/// [`ChildError`].
pub fn compile_file(input: &Path, output: &Path) -> Result<ModuleKind, ChildError> {
    let (facts, code) = compile(&read_module(File::open(input).map_err(ChildError::Read)?, MODULE_LIMIT)?)?;
    write_synced(output, &code).map_err(ChildError::Write)?;
    Ok(facts.kind)
}

fn compile(bytes: &[u8]) -> Result<(Facts, Vec<u8>), ChildError> {
    let facts = inspect::facts(bytes)?;
    names::check(bytes)?;
    if let Some(feature) = features::shared_memory(bytes) {
        return Err(ChildError::Feature { feature, found: String::new() });
    }
    let engine = engine::new(facts.kind.generation())?;
    match engine::precompile(&engine, facts.kind, bytes) {
        Ok(code) => Ok((facts, code)),
        Err(error) => Err(refused(&format!("{error:#}"))),
    }
}

/// Why a module does not compile, by what wasmtime says.
fn refused(said: &str) -> ChildError {
    match features::missing(said) {
        Some(feature) => ChildError::Feature { feature, found: format!(" ({said})") },
        None => ChildError::Compile(said.to_owned()),
    }
}

/// Reads a module whole, if it is not too large.
fn read_module(from: impl Read, limit: u64) -> Result<Vec<u8>, ChildError> {
    let mut bytes = Vec::new();
    from.take(limit + 1).read_to_end(&mut bytes).map_err(ChildError::Read)?;
    if bytes.len() as u64 > limit { Err(ChildError::TooLarge) } else { Ok(bytes) }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_read_whole_or_refused() {
        assert_eq!(read_module(&b"abc"[..], 3).unwrap(), b"abc");
        assert!(matches!(read_module(io::repeat(0), 3), Err(ChildError::TooLarge)));
    }
}
