//! The hosts of a registry: what its `hosts.toml` says, with the files that it names, and connections to each.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{
    Certificate, ClientBuilder, Identity, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
};

use super::{
    Registry,
    hosts::{self, ClientFiles, HostCapabilities, HostsFile, RegistryHost},
    http_address,
    session::Connector,
};
use crate::{
    error::PullFailure,
    reference::{Reference, is_local},
};

/// Bytes of a configuration, a certificate or a key.
const FILE_LIMIT: u64 = 1 << 20;

/// A host to be asked for a registry's images.
pub(super) struct Endpoint {
    /// Where repositories are; the second is for hosts that do not speak TLS and need not.
    pub(super) urls: Vec<Url>,
    pub(super) connector: Connector,
    pub(super) capabilities: HostCapabilities,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// The registry's name, for a host that may mirror several.
    pub(super) namespace: Option<String>,
    /// It is the registry itself, to which the credentials of the pull belong.
    pub(super) is_registry: bool,
}

/// What makes the connections to a host different from others.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct HostTrust {
    /// PEM.
    authorities: Vec<Vec<u8>>,
    /// PEM: a certificate and its key.
    identity: Option<Vec<u8>>,
    skip_verify: bool,
    dial_timeout: Option<Duration>,
    is_local: bool,
}

impl std::fmt::Debug for HostTrust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostTrust").field("skip_verify", &self.skip_verify).finish_non_exhaustive()
    }
}

impl HostTrust {
    /// True when the connections that all registries share will do.
    pub(super) fn is_usual(&self) -> bool {
        *self == Self { is_local: self.is_local, ..Self::default() }
    }

    pub(super) fn is_local(&self) -> bool {
        self.is_local
    }

    /// Adds it to a client that is being built.
    pub(super) fn apply(&self, mut builder: ClientBuilder) -> Result<ClientBuilder, String> {
        for pem in &self.authorities {
            let bundle = Certificate::from_pem_bundle(pem).ok().filter(|bundle| !bundle.is_empty());
            builder = builder.tls_certs_merge(bundle.ok_or("ca holds no PEM certificates")?);
        }
        if let Some(pem) = &self.identity {
            let identity = Identity::from_pem(pem);
            // The error may quote the key.
            builder = builder.identity(identity.map_err(|_| "client holds no PEM certificate with its key")?);
        }
        if let Some(timeout) = self.dial_timeout {
            builder = builder.connect_timeout(timeout);
        }
        Ok(builder.tls_danger_accept_invalid_certs(self.skip_verify))
    }
}

impl Registry {
    /// Whom to ask for images of the registry of `reference`, in order. Reads a few small files: what an operator
    /// changes counts from the next pull on.
    pub(super) fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, PullFailure> {
        let (directory, file) = read(&self.options.config_directories, reference.registry())?;
        let mirrors = file.mirrors.iter().map(|host| (host, false));
        let hosts = mirrors.chain([(&file.server, true)]);
        hosts
            .map(|(host, is_server)| {
                self.endpoint(reference, host, is_server)
                    .map_err(|problem| configuration(&directory.join("hosts.toml"), &problem))
            })
            .collect()
    }

    fn endpoint(
        &self,
        reference: &Reference,
        host: &RegistryHost,
        is_server: bool,
    ) -> Result<Endpoint, String> {
        let urls = match &host.url {
            Some(url) => vec![url.clone()],
            None => self.usual_urls(reference)?,
        };
        let address = urls.first().map(http_address).unwrap_or_default();
        let is_named = address == reference.host() || address == reference.registry();
        let trust = HostTrust {
            authorities: host.authorities.iter().map(|path| file(path)).collect::<Result<_, _>>()?,
            identity: host.client.as_ref().map(identity).transpose()?,
            skip_verify: host.skip_verify,
            dial_timeout: host.dial_timeout,
            is_local: is_local(&address),
        };
        Ok(Endpoint {
            connector: self.connector(&trust)?,
            urls,
            capabilities: host.capabilities,
            headers: host.headers.clone(),
            namespace: (host.url.is_some() && !is_named).then(|| reference.registry().to_owned()),
            is_registry: is_server || is_named,
        })
    }

    /// Where a registry's name says that it is: over HTTPS, and over HTTP where that is allowed and nobody speaks TLS.
    fn usual_urls(&self, reference: &Reference) -> Result<Vec<Url>, String> {
        let schemes: &[&str] =
            if self.is_insecure(reference.registry()) { &["https", "http"] } else { &["https"] };
        let url = |scheme: &&str| {
            Url::parse(&format!("{scheme}://{}/v2", reference.host()))
                .map_err(|error| format!("{} is no registry: {error}", reference.registry()))
        };
        schemes.iter().map(url).collect()
    }
}

impl Endpoint {
    /// `host` or `host:port`.
    pub(super) fn address(&self) -> String {
        self.urls.first().map(http_address).unwrap_or_default()
    }

    pub(super) fn header_map(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            map.append(name, value.clone());
        }
        map
    }
}

/// Finds the configuration of a registry, and the directory that it is in.
fn read(roots: &[PathBuf], registry: &str) -> Result<(PathBuf, HostsFile), PullFailure> {
    let directories =
        roots.iter().flat_map(|root| hosts::directories(registry).into_iter().map(|name| root.join(name)));
    let Some(directory) = directories.into_iter().find(|directory| directory.is_dir()) else {
        return Ok(Default::default());
    };
    let path = directory.join("hosts.toml");
    let bytes = match bounded(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        other => other.map_err(|error| configuration(&path, &error.to_string()))?,
    };
    if bytes.is_empty() {
        let file = HostsFile { server: certificates(&directory)?, ..HostsFile::default() };
        return Ok((directory, file));
    }
    let text = String::from_utf8(bytes).map_err(|_| configuration(&path, "it is not UTF-8"))?;
    let file = hosts::parse(&text, &directory).map_err(|error| configuration(&path, &error.to_string()))?;
    for field in &file.unknown {
        tracing::warn!(file = %path.display(), field, "a field of a registry's configuration is not known and has no effect");
    }
    Ok((directory, file))
}

/// Docker's form, without a `hosts.toml` or with an empty one: authorities in `*.crt`, a client's certificate in `*.cert`,
/// with its key in the same file or beside it in `*.key`.
fn certificates(directory: &Path) -> Result<RegistryHost, PullFailure> {
    let mut host = RegistryHost::default();
    let list =
        || -> io::Result<Vec<PathBuf>> { fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect() };
    let mut paths = list().map_err(|error| configuration(directory, &error.to_string()))?;
    paths.sort();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => host.authorities.push(path),
            Some("cert") if host.client.is_none() => {
                let key = Some(path.with_extension("key")).filter(|key| key.exists());
                host.client = Some(ClientFiles { certificate: path, key });
            }
            _ => {}
        }
    }
    Ok(host)
}

/// A certificate and its key, as one text.
fn identity(files: &ClientFiles) -> Result<Vec<u8>, String> {
    let mut pem = file(&files.certificate)?;
    if let Some(key) = &files.key {
        pem.push(b'\n');
        pem.extend(file(key)?);
    }
    Ok(pem)
}

fn file(path: &Path) -> Result<Vec<u8>, String> {
    bounded(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn bounded(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(io::Error::other(format!("it is larger than {FILE_LIMIT} bytes")));
    }
    Ok(bytes)
}

fn configuration(path: &Path, problem: &str) -> PullFailure {
    PullFailure::Configuration(format!("{}: {problem}", path.display()))
}
