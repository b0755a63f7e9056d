//! What `-o json` prints. Fields are added, and never removed or given another meaning; `docs/plugins.md` has them.

use std::path::PathBuf;

use kubewasm_modules::Digest;
use kubewasm_plugin::{AccessRules, FoundPlugin, Grants, HomeError, PluginName, PluginRecord};
use serde::Serialize;

use super::install::Installed;

/// A plugin, as it was noted down.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PluginShape {
    name: String,
    /// Where it is from.
    source: String,
    pub(super) digest: Digest,
    /// What it was granted.
    grants: Grants,
    /// All that it may ask of the API server; `null` for all that its user may.
    access: Option<AccessRules>,
    completions: bool,
}

impl From<&PluginRecord> for PluginShape {
    fn from(record: &PluginRecord) -> Self {
        Self {
            name: record.name.to_string(),
            source: record.source.clone(),
            digest: record.digest,
            grants: record.grants.clone(),
            access: record.access.clone(),
            completions: record.completions,
        }
    }
}

/// `pull`, and one of `upgrade`
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InstalledShape {
    #[serde(flatten)]
    plugin: PluginShape,
    /// What kubectl finds.
    pub(super) link: PathBuf,
    /// kubectl finds it.
    pub(super) on_path: bool,
    size_bytes: u64,
    /// It is not what was there before.
    changed: bool,
}

impl From<&Installed> for InstalledShape {
    fn from(installed: &Installed) -> Self {
        Self {
            plugin: PluginShape::from(&installed.record),
            link: installed.linked.link.clone(),
            on_path: installed.linked.is_on_path,
            size_bytes: installed.size_bytes,
            changed: installed.is_new,
        }
    }
}

/// `list`
#[derive(Debug, Serialize)]
pub(super) struct PluginListShape {
    pub(super) plugins: Vec<ListedShape>,
}

/// A plugin, pulled or not.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ListedShape {
    pub(super) name: String,
    /// Where it is from, or where its link leads.
    location: String,
    /// Its module is in the module store for good.
    in_store: bool,
    digest: Option<Digest>,
    grants: Grants,
    /// Why it cannot be used.
    problem: Option<String>,
}

impl ListedShape {
    pub(super) fn new(name: &PluginName, found: &Result<FoundPlugin, HomeError>) -> Self {
        let name = name.to_string();
        match found {
            Ok(FoundPlugin::Pulled(record)) => Self {
                name,
                location: record.source.clone(),
                in_store: !record.source.starts_with('/'),
                digest: Some(record.digest),
                grants: record.grants.clone(),
                problem: None,
            },
            Ok(FoundPlugin::Stray(path)) => Self {
                name,
                location: path.display().to_string(),
                in_store: false,
                digest: None,
                grants: Grants::default(),
                problem: None,
            },
            Err(error) => Self {
                name,
                location: String::new(),
                in_store: false,
                digest: None,
                grants: Grants::default(),
                problem: Some(error.to_string()),
            },
        }
    }

    /// Where it is, for people.
    pub(super) fn place(&self) -> String {
        match (&self.problem, self.in_store) {
            (Some(problem), _) => format!("({problem})"),
            (None, true) => self.location.clone(),
            (None, false) => format!("{} (not in the store)", self.location),
        }
    }
}

/// `inspect`
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PluginInspectShape {
    #[serde(flatten)]
    pub(super) plugin: PluginShape,
    /// The key that has signed it, as the policy names it; `null` where no policy asks for that.
    pub(super) signed_by: Option<String>,
    /// Digest of the module.
    pub(super) module: Digest,
    /// How it is run.
    pub(super) kind: String,
}

/// `upgrade`
#[derive(Debug, Serialize)]
pub(super) struct UpgradeShape {
    pub(super) plugins: Vec<InstalledShape>,
    /// Those that stay as they are, and why.
    pub(super) failed: Vec<UpgradeFailure>,
}

/// A plugin that was not upgraded.
#[derive(Debug, Serialize)]
pub(super) struct UpgradeFailure {
    pub(super) name: String,
    pub(super) reason: String,
}

/// `rm`
#[derive(Debug, Serialize)]
pub(super) struct PluginsRemovedShape {
    pub(super) removed: Vec<String>,
}

/// `new`
#[derive(Debug, Serialize)]
pub(super) struct PluginProjectShape {
    pub(super) name: String,
    pub(super) folder: PathBuf,
    /// Below the folder.
    pub(super) files: Vec<&'static str>,
    /// Commands to go on with, in the folder.
    pub(super) next: [String; 3],
}
