use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::{
    ImageName, StoreOptions,
    signature::testing::Signer,
    source::{BlobBody, KnownImage, Resolution},
    testing::{EMPTY_MODULE, Fixture, files},
};

const KEY: &str = "engine-1";

/// A registry whose list of referrers is long, or never comes.
struct Referrers {
    list: Option<Bytes>,
    manifest: Bytes,
    /// Manifests that it was asked for.
    asked: AtomicUsize,
}

impl Referrers {
    fn many(count: usize, manifest: &str) -> Self {
        let entry = |n: usize| json!({"digest": Digest::of(&n.to_le_bytes()), "artifactType": artifact::ARTIFACT_TYPE});
        let list = json!({"manifests": (0..count).map(entry).collect::<Vec<_>>()});
        let (list, manifest) = (Some(list.to_string().into()), manifest.to_owned().into());
        Self { list, manifest, asked: AtomicUsize::new(0) }
    }
}

#[async_trait]
impl SignatureSource for Referrers {
    async fn tagged(&self, _: &str) -> Result<Option<Bytes>, PullFailure> {
        Ok(None)
    }
    async fn manifest(&self, _: &Digest) -> Result<Bytes, PullFailure> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(self.manifest.clone())
    }
    async fn blob(&self, digest: &Digest, _: u64) -> Result<Bytes, PullFailure> {
        Err(PullFailure::NotFound(digest.to_string()))
    }
    async fn referrers(&self, _: &Digest) -> Result<Option<Vec<Bytes>>, PullFailure> {
        match &self.list {
            Some(list) => Ok(Some(vec![list.clone()])),
            None => std::future::pending().await,
        }
    }
}

#[async_trait]
impl ModuleSource for Referrers {
    async fn resolve(&mut self, _: Option<&KnownImage>) -> Result<Resolution, PullFailure> {
        Err(PullFailure::NotFound("it is here already".to_owned()))
    }
    async fn read(&self, _: Part, _: u64) -> Result<BlobBody, PullFailure> {
        Err(PullFailure::NotFound("there are no blobs".to_owned()))
    }
    fn signatures(&self) -> Option<&dyn SignatureSource> {
        Some(self)
    }
}

/// Brings along what there is for an image in a store that trusts somebody; nothing does come of it.
async fn bring_nothing(source: &Referrers) {
    let keys = tempfile::tempdir().unwrap();
    let signature_policy = Signer::new().trusted_with_code(keys.path());
    let compiler_key = Some(KEY.to_owned());
    let fixture = Fixture::with(StoreOptions { signature_policy, compiler_key, ..StoreOptions::default() });
    let image =
        fixture.filesystem("r.io/team/app:v1", |root| std::fs::write(root.join("m"), EMPTY_MODULE).unwrap());
    let ImageName::Reference(reference) = &image.reference else { panic!("{}", image.reference) };
    bring(&fixture.store.inner, source, reference, &image).await;
    assert!(files(&fixture.root().join("shared")).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_says_nothing_holds_up_a_pull_for_a_while_only() {
    bring_nothing(&Referrers { list: None, ..Referrers::many(0, "") }).await;
}

#[tokio::test]
async fn of_many_artifacts_some_are_looked_at() {
    let of_another_compiler = json!({
        "artifactType": artifact::ARTIFACT_TYPE,
        "layers": [
            {"mediaType": artifact::CODE_TYPE, "digest": Digest::of(b"c"), "size": 1},
            {"mediaType": artifact::FACTS_TYPE, "digest": Digest::of(b"f"), "size": 1},
        ],
        "annotations": {artifact::MODULE: Digest::of(b"m"), artifact::COMPILER: "engine-2"},
    });
    for manifest in ["<html>".to_owned(), " ".repeat(1 << 20), of_another_compiler.to_string()] {
        let source = Referrers::many(1000, &manifest);
        bring_nothing(&source).await;
        assert_eq!(source.asked.load(Ordering::SeqCst), LOOKED_AT_LIMIT);
    }
}

#[tokio::test]
async fn a_list_that_is_none_is_told_and_harmless() {
    bring_nothing(&Referrers { list: Some("<html>".into()), ..Referrers::many(0, "") }).await;
}
