//! Looks for a good signature of an image in its registry, within bounds.
//!
//! Both forms are looked for, of the manifest that was named first, then of the one that was chosen from it if it is
//! an index: a signature of an index covers what is in it. The first good signature ends the search. One that is not
//! good, or not to be had, ends nothing, because the next one may be good; all of them are told when none is.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use super::{bundle, evidence::Evidence, key::TrustedKey, parsed::SignatureFlaw, simple};
use crate::{digest::Digest, error::PullFailure, referrers::fallback_tag};

/// Signatures of one manifest that are looked at in one form: whoever may push many of one cannot hide those of the other.
const LOOKED_AT_LIMIT: usize = 32;
/// Bytes of one signature: a payload, or a bundle. What cosign writes has less than one kilobyte, and some ten with
/// entries of transparency logs.
const SIGNATURE_LIMIT: u64 = 256 << 10;
/// What the whole search may take.
const TIME_LIMIT: Duration = Duration::from_secs(120);
/// Different flaws that are told of.
const TOLD_LIMIT: usize = 3;

/// What the search needs of a registry: documents of one repository.
#[async_trait]
pub(crate) trait SignatureSource: Send + Sync {
    /// The manifest that a tag names; `None` when there is no such tag.
    async fn tagged(&self, tag: &str) -> Result<Option<Bytes>, PullFailure>;

    /// The manifest `digest`, checked against it.
    async fn manifest(&self, digest: &Digest) -> Result<Bytes, PullFailure>;

    /// The blob `digest`, of at most `limit` bytes; the caller checks it.
    async fn blob(&self, digest: &Digest, limit: u64) -> Result<Bytes, PullFailure>;

    /// The pages of the list of what refers to `digest`; `None` where the registry has no such lists.
    async fn referrers(&self, digest: &Digest) -> Result<Option<Vec<Bytes>>, PullFailure>;

    /// The pages of that list, wherever the registry has it.
    async fn list_of_referrers(&self, digest: &Digest) -> Result<Vec<Bytes>, PullFailure> {
        match self.referrers(digest).await? {
            Some(pages) => Ok(pages),
            None => Ok(self.tagged(&fallback_tag(digest)).await?.into_iter().collect()),
        }
    }
}

/// A good signature was found.
#[derive(Debug)]
pub(crate) struct Verified<'a> {
    pub(crate) signer: &'a TrustedKey,
    /// The signatures that are about the image, with the good one, fit to be kept.
    pub(crate) evidence: Vec<Evidence>,
}

/// What is asked of a signature, and by whom.
#[derive(Clone, Debug)]
pub(crate) struct SignatureDemand<'a> {
    /// A key of these has made it.
    pub(crate) keys: &'a [TrustedKey],
    /// What the signer has to have noted.
    pub(crate) annotations: BTreeMap<String, String>,
    /// For messages: "… asks for it".
    pub(crate) asker: String,
}

impl<'a> SignatureDemand<'a> {
    /// What a rule of the node's policy asks for, which it has this name for.
    pub(crate) fn of_rule(rule: &str, keys: &'a [TrustedKey]) -> Self {
        let asker = format!("the rule {rule:?} of the node's signature policy");
        Self { keys, annotations: BTreeMap::new(), asker }
    }
}

/// Finds a signature over one of `images` that is as demanded.
///
/// # Errors
/// [`PullFailure::SignatureInvalid`] when there is none, [`PullFailure::Unavailable`] when there may be one and the
/// registry did not answer.
pub(crate) async fn verify<'a>(
    source: &dyn SignatureSource,
    images: &[Digest],
    demand: SignatureDemand<'a>,
) -> Result<Verified<'a>, PullFailure> {
    verify_within(TIME_LIMIT, source, images, demand).await
}

async fn verify_within<'a>(
    limit: Duration,
    source: &dyn SignatureSource,
    images: &[Digest],
    demand: SignatureDemand<'a>,
) -> Result<Verified<'a>, PullFailure> {
    let mut search = Search::new(source, images, demand);
    let found = tokio::time::timeout(limit, search.run()).await;
    match found {
        Ok(Some(signer)) => Ok(Verified { signer, evidence: search.evidence }),
        Ok(None) => Err(search.failure()),
        Err(_) => Err(PullFailure::Unavailable(format!(
            "its signatures did not come within {} seconds",
            limit.as_secs()
        ))),
    }
}

struct Search<'a, 's> {
    source: &'s dyn SignatureSource,
    images: &'s [Digest],
    demand: SignatureDemand<'a>,
    /// More that may be looked at, of those that are being looked at.
    left: usize,
    /// Some were not looked at.
    is_cut: bool,
    evidence: Vec<Evidence>,
    /// Why signatures do not count, and how many for each reason.
    flaws: BTreeMap<SignatureFlaw, usize>,
    /// The registry did not answer for a moment.
    unavailable: Option<String>,
}

impl<'a, 's> Search<'a, 's> {
    fn new(source: &'s dyn SignatureSource, images: &'s [Digest], demand: SignatureDemand<'a>) -> Self {
        Self {
            source,
            images,
            demand,
            left: 0,
            is_cut: false,
            evidence: Vec::new(),
            flaws: BTreeMap::new(),
            unavailable: None,
        }
    }

