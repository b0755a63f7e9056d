//! Several kubeconfig files as one. Pure.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    error::KubeconfigError,
    model::{ClusterEntry, ContextEntry, KubeconfigFile, UserEntry},
};

/// A file, and where it is.
#[derive(Clone, Debug)]
pub(super) struct LocatedFile {
    pub(super) path: PathBuf,
    /// What relative paths in it are below.
    pub(super) folder: PathBuf,
    pub(super) file: KubeconfigFile,
}

/// What all files of a user say together. Paths in it are absolute.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Kubeconfig {
    pub(super) current_context: Option<String>,
    pub(super) clusters: BTreeMap<String, ClusterEntry>,
    pub(super) users: BTreeMap<String, UserEntry>,
    pub(super) contexts: BTreeMap<String, ContextEntry>,
}

impl Kubeconfig {
    /// Of several files, the first that says something counts, entry by entry: a `user` that two of them have is the first
    /// one's alone.
    ///
    /// # Errors
    /// [`KubeconfigError::Malformed`] when one file has a name twice.
    pub(super) fn merge(files: Vec<LocatedFile>) -> Result<Self, KubeconfigError> {
        let mut merged = Self::default();
        for LocatedFile { path, folder, file } in files {
            let KubeconfigFile { current_context, clusters, users, contexts } = file;
            merged.current_context =
                merged.current_context.or(current_context).filter(|context| !context.is_empty());
            let clusters =
                clusters.into_iter().map(|named| (named.name, located_cluster(named.cluster, &folder)));
            add(&mut merged.clusters, clusters, &path, "cluster")?;
            let users = users.into_iter().map(|named| (named.name, located_user(named.user, &folder)));
            add(&mut merged.users, users, &path, "user")?;
            let contexts = contexts.into_iter().map(|named| (named.name, named.context));
            add(&mut merged.contexts, contexts, &path, "context")?;
        }
        Ok(merged)
    }

    /// There is nothing in it that could lead anywhere.
    pub(crate) fn is_empty(&self) -> bool {
        self.clusters.is_empty() && self.contexts.is_empty()
    }
}

fn add<T>(
    to: &mut BTreeMap<String, T>,
    entries: impl Iterator<Item = (String, T)>,
    path: &Path,
    kind: &str,
) -> Result<(), KubeconfigError> {
    let mut own = BTreeMap::new();
    for (name, entry) in entries {
        if own.contains_key(&name) {
            let message = format!("the {kind} {name:?} is in it twice");
            return Err(KubeconfigError::Malformed { path: path.to_owned(), message });
        }
        own.insert(name, entry);
    }
    for (name, entry) in own {
        to.entry(name).or_insert(entry);
    }
    Ok(())
}

fn located_cluster(mut cluster: ClusterEntry, folder: &Path) -> ClusterEntry {
    locate(&mut cluster.certificate_authority, folder);
    cluster
}

fn located_user(mut user: UserEntry, folder: &Path) -> UserEntry {
    locate(&mut user.client_certificate, folder);
    locate(&mut user.client_key, folder);
    locate(&mut user.token_file, folder);
    if let Some(exec) = &mut user.exec {
        // One without a slash is looked for along PATH.
        if exec.command.contains('/') {
            exec.command = folder.join(&exec.command).to_string_lossy().into_owned();
        }
    }
    user
}

fn locate(path: &mut Option<PathBuf>, folder: &Path) {
    *path = path.take().filter(|path| !path.as_os_str().is_empty()).map(|path| folder.join(path));
}
