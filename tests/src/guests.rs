//! Guest programs: C, Go, Python and WebAssembly text from `tests/guests` and `demos`, built when needed.
//!
//! C is compiled with Debian's clang for wasm32-wasi (`scripts/setup.sh` installs what that needs), Go by the `go` that
//! builds the control plane, with its standard library alone, and text is encoded by the `wat` crate. C with a `.wat` beside
//! it is a program of WASI 0.2, and the text makes a component of it. Python is that of a component that serves HTTP. What was
//! compiled stays in the cache folder under a name that holds the digest of its source, so that a changed source is compiled
//! again.

mod python;
pub mod rust;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tokio::process::Command;
use wasm_encoder::{CustomSection, Encode as _, Section as _};

use crate::process;

/// Options of every compilation of C.
const FLAGS: [&str; 4] = ["--target=wasm32-wasi", "-O2", "-Wall", "-Werror"];

/// Options for a program of a component, which has no libc.
const OF_COMPONENTS: [&str; 3] = ["-nostdlib", "-Wl,--no-entry", "-Wl,--import-memory"];
/// What Go is told, before the source: paths of this machine and what a debugger wants stay out.
const GO: [&str; 4] = ["build", "-trimpath", "-ldflags", "-s -w"];
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
    if source.extension().is_some_and(|extension| extension == "go") {
        let module = cached(&source, &text, &GO)?;
        if !module.is_file() {
            compile_go(&source, &module).await?;
        }
        return fs::read(&module).with_context(|| format!("cannot read {}", module.display()));
    }
    if source.extension().is_some_and(|extension| extension == "py") {
        let component = python::component(&source, &text).await?;
        return fs::read(&component).with_context(|| format!("cannot read {}", component.display()));
    }
    let component = source.with_extension("wat");
    let flags = if component.is_file() { [&FLAGS[..], &OF_COMPONENTS].concat() } else { FLAGS.to_vec() };
    let module = cached(&source, &[&*text, &included(&source, &text)?].concat(), &flags)?;
    if !module.is_file() {
        compile(&source, &module, &flags).await?;
    }
    let program = fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
    if component.is_file() { enclose(&program, &component) } else { Ok(program) }
}

/// The text of the headers beside a source that it includes: what is compiled of it depends on them as well.
fn included(source: &Path, text: &[u8]) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for line in String::from_utf8_lossy(text).lines() {
        if let Some(name) = line.strip_prefix("#include \"").and_then(|rest| rest.strip_suffix('"')) {
            let header = source.with_file_name(name);
            all.extend(fs::read(&header).with_context(|| format!("cannot read {}", header.display()))?);
        }
    }
    Ok(all)
}

/// Puts a program in its place in a component: that of the empty module in its text.
fn enclose(program: &[u8], component: &Path) -> Result<Vec<u8>> {
    let text =
        wat::parse_file(component).with_context(|| format!("cannot encode {}", component.display()))?;
    let place = text.windows(EMPTY.len()).position(|bytes| bytes == EMPTY);
    let place = place.with_context(|| format!("{} has no empty module", component.display()))?;
    let (before, after) = text.split_at(place);
    let mut component = [before, &EMPTY[..1]].concat();
    // With its size.
    program.encode(&mut component);
    component.extend(after.get(EMPTY.len()..).unwrap_or_default());
    Ok(component)
}

/// A module with one more custom section at its end: it does what it did, and is another module to whoever keeps it.
#[must_use]
pub fn with_section(module: &[u8], content: &[u8]) -> Vec<u8> {
    let section = CustomSection { name: "kubewasm".into(), data: content.into() };
    let mut module = module.to_vec();
    section.append_to(&mut module);
    module
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
    let part = part_of(module)?;
    let mut command = Command::new(clang);
    command.args(flags).arg(source).arg("-o").arg(part.path());
    process::run_command(command).await.with_context(|| {
        format!("cannot compile {} (`make setup` installs what it takes)", source.display())
    })?;
    keep(part, module)
}

async fn compile_go(source: &Path, module: &Path) -> Result<()> {
    let go = process::find_program("go").context("Go is not installed")?;
    let part = part_of(module)?;
    let mut command = Command::new(go);
    command.args(GO).arg("-o").arg(part.path()).arg(source).env("GOOS", "wasip1").env("GOARCH", "wasm");
    process::run_command(command).await.with_context(|| format!("cannot compile {}", source.display()))?;
    keep(part, module)
}

/// Several tests may want the same guest at once: each compiles to a file of its own, and renaming replaces the whole at
/// once.
fn part_of(module: &Path) -> Result<NamedTempFile> {
    let folder = module.parent().unwrap_or(Path::new("."));
    tempfile::Builder::new().suffix(".part").tempfile_in(folder).context("cannot make a file")
}

fn keep(part: NamedTempFile, module: &Path) -> Result<()> {
    part.persist(module).with_context(|| format!("cannot write {}", module.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_guest_in_text_is_valid() {
        for name in [
            "hello-0.2.wat",
            "files-0.2.wat",
            "files-0.3.wat",
            "actor-0.3.c",
            "concurrent-0.3.c",
            "outgoing-0.3.c",
            "sockets-0.3.c",
            "http-0.2.c",
            "http-0.3.wat",
            "drip-0.3.wat",
            "reactor.wat",
            "unknown-world.wat",
            "moody-policy.wat",
        ] {
            let module = guest(name).await.unwrap();
            wasmparser::validate(&module).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn headers_are_part_of_a_source() {
        let source = repository().join("tests/guests/sockets-0.2.c");
        let text = fs::read(&source).unwrap();
        let headers =
            ["component.h", "socket_address.h"].map(|name| fs::read(source.with_file_name(name)).unwrap());
        assert_eq!(included(&source, &text).unwrap(), headers.concat());
        assert!(included(&source, b"#include \"gone.h\"").is_err());
    }

    #[tokio::test]
    async fn a_section_makes_another_module_of_a_valid_one() {
        let module = guest("reactor.wat").await.unwrap();
        for size in [0, 1, 100, 127, 128, 100_000] {
            let other = with_section(&module, &vec![7; size]);
            assert!(other.starts_with(&module) && other.len() > module.len() + size);
            wasmparser::validate(&other).unwrap_or_else(|error| panic!("{size}: {error}"));
        }
    }
}
