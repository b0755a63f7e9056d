//! A registry and its mirrors as one source.
//!
//! The hosts of `hosts.toml` are asked in their order, and the registry itself last: for what a tag means only those that
//! may `resolve`, for the rest those that may `pull`. A host that fails is passed over. Credentials of the pull are the
//! registry's: a mirror is another host, and is asked without, but for the headers that its configuration gives it.

use futures::{FutureExt as _, future::BoxFuture};

use super::{
    Registry,
    answer::RequestError,
    denied_text,
    mirrors::Endpoint,
    session::{Access, Session, read_manifest},
};
use crate::{
    digest::Digest,
    error::PullFailure,
    image::Credential,
    reference::Reference,
    signature::SignatureSource,
    source::{BlobBody, KnownImage, ModuleSource, Part, Resolution, Target},
};

/// Where one reference's image comes from.
pub(crate) struct RegistrySource<'a> {
    registry: &'a Registry,
    reference: &'a Reference,
    credentials: &'a [Credential],
    /// What is read comes from these, in order.
    ways: Vec<Way>,
}

/// Conversations with one host, with one credential or none. The second is for a host that does not speak TLS.
pub(super) struct Way {
    sessions: Vec<Session>,
    /// The host may be asked for what refers to a manifest.
    referrers: bool,
}

impl<'a> RegistrySource<'a> {
    pub(crate) fn new(
        registry: &'a Registry,
        reference: &'a Reference,
        credentials: &'a [Credential],
    ) -> Self {
        Self { registry, reference, credentials, ways: Vec::new() }
    }

    /// Asks one host, with each of the credentials and then with none, if it is the registry.
    ///
    /// A registry may answer "not found" to those who may not know, so both refusals lead to the next
    /// credential; when all fail, "not found" is the better answer of the two.
    async fn ask(
        &self,
        endpoint: &Endpoint,
        known: Option<Digest>,
    ) -> Result<(Way, Resolution), PullFailure> {
        let mut denied = None;
        let mut absent = None;
        for position in self.positions(endpoint) {
            let mut way = self.way(endpoint, position)?;
            match way.resolve(known).await {
                Ok(target) => return Ok((way, Resolution { target, credential: position })),
                Err(PullFailure::Denied(detail)) => denied = denied.or(Some(detail)),
                Err(PullFailure::NotFound(detail)) => absent = absent.or(Some(detail)),
                Err(other) => return Err(other),
            }
        }
        Err(match (absent, denied.unwrap_or_default()) {
            (Some(detail), _) => PullFailure::NotFound(detail),
            (None, detail) if !endpoint.is_registry => PullFailure::Denied(detail),
            (None, detail) => PullFailure::Denied(denied_text(&detail, self.credentials.len())),
        })
    }

    /// Positions of the credentials that a host is asked with; `None` for nobody's.
    fn positions(&self, endpoint: &Endpoint) -> impl Iterator<Item = Option<usize>> + use<> {
        let count = if endpoint.is_registry { self.credentials.len() } else { 0 };
        (0..count).map(Some).chain([None])
    }

    fn way(&self, endpoint: &Endpoint, position: Option<usize>) -> Result<Way, PullFailure> {
        let credential = position.and_then(|position| self.credentials.get(position));
        let session = |url| {
            let insecure = &self.registry.options.insecure;
            Session::new(endpoint, url, self.reference.clone(), credential.cloned(), Access::Pull, insecure)
        };
        let sessions = endpoint.urls.iter().map(session).collect::<Result<_, _>>()?;
        Ok(Way { sessions, referrers: endpoint.capabilities.referrers })
    }
}

