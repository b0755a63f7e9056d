//! Components of WASI 0.2 that serve HTTP, from Python sources of the repository.
//!
//! componentize-py (`tests/tools/componentize-py` installs it, once) puts a source, the interpreter and the world that it is to
//! serve into one component. The world is that of the crate that the host is built with, which brings its text along.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::process::Command;

use super::{cached, keep, part_of, repository};
use crate::{cluster::programs, process};

/// The crate that has the world.
const INTERFACES: &str = "wasmtime-wasi-http";
const WORLD: &str = "wasi:http/proxy";

/// Builds a component of a source, unless that was done.
pub(super) async fn component(source: &Path, text: &[u8]) -> Result<PathBuf> {
    let tool = programs::build("tools/componentize-py/build.sh").await?.join("componentize-py");
    let path = tool.to_string_lossy();
    // The folder of the tool is named by its version.
    let component = cached(source, text, &[&path, WORLD, &locked_version()?])?;
    if component.is_file() {
        return Ok(component);
    }
    let module = source.file_stem().context("a source has a name")?;
    // Alone, so that nothing else of the folder gets into the component, and nothing new into the folder.
    let alone = tempfile::tempdir().context("cannot make a folder")?;
    let copy = alone.path().join(module).with_extension("py");
    fs::copy(source, &copy).with_context(|| format!("cannot copy {}", source.display()))?;
    let part = part_of(&component)?;
    let mut command = Command::new(tool);
    command
        .args(["--quiet", "--world", WORLD, "--wit-path"])
        .arg(interfaces().await?)
        .arg("componentize")
        .arg(module)
        .arg("--python-path")
        .arg(alone.path())
        .arg("--output")
        .arg(part.path())
        .env_remove("VIRTUAL_ENV");
    process::run_command(command).await.with_context(|| format!("cannot compile {}", source.display()))?;
    keep(part, &component)?;
    Ok(component)
}

/// The version of the crate that has the world.
fn locked_version() -> Result<String> {
    let lock = repository().join("Cargo.lock");
    let text = fs::read_to_string(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
    let package = text.split("[[package]]").find(|package| {
        package.lines().any(|line| line.strip_prefix("name = ") == Some(&format!("\"{INTERFACES}\"")))
    });
    let version = package.and_then(|package| package.lines().find(|line| line.starts_with("version = ")));
    Ok(version.with_context(|| format!("{} does not name {INTERFACES}", lock.display()))?.to_owned())
}

/// The folder of that crate's interfaces, where cargo has unpacked it.
async fn interfaces() -> Result<PathBuf> {
    let cargo = process::find_program("cargo").context("cargo is not installed")?;
    let manifest = repository().join("Cargo.toml").display().to_string();
    let arguments = ["metadata", "--format-version=1", "--locked", "--manifest-path", &manifest];
    let metadata: Value = serde_json::from_str(&process::run(&cargo, &arguments).await?)?;
    let packages = metadata["packages"].as_array().context("cargo names no packages")?;
    let package = packages.iter().find(|package| package["name"] == INTERFACES);
    let manifest = package.and_then(|package| package["manifest_path"].as_str());
    let manifest = Path::new(manifest.with_context(|| format!("cargo does not know {INTERFACES}"))?);
    Ok(manifest.with_file_name("wit"))
}

#[cfg(test)]
mod tests {
    use super::super::guest;

    #[tokio::test]
    async fn a_source_becomes_a_component() {
        let component = guest("http_guest.py").await.unwrap();
        assert!(wasmparser::Parser::is_component(&component));
        wasmparser::validate(&component).unwrap();
    }
}
