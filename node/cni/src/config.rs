//! A network's configuration, as an administrator or the network's own agent has written it. Pure.
//!
//! Configurations hold secrets at times. They are handed to plugins and kept in records, and are in no message.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::version::{SpecVersion, UnknownVersion};

/// A network: plugins that are run one after the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct NetworkConfig {
    pub(crate) name: String,
    pub(crate) version: SpecVersion,
    /// Plugins are not to be asked whether what they have made is there.
    pub(crate) disable_check: bool,
    /// Plugins are not to be told which attachments there are: somebody else has some, too.
    pub(crate) disable_gc: bool,
    pub(crate) plugins: Vec<PluginConfig>,
}

/// What one plugin of a network is told.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PluginConfig {
    /// Its name: that of a program.
    pub(crate) kind: String,
    /// All of it, with `type`.
    pub(crate) object: Map<String, Value>,
}

impl fmt::Debug for PluginConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PluginConfig").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("it is no JSON: error in line {line}, column {column}")]
    Json { line: usize, column: usize },
    #[error("it is no JSON object")]
    NoObject,
    #[error("{0:?} is missing")]
    Missing(&'static str),
    #[error("{0:?} has a value of the wrong type")]
    WrongType(&'static str),
    #[error(
        "{0:?} is no name of a network: letters, digits, '_', '.' and '-', the first of them a letter or a digit"
    )]
    Name(String),
    #[error("{0:?} is no name of a plugin")]
    PluginName(String),
    #[error(transparent)]
    Version(#[from] UnknownVersion),
    #[error("it has no plugins")]
    NoPlugins,
}

/// The error of serde may show a part of what it has read.
fn without_contents(error: &serde_json::Error) -> ConfigError {
    ConfigError::Json { line: error.line(), column: error.column() }
}

/// A `.conflist`, before the plugins are known that have files of their own.
#[derive(Debug)]
pub(crate) struct ListFile {
    pub(crate) network: NetworkConfig,
    /// There may be more plugins in the folder of the network's name.
    pub(crate) has_folder: bool,
}

/// Reads a list of plugins: a `.conflist`.
pub(crate) fn list(bytes: &[u8]) -> Result<ListFile, ConfigError> {
    let object = object(bytes)?;
    let inlined = match object.get("plugins") {
        None => Vec::new(),
        Some(Value::Array(plugins)) => {
            let plugin = |plugin: &Value| match plugin {
                Value::Object(object) => PluginConfig::new(object.clone()),
                _ => Err(ConfigError::WrongType("plugins")),
            };
            plugins.iter().map(plugin).collect::<Result<_, _>>()?
        }
        Some(_) => return Err(ConfigError::WrongType("plugins")),
    };
    let network = NetworkConfig {
        name: name(&object)?,
        version: version(&object)?,
        disable_check: switch(&object, "disableCheck")?,
        disable_gc: switch(&object, "disableGC")?,
        plugins: inlined,
    };
    Ok(ListFile { network, has_folder: !switch(&object, "loadOnlyInlinedPlugins")? })
}

/// Reads a single plugin that is a network: a `.conf` or `.json`.
pub(crate) fn single(bytes: &[u8]) -> Result<NetworkConfig, ConfigError> {
    let object = object(bytes)?;
    Ok(NetworkConfig {
        name: name(&object)?,
        version: version(&object)?,
        disable_check: false,
        disable_gc: false,
        plugins: vec![PluginConfig::new(object)?],
    })
}

/// Reads a plugin of a network that has a file of its own.
pub(crate) fn plugin(bytes: &[u8]) -> Result<PluginConfig, ConfigError> {
    PluginConfig::new(object(bytes)?)
}

impl PluginConfig {
    fn new(object: Map<String, Value>) -> Result<Self, ConfigError> {
        let kind = text(&object, "type")?.ok_or(ConfigError::Missing("type"))?;
        if kind.is_empty() || kind.contains(['/', '\0']) || [".", ".."].contains(&kind) {
            return Err(ConfigError::PluginName(kind.to_owned()));
        }
        Ok(Self { kind: kind.to_owned(), object })
    }

    /// What of these arguments the plugin has said that it can use, by name of the capability.
    pub(crate) fn arguments(&self, all: &Map<String, Value>) -> Map<String, Value> {
        let Some(Value::Object(capabilities)) = self.object.get("capabilities") else { return Map::new() };
        let wanted = |name: &str| capabilities.get(name) == Some(&Value::Bool(true));
        all.iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }
}

fn object(bytes: &[u8]) -> Result<Map<String, Value>, ConfigError> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(ConfigError::NoObject),
        Err(error) => Err(without_contents(&error)),
    }
}

fn text<'a>(object: &'a Map<String, Value>, key: &'static str) -> Result<Option<&'a str>, ConfigError> {
    match object.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(ConfigError::WrongType(key)),
    }
}

/// The name of a network is part of file names, of plugins' and of ours.
fn name(object: &Map<String, Value>) -> Result<String, ConfigError> {
    let name = text(object, "name")?.ok_or(ConfigError::Missing("name"))?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(is_plain) {
        Ok(name.to_owned())
    } else {
        Err(ConfigError::Name(name.to_owned()))
    }
}

/// The newest of the versions that a configuration can be used with and that are spoken here.
fn version(object: &Map<String, Value>) -> Result<SpecVersion, ConfigError> {
    let one = text(object, "cniVersion")?;
    let several = match object.get("cniVersions") {
        None => Vec::new(),
        Some(Value::Array(versions)) => {
            let text = |version: &Value| version.as_str().map(str::to_owned);
            let texts: Option<Vec<_>> = versions.iter().map(text).collect();
            texts.ok_or(ConfigError::WrongType("cniVersions"))?
        }
        Some(_) => return Err(ConfigError::WrongType("cniVersions")),
    };
    let newest = several.iter().map(String::as_str).chain(one).filter_map(|text| text.parse().ok()).max();
    // Without any, it is 0.1.0.
    let spoken = || one.or(several.first().map(String::as_str)).unwrap_or("0.1.0").parse::<SpecVersion>();
    Ok(newest.map_or_else(spoken, Ok)?)
}

fn switch(object: &Map<String, Value>, key: &'static str) -> Result<bool, ConfigError> {
    match object.get(key) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        Some(_) => Err(ConfigError::WrongType(key)),
    }
}

#[cfg(test)]
mod tests;
