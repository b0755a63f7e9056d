//! Compiled code in a registry: an artifact that [refers](https://github.com/opencontainers/image-spec/blob/main/manifest.md)
//! to the image whose module was compiled. All here are functions of bytes.
//!
//! ```text
//! manifest ─ artifactType, subject: the image's manifest
//!   ├ annotations: digest of the module, key of the compiler, and in an image with a file system the command
//!   ├ config: the empty one
//!   └ layers: the code, and the facts about the module as JSON
//! ```
//!
//! The subject is for registries, to list it and to collect it. What is believed is the module's digest: code of one
//! module is code of that module wherever it lies.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    compile::Facts,
    digest::Digest,
    manifest::null_is_default,
    media,
    record::Blob,
    referrers::{self, Referrer},
    text::printable,
};

/// `artifactType` of such manifests.
pub(crate) const ARTIFACT_TYPE: &str = "application/vnd.kubewasm.precompiled.v1";
/// The layer that an engine loads.
pub(crate) const CODE_TYPE: &str = "application/vnd.kubewasm.precompiled.code.v1";
/// The layer with [`Facts`].
pub(crate) const FACTS_TYPE: &str = "application/vnd.kubewasm.precompiled.facts.v1+json";
/// The configuration of artifacts that have none; registries that look at the configuration alone list it as the type.
pub(crate) const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// Its bytes.
pub(crate) const EMPTY: &[u8] = b"{}";

/// Digest of the module that was compiled.
pub(crate) const MODULE: &str = "dev.kubewasm.precompiled.module";
/// [`crate::Compiler::key`].
pub(crate) const COMPILER: &str = "dev.kubewasm.precompiled.compiler";
/// What starts the module in an image with a file system.
pub(crate) const COMMAND: &str = "dev.kubewasm.precompiled.command";

/// What the manifest of compiled code says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CodeManifest {
    pub(crate) module: Digest,
    pub(crate) compiler: String,
    pub(crate) command: Option<String>,
    pub(crate) code: Blob,
    pub(crate) facts: Blob,
}

impl CodeManifest {
    /// Whether it is about what `key` compiles of `module`.
    pub(crate) fn is_for(&self, module: &Digest, key: &str) -> bool {
        self.module == *module && self.compiler == key
    }

    fn annotations(&self) -> BTreeMap<&'static str, String> {
        let told = [(MODULE, self.module.to_string()), (COMPILER, self.compiler.clone())];
        let command = self.command.iter().map(|command| (COMMAND, command.clone()));
        told.into_iter().chain(command).collect()
    }
}

/// Writes the manifest of compiled code of a module of an image; `subject` points to that image's manifest.
pub(crate) fn write(about: &CodeManifest, subject: &Value) -> Vec<u8> {
    let layer = |media_type: &str, blob: &Blob| json!({"mediaType": media_type, "digest": blob.digest, "size": blob.size});
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": media::OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPE,
        "config": layer(EMPTY_TYPE, &Blob { digest: Digest::of(EMPTY), size: EMPTY.len() as u64 }),
        "layers": [layer(CODE_TYPE, &about.code), layer(FACTS_TYPE, &about.facts)],
        "subject": subject,
        "annotations": about.annotations(),
    });
    manifest.to_string().into_bytes()
}

/// What a list of referrers says of a manifest of compiled code.
pub(crate) fn entry(about: &CodeManifest, manifest: &[u8]) -> Value {
    json!({
        "mediaType": media::OCI_MANIFEST,
        "digest": Digest::of(manifest),
        "size": manifest.len(),
        "artifactType": ARTIFACT_TYPE,
        "annotations": about.annotations(),
    })
}

