//! Components of WASI 0.2 from Rust crates, libraries that serve and programs; and programs of WASI 0.1.
//!
//! A crate is compiled for wasm32-wasip1, and what comes of it is made a component, as the target wasm32-wasip2 does by itself.
//! The compiler is that of the repository where it has the target's standard library, or else Debian's, which builds that
//! library as well (`scripts/setup.sh` installs it then).

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};
use tokio::process::Command;
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
    WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_component::ComponentEncoder;

use super::{cache, keep, part_of, repository};
use crate::process;

const TARGET: &str = "wasm32-wasip1";
/// Debian's compiler for the browsers that it ships, which is newer than its others.
const DEBIAN: [&str; 2] = ["/usr/bin/cargo", "/usr/bin/rustc"];
const DEBIAN_LIBRARIES: &str = "/usr/lib/wasm32-wasi";

/// Where the plugins of the repository are.
const PLUGINS: &str = "demos/plugins";

/// A crate to be compiled.
struct GuestCrate<'a> {
    /// The folder of its `Cargo.toml`, or of its workspace's.
    source: &'a Path,
    package: &'a str,
    kind: GuestKind,
    /// Its `Cargo.lock` is to be right as it is.
    is_locked: bool,
}

/// What a crate makes.
#[derive(Clone, Copy)]
enum GuestKind {
    /// It exports functions.
    Library,
    /// It has a `main`.
    Program,
    /// The same, as the module of WASI 0.1 that it is at first.
    Module,
    /// It exports functions, as a module of WASI 0.1.
    LibraryModule,
}

impl GuestKind {
    /// What Debian's libc has for the beginning of it.
    fn start(self) -> &'static str {
        match self {
            Self::Library | Self::LibraryModule => "crt1-reactor.o",
            Self::Program | Self::Module => "crt1-command.o",
        }
    }

    /// What makes a component of it.
    fn adapter(self) -> Option<&'static [u8]> {
        match self {
            Self::Library => Some(WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER),
            Self::Program => Some(WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER),
            Self::Module | Self::LibraryModule => None,
        }
    }
}

/// Builds the library crate in a folder of the repository, and returns it as a component.
///
/// # Errors
/// When it does not compile, or there is no compiler for it.
pub async fn component(folder: &str) -> Result<Vec<u8>> {
    let source = repository().join(folder);
    let package = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
    build(GuestCrate { source: &source, package: &package, kind: GuestKind::Library, is_locked: true }).await
}

/// Builds the program of a crate in a folder of the repository, and returns it as a module of WASI 0.1.
///
/// # Errors
/// See [`component`].
pub async fn module(folder: &str) -> Result<Vec<u8>> {
    let source = repository().join(folder);
    let package = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
    build(GuestCrate { source: &source, package: &package, kind: GuestKind::Module, is_locked: true }).await
}

/// Builds the library crate in a folder of the repository, and returns it as a module of WASI 0.1.
///
/// # Errors
/// See [`component`].
pub async fn library(folder: &str) -> Result<Vec<u8>> {
    let source = repository().join(folder);
    let package = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let kind = GuestKind::LibraryModule;
    build(GuestCrate { source: &source, package: &package, kind, is_locked: true }).await
}

/// Builds one of `demos/plugins`.
///
/// # Errors
/// See [`component`].
pub async fn plugin(package: &str) -> Result<Vec<u8>> {
    let source = repository().join(PLUGINS);
    build(GuestCrate { source: &source, package, kind: GuestKind::Program, is_locked: true }).await
}

/// Builds the program of a crate that is anywhere.
///
/// # Errors
/// See [`component`].
pub async fn program(source: &Path, package: &str) -> Result<Vec<u8>> {
    build(GuestCrate { source, package, kind: GuestKind::Program, is_locked: false }).await
}

async fn build(guest: GuestCrate<'_>) -> Result<Vec<u8>> {
    let kept = cache()?.join("guests");
    fs::create_dir_all(&kept).with_context(|| format!("cannot make the folder {}", kept.display()))?;
    let component = kept.join(format!("{}-{}.wasm", guest.package, digest(guest.source)?));
    if !component.is_file() {
        let module = compile(&guest, &kept.join("rust")).await?;
        let module = fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
        let part = part_of(&component)?;
        let encoded = match guest.kind.adapter() {
            Some(adapter) => encode(&module, adapter)
                .with_context(|| format!("cannot make a component of {}", guest.package))?,
            None => module,
        };
        fs::write(part.path(), encoded).context("cannot write a component")?;
        keep(part, &component)?;
    }
    fs::read(&component).with_context(|| format!("cannot read {}", component.display()))
}

