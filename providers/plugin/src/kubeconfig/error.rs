//! Why a kubeconfig leads nowhere.

use std::{io, path::PathBuf};

/// Why a kubeconfig leads to no cluster. The texts name files, entries and ways out, and no value that could be a secret.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// A file cannot be read.
    #[error("cannot read the kubeconfig {}: {source}", path.display())]
    Read {
        /// The kubeconfig.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file is none.
    #[error("the kubeconfig {} is not right: {message}", path.display())]
    Malformed {
        /// The kubeconfig.
        path: PathBuf,
        /// Where, and what is wrong there.
        message: String,
    },
    /// There is none.
    #[error(
        "there is no kubeconfig: neither KUBECONFIG nor ~/.kube/config leads to one that names a cluster; name one with --kubeconfig"
    )]
    Missing,
    /// No context is chosen.
    #[error(
        "the kubeconfig has no current-context; choose one with `kubectl config use-context` or --context"
    )]
    NoContext,
    /// Something that is named is not there.
    #[error("the kubeconfig has no {kind} {name:?}{}", of.as_deref().map(|context| format!(", which its context {context:?} names")).unwrap_or_default())]
    Unknown {
        /// `context`, `cluster` or `user`.
        kind: &'static str,
        /// What it was asked for by.
        name: String,
        /// The context that names it, unless a flag does.
        of: Option<String>,
    },
    /// An entry says what cannot be used.
    #[error("the kubeconfig's {entry} {name:?} cannot be used: {reason}")]
    Unusable {
        /// `cluster` or `user`.
        entry: &'static str,
        /// Its name.
        name: String,
        /// Why not, and what to do.
        reason: String,
    },
}