    async fn run(&mut self) -> Option<&'a TrustedKey> {
        for image in self.images {
            if let Some(signer) = self.bundles(image).await {
                return Some(signer);
            }
            if let Some(signer) = self.simple(image).await {
                return Some(signer);
            }
        }
        None
    }

    /// Looks at the bundles that refer to `image`.
    async fn bundles(&mut self, image: &Digest) -> Option<&'a TrustedKey> {
        self.left = LOOKED_AT_LIMIT;
        let pages = self.source.list_of_referrers(image).await;
        let pages = self.had(pages)?;
        for page in pages {
            let candidates = bundle::candidates(&page);
            for candidate in self.sound(candidates)? {
                if !self.may_look() {
                    return None;
                }
                if let Some(signer) = self.bundle(&candidate).await {
                    return Some(signer);
                }
            }
        }
        None
    }

    async fn bundle(&mut self, manifest: &Digest) -> Option<&'a TrustedKey> {
        let manifest = self.source.manifest(manifest).await;
        let layer = bundle::layer(&self.had(manifest)?);
        let layer = self.sound(layer)??;
        let text = self.text(&layer.digest, layer.size).await?;
        self.check(Evidence::Bundle(text))
    }

    /// Looks at the payloads under the tag of the signatures of `image`.
    async fn simple(&mut self, image: &Digest) -> Option<&'a TrustedKey> {
        self.left = LOOKED_AT_LIMIT;
        let manifest = self.source.tagged(&simple::tag(image)).await;
        let layers = simple::layers(&self.had(manifest)??);
        // Signatures of several keys are as a rule over the same payload.
        let mut last: Option<(Digest, String)> = None;
        for layer in self.sound(layers)? {
            if !self.may_look() {
                return None;
            }
            let payload = match &last {
                Some((digest, payload)) if *digest == layer.digest => payload.clone(),
                _ => match self.text(&layer.digest, layer.size).await {
                    Some(payload) => payload,
                    None => continue,
                },
            };
            last = Some((layer.digest, payload.clone()));
            if let Some(signer) = self.check(Evidence::Simple { payload, signature: layer.signature }) {
                return Some(signer);
            }
        }
        None
    }

    /// Counts one signature; false when enough were looked at.
    fn may_look(&mut self) -> bool {
        let left = self.left.checked_sub(1);
        self.is_cut |= left.is_none();
        self.left = left.unwrap_or_default();
        left.is_some()
    }

    /// A blob that should be text, checked against its descriptor.
    async fn text(&mut self, digest: &Digest, size: u64) -> Option<String> {
        if size > SIGNATURE_LIMIT {
            let flaw = format!("it has {size} bytes, and {SIGNATURE_LIMIT} is the limit");
            return self.sound(Err(SignatureFlaw::malformed(flaw)));
        }
        let blob = self.source.blob(digest, size).await;
        let bytes = self.had(blob)?;
        if Digest::of(&bytes) != *digest {
            let flaw = format!("what came for its blob {digest} is something else");
            return self.sound(Err(SignatureFlaw::malformed(flaw)));
        }
        self.sound(String::from_utf8(bytes.into()).map_err(|_| SignatureFlaw::malformed("it is no text")))
    }

    fn check(&mut self, evidence: Evidence) -> Option<&'a TrustedKey> {
        let parsed = evidence.parse();
        let parsed = self.sound(parsed)?;
        if parsed.is_about(self.images) {
            self.evidence.insert(0, evidence);
        }
        let signer = self.sound(parsed.check(self.images, self.demand.keys))?;
        match parsed.notes(self.images, &self.demand.annotations) {
            true => Some(signer),
            false => self.sound(Err(SignatureFlaw::Annotations)),
        }
    }

    /// The answer of the registry, if there is one; else notes why there is none.
    fn had<T>(&mut self, answer: Result<T, PullFailure>) -> Option<T> {
        match answer {
            Ok(value) => Some(value),
            Err(failure) => {
                self.missed(failure);
                None
            }
        }
    }

    fn missed(&mut self, failure: PullFailure) {
        match failure {
            PullFailure::Unavailable(detail) => self.unavailable = Some(detail),
            other => self.note(SignatureFlaw::Unreachable(crate::text::printable(&other.to_string()))),
        }
    }

    /// What was read, if it is sound; else notes its flaw.
    fn sound<T>(&mut self, read: Result<T, SignatureFlaw>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(flaw) => {
                self.note(flaw);
                None
            }
        }
    }

    fn note(&mut self, flaw: SignatureFlaw) {
        let count = self.flaws.entry(flaw).or_default();
        *count = count.saturating_add(1);
    }

    /// Why no good signature was found.
    fn failure(self) -> PullFailure {
        if let Some(detail) = self.unavailable {
            return PullFailure::Unavailable(format!("while its signatures were asked for: {detail}"));
        }
        let asked = self.demand.asker;
        if self.flaws.is_empty() {
            return PullFailure::SignatureInvalid(format!(
                "it is not signed, and {asked} asks for it; sign it with `cosign sign --key`, in the same repository"
            ));
        }
        let mut told: Vec<String> =
            self.flaws.iter().take(TOLD_LIMIT).map(|(flaw, count)| format!("{count} {flaw}")).collect();
        if self.flaws.len() > TOLD_LIMIT {
            told.push(format!("others in {} other ways", self.flaws.len() - TOLD_LIMIT));
        }
        let cut = match self.is_cut {
            true => format!(" (more than {LOOKED_AT_LIMIT} of a kind are not looked at)"),
            false => String::new(),
        };
        PullFailure::SignatureInvalid(format!(
            "it has no good signature, as {asked} asks for; there are: {}{cut}",
            told.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests;