/// Of what a crate is made of: manifests and sources, its own and those of its workspace.
fn digest(source: &Path) -> Result<String> {
    let mut digest = Sha256::new();
    let mut files = Vec::new();
    let mut folders = vec![source.to_owned()];
    while let Some(folder) = folders.pop() {
        let listed = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in listed {
            let path = entry?.path();
            match path.is_dir() {
                true if !path.ends_with("target") => folders.push(path),
                true => {}
                false if is_source(&path) => files.push(path),
                false => {}
            }
        }
    }
    files.sort();
    for file in files {
        digest.update(file.strip_prefix(source).unwrap_or(&file).to_string_lossy().as_bytes());
        digest.update(fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    Ok(digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}

/// Whether a file can make a difference to what is built. What describes a crate to people does not.
fn is_source(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["rs", "toml", "lock"].iter().any(|known| extension == *known))
}

/// Compiles a crate, and returns where its module is.
async fn compile(guest: &GuestCrate<'_>, target: &Path) -> Result<PathBuf> {
    let mut command = if has_target().await {
        let cargo = process::find_program("cargo").context("cargo is not installed")?;
        let mut command = Command::new(cargo);
        command.arg("build");
        command
    } else {
        debian(guest.kind)
    };
    command
        .args(["--release", "--quiet", "--target", TARGET, "--package", guest.package, "--manifest-path"])
        .arg(guest.source.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .args(guest.is_locked.then_some("--locked"))
        // A crate may ask for another compiler, and flags of whoever runs this are for this machine.
        .current_dir(repository())
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET");
    process::run_command(command).await.with_context(|| {
        format!("cannot compile {} (`make setup` installs what it takes)", guest.source.display())
    })?;
    let package = match guest.kind {
        GuestKind::Library | GuestKind::LibraryModule => guest.package.replace('-', "_"),
        GuestKind::Program | GuestKind::Module => guest.package.to_owned(),
    };
    Ok(target.join(TARGET).join("release").join(format!("{package}.wasm")))
}

/// Whether the compiler of the repository has the standard library of the target.
async fn has_target() -> bool {
    let Some(rustc) = process::find_program("rustc") else { return false };
    let root = process::run(&rustc, &["--print", "sysroot"]).await.unwrap_or_default();
    Path::new(root.trim()).join("lib/rustlib").join(TARGET).is_dir()
}

/// Debian's compiler, which builds the standard library along, against Debian's libc for WASI.
fn debian(kind: GuestKind) -> Command {
    let mut command = Command::new(DEBIAN[0]);
    let flags = [
        "-C linker=wasm-ld",
        "-C link-self-contained=no",
        &format!("-L {DEBIAN_LIBRARIES}"),
        &format!("-C link-arg={DEBIAN_LIBRARIES}/{}", kind.start()),
        "-C link-arg=-lc",
    ];
    command
        .args(["build", "-Z", "build-std=std,panic_abort"])
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC", DEBIAN[1])
        .env("RUSTFLAGS", flags.join(" "))
        .env_remove("RUSTUP_TOOLCHAIN");
    command
}

/// Makes a command of WASI 0.1 a component of 0.2.
///
/// # Errors
/// When it is no such command.
pub fn as_command_component(module: &[u8]) -> Result<Vec<u8>> {
    encode(module, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER)
}

fn encode(module: &[u8], adapter: &[u8]) -> Result<Vec<u8>> {
    let encoder = ComponentEncoder::default().validate(true).module(module)?;
    encoder.adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter)?.encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_crate_becomes_a_component() {
        let component = component("demos/http-hello").await.unwrap();
        assert!(wasmparser::Parser::is_component(&component));
        wasmparser::validate(&component).unwrap();
    }

    #[tokio::test]
    async fn plugins_become_components() {
        for name in ["decoder", "podwatch"] {
            let component = plugin(name).await.unwrap();
            assert!(wasmparser::Parser::is_component(&component), "{name}");
            wasmparser::validate(&component).unwrap();
        }
    }
}