#[async_trait::async_trait]
impl ModuleSource for RegistrySource<'_> {
    async fn resolve(&mut self, known: Option<&KnownImage>) -> Result<Resolution, PullFailure> {
        let known = known.map(|known| known.digest);
        let endpoints = self.registry.endpoints(self.reference)?;
        let by_digest = self.reference.digest().is_some();
        let mut failure: Option<PullFailure> = None;
        let mut passed_over = Vec::new();
        for (place, endpoint) in endpoints.iter().enumerate() {
            let may = if by_digest { endpoint.capabilities.pull } else { endpoint.capabilities.resolve };
            if !may {
                continue;
            }
            let error = match self.ask(endpoint, known).await {
                Ok((way, resolution)) => {
                    self.ways = self.ways_to_pull(&endpoints, place, way)?;
                    return Ok(resolution);
                }
                Err(error) => error,
            };
            if endpoint.is_registry {
                failure.get_or_insert(error);
            } else {
                let mirror = endpoint.address();
                tracing::debug!(image = %self.reference, mirror, %error, "a mirror is passed over");
                passed_over.push(format!("{mirror}: {error}"));
            }
        }
        Err(match failure {
            Some(failure) => failure.after_mirrors(&passed_over),
            None if passed_over.is_empty() => PullFailure::Configuration(format!(
                "no host in the hosts.toml of {} may be asked for it: give one the capabilities pull and resolve",
                self.reference.registry()
            )),
            None => PullFailure::Unavailable(format!("no mirror has given it: {}", passed_over.join("; "))),
        })
    }

    async fn read(&self, part: Part, offset: u64) -> Result<BlobBody, PullFailure> {
        let mut failure = None;
        for way in &self.ways {
            match way.ask(|session| session.read(part, offset).boxed()).await {
                Ok(body) => return Ok(body),
                Err(error) => {
                    failure.get_or_insert(error);
                }
            }
        }
        Err(failure.unwrap_or_else(|| PullFailure::Unavailable("nobody has been found to ask".to_owned())))
    }

    fn signatures(&self) -> Option<&dyn SignatureSource> {
        Some(self)
    }
}

impl RegistrySource<'_> {
    /// Whom to ask for what belongs to the image, once it is resolved, in order.
    pub(super) fn ways(&self) -> impl Iterator<Item = &Way> {
        self.ways.iter()
    }

    /// Whom to ask for the rest, when the host at `place` has said what the reference means.
    fn ways_to_pull(
        &self,
        endpoints: &[Endpoint],
        place: usize,
        answered: Way,
    ) -> Result<Vec<Way>, PullFailure> {
        let mut ways = Vec::new();
        let mut answered = Some(answered);
        for (position, endpoint) in endpoints.iter().enumerate() {
            if !endpoint.capabilities.pull {
                continue;
            }
            if position == place {
                ways.extend(answered.take());
            } else {
                for credential in self.positions(endpoint) {
                    ways.push(self.way(endpoint, credential)?);
                }
            }
        }
        if ways.is_empty() {
            return Err(PullFailure::Configuration(format!(
                "no host in the hosts.toml of {} may be asked for layers: give one the capability pull",
                self.reference.registry()
            )));
        }
        Ok(ways)
    }
}

impl Way {
    /// Over HTTPS, and over HTTP where that is allowed and nobody speaks TLS. A certificate that is not trusted is an
    /// error, never a reason for plain HTTP.
    async fn resolve(&mut self, known: Option<Digest>) -> Result<Target, PullFailure> {
        loop {
            let [session, others @ ..] = self.sessions.as_slice() else {
                return Err(PullFailure::Unavailable("the host has no address".to_owned()));
            };
            let outcome = session.resolve(known).await;
            match outcome {
                Err(error) if error.no_tls && !others.is_empty() => drop(self.sessions.remove(0)),
                other => {
                    self.sessions.truncate(1);
                    return Ok(other?);
                }
            }
        }
    }

    /// Asks at the first of the addresses where somebody speaks.
    pub(super) async fn ask<'s, T>(
        &'s self,
        ask: impl Fn(&'s Session) -> BoxFuture<'s, Result<T, RequestError>>,
    ) -> Result<T, PullFailure> {
        let mut outcome = Err(PullFailure::Unavailable("the host has no address".to_owned()).into());
        for session in &self.sessions {
            outcome = ask(session).await;
            if !outcome.as_ref().is_err_and(|error| error.no_tls) {
                break;
            }
        }
        Ok(outcome?)
    }

    pub(super) fn has_referrers(&self) -> bool {
        self.referrers
    }
}

/// Reads a manifest that an index names.
pub(crate) async fn manifest_of(
    source: &dyn ModuleSource,
    digest: &Digest,
) -> Result<crate::source::RawManifest, PullFailure> {
    let body = source.read(Part::Manifest(*digest), 0).await?;
    read_manifest(body, &digest.to_string()).await
}
