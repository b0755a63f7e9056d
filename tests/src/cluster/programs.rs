//! Where the control plane's programs are.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail};

/// Paths of the programs, all in one folder.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Finds the programs, and builds them first where they are not there (`tests/cluster/build.sh`, which
    /// says on standard error what it does; minutes, once).
    ///
    /// # Errors
    /// When they cannot be built; the script has said why.
    pub async fn find() -> Result<Self> {
        Ok(Self { folder: build("cluster/build.sh").await? })
    }

    /// Path of the program `name`.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Runs a script of this crate that builds programs where they are not there, and returns the folder that it prints.
///
/// # Errors
/// When the script fails; it has said why on standard error.
pub async fn build(script: &str) -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
    let output = tokio::process::Command::new(&script)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot start {}", script.display()))?;
    if !output.status.success() {
        bail!("{} failed ({}); what it said above tells why", script.display(), output.status);
    }
    let folder = String::from_utf8(output.stdout).context("the folder's path is not UTF-8")?;
    Ok(PathBuf::from(folder.trim_end()))
}
