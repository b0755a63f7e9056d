//! Compiled code of an image's modules, where the policy trusts somebody's: fetched with the image, so that this node
//! need not compile them.
//!
//! ```text
//! referrers of the manifest ─► candidates ─► manifest ─► signature ─► facts ─► which module? ─► code ─► shared/
//! ```
//!
//! Nothing here makes a pull fail. Whatever is wrong with the code, or keeps it from coming, is told in the log, and
//! the module is compiled as any other.

use std::{sync::Arc, time::Duration};

use super::{
    blocking,
    stage::check_transfer,
    transfer::{TransferLimits, transfer},
};
use crate::{
    digest::Digest,
    error::PullFailure,
    image::{Image, ImageKind},
    module,
    record::Blob,
    reference::Reference,
    shared_code::{
        KeptCode,
        artifact::{self, CodeManifest},
    },
    signature::{self, Ruling, SignatureDemand, SignatureSource, TrustedKey},
    source::{ModuleSource, Part},
    store::StoreInner,
};

/// Artifacts of one image that are looked at. It has one for each of its modules and each kind of node.
const LOOKED_AT_LIMIT: usize = 32;
/// Bytes of one manifest, which is kept. What is pushed here has less than two kilobytes.
const MANIFEST_LIMIT: usize = 64 << 10;
/// Bytes of the facts about a module, whose lists are cut where they are made.
const FACTS_LIMIT: u64 = 256 << 10;
/// What it all may take. Compiling takes as long at the most.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// Fetches what the policy trusts of compiled code for the modules of an image that is in the store.
pub(super) async fn bring(
    inner: &Arc<StoreInner>,
    source: &dyn ModuleSource,
    reference: &Reference,
    image: &Image,
) {
    let Ruling { precompiled_keys: keys, rule, .. } = inner.options.signature_policy.ruling(reference);
    let (Some(key), Some(registry)) = (inner.options.compiler_key.as_deref(), source.signatures()) else {
        return;
    };
    if keys.is_empty() {
        return;
    }
    let search = CodeSearch { inner, source, registry, reference, image, key, keys, rule };
    match tokio::time::timeout(TIME_LIMIT, search.run()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(image = %reference, %error, "compiled code cannot be asked for"),
        Err(_) => tracing::warn!(
            image = %reference,
            seconds = TIME_LIMIT.as_secs(),
            "compiled code did not come in time; the module is compiled here"
        ),
    }
}

struct CodeSearch<'a> {
    inner: &'a Arc<StoreInner>,
    source: &'a dyn ModuleSource,
    registry: &'a dyn SignatureSource,
    reference: &'a Reference,
    image: &'a Image,
    /// Of this node's compiler.
    key: &'a str,
    /// Whose code is trusted.
    keys: &'a [TrustedKey],
    /// What the policy calls the rule that says so.
    rule: &'a str,
}

