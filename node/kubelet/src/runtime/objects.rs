//! ConfigMaps and Secrets that a provider needs, by what annotations say to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::RuntimeError;

/// Names of objects in the namespace of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectNames {
    /// ConfigMaps.
    pub config_maps: BTreeSet<String>,
    /// Secrets.
    pub secrets: BTreeSet<String>,
}

impl ObjectNames {
    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.config_maps.is_empty() && self.secrets.is_empty()
    }
}

/// What is in such objects, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectContents {
    /// The texts of ConfigMaps, by key.
    pub config_maps: BTreeMap<String, BTreeMap<String, String>>,
    /// Secrets.
    pub secrets: BTreeMap<String, SecretContent>,
}

/// What is in a Secret. Its `Debug` shows no values.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretContent {
    /// Its type, such as `kubernetes.io/tls`.
    pub kind: String,
    /// Values by key.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for SecretContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.data.keys().collect();
        f.debug_struct("SecretContent").field("kind", &self.kind).field("keys", &keys).finish()
    }
}

/// What there is of the objects that a container was started with, as they are now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectUpdate {
    /// Container id.
    pub id: String,
    /// Container name within the pod.
    pub container: String,
    /// Annotations of the pod.
    pub annotations: BTreeMap<String, String>,
    /// What is in the objects that [`super::Runtime::followed_objects`] has named.
    pub objects: ObjectContents,
}

/// A container goes on with what it had.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// What is in the objects cannot be used. Does not pass before they change. For people: what is wrong with which.
    #[error("{0}")]
    Invalid(String),
    /// The provider could not be reached; try again.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
}
