//! Guest programs: C and WebAssembly text from `tests/guests` and `demos`, built when needed.
//!
//! C is compiled with Debian's clang for wasm32-wasi (`scripts/setup.sh` installs what that needs), text is
//! encoded by the `wat` crate. C with a `.wat` beside it is a program of WASI 0.2, and the text makes a component of it. What
//! was compiled stays in the cache folder under a name that holds the
//! digest of its source, so that a changed source is compiled again.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::process;

/// Options of every compilation.
const FLAGS: [&str; 4] = ["--target=wasm32-wasi", "-O2", "-Wall", "-Werror"];

/// Options for a program of a component, which has no libc.
const OF_COMPONENTS: [&str; 3] = ["-nostdlib", "-Wl,--no-entry", "-Wl,--import-memory"];
/// What stands in a component for its program: the section of a module, its size, and a module with nothing in it.
const EMPTY: [u8; 10] = *b"\x01\x08\0asm\x01\0\0\0";

/// Builds the guest whose source is at `path`, relative to the root of the repository, and returns
/// the module.
///
/// # Errors
/// When there is no such source, when it does not compile, or when the compiler is not installed.
pub async fn build(path: &str) -> Result<Vec<u8>> {
    let source = repository().join(path);
    if source.extension().is_some_and(|extension| extension == "wat") {
        return wat::parse_file(&source).with_context(|| format!("cannot encode {}", source.display()));
    }
    let text = fs::read(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let component = source.with_extension("wat");
    let flags = if component.is_file() { [&FLAGS[..], &OF_COMPONENTS].concat() } else { FLAGS.to_vec() };
    let module = cached(&source, &text, &flags)?;
    if !module.is_file() {
        compile(&source, &module, &flags).await?;
    }
    let program = fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
    if component.is_file() { enclose(&program, &component) } else { Ok(program) }
}

/// Puts a program in its place in a component: that of the empty module in its text.
fn enclose(program: &[u8], component: &Path) -> Result<Vec<u8>> {
    let text =
        wat::parse_file(component).with_context(|| format!("cannot encode {}", component.display()))?;
    let place = text.windows(EMPTY.len()).position(|bytes| bytes == EMPTY);
    let place = place.with_context(|| format!("{} has no empty module", component.display()))?;
    let (before, after) = text.split_at(place);
    let mut whole = [before, &EMPTY[..1]].concat();
    let mut size = program.len();
    while size > 0x7f {
        whole.push(u8::try_from(size & 0x7f)? | 0x80);
        size >>= 7;
    }
    whole.push(u8::try_from(size)?);
    Ok([&whole, program, after.get(EMPTY.len()..).unwrap_or_default()].concat())
}

/// Builds one of `tests/guests`, named with its extension.
///
/// # Errors
/// See [`build`].
pub async fn guest(name: &str) -> Result<Vec<u8>> {
    build(&format!("tests/guests/{name}")).await
}

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// `$KUBEWASM_CACHE`, or where the user's caches are: the folder that `tests/cluster/build.sh` uses, too.
///
/// # Errors
/// When neither that nor a home folder is known.
pub fn cache() -> Result<PathBuf> {
    if let Some(cache) = set("KUBEWASM_CACHE") {
        return Ok(cache);
    }
    let caches = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    Ok(caches.context("neither KUBEWASM_CACHE nor HOME is set: set one of them")?.join("kubewasm"))
}

fn set(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn cached(source: &Path, text: &[u8], flags: &[&str]) -> Result<PathBuf> {
    let mut digest = Sha256::new();
    digest.update(flags.join(" "));
    digest.update(text);
    let digest: String = digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let name = source.file_stem().unwrap_or_default().to_string_lossy();
    let folder = cache()?.join("guests");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    Ok(folder.join(format!("{name}-{digest}.wasm")))
}

async fn compile(source: &Path, module: &Path, flags: &[&str]) -> Result<()> {
    let clang = process::find_program("clang").context("clang is not installed: run `make setup`")?;
    // Several tests may want the same guest at once: each compiles to a file of its own, and renaming
    // replaces the whole at once.
    let folder = module.parent().unwrap_or(Path::new("."));
    let part = tempfile::Builder::new().suffix(".part").tempfile_in(folder).context("cannot make a file")?;
    let mut arguments: Vec<&std::ffi::OsStr> = flags.iter().map(std::ffi::OsStr::new).collect();
    arguments.extend([source.as_os_str(), "-o".as_ref(), part.path().as_os_str()]);
    process::run(&clang, &arguments).await.with_context(|| {
        format!("cannot compile {} (`make setup` installs what it takes)", source.display())
    })?;
    part.persist(module).with_context(|| format!("cannot write {}", module.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_guest_in_text_is_valid() {
        for name in ["hello-0.2.wat", "files-0.2.wat", "reactor.wat", "unknown-world.wat"] {
            let module = guest(name).await.unwrap();
            wasmparser::validate(&module).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}