impl CodeSearch<'_> {
    async fn run(&self) -> Result<(), PullFailure> {
        if let ImageKind::Module { module } = self.image.kind
            && self.has(module).await?
        {
            return Ok(());
        }
        let pages = self.registry.list_of_referrers(&self.image.manifest).await?;
        let mut left = LOOKED_AT_LIMIT;
        for page in pages {
            for candidate in artifact::candidates(&page, self.key).map_err(PullFailure::Malformed)? {
                if let Some(module) = candidate.module
                    && (self.is_of_another(module) || self.has(module).await?)
                {
                    continue;
                }
                let Some(rest) = left.checked_sub(1) else {
                    tracing::warn!(
                        image = %self.reference,
                        "of compiled code no more than {LOOKED_AT_LIMIT} artifacts are looked at"
                    );
                    return Ok(());
                };
                left = rest;
                match self.fetch(&candidate.digest).await {
                    Ok(Some(signer)) => tracing::info!(
                        image = %self.reference, code = %candidate.digest, signer,
                        "the image's module need not be compiled: its code came with it"
                    ),
                    Ok(None) => {}
                    Err(error) => tracing::warn!(
                        image = %self.reference, code = %candidate.digest, %error,
                        "compiled code is not used; the module is compiled here"
                    ),
                }
            }
        }
        Ok(())
    }

    /// Fetches one artifact, and says who has signed it; `None` when it is for another compiler or module, or here.
    async fn fetch(&self, digest: &Digest) -> Result<Option<String>, PullFailure> {
        let bytes = self.registry.manifest(digest).await?;
        if bytes.len() > MANIFEST_LIMIT {
            return Err(PullFailure::TooLarge(format!(
                "its manifest has {} bytes, and {MANIFEST_LIMIT} is the limit",
                bytes.len()
            )));
        }
        let manifest = artifact::parse(&bytes).map_err(PullFailure::Malformed)?;
        let module = manifest.module;
        if manifest.compiler != self.key || self.is_of_another(module) || self.has(module).await? {
            return Ok(None);
        }
        let limit = self.inner.options.layer_limit;
        if manifest.code.size > limit || manifest.facts.size > FACTS_LIMIT {
            return Err(PullFailure::TooLarge(format!(
                "it has {} bytes of code and {} of facts, and this node's limits are {limit} and {FACTS_LIMIT}",
                manifest.code.size, manifest.facts.size
            )));
        }
        let mut verified =
            signature::verify(self.registry, &[*digest], SignatureDemand::of_rule(self.rule, self.keys))
                .await?;
        let signer = verified.signer.to_string();
        // The good one comes first.
        verified.evidence.truncate(signature::evidence::KEPT_LIMIT);
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes).map_err(|_| PullFailure::Malformed("it is no text".to_owned()))
        };
        let kept = KeptCode {
            manifest: text(bytes.into())?,
            facts: text(self.facts(manifest.facts).await?)?,
            evidence: verified.evidence,
            signer: signer.clone(),
            image: self.reference.to_string(),
        };
        kept.open().map_err(PullFailure::Malformed)?;
        self.check_module(&manifest).await?;
        self.download(manifest, kept).await?;
        Ok(Some(signer))
    }

    /// Whether the image is a module, and another one than this.
    fn is_of_another(&self, module: Digest) -> bool {
        matches!(self.image.kind, ImageKind::Module { module: ours } if ours != module)
    }

    /// Whether the store has code of the module that is good for this image.
    async fn has(&self, module: Digest) -> Result<bool, PullFailure> {
        let (inner, name, key) = (Arc::clone(self.inner), self.image.reference.clone(), self.key.to_owned());
        blocking(move || Ok(inner.code_of(Some(&name), &module, &key)?.is_some())).await
    }

    async fn facts(&self, blob: Blob) -> Result<Vec<u8>, PullFailure> {
        let bytes = self.registry.blob(&blob.digest, blob.size).await?;
        let came = Digest::of(&bytes);
        if came != blob.digest {
            return Err(PullFailure::Mismatch(format!("blob {} has the digest {came}", blob.digest)));
        }
        Ok(bytes.into())
    }

    /// Whether the image has the module. In a file system the command that starts it has to lead to it, by which the store
    /// notes that the module is this image's.
    async fn check_module(&self, manifest: &CodeManifest) -> Result<(), PullFailure> {
        if let ImageKind::Module { .. } = self.image.kind {
            return Ok(());
        }
        let Some(command) = manifest.command.clone() else {
            return Err(PullFailure::Malformed(format!(
                "it is for a file of the image, and does not say which (annotation {})",
                artifact::COMMAND
            )));
        };
        let (inner, image, wanted) = (Arc::clone(self.inner), self.image.clone(), manifest.module);
        blocking(move || {
            let found = module::find(&inner, &image, &command)
                .map_err(|error| PullFailure::Malformed(format!("the image has no such module: {error}")))?;
            if found.digest == wanted {
                return Ok(());
            }
            Err(PullFailure::Malformed(format!("the image has {} there, and not {wanted}", found.digest)))
        })
        .await
    }

    async fn download(&self, manifest: CodeManifest, kept: KeptCode) -> Result<(), PullFailure> {
        let workspace = self.inner.layout.workspace()?;
        let path = workspace.path().join("code");
        let limits = TransferLimits {
            size: manifest.code.size,
            stall: self.inner.options.stall_timeout,
            is_module: false,
        };
        let transfer = transfer(self.source, Part::Blob(manifest.code.digest), None, &path, &limits, |_| {});
        let came = self.inner.transfers.counted(transfer).await?;
        check_transfer(manifest.code, &came)?;
        let (inner, image) = (Arc::clone(self.inner), self.image.digest);
        blocking(move || {
            inner.keep_shared_code(&image, &manifest.module, &kept, &path)?;
            drop(workspace);
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests;
