//! Components of WASI 0.2 from Rust crates of the repository.
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
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_component::ComponentEncoder;

use super::{cache, keep, part_of, repository};
use crate::process;

const TARGET: &str = "wasm32-wasip1";
/// Debian's compiler for the browsers that it ships, which is newer than its others.
const DEBIAN: [&str; 2] = ["/usr/bin/cargo", "/usr/bin/rustc"];
const DEBIAN_LIBRARIES: &str = "/usr/lib/wasm32-wasi";

/// Builds the library crate in a folder of the repository, and returns it as a component.
///
/// # Errors
/// When it does not compile, or there is no compiler for it.
pub async fn component(folder: &str) -> Result<Vec<u8>> {
    let source = repository().join(folder);
    let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let kept = cache()?.join("guests");
    fs::create_dir_all(&kept).with_context(|| format!("cannot make the folder {}", kept.display()))?;
    let component = kept.join(format!("{name}-{}.wasm", digest(&source)?));
    if !component.is_file() {
        let module = compile(&source, &name, &kept.join("rust")).await?;
        let module = fs::read(&module).with_context(|| format!("cannot read {}", module.display()))?;
        let part = part_of(&component)?;
        let encoded = encode(&module).with_context(|| format!("cannot make a component of {folder}"))?;
        fs::write(part.path(), encoded).context("cannot write a component")?;
        keep(part, &component)?;
    }
    fs::read(&component).with_context(|| format!("cannot read {}", component.display()))
}

/// Of what a crate is made of.
fn digest(source: &Path) -> Result<String> {
    let mut digest = Sha256::new();
    let mut files = vec![source.join("Cargo.toml"), source.join("Cargo.lock")];
    let sources = source.join("src");
    let listed = fs::read_dir(&sources).with_context(|| format!("cannot read {}", sources.display()))?;
    for entry in listed {
        files.push(entry?.path());
    }
    files.sort();
    for file in files {
        digest.update(fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    Ok(digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}

/// Compiles a crate, and returns where its module is.
async fn compile(source: &Path, name: &str, target: &Path) -> Result<PathBuf> {
    let mut command = if has_target().await {
        let cargo = process::find_program("cargo").context("cargo is not installed")?;
        let mut command = Command::new(cargo);
        command.arg("build");
        command
    } else {
        debian()
    };
    command
        .args(["--release", "--locked", "--quiet", "--target", TARGET, "--manifest-path"])
        .arg(source.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        // Flags of whoever runs this are for this machine.
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET");
    process::run_command(command).await.with_context(|| {
        format!("cannot compile {} (`make setup` installs what it takes)", source.display())
    })?;
    Ok(target.join(TARGET).join("release").join(format!("{}.wasm", name.replace('-', "_"))))
}

/// Whether the compiler of the repository has the standard library of the target.
async fn has_target() -> bool {
    let Some(rustc) = process::find_program("rustc") else { return false };
    let root = process::run(&rustc, &["--print", "sysroot"]).await.unwrap_or_default();
    Path::new(root.trim()).join("lib/rustlib").join(TARGET).is_dir()
}

/// Debian's compiler, which builds the standard library along, against Debian's libc for WASI.
fn debian() -> Command {
    let mut command = Command::new(DEBIAN[0]);
    let flags = [
        "-C linker=wasm-ld",
        "-C link-self-contained=no",
        &format!("-L {DEBIAN_LIBRARIES}"),
        &format!("-C link-arg={DEBIAN_LIBRARIES}/crt1-reactor.o"),
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

fn encode(module: &[u8]) -> Result<Vec<u8>> {
    let encoder = ComponentEncoder::default().validate(true).module(module)?;
    encoder.adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?.encode()
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
}
