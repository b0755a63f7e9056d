//! Why a policy is not served.

use crate::{evaluator::ModeError, expression::InvalidExpression, modules::ModuleFailure};

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
    /// Its module is not called in a way that there is here, or does not say how.
    #[error("{module}: {error}")]
    Mode {
        /// As the policy names it.
        module: String,
        /// What is the matter.
        error: ModeError,
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
