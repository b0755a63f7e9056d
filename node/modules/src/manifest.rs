//! Manifests: what an image consists of, and which of several to take.
//!
//! Everything here is a function of the bytes that a registry sent. [`parse`] tells a manifest from an index,
//! [`choose`] picks one manifest of an index, [`plan`] says what to download and what it will be, and
//! [`ImageConfig`] holds the part of an image's configuration that running it needs.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::{
    digest::Digest,
    media::{self, LayerForm, Packing},
    text::printable,
};

/// An image has no more layers than this; Docker's own limit is 127.
const LAYERS_LIMIT: usize = 128;
const TITLE: &str = "org.opencontainers.image.title";

/// Why a manifest cannot be used. The text goes after the image's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("its manifest cannot be read: {0}")]
    Malformed(String),
    #[error("{0}")]
    Unsupported(String),
}

/// A pointer to content: its type, digest and size in bytes.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, deserialize_with = "null_is_default")]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

/// The manifest of one image.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    #[serde(default)]
    artifact_type: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    layers: Vec<Descriptor>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) annotations: BTreeMap<String, String>,
}

/// The manifests of one image for several platforms.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Index {
    #[serde(default, deserialize_with = "null_is_default")]
    manifests: Vec<Descriptor>,
}

/// What a reference may point to.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Index),
}

/// Reads a manifest or an index, of OCI or of Docker (version 2, schema 2).
pub(crate) fn parse(bytes: &[u8]) -> Result<Document, ManifestError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        schema_version: u64,
        #[serde(default)]
        manifests: Option<serde::de::IgnoredAny>,
    }
    let malformed = |error: serde_json::Error| ManifestError::Malformed(printable(&error.to_string()));
    let head: Head = serde_json::from_slice(bytes).map_err(malformed)?;
    if head.schema_version != 2 {
        return Err(ManifestError::Unsupported(format!(
            "its manifest has the retired schema version {}; push it again with a current tool",
            head.schema_version
        )));
    }
    if head.manifests.is_some() {
        serde_json::from_slice(bytes).map(Document::Index).map_err(malformed)
    } else {
        serde_json::from_slice(bytes).map(Document::Manifest).map_err(malformed)
    }
}

/// A manifest picked from an index.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    pub(crate) descriptor: Descriptor,
    /// The manifest is for Linux: good only if its entry point names a module.
    pub(crate) last_resort: bool,
}

/// Picks the manifest that a Wasm node runs.
///
/// In this order: `wasi/wasm`, `wasip1/wasm`, `wasip2/wasm`, `wasip3/wasm` (each also as `wasm32`); then the first
/// whose platform has `wasm` in it in another way, such as `linux/wasm`; then the only manifest there is, whatever it
/// says; then `linux/amd64` or else the first for Linux, for images whose builder knew no better platform. `js/wasm` and `browser/wasm` need a
/// JavaScript host and are never taken for Wasm of ours. Attestations are not counted.
pub(crate) fn choose(index: &Index) -> Result<Choice, ManifestError> {
    let images: Vec<&Descriptor> = index.manifests.iter().filter(|entry| !entry.is_attestation()).collect();
    let find =
        |is: &dyn Fn(&Platform) -> bool| images.iter().find(|entry| entry.platform.as_ref().is_some_and(is));
    let wasm = ["wasi", "wasip1", "wasip2", "wasip3"]
        .into_iter()
        .find_map(|os| find(&|platform| platform.os.eq_ignore_ascii_case(os) && platform.is_wasm32()))
        .or_else(|| find(&Platform::has_wasm));
    if let Some(entry) = wasm {
        return Ok(Choice { descriptor: (*entry).clone(), last_resort: false });
    }
    if let [only] = images.as_slice() {
        return Ok(Choice { descriptor: (*only).clone(), last_resort: false });
    }
    let linux = find(&|platform| platform.os == "linux" && platform.architecture == "amd64")
        .or_else(|| find(&|platform| platform.os == "linux"));
    if let Some(entry) = linux {
        return Ok(Choice { descriptor: (*entry).clone(), last_resort: true });
    }
    let platforms: Vec<String> = images.iter().map(|entry| entry.platform_name()).take(20).collect();
    Err(ManifestError::Unsupported(format!(
        "it has no image for wasi/wasm, only for [{}]; build it with --platform wasi/wasm",
        platforms.join(", ")
    )))
}

impl Platform {
    /// The architectures that builders name a core module or component by.
    fn is_wasm32(&self) -> bool {
        ["wasm", "wasm32"].contains(&self.architecture.as_str())
    }

    /// Wasm of some other spelling, for a host that is no JavaScript engine.
    fn has_wasm(&self) -> bool {
        let has = |word: &str| word.to_ascii_lowercase().contains("wasm");
        (has(&self.os) || has(&self.architecture)) && !["js", "browser"].contains(&self.os.as_str())
    }

    /// What builders say of manifests that are no images.
    fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }
}

impl Descriptor {
    /// A statement about another entry, which Docker's builder marks by platform and by annotation.
    fn is_attestation(&self) -> bool {
        self.platform.as_ref().is_some_and(Platform::is_unknown)
            || self
                .annotations
                .get("vnd.docker.reference.type")
                .is_some_and(|kind| kind == "attestation-manifest")
    }

    fn platform_name(&self) -> String {
        self.platform.as_ref().map_or_else(
            || "no platform".to_owned(),
            |platform| printable(&format!("{}/{}", platform.os, platform.architecture)),
        )
    }
}

