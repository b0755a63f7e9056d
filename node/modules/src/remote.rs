//! What a registry says of an image that nobody wants to have: its manifest, its configuration, and whose signatures it has.
//!
//! Registries are reached as for pulls, by their mirrors and with their credentials. Nothing is kept, and the policy for
//! signatures is not asked: who looks has a question of his own.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;

use crate::{
    Store,
    digest::Digest,
    error::{PullError, PullFailure},
    image::Credential,
    manifest::null_is_default,
    reference::Reference,
    registry::{DOCUMENT_LIMIT, RegistrySource, manifest_of},
    signature::{SignatureDemand, TrustedKey, evidence, verify},
    source::{ModuleSource as _, Part, RawManifest, Target},
    text::printable,
};

/// Keys that may be asked for at once: each of them may cost a search of its own.
const KEYS_LIMIT: usize = 16;

/// A manifest, or an index of manifests, as its registry has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteManifest {
    /// JSON of 4 MiB at most.
    pub bytes: Bytes,
    /// Its digest, by which it was checked.
    pub digest: Digest,
}

/// An image of one platform, as its registry has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteImage {
    /// Its manifest.
    pub manifest: RemoteManifest,
    /// Its configuration, JSON of 4 MiB at most.
    pub config: Bytes,
}

impl From<RawManifest> for RemoteManifest {
    fn from(RawManifest { bytes, digest }: RawManifest) -> Self {
        Self { bytes, digest }
    }
}

/// As much of a manifest or an index as leads to a configuration.
#[derive(Deserialize)]
struct ManifestOutline {
    #[serde(default)]
    config: Option<BlobOutline>,
    #[serde(default, deserialize_with = "null_is_default")]
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct BlobOutline {
    digest: Digest,
}

#[derive(Deserialize)]
struct Entry {
    digest: Digest,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

impl Store {
    /// What a reference means now. `credentials` are tried in order, then none.
    ///
    /// # Errors
    /// See [`PullFailure`].
    pub async fn look_up(
        &self,
        reference: &Reference,
        credentials: &[Credential],
    ) -> Result<RemoteManifest, PullError> {
        let mut source = RegistrySource::new(&self.inner.registry, reference, credentials);
        named(reference, resolve(&mut source).await.map(Into::into))
    }

    /// What a reference means now, with its configuration. Of an index it is the image for Linux and this machine's processor.
    ///
    /// # Errors
    /// As for [`Store::look_up`]; [`PullFailure::Unsupported`] where there is no such image, or it has no configuration.
    pub async fn look_up_image(
        &self,
        reference: &Reference,
        credentials: &[Credential],
    ) -> Result<RemoteImage, PullError> {
        let mut source = RegistrySource::new(&self.inner.registry, reference, credentials);
        named(reference, image(&mut source).await)
    }

