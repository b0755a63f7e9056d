//! What a user's kubeconfig says of the cluster that a plugin is to speak to.
//!
//! ```text
//!   argv of the plugin ─[arguments]─► KubeconfigOverrides ─┐
//!   $KUBECONFIG, ~/.kube/config ─[files]─► KubeconfigFile ─┴─[merge]─► Kubeconfig ─[select]─► SelectedContext
//! ```
//!
//! The rules are client-go's, which kubectl goes by. No error tells a value of a file: it may be a secret, or next to one.

mod arguments;
mod error;
mod files;
mod merge;
mod model;
mod select;
#[cfg(test)]
mod tests;

pub use arguments::KubeconfigOverrides;
pub use error::KubeconfigError;
pub(crate) use files::KubeconfigSources;
pub(crate) use merge::Kubeconfig;
pub(crate) use model::{ClusterEntry, ExecEntry, InteractiveMode, Secret, UserEntry};
pub(crate) use select::{SelectedContext, in_cluster};
