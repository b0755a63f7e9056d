//! Modules that are files somewhere: names that are URLs.

use std::{fmt, path::PathBuf};

use url::Url;

use crate::digest::Digest;

/// Bytes of a URL; what is longer is nobody's file name.
const LENGTH_LIMIT: usize = 2048;

/// The URL of one file that is a module: `https://…`, `http://…`, `s3://bucket/key` or `file:///…`, with an optional
/// pin behind it (`@sha256:…`, as in image references), which is the digest of the file.
///
/// It holds nothing secret: user names, passwords and query strings are refused, because names of images are shown to
/// everybody who can see a node or a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModuleUrl {
    scheme: UrlScheme,
    /// Normalised, without the pin.
    url: String,
    digest: Option<Digest>,
}

/// What leads to a [`ModuleUrl`]'s file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UrlScheme {
    /// HTTP over TLS.
    Https,
    /// HTTP in the clear.
    Http,
    /// An object of a bucket.
    S3,
    /// A file of this machine.
    File,
}

/// Schemes by their names in URLs.
const SCHEMES: [(&str, UrlScheme); 4] = [
    ("https", UrlScheme::Https),
    ("http", UrlScheme::Http),
    ("s3", UrlScheme::S3),
    ("file", UrlScheme::File),
];

impl ModuleUrl {
    /// Reads a URL; says what is wrong with one that is no module's.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (scheme, _) = text.split_once("://").ok_or("it has no scheme")?;
        let (_, scheme) = SCHEMES.into_iter().find(|(name, _)| *name == scheme).ok_or_else(|| {
            format!("the scheme {scheme:?} is not known; oci, https, http, s3 and file are")
        })?;
        if text.len() > LENGTH_LIMIT {
            return Err(format!("a URL must not be longer than {LENGTH_LIMIT} bytes"));
        }
        let (url, digest) = match text.rsplit_once('@') {
            Some((url, pin)) if is_pin(pin) => {
                let digest =
                    pin.parse::<Digest>().map_err(|error| format!("{error}: pin it by @sha256:…"))?;
                (url, Some(digest))
            }
            _ => (text, None),
        };
        let url = match scheme {
            UrlScheme::Https | UrlScheme::Http => web(url)?,
            UrlScheme::S3 => object(url)?,
            UrlScheme::File => local(url)?,
        };
        if url.rsplit_once('@').is_some_and(|(_, pin)| is_pin(pin)) {
            return Err("it has a digest where it cannot be told from a pin".to_owned());
        }
        Ok(Self { scheme, url, digest })
    }

    /// What leads to the file.
    #[must_use]
    pub fn scheme(&self) -> UrlScheme {
        self.scheme
    }

    /// The URL without the pin.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The pin: the digest that the file must have.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The name under which the store keeps the file: by URL and digest where it is pinned.
    pub(crate) fn key(&self) -> String {
        self.to_string()
    }

    /// The store's name for the content `digest` of the same URL.
    pub(crate) fn key_of(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.url)
    }

    /// The last part of the path, or the whole when it has none: the name of the program.
    pub(crate) fn file_name(&self) -> &str {
        self.url.rsplit('/').find(|part| !part.is_empty()).unwrap_or(&self.url)
    }

    /// Bucket and key of an object.
    pub(crate) fn object(&self) -> Option<(&str, &str)> {
        self.url.strip_prefix("s3://")?.split_once('/')
    }

    /// Path of a file of this machine.
    pub(crate) fn path(&self) -> Option<PathBuf> {
        Url::parse(&self.url).ok().filter(|url| url.scheme() == "file")?.to_file_path().ok()
    }
}

/// `algorithm:…`, as pins are written; other words behind an `@` belong to the path.
fn is_pin(text: &str) -> bool {
    ["sha256:", "sha384:", "sha512:"].iter().any(|algorithm| text.starts_with(algorithm))
}

/// An HTTP URL, normalised: the host in lower case, without its scheme's own port.
fn web(text: &str) -> Result<String, String> {
    let url = read(text)?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err("it names no host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a user name or password in a URL is shown to everybody; take it out".to_owned());
    }
    Ok(url.to_string())
}

/// The URL of a file of this machine, as it is written.
fn local(text: &str) -> Result<String, String> {
    let path = read(text)?.to_file_path().ok().filter(|path| path.file_name().is_some());
    path.map(|_| text.to_owned())
        .ok_or_else(|| "a file's URL is file:///, and then the absolute path".to_owned())
}

/// A URL that is a path and nothing more. What parsers of URLs leave out silently is refused: a pin could be made of the rest.
fn read(text: &str) -> Result<Url, String> {
    if text.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err("there is white space in it".to_owned());
    }
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if url.query().is_some() {
        return Err(
            "a query string may hold a secret, and names of images are shown to everybody; serve the module \
                    under a path alone"
                .to_owned(),
        );
    }
    if url.fragment().is_some() {
        return Err("a module has no fragments; pin a digest by @sha256:… behind the URL".to_owned());
    }
    Ok(url)
}

/// An object's URL. Keys are taken as they are written, as other tools do.
fn object(text: &str) -> Result<String, String> {
    let whole = || "an object's URL is s3://, the bucket, / and the key".to_owned();
    let (bucket, key) = text.strip_prefix("s3://").and_then(|rest| rest.split_once('/')).ok_or_else(whole)?;
    let is_bucket = (3..=63).contains(&bucket.len())
        && bucket
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_'));
    if !is_bucket {
        return Err(format!("{bucket:?} is no name of a bucket"));
    }
    if key.is_empty() || key.chars().any(char::is_control) {
        return Err(whole());
    }
    if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("a key with empty parts, . or .. in it cannot be used".to_owned());
    }
    Ok(text.to_owned())
}

impl fmt::Display for ModuleUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)?;
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
