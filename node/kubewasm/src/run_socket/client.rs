//! The side of `kubewasm exec`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use tokio::net::UnixStream;

use super::{NAME, SOCKET};
use crate::folder;

/// The folder of the run whose pod has this name.
///
/// # Errors
/// When there is none, or more than one.
pub(crate) fn find(pod: &str) -> anyhow::Result<PathBuf> {
    let runs = folder::running();
    let name = |folder: &Path| std::fs::read_to_string(folder.join(NAME)).unwrap_or_default();
    let mut found: Vec<_> = runs.iter().filter(|folder| name(folder) == pod).collect();
    let known: Vec<_> = runs.iter().map(|folder| name(folder)).filter(|name| !name.is_empty()).collect();
    match (found.pop(), found.len()) {
        (Some(folder), 0) => Ok(folder.clone()),
        (Some(_), others) => {
            bail!("{} pods of that name run here; end the others, or rename one", others + 1)
        }
        (None, _) if known.is_empty() => {
            bail!(
                "pod {pod:?} does not run here: no `kubewasm run` of this user does (for pods of a cluster, use kubectl exec)"
            )
        }
        (None, _) => bail!("pod {pod:?} does not run here; these do: {}", known.join(", ")),
    }
}

/// Connects to a run.
///
/// # Errors
/// When it has ended meanwhile.
pub(crate) async fn connect(folder: &Path) -> anyhow::Result<UnixStream> {
    UnixStream::connect(folder.join(SOCKET)).await.context("cannot reach the `kubewasm run` of the pod")
}
