//! Why a policy is not served.

use crate::{expression::InvalidExpression, modules::ModuleFailure};

/// Why a policy is not served, or not in its new version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadFailure {
    /// Its module is not to be had.
    #[error(transparent)]
    Module(#[from] ModuleFailure),
    /// Its module imports what nobody provides, or is damaged.
    #[error("{module} cannot be run: {reason}")]
    Unusable {
        /// As the policy names it.
        module: String,
        /// What is the matter.
        reason: String,
    },
    /// Its module is a policy of another kind.
    #[error(
        "{module} is a policy of executionMode {mode}, which is not run here: policies are programs of WASI (executionMode wasi)"
    )]
    ExecutionMode {
        /// As the policy names it.
        module: String,
        /// What it says of itself.
        mode: &'static str,
    },
    /// Its module does not say how it is called.
    #[error(
        "{module} does not say how it is called; write it into the module with `kubewasm policy annotate` (executionMode: wasi)"
    )]
    NoMetadata {
        /// As the policy names it.
        module: String,
    },
    /// The policy does not take the settings.
    #[error("Policy settings are invalid: {0}")]
    Settings(String),
    /// The expression of a group cannot be evaluated.
    #[error("expression: {0}")]
    Expression(#[from] InvalidExpression),
    /// A member of a group is the cause.
    #[error("policies.{member}: {failure}")]
    Member {
        /// Its name in the group.
        member: String,
        /// What is the matter with it.
        failure: Box<LoadFailure>,
    },
    /// While it was loaded, it was removed, or put in another version: there is nothing to be done.
    #[error("another version has come meanwhile")]
    Superseded,
}

impl LoadFailure {
    /// It may load later without anybody's doing. Whoever put it may try again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Module(failure) => failure.is_transient,
            Self::Member { failure, .. } => failure.is_transient(),
            _ => false,
        }
    }
}