/// What to download, and what becomes of it.
#[derive(Clone, Debug)]
pub(crate) enum PullPlan {
    /// One layer is the module.
    Module { layer: Descriptor, title: Option<String> },
    /// The layers are unpacked one over the other, lowest first.
    Filesystem { layers: Vec<(Descriptor, Packing)> },
}

impl PullPlan {
    /// All layers to download.
    pub(crate) fn layers(&self) -> Vec<&Descriptor> {
        match self {
            Self::Module { layer, .. } => vec![layer],
            Self::Filesystem { layers } => layers.iter().map(|(layer, _)| layer).collect(),
        }
    }
}

/// Decides what a manifest describes.
///
/// A layer with a module's media type makes it an artifact, whatever the configuration's type is; otherwise
/// all layers must be archives. What an artifact has besides its module is left where it is, except that the Wasm OCI
/// artifact has one layer and no more: in one that has others, something is meant that is not known here.
pub(crate) fn plan(manifest: &Manifest) -> Result<PullPlan, ManifestError> {
    if manifest.layers.len() > LAYERS_LIMIT {
        return Err(ManifestError::Unsupported(format!(
            "it has {} layers, and {LAYERS_LIMIT} is the limit",
            manifest.layers.len()
        )));
    }
    if manifest.config.media_type == media::WASM_CONFIG && manifest.layers.len() > 1 {
        return Err(ManifestError::Unsupported(format!(
            "it is a Wasm artifact ({}) of {} layers, and one layer, the module, is what such an artifact has; push one \
             module per artifact",
            media::WASM_CONFIG,
            manifest.layers.len()
        )));
    }
    let mut modules =
        manifest.layers.iter().filter(|layer| media::layer(&layer.media_type) == Some(LayerForm::Module));
    match (modules.next(), modules.count()) {
        (Some(layer), 0) => {
            let usable = |title: &&String| !title.is_empty() && !title.contains(char::is_control);
            let title = layer.annotations.get(TITLE).filter(usable).cloned();
            return Ok(PullPlan::Module { layer: layer.clone(), title });
        }
        (Some(_), more) => return Err(several(manifest, more.saturating_add(1))),
        (None, _) => {}
    }
    let archives: Option<Vec<_>> = manifest
        .layers
        .iter()
        .map(|layer| match media::layer(&layer.media_type) {
            Some(LayerForm::Archive(packing)) => Some((layer.clone(), packing)),
            _ => None,
        })
        .collect();
    match archives {
        Some(layers) if !layers.is_empty() => Ok(PullPlan::Filesystem { layers }),
        _ => Err(no_module(manifest)),
    }
}

/// Why an artifact of several modules is none.
fn several(manifest: &Manifest, count: usize) -> ManifestError {
    let is_spin = manifest.layers.iter().any(|layer| layer.media_type == media::SPIN_APPLICATION);
    ManifestError::Unsupported(if is_spin {
        format!(
            "it is a Spin application of {count} components, and a container is one; push each component as an application or \
             an artifact of its own"
        )
    } else {
        let modules =
            manifest.layers.iter().filter(|layer| media::layer(&layer.media_type) == Some(LayerForm::Module));
        let titles: Vec<_> =
            modules.filter_map(|layer| layer.annotations.get(TITLE)).take(8).map(|t| printable(t)).collect();
        let named = if titles.is_empty() { String::new() } else { format!(" ({})", titles.join(", ")) };
        format!(
            "it has {count} module layers{named}, and which one to run is not said; push one module per artifact"
        )
    })
}

/// Why something has no module in it: what it is, and what would have been taken.
fn no_module(manifest: &Manifest) -> ManifestError {
    let mut types: Vec<String> = manifest.layers.iter().map(|layer| printable(&layer.media_type)).collect();
    types.dedup();
    types.truncate(10);
    let artifact = match &manifest.artifact_type {
        Some(kind) if !kind.is_empty() => format!("it is an artifact of type {:?}, ", printable(kind)),
        _ => String::new(),
    };
    ManifestError::Unsupported(format!(
        "there is no WebAssembly in it: {artifact}its layers are of type [{}], with a configuration of type {:?}; {}",
        types.join(", "),
        printable(&manifest.config.media_type),
        media::ACCEPTED
    ))
}

/// The part of an image's configuration that running it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageConfig {
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) working_dir: Option<String>,
    pub(crate) user: Option<String>,
}

impl ImageConfig {
    /// Reads the configuration of a container image.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Default, Deserialize)]
        struct File {
            #[serde(default, deserialize_with = "null_is_default")]
            config: Section,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        struct Section {
            #[serde(deserialize_with = "null_is_default")]
            entrypoint: Vec<String>,
            #[serde(deserialize_with = "null_is_default")]
            cmd: Vec<String>,
            #[serde(deserialize_with = "null_is_default")]
            env: Vec<String>,
            #[serde(deserialize_with = "null_is_default")]
            working_dir: String,
            #[serde(deserialize_with = "null_is_default")]
            user: String,
        }
        let file: File = serde_json::from_slice(bytes).map_err(|error| {
            ManifestError::Malformed(printable(&format!("the image configuration: {error}")))
        })?;
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let Section { entrypoint, cmd, env, working_dir, user } = file.config;
        Ok(Self {
            entrypoint,
            cmd,
            env: env
                .iter()
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            working_dir: some(working_dir),
            user: some(user),
        })
    }

    /// True when the first word of the command names a file that is no module. An image without a command is one
    /// of files alone, for volumes, and these are the same on every platform.
    pub(crate) fn starts_other_than_module(&self) -> bool {
        self.entrypoint.first().or(self.cmd.first()).is_some_and(|program| !program.ends_with(".wasm"))
    }
}

/// Go writes empty lists and maps as `null`.
pub(crate) fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
