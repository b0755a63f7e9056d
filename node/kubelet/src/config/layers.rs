//! What files and flags say about a KubeletConfiguration, laid over each other as the kubelet does it.
//!
//! ```text
//! --config file ─► fields ─┐
//! 10-a.conf ─────► fields ─┼─ merge (RFC 7386: maps merge, lists replace, null goes back to the default) ─┐
//! 20-b.conf ─────► fields ─┘                                                                              │
//! flags ─────────────────────────────────────────────────── set ──────────────────────────────────────────┴─► one object
//! ```
//!
//! Each layer is read strictly by itself, so that a mistake is told with the file and line, or the flag, that made it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use super::{
    ConfigError,
    decode::{self, Document},
    file::{KubeletConfiguration, default_eviction_hard},
    flags::{self, FieldFlag, GivenFlag, IDLE_FLAGS},
    without_effect::WITHOUT_EFFECT,
};

/// Drop-ins are other files' small corrections.
const MAX_FILE: u64 = 1 << 20;
/// Drop-ins that a directory may have, with those of directories in it.
const MAX_DROP_INS: usize = 256;
/// How deep directories of drop-ins may be in each other.
const MAX_DEPTH: usize = 8;

/// A file, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// Reads one file.
///
/// # Errors
/// [`ConfigError::Read`], and [`ConfigError::Decode`] for one that is too large.
pub(super) fn read(path: &Path) -> Result<ConfigFile, ConfigError> {
    let unreadable = |source| ConfigError::Read { path: path.to_owned(), source };
    let size = fs::metadata(path).map_err(unreadable)?.len();
    if size > MAX_FILE {
        let message = format!("{size} bytes are too much for a configuration; the limit is {MAX_FILE}");
        return Err(ConfigError::Decode { path: path.to_owned(), message });
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    Ok(ConfigFile { path: path.to_owned(), text })
}

/// Reads the `*.conf` files of a directory and of those in it, in the order in which they count: that of their names,
/// directories among the files, as upstream walks them. Links to directories are not followed.
///
/// # Errors
/// [`ConfigError::Read`] for what cannot be read, [`ConfigError::Decode`] for a directory with too much in it.
pub(super) fn read_drop_ins(dir: &Path) -> Result<Vec<ConfigFile>, ConfigError> {
    let mut files = Vec::new();
    walk(dir, 0, &mut files)?;
    files.iter().map(|path| read(path)).collect()
}

fn walk(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), ConfigError> {
    let unreadable = |source| ConfigError::Read { path: dir.to_owned(), source };
    let too_much = |message: String| ConfigError::Decode { path: dir.to_owned(), message };
    if depth > MAX_DEPTH {
        return Err(too_much(format!("directories of drop-ins may be {MAX_DEPTH} deep and no deeper")));
    }
    let mut entries =
        fs::read_dir(dir).and_then(|entries| entries.collect::<Result<Vec<_>, _>>()).map_err(unreadable)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_type().map_err(unreadable)?.is_dir() {
            walk(&path, depth + 1, files)?;
        } else if path.extension().is_some_and(|extension| extension == "conf") {
            files.push(path);
            if files.len() > MAX_DROP_INS {
                return Err(too_much(format!("more than {MAX_DROP_INS} drop-ins")));
            }
        }
    }
    Ok(())
}

/// What the layers have come to.
#[derive(Debug)]
pub(super) struct Layered {
    pub(super) configuration: KubeletConfiguration,
    /// One text for each thing that was said in vain.
    pub(super) warnings: Vec<String>,
    /// Who had the last word about a field.
    origins: BTreeMap<String, String>,
}

impl Layered {
    /// Puts in front of a message that begins with a field, who has set that.
    pub(super) fn blame(&self, message: String) -> ConfigError {
        let end = message.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(message.len());
        match message.get(..end).and_then(|field| self.origins.get(field)) {
            Some(origin) => ConfigError::Invalid(format!("{origin}: {message}")),
            None => ConfigError::Invalid(message),
        }
    }
}

/// Lays `drop_ins` over `main`, and `flags` over both.
///
/// # Errors
/// [`ConfigError::Decode`] names the file, [`ConfigError::Invalid`] the flag.
pub(super) fn lay(
    main: Option<&ConfigFile>,
    drop_ins: &[ConfigFile],
    flags: &[GivenFlag],
) -> Result<Layered, ConfigError> {
    let mut layers = Layers::default();
    if let Some(file) = main {
        let fields = layers.take(file, false)?;
        merge(&mut layers.fields, fields);
    }
    unset_zeroes(&mut layers.fields);
    settle_main(&mut layers.fields);
    for file in drop_ins {
        let fields = layers.take(file, true)?;
        merge(&mut layers.fields, fields);
    }
    unset_zeroes(&mut layers.fields);
    settle_pulls(&mut layers.fields);
    for given in flags {
        layers.set(given)?;
    }
    let Layers { fields, warnings, origins } = layers;
    let configuration = decode::from_fields(fields).map_err(ConfigError::Invalid)?;
    Ok(Layered { configuration, warnings, origins })
}

#[derive(Default)]
struct Layers {
    fields: Map<String, Value>,
    warnings: Vec<String>,
    origins: BTreeMap<String, String>,
}

