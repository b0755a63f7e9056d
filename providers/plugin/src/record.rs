//! What is noted down of a plugin that was pulled.

use std::path::PathBuf;

use kubewasm_modules::{Digest, ImageName};
use serde::{Deserialize, Serialize};

use crate::{access::AccessRules, grants::Grants, name::PluginName};

/// A plugin, as it was pulled and as its user has agreed to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PluginRecord {
    /// What is typed behind `kubectl`.
    pub name: PluginName,
    /// Where it is from: an image, a URL or a file, as an [`ImageName`].
    pub source: String,
    /// What it is in the module store for good, by digest. A file is called by its path, and is taken in again at each start.
    pub pinned: String,
    /// Digest of its image, or of its file.
    pub digest: Digest,
    /// What the user has granted it.
    #[serde(default)]
    pub grants: Grants,
    /// All that it may ask of the API server; `None` where it says nothing, and may ask for what its user may ask for.
    #[serde(default)]
    pub access: Option<AccessRules>,
    /// These rules are its user's own, and not what it says of itself.
    #[serde(default)]
    pub access_is_users: bool,
    /// It knows completions.
    #[serde(default)]
    pub completions: bool,
    /// The policy for signatures that it was pulled by, which counts at each start.
    #[serde(default)]
    pub signature_policy: Option<PathBuf>,
}

impl PluginRecord {
    /// The name by which its module is found in the store.
    #[must_use]
    pub fn image(&self) -> Option<ImageName> {
        self.pinned.parse().ok()
    }

    /// Where its newest version is.
    #[must_use]
    pub fn source(&self) -> Option<ImageName> {
        self.source.parse().ok()
    }
}
