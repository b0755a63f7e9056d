//! A registry and its mirrors as where signatures are looked for.

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};

use super::{
    answer::RequestError,
    session::Session,
    source::{RegistrySource, Way, manifest_of},
};
use crate::{
    digest::Digest,
    error::PullFailure,
    signature::SignatureSource,
    source::{ModuleSource as _, Part},
};

#[async_trait]
impl SignatureSource for RegistrySource<'_> {
    async fn tagged(&self, tag: &str) -> Result<Option<Bytes>, PullFailure> {
        self.found(|_| true, |session| session.tagged(tag).boxed()).await
    }

    async fn manifest(&self, digest: &Digest) -> Result<Bytes, PullFailure> {
        Ok(manifest_of(self, digest).await?.bytes)
    }

    async fn blob(&self, digest: &Digest, limit: u64) -> Result<Bytes, PullFailure> {
        self.read(Part::Blob(*digest), 0).await?.read_all(limit, "the signature").await
    }

    async fn referrers(&self, digest: &Digest) -> Result<Option<Vec<Bytes>>, PullFailure> {
        self.found(Way::has_referrers, |session| session.referrers(digest).boxed()).await
    }
}

impl RegistrySource<'_> {
    /// The first answer that is one. That there is nothing is only known when all have said so.
    async fn found<'s, T>(
        &'s self,
        may: fn(&Way) -> bool,
        ask: impl Fn(&'s Session) -> BoxFuture<'s, Result<Option<T>, RequestError>>,
    ) -> Result<Option<T>, PullFailure> {
        let mut failure = None;
        for way in self.ways().filter(|way| may(way)) {
            match way.ask(&ask).await {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        failure.map_or(Ok(None), Err)
    }
}
