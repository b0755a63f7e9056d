//! `hosts.toml`: where a registry is really reached, in [containerd's form][1].
//!
//! ```toml
//! server = "https://registry-1.docker.io"   # the registry itself; its fields follow, outside of any table
//! [host."https://mirror.lan:5000"]          # asked before it, in the order of the file
//!   capabilities = ["pull", "resolve"]
//!   ca = "mirror.crt"                       # relative to the directory of the file
//! ```
//!
//! Everything here is a function of the file's text. What the files that it names hold, and who is asked, is for
//! `mirrors`.
//!
//! [1]: https://github.com/containerd/containerd/blob/main/docs/hosts.md

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use reqwest::{
    Url,
    header::{HeaderName, HeaderValue},
};
use toml::{Table, Value};

/// Why a file cannot be used: the field, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub(super) struct HostsError {
    /// `host."https://mirror.lan".capabilities`; `line 3` where the text is no TOML.
    field: String,
    problem: String,
}

/// Whom to ask for a registry's images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HostsFile {
    /// In the order in which they are asked.
    pub(super) mirrors: Vec<RegistryHost>,
    /// The registry itself, asked last.
    pub(super) server: RegistryHost,
    /// Fields that are not known, as paths. They are ignored, like containerd does.
    pub(super) unknown: Vec<String>,
}

/// One host that speaks a registry's protocol.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct RegistryHost {
    /// URL below which repositories are: `https://mirror.lan:5000/v2`. `None`: where the registry's name says.
    pub(super) url: Option<Url>,
    pub(super) capabilities: HostCapabilities,
    /// PEM files of certificate authorities.
    pub(super) authorities: Vec<PathBuf>,
    pub(super) client: Option<ClientFiles>,
    /// Its certificate is not checked.
    pub(super) skip_verify: bool,
    /// Sent with each request; may hold secrets.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// How long a connection may take.
    pub(super) dial_timeout: Option<Duration>,
}

/// What a host may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HostCapabilities {
    /// Manifests by digest, and blobs.
    pub(super) pull: bool,
    /// Which digest a tag means.
    pub(super) resolve: bool,
    /// What refers to a manifest: its signatures.
    pub(super) referrers: bool,
    /// To take what is pushed.
    pub(super) push: bool,
}

/// PEM files of a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ClientFiles {
    pub(super) certificate: PathBuf,
    /// `None`: the key is in the file of the certificate.
    pub(super) key: Option<PathBuf>,
}

impl Default for HostCapabilities {
    fn default() -> Self {
        Self { pull: true, resolve: true, referrers: true, push: true }
    }
}

impl fmt::Debug for RegistryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<&HeaderName> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("RegistryHost")
            .field("url", &self.url.as_ref().map(Url::as_str))
            .field("capabilities", &self.capabilities)
            .field("authorities", &self.authorities)
            .field("client", &self.client)
            .field("skip_verify", &self.skip_verify)
            .field("headers", &headers)
            .field("dial_timeout", &self.dial_timeout)
            .finish()
    }
}

/// Reads a file's text; paths in it are relative to `directory`.
pub(super) fn parse(text: &str, directory: &Path) -> Result<HostsFile, HostsError> {
    let mut root: Table = text.parse().map_err(|error: toml::de::Error| syntax(text, &error))?;
    let mut unknown = Vec::new();
    let hosts = root.remove("host");
    let url = match root.remove("server") {
        None => None,
        Some(server) => Some(string("server", &server)?),
    };
    let server = Fields { prefix: "", directory, unknown: &mut unknown }.read(url.as_deref(), root)?;
    let mut mirrors = Vec::new();
    for (name, fields) in table("host", hosts.unwrap_or_else(|| Table::new().into()))? {
        let prefix = format!("host.{name:?}");
        let fields = table(&prefix, fields)?;
        let prefix = format!("{prefix}.");
        mirrors.push(Fields { prefix: &prefix, directory, unknown: &mut unknown }.read(Some(&name), fields)?);
    }
    Ok(HostsFile { mirrors, server, unknown })
}

/// Names of the directories that may hold a registry's configuration, the best first.
pub(super) fn directories(registry: &str) -> Vec<String> {
    let port = registry.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let mut names: Vec<String> = port.map(|(host, port)| format!("{host}_{port}_")).into_iter().collect();
    names.extend([registry.to_owned(), "_default".to_owned()]);
    names
}

fn syntax(text: &str, error: &toml::de::Error) -> HostsError {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    HostsError {
        field: format!("line {}", before.matches('\n').count().saturating_add(1)),
        problem: error.message().to_owned(),
    }
}

/// The fields of one host.
struct Fields<'a> {
    /// What goes before a field's name: `host."https://mirror.lan".`
    prefix: &'a str,
    directory: &'a Path,
    unknown: &'a mut Vec<String>,
}

