//! A module at an HTTP address.
//!
//! No credential goes there, whatever it answers. Words of an answer that is no success are not repeated: the address is a
//! tenant's choice, and what else the node can reach is not a tenant's to read.

use reqwest::{
    Client, Response, StatusCode, Url,
    header::{ACCEPT, ETAG, HeaderMap, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED, RANGE},
};

use super::{BlobBody, FileVersion, KnownImage, ModuleSource, Part, RemoteFile, Resolution, Target};
use crate::{
    error::PullFailure,
    module_url::{ModuleUrl, UrlScheme},
    reference::is_local,
    registry::{Registry, body_of, describe, http_address},
};

const ACCEPTED: &str = "application/wasm, application/octet-stream;q=0.9, */*;q=0.5";

/// An address of a module, and the version of it that was begun.
pub(super) struct HttpSource {
    client: Client,
    url: Url,
    version: Option<FileVersion>,
}

impl HttpSource {
    /// In the clear, only what nobody on the way can change, or hosts that are configured so.
    pub(super) fn new(registry: &Registry, name: &ModuleUrl) -> Result<Self, PullFailure> {
        let url = Url::parse(name.url())
            .map_err(|error| PullFailure::Unsupported(format!("its URL cannot be used: {error}")))?;
        let address = http_address(&url);
        let is_safe =
            name.scheme() == UrlScheme::Https || name.digest().is_some() || registry.is_insecure(&address);
        if !is_safe {
            return Err(PullFailure::Unsupported(format!(
                "{address} is to be asked in the clear, where anybody on the way can change the module: use https://, pin \
                 its digest by @sha256:…, or name the host with --insecure-registry"
            )));
        }
        Ok(Self { client: registry.client(is_local(&address))?, url, version: None })
    }

    async fn send(&self, headers: HeaderMap) -> Result<Response, PullFailure> {
        let request = self.client.get(self.url.clone()).header(ACCEPT, ACCEPTED).headers(headers);
        request.send().await.map_err(|error| PullFailure::Unavailable(describe(error)))
    }
}

#[async_trait::async_trait]
impl ModuleSource for HttpSource {
    async fn resolve(&mut self, known: Option<&KnownImage>) -> Result<Resolution, PullFailure> {
        let mut headers = HeaderMap::new();
        match known.and_then(|known| known.version.as_ref()) {
            Some(FileVersion::EntityTag(tag)) => {
                headers.extend(tag.parse().ok().map(|tag| (IF_NONE_MATCH, tag)))
            }
            Some(FileVersion::Modified(time)) => {
                headers.extend(time.parse().ok().map(|time| (IF_MODIFIED_SINCE, time)));
            }
            None => {}
        }
        let asked = !headers.is_empty();
        let response = self.send(headers).await?;
        if asked && response.status() == StatusCode::NOT_MODIFIED {
            return Ok(Resolution { target: Target::Unchanged, credential: None });
        }
        let response = accepted(response)?;
        self.version = version(response.headers());
        let (size, version) = (response.content_length(), self.version.clone());
        let target = Target::File(RemoteFile { size, version, body: body_of(response, 0)? });
        Ok(Resolution { target, credential: None })
    }

    async fn read(&self, _part: Part, offset: u64) -> Result<BlobBody, PullFailure> {
        let mut headers = HeaderMap::new();
        // Without a strong tag, nothing tells whether the rest is of the same file.
        if let Some(FileVersion::EntityTag(tag)) = &self.version
            && offset > 0
            && !tag.starts_with("W/")
            && let (Ok(range), Ok(tag)) = (format!("bytes={offset}-").parse(), tag.parse())
        {
            headers.extend([(RANGE, range), (IF_RANGE, tag)]);
        }
        body_of(accepted(self.send(headers).await?)?, offset)
    }
}

fn version(headers: &HeaderMap) -> Option<FileVersion> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    text(ETAG).map(FileVersion::EntityTag).or_else(|| text(LAST_MODIFIED).map(FileVersion::Modified))
}

fn accepted(response: Response) -> Result<Response, PullFailure> {
    let status = response.status();
    let detail = format!("{} answered {status}", http_address(response.url()));
    match status.as_u16() {
        200 | 206 => Ok(response),
        401 | 403 | 407 => Err(PullFailure::Denied(format!(
            "{detail}; a module's URL is asked without credentials: use a registry for what is not public"
        ))),
        404 | 410 => Err(PullFailure::NotFound(detail)),
        408 | 429 | 500..=599 => Err(PullFailure::Unavailable(detail)),
        _ => Err(PullFailure::Malformed(detail)),
    }
}