impl Layers {
    fn take(&mut self, file: &ConfigFile, must_say_kind: bool) -> Result<Map<String, Value>, ConfigError> {
        let name = file.path.display();
        let Document { fields, without_effect } = decode::document(&file.text, must_say_kind)
            .map_err(|message| ConfigError::Decode { path: file.path.clone(), message })?;
        self.warnings.extend(
            without_effect
                .iter()
                .map(|field| format!("{name}: field {field:?} is known but has no effect on a Wasm node")),
        );
        // Without a file, as in tests of texts, there is nobody to name.
        if !file.path.as_os_str().is_empty() {
            self.origins.extend(fields.keys().map(|field| (field.clone(), name.to_string())));
        }
        Ok(fields)
    }

    fn set(&mut self, given: &GivenFlag) -> Result<(), ConfigError> {
        let name = &given.name;
        let invalid = |message: String| ConfigError::Invalid(format!("--{name}: {message}"));
        let flag: &FieldFlag = match flags::field_flag(name) {
            Some(flag) => flag,
            None if IDLE_FLAGS.contains(&name.as_str()) => {
                self.warnings.push(format!("--{name} is known but has no effect on a Wasm node"));
                return Ok(());
            }
            None => return Err(invalid("there is no such flag".to_owned())),
        };
        // Alone at first, so that what does not fit is blamed on it.
        let mut alone = Map::new();
        flags::set(&mut alone, flag, &given.values).map_err(invalid)?;
        decode::from_fields(alone).map_err(invalid)?;
        flags::set(&mut self.fields, flag, &given.values).map_err(invalid)?;
        let field = flag.field.split('.').next().unwrap_or(flag.field);
        if WITHOUT_EFFECT.contains(&field) {
            self.warnings.push(format!("--{name} is known but has no effect on a Wasm node"));
        }
        self.origins.insert(field.to_owned(), format!("--{name}"));
        Ok(())
    }
}

/// RFC 7386.
fn merge(into: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                into.remove(&name);
            }
            Value::Object(inner) => {
                let mut before = match into.remove(&name) {
                    Some(Value::Object(before)) => before,
                    _ => Map::new(),
                };
                merge(&mut before, inner);
                into.insert(name, Value::Object(before));
            }
            value => {
                into.insert(name, value);
            }
        }
    }
}

/// Fields whose zero, or empty text, upstream reads as "not set"; kubeadm writes them so.
const ZERO_IS_UNSET: [&[&str]; 35] = [
    &["authentication", "webhook", "cacheTTL"],
    &["authorization", "webhook", "cacheAuthorizedTTL"],
    &["authorization", "webhook", "cacheUnauthorizedTTL"],
    &["cgroupDriver"],
    &["configMapAndSecretChangeDetectionStrategy"],
    &["containerLogMaxSize"],
    &["containerLogMonitorInterval"],
    &["containerRuntimeEndpoint"],
    &["contentType"],
    &["cpuManagerPolicy"],
    &["cpuManagerReconcilePeriod"],
    &["crashLoopBackOff", "maxContainerRestartPeriod"],
    &["eventBurst"],
    &["evictionPressureTransitionPeriod"],
    &["fileCheckFrequency"],
    &["hairpinMode"],
    &["httpCheckFrequency"],
    &["imageMinimumGCAge"],
    &["kubeAPIBurst"],
    &["logging", "flushFrequency"],
    &["maxOpenFiles"],
    &["memoryManagerPolicy"],
    &["memoryReservationPolicy"],
    &["nodeLeaseDurationSeconds"],
    &["nodeStatusReportFrequency"],
    &["nodeStatusUpdateFrequency"],
    &["podLogsDir"],
    &["registryBurst"],
    &["runtimeRequestTimeout"],
    &["streamingConnectionIdleTimeout"],
    &["syncFrequency"],
    &["topologyManagerPolicy"],
    &["topologyManagerScope"],
    &["volumePluginDir"],
    &["volumeStatsAggPeriod"],
];

fn unset_zeroes(fields: &mut Map<String, Value>) {
    for path in ZERO_IS_UNSET {
        let Some((name, parents)) = path.split_last() else { continue };
        let inner =
            parents.iter().try_fold(&mut *fields, |object, parent| object.get_mut(*parent)?.as_object_mut());
        let Some(object) = inner else { continue };
        if object
            .get(*name)
            .is_some_and(|value| *value == json!(0) || *value == json!("0s") || *value == json!(""))
        {
            object.remove(*name);
        }
    }
}

/// Defaults of upstream that depend on what the main file says, and over which drop-ins are laid.
fn settle_main(fields: &mut Map<String, Value>) {
    if let (None, Some(often)) =
        (fields.get("nodeStatusReportFrequency"), fields.get("nodeStatusUpdateFrequency").cloned())
    {
        fields.insert("nodeStatusReportFrequency".to_owned(), often);
    }
    let merges = fields.get("mergeDefaultEvictionSettings") == Some(&Value::Bool(true));
    match fields.get_mut("evictionHard") {
        None => {
            fields.insert("evictionHard".to_owned(), json!(default_eviction_hard()));
        }
        Some(Value::Object(thresholds)) if merges => {
            for (signal, value) in default_eviction_hard() {
                thresholds.entry(signal).or_insert(Value::String(value));
            }
        }
        Some(_) => {}
    }
}

/// Who allows parallel pulls need not also say that they are not serial.
fn settle_pulls(fields: &mut Map<String, Value>) {
    let parallel = fields.get("maxParallelImagePulls").and_then(Value::as_u64).unwrap_or(1);
    if parallel > 1 && !fields.contains_key("serializeImagePulls") {
        fields.insert("serializeImagePulls".to_owned(), Value::Bool(false));
    }
}

#[cfg(test)]
mod tests;