/// The list of referrers that a registry has under a tag, with `entry` in it; `None` when it is there. What else it says
/// stays as it is: [others keep it, too][1].
///
/// [1]: https://github.com/opencontainers/distribution-spec/blob/main/spec.md#referrers-tag-schema
pub(crate) fn listed(list: Option<&[u8]>, entry: &Value) -> Result<Option<Vec<u8>>, String> {
    let Some(list) = list else {
        let list = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": [entry]});
        return Ok(Some(list.to_string().into_bytes()));
    };
    let mut list: Value = serde_json::from_slice(list).map_err(unreadable)?;
    let manifests = match list.get_mut("manifests") {
        Some(Value::Array(manifests)) => manifests,
        _ => return Err("what is under the tag for the list of referrers is no list".to_owned()),
    };
    if manifests.iter().any(|known| known["digest"] == entry["digest"]) {
        return Ok(None);
    }
    manifests.push(entry.clone());
    Ok(Some(list.to_string().into_bytes()))
}

/// A manifest in a list of referrers that may be compiled code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CodeCandidate {
    pub(crate) digest: Digest,
    /// The module, where the list says it.
    pub(crate) module: Option<Digest>,
}

/// The manifests in a list of referrers that may be code for the compiler `key`, the likeliest first.
pub(crate) fn candidates(list: &[u8], key: &str) -> Result<Vec<CodeCandidate>, String> {
    let rank = |referrer: &Referrer| {
        let compiler = referrer.annotations.get(COMPILER);
        match (referrer.artifact_type.as_str(), compiler) {
            (ARTIFACT_TYPE | EMPTY_TYPE | "", Some(compiler)) => (compiler == key).then_some(0),
            (ARTIFACT_TYPE, None) => Some(1),
            (EMPTY_TYPE | "", None) if referrer.annotations.is_empty() => Some(2),
            _ => None,
        }
    };
    let candidate = |referrer: Referrer| CodeCandidate {
        digest: referrer.digest,
        module: referrer.annotations.get(MODULE).and_then(|digest| digest.parse().ok()),
    };
    let referrers = referrers::read(list).map_err(unreadable)?;
    Ok(referrers::ranked(referrers, rank).into_iter().map(candidate).collect())
}

fn unreadable(error: serde_json::Error) -> String {
    printable(&format!("the list of referrers cannot be read: {error}"))
}

/// Reads the manifest of compiled code.
pub(crate) fn parse(manifest: &[u8]) -> Result<CodeManifest, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Manifest {
        #[serde(default, deserialize_with = "null_is_default")]
        artifact_type: String,
        #[serde(default, deserialize_with = "null_is_default")]
        layers: Vec<Layer>,
        #[serde(default, deserialize_with = "null_is_default")]
        annotations: BTreeMap<String, String>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layer {
        #[serde(default)]
        media_type: String,
        digest: Digest,
        size: u64,
    }
    let mut manifest: Manifest = serde_json::from_slice(manifest)
        .map_err(|error| printable(&format!("its manifest cannot be read: {error}")))?;
    if manifest.artifact_type != ARTIFACT_TYPE {
        return Err(format!("it is no compiled code but {:?}", printable(&manifest.artifact_type)));
    }
    let mut annotation =
        |name: &str| manifest.annotations.remove(name).ok_or_else(|| format!("it has no annotation {name}"));
    let module = annotation(MODULE)?.parse().map_err(|error| format!("its annotation {MODULE}: {error}"))?;
    let compiler = annotation(COMPILER)?;
    let command = annotation(COMMAND).ok();
    let blob = |media_type: &str| {
        let mut layers = manifest.layers.iter().filter(|layer| layer.media_type == media_type);
        match (layers.next(), layers.next()) {
            (Some(layer), None) => Ok(Blob { digest: layer.digest, size: layer.size }),
            _ => Err(format!("it has not one layer of type {media_type}")),
        }
    };
    Ok(CodeManifest { module, compiler, command, code: blob(CODE_TYPE)?, facts: blob(FACTS_TYPE)? })
}

/// Reads the facts about a module.
pub(crate) fn facts(bytes: &[u8]) -> Result<Facts, String> {
    serde_json::from_slice(bytes).map_err(|error| printable(&format!("its facts cannot be read: {error}")))
}

#[cfg(test)]
mod tests;
