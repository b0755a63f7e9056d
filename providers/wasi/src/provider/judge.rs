//! Who has a say in which modules run here, once it is known what they are.

use std::fmt;

use async_trait::async_trait;
use kubewasm_kubelet::runtime::{ContainerSpec, StartError};
use kubewasm_modules::{Digest, Facts};

/// Judges modules before they are started.
#[async_trait]
pub trait ModuleJudge: fmt::Debug + Send + Sync + 'static {
    /// Whether a container may run its module. It is asked at each start. Takes as long as it takes.
    async fn judge(&self, question: ModuleQuestion<'_>) -> ModuleVerdict;
}

/// A module that is about to be started.
#[derive(Clone, Copy, Debug)]
pub struct ModuleQuestion<'a> {
    /// The container, and what is known of its pod.
    pub container: &'a ContainerSpec,
    /// Digest of its image.
    pub image: &'a Digest,
    /// Digest of its module.
    pub module: &'a Digest,
    /// What the module is.
    pub facts: &'a Facts,
}

/// What has come of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModuleVerdict {
    /// It may run.
    Admitted,
    /// It never may; for people, and why.
    Refused(String),
    /// It cannot be told yet; for people, and what is missing.
    Later(String),
}

impl ModuleVerdict {
    pub(super) fn into_result(self) -> Result<(), StartError> {
        match self {
            Self::Admitted => Ok(()),
            Self::Refused(message) => Err(StartError::Refused(message.into())),
            Self::Later(message) => Err(StartError::Config(message.into())),
        }
    }
}
