//! What the search for signatures asks of one host.

use bytes::Bytes;
use reqwest::{
    Response, Url,
    header::{ACCEPT, LINK},
};

use super::{DOCUMENT_LIMIT, DOCUMENT_TIMEOUT, RequestError, Session, read_bounded, read_manifest};
use crate::{digest::Digest, error::PullFailure, media};

/// Pages of one list of referrers that are read.
const PAGES_LIMIT: usize = 4;

impl Session {
    /// The manifest that a tag names; `None` when there is no such tag.
    pub(in crate::registry) async fn tagged(&self, tag: &str) -> Result<Option<Bytes>, RequestError> {
        match self.manifest(tag).await {
            Ok(body) => Ok(Some(read_manifest(body, tag).await?.bytes)),
            Err(RequestError { reason: PullFailure::NotFound(_), .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The pages of the list of what refers to `digest`; `None` where there are no such lists: the
    /// [API for that](https://github.com/opencontainers/distribution-spec/blob/main/spec.md#listing-referrers).
    /// Registries without it should answer 404; some say that they do not understand, in other words.
    pub(in crate::registry) async fn referrers(
        &self,
        digest: &Digest,
    ) -> Result<Option<Vec<Bytes>>, RequestError> {
        let mut url = self.url("referrers", &digest.to_string());
        let mut pages = Vec::new();
        loop {
            let request = || {
                self.connector.registry.get(&url).header(ACCEPT, media::OCI_INDEX).timeout(DOCUMENT_TIMEOUT)
            };
            let response = match self.send(request).await {
                Ok(response) => response,
                Err(RequestError {
                    reason: PullFailure::NotFound(_) | PullFailure::Malformed(_), ..
                }) if pages.is_empty() => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            };
            let next = self.next_page(&response);
            pages.push(read_bounded(response, DOCUMENT_LIMIT, "the list of referrers").await?);
            match next.filter(|_| pages.len() < PAGES_LIMIT) {
                Some(next) => url = next,
                None => return Ok(Some(pages)),
            }
        }
    }

    /// Where the rest of a list is. Only the host itself may have it: whoever is asked may see who asks.
    fn next_page(&self, response: &Response) -> Option<String> {
        let link = response.headers().get(LINK)?.to_str().ok()?;
        let (target, parameters) = link.strip_prefix('<')?.split_once('>')?;
        let is_next =
            parameters.split(';').any(|parameter| matches!(parameter.trim(), "rel=\"next\"" | "rel=next"));
        let next: Url = response.url().join(target).ok().filter(|_| is_next)?;
        (next.origin() == self.base.origin()).then(|| next.into())
    }
}