    /// Verifies what a reference means now: each of these PEM public keys has signed it, and has noted all of `annotations`.
    /// `asker` is who asks for that, in messages. Returns the digest of what was verified.
    ///
    /// # Errors
    /// As for [`Store::look_up`]; [`PullFailure::SignatureInvalid`] where a signature is missing, or a
    /// key is none.
    pub async fn verify_remote(
        &self,
        reference: &Reference,
        keys: &[String],
        annotations: &BTreeMap<String, String>,
        credentials: &[Credential],
        asker: &str,
    ) -> Result<Digest, PullError> {
        let mut source = RegistrySource::new(&self.inner.registry, reference, credentials);
        named(reference, verified(&mut source, keys, annotations, asker).await)
    }
}

fn named<T>(reference: &Reference, outcome: Result<T, PullFailure>) -> Result<T, PullError> {
    outcome.map_err(|reason| PullError { image: reference.to_string(), reason })
}

async fn resolve(source: &mut RegistrySource<'_>) -> Result<RawManifest, PullFailure> {
    match source.resolve(None).await?.target {
        Target::Manifest(manifest) => Ok(manifest),
        // A registry has manifests, and nothing is known of this one.
        Target::File(_) | Target::Unchanged => {
            Err(PullFailure::Malformed("the registry has sent no manifest".to_owned()))
        }
    }
}

async fn image(source: &mut RegistrySource<'_>) -> Result<RemoteImage, PullFailure> {
    let mut manifest = resolve(source).await?;
    let mut outline = read(&manifest.bytes)?;
    if outline.config.is_none() && !outline.manifests.is_empty() {
        manifest = manifest_of(source, &of_this_machine(&outline.manifests)?).await?;
        outline = read(&manifest.bytes)?;
    }
    let Some(config) = outline.config else {
        return Err(PullFailure::Unsupported("it has no configuration".to_owned()));
    };
    let body = source.read(Part::Blob(config.digest), 0).await?;
    let bytes = body.read_all(DOCUMENT_LIMIT, "the configuration").await?;
    if Digest::of(&bytes) != config.digest {
        return Err(PullFailure::Mismatch(format!(
            "what came for its configuration {} is something else",
            config.digest
        )));
    }
    Ok(RemoteImage { manifest: manifest.into(), config: bytes })
}

fn read(manifest: &[u8]) -> Result<ManifestOutline, PullFailure> {
    serde_json::from_slice(manifest)
        .map_err(|error| PullFailure::Malformed(format!("its manifest cannot be read: {error}")))
}

/// The image of an index that a container runtime would take here.
fn of_this_machine(entries: &[Entry]) -> Result<Digest, PullFailure> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let is_ours = |entry: &&Entry| {
        entry
            .platform
            .as_ref()
            .is_some_and(|platform| platform.os == "linux" && platform.architecture == architecture)
    };
    entries.iter().find(is_ours).map(|entry| entry.digest).ok_or_else(|| {
        let platforms = entries.iter().filter_map(|entry| entry.platform.as_ref());
        let names: Vec<String> =
            platforms.take(8).map(|it| printable(&format!("{}/{}", it.os, it.architecture))).collect();
        PullFailure::Unsupported(format!(
            "it has no image for linux/{architecture}; it is there for: {}",
            if names.is_empty() { "no platform".to_owned() } else { names.join(", ") }
        ))
    })
}

async fn verified(
    source: &mut RegistrySource<'_>,
    keys: &[String],
    annotations: &BTreeMap<String, String>,
    asker: &str,
) -> Result<Digest, PullFailure> {
    if keys.is_empty() || keys.len() > KEYS_LIMIT {
        return Err(PullFailure::SignatureInvalid(format!(
            "{asker} names {} public keys, and there are between 1 and {KEYS_LIMIT}",
            keys.len()
        )));
    }
    let trusted: Vec<Vec<TrustedKey>> = keys
        .iter()
        .enumerate()
        .map(|(index, pem)| {
            let origin = format!("public key {}", index + 1);
            TrustedKey::read_all(pem.as_bytes(), &origin)
                .map_err(|problem| PullFailure::SignatureInvalid(format!("{origin} of {asker} {problem}")))
        })
        .collect::<Result<_, _>>()?;
    let digest = resolve(source).await?.digest;
    // Signatures of all keys are as a rule found together.
    let mut found = Vec::new();
    for key in trusted {
        if evidence::noted_by(&found, digest, &key, annotations) {
            continue;
        }
        let demand =
            SignatureDemand { keys: &key, annotations: annotations.clone(), asker: asker.to_owned() };
        found = verify(&*source, &[digest], demand).await?.evidence;
    }
    Ok(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(platform: Option<(&str, &str)>, digest: &str) -> Entry {
        let platform = platform
            .map(|(os, architecture)| Platform { os: os.to_owned(), architecture: architecture.to_owned() });
        Entry { digest: Digest::of(digest.as_bytes()), platform }
    }

    #[test]
    fn of_an_index_it_is_the_image_for_this_machine() {
        let entries = [
            entry(None, "none"),
            entry(Some(("wasi", "wasm")), "wasm"),
            entry(Some(("linux", "amd64")), "amd64"),
            entry(Some(("linux", "arm64")), "arm64"),
        ];
        let expected = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            _ => "arm64",
        };
        assert_eq!(of_this_machine(&entries).unwrap(), Digest::of(expected.as_bytes()));
        let error = of_this_machine(&entries[..2]).unwrap_err().to_string();
        assert!(error.contains("no image for linux/") && error.ends_with("wasi/wasm"), "{error}");
    }

    #[test]
    fn what_is_no_manifest_is_told() {
        for text in ["", "{", "null", "{\"config\":{\"digest\":\"md5:1\"}}"] {
            assert!(matches!(read(text.as_bytes()), Err(PullFailure::Malformed(_))), "{text}");
        }
    }
}