impl Fields<'_> {
    fn read(self, url: Option<&str>, fields: Table) -> Result<RegistryHost, HostsError> {
        let mut host = RegistryHost::default();
        let mut override_path = false;
        for (name, value) in fields {
            let field = format!("{}{name}", self.prefix);
            match name.as_str() {
                "capabilities" => host.capabilities = capabilities(&field, &value)?,
                "ca" => host.authorities = self.paths(&field, &value)?,
                "client" => host.client = self.client(&field, &value)?,
                "skip_verify" => host.skip_verify = boolean(&field, &value)?,
                "header" => host.headers = headers(&field, value)?,
                "override_path" => override_path = boolean(&field, &value)?,
                "dial_timeout" => {
                    let text = string(&field, &value)?;
                    let timeout = duration(&text).ok_or_else(|| {
                        wrong(&field, format!("{text:?} is no duration such as \"30s\" or \"500ms\""))
                    })?;
                    // Zero is no limit of its own.
                    host.dial_timeout = Some(timeout).filter(|timeout| !timeout.is_zero());
                }
                _ => self.unknown.push(field),
            }
        }
        if let Some(text) = url {
            let field = if self.prefix.is_empty() { "server" } else { self.prefix.trim_end_matches('.') };
            host.url = Some(base(field, text, override_path)?);
        }
        Ok(host)
    }

    fn path(&self, text: &str) -> PathBuf {
        self.directory.join(text)
    }

    fn paths(&self, field: &str, value: &Value) -> Result<Vec<PathBuf>, HostsError> {
        Ok(strings(field, value)?.iter().map(|text| self.path(text)).collect())
    }

    /// A file with both, a list of one such file, or a list of one pair.
    fn client(&self, field: &str, value: &Value) -> Result<Option<ClientFiles>, HostsError> {
        let pairs = match value {
            Value::Array(entries) => {
                entries.iter().map(|entry| strings(field, entry)).collect::<Result<Vec<_>, _>>()?
            }
            one => vec![vec![string(field, one)?]],
        };
        let pair = match pairs.as_slice() {
            [] => return Ok(None),
            [pair] => pair,
            _ => return Err(wrong(field, "more than one certificate; one is used for a host".to_owned())),
        };
        let key = |text: &String| Some(self.path(text)).filter(|_| !text.is_empty());
        match pair.as_slice() {
            [certificate] => Ok(Some(ClientFiles { certificate: self.path(certificate), key: None })),
            [certificate, path] => {
                Ok(Some(ClientFiles { certificate: self.path(certificate), key: key(path) }))
            }
            _ => Err(wrong(field, "not a pair of a certificate and its key".to_owned())),
        }
    }
}

/// `https://mirror.lan:5000/v2`, whatever of it is written.
fn base(field: &str, text: &str, override_path: bool) -> Result<Url, HostsError> {
    let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let mut url = Url::parse(&whole).map_err(|error| wrong(field, format!("{text:?} is no URL: {error}")))?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(wrong(field, format!("{text:?} is neither an https nor an http URL")));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(field, "a user name or password in a URL is not used; send a header".to_owned()));
    }
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/').to_owned();
    let path = if override_path || path.ends_with("/v2") { path } else { format!("{path}/v2") };
    url.set_path(&path);
    Ok(url)
}

fn capabilities(field: &str, value: &Value) -> Result<HostCapabilities, HostsError> {
    let words = strings(field, value)?;
    if words.is_empty() {
        return Ok(HostCapabilities::default());
    }
    let mut found = HostCapabilities { pull: false, resolve: false, referrers: false, push: false };
    for word in words {
        match word.to_ascii_lowercase().as_str() {
            "pull" => found.pull = true,
            "resolve" => found.resolve = true,
            "referrers" => found.referrers = true,
            "push" => found.push = true,
            _ => {
                let problem = format!("{word:?} is not known; pull, resolve, push and referrers are");
                return Err(wrong(field, problem));
            }
        }
    }
    Ok(found)
}

fn headers(field: &str, value: Value) -> Result<Vec<(HeaderName, HeaderValue)>, HostsError> {
    let mut headers = Vec::new();
    for (name, value) in table(field, value)? {
        let field = format!("{field}.{name}");
        let header: HeaderName =
            name.parse().map_err(|_| wrong(&field, "that is no name of a header".to_owned()))?;
        for text in strings(&field, &value)? {
            // The value may be a secret: it is not repeated.
            let mut value: HeaderValue =
                text.parse().map_err(|_| wrong(&field, "its value cannot be sent".to_owned()))?;
            value.set_sensitive(true);
            headers.push((header.clone(), value));
        }
    }
    Ok(headers)
}

/// A [duration as Go writes it](https://pkg.go.dev/time#ParseDuration), without a sign.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut total, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(end);
        let units =
            [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let (unit, seconds) = units.into_iter().find(|(unit, _)| tail.starts_with(unit))?;
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        total = total.checked_add(part)?;
        rest = tail.strip_prefix(unit)?;
    }
    (!text.is_empty()).then_some(total)
}

fn wrong(field: &str, problem: String) -> HostsError {
    HostsError { field: field.to_owned(), problem }
}

fn table(field: &str, value: Value) -> Result<Table, HostsError> {
    match value {
        Value::Table(table) => Ok(table),
        other => Err(wrong(field, format!("a table is wanted, and this is a {}", other.type_str()))),
    }
}

fn string(field: &str, value: &Value) -> Result<String, HostsError> {
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| wrong(field, format!("a string is wanted, and this is a {}", value.type_str())))
}

/// A string, or a list of strings.
fn strings(field: &str, value: &Value) -> Result<Vec<String>, HostsError> {
    match value {
        Value::Array(entries) => entries.iter().map(|entry| string(field, entry)).collect(),
        one => Ok(vec![string(field, one)?]),
    }
}

fn boolean(field: &str, value: &Value) -> Result<bool, HostsError> {
    let problem = || wrong(field, format!("true or false is wanted, and this is a {}", value.type_str()));
    value.as_bool().ok_or_else(problem)
}

#[cfg(test)]
mod tests;
