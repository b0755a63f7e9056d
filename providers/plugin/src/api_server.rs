//! The one server that a plugin may speak to, and what of a request belongs to it. Pure.

use std::str::FromStr;

use http::{
    Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use url::Url;

/// The name by which plugins reach the API server without a kubeconfig: that of its Service, as in pods.
pub const VIRTUAL_AUTHORITY: &str = "kubernetes.default.svc";

/// Address of an API server, as `cluster.server` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiServer {
    scheme: Scheme,
    /// In lower case; an address of IPv6 without brackets.
    host: String,
    port: u16,
    /// What is in front of each path, without a slash at its end.
    prefix: String,
}

/// A `cluster.server` that is none. The text itself is not told: there may be a password in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidServer {
    #[error("there is none; it is a URL such as https://203.0.113.1:6443")]
    Empty,
    #[error("it is no URL such as https://203.0.113.1:6443")]
    Url,
    #[error("there is a user or a password in it; write them into the user's entry")]
    Credentials,
}

/// Why a request goes nowhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Elsewhere {
    #[error("a plugin reaches the API server of the current context alone, {0}")]
    Server(String),
    #[error("it is not below the path of the API server, {0}")]
    Prefix(String),
    #[error("its path has `.` or `..` in it")]
    Dots,
    #[error("it has no path")]
    Path,
}

impl FromStr for ApiServer {
    type Err = InvalidServer;

    fn from_str(text: &str) -> Result<Self, InvalidServer> {
        if text.is_empty() {
            return Err(InvalidServer::Empty);
        }
        // kubectl takes a server without a scheme for one of HTTP.
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&text).map_err(|_| InvalidServer::Url)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(InvalidServer::Credentials);
        }
        let scheme = match url.scheme() {
            "https" => Scheme::HTTPS,
            "http" => Scheme::HTTP,
            _ => return Err(InvalidServer::Url),
        };
        let host = url.host_str().ok_or(InvalidServer::Url)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let port = url.port_or_known_default().ok_or(InvalidServer::Url)?;
        Ok(Self { scheme, host, port, prefix: url.path().trim_end_matches('/').to_owned() })
    }
}

impl ApiServer {
    /// Whether what is sent there can be read by nobody else.
    pub(crate) fn is_secure(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    /// The host, without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The address, as people write it.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}{}", self.scheme, self.authority_text(), self.prefix)
    }

    fn authority_text(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// The address that a request of a guest goes to, and the path of it as the API server's own rules see it: a request for
    /// the server itself by scheme, host and port, or for [`VIRTUAL_AUTHORITY`] by HTTPS.
    ///
    /// # Errors
    /// [`Elsewhere`], and nothing is to be sent.
    pub(crate) fn locate(&self, wanted: &Uri) -> Result<Uri, Elsewhere> {
        let elsewhere = || Elsewhere::Server(self.url());
        let (scheme, authority) = wanted.scheme().zip(wanted.authority()).ok_or_else(elsewhere)?;
        let path = wanted.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        if !path.as_str().starts_with(['/', '?']) {
            return Err(Elsewhere::Path);
        }
        if has_dots(path.path()) {
            return Err(Elsewhere::Dots);
        }
        let path = if is_virtual(scheme, authority) {
            format!("{}{}", self.prefix, as_path(&path))
        } else if self.is_at(scheme, authority) {
            let path = as_path(&path);
            let below = path.strip_prefix(&self.prefix).ok_or_else(|| Elsewhere::Prefix(self.url()))?;
            if !below.starts_with(['/', '?']) {
                return Err(Elsewhere::Prefix(self.url()));
            }
            path
        } else {
            return Err(elsewhere());
        };
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority_text())
            .path_and_query(path)
            .build()
            .map_err(|_| Elsewhere::Path)
    }

    /// The path of an address that [`ApiServer::locate`] has answered, without what is in front of all of them.
    pub(crate) fn api_path<'a>(&self, located: &'a Uri) -> &'a str {
        located.path().strip_prefix(&self.prefix).unwrap_or(located.path())
    }

    fn is_at(&self, scheme: &Scheme, authority: &Authority) -> bool {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let default = if *scheme == Scheme::HTTPS { 443 } else { 80 };
        // What is behind the host is a port, or nothing.
        let behind = authority.as_str().strip_prefix(authority.host());
        let port = match behind {
            Some("") => Some(default),
            Some(_) => authority.port_u16(),
            // There is a user in front of it.
            None => None,
        };
        *scheme == self.scheme && host.eq_ignore_ascii_case(&self.host) && port == Some(self.port)
    }
}

fn is_virtual(scheme: &Scheme, authority: &Authority) -> bool {
    *scheme == Scheme::HTTPS
        && matches!(
            authority.as_str().to_ascii_lowercase().strip_prefix(VIRTUAL_AUTHORITY),
            Some("" | ":443")
        )
}

fn as_path(path: &PathAndQuery) -> String {
    match path.as_str().starts_with('?') {
        true => format!("/{}", path.as_str()),
        false => path.as_str().to_owned(),
    }
}

/// Whether servers could take a part of the path for the folder itself or for the one above.
fn has_dots(path: &str) -> bool {
    path.split(['/', '\\']).any(|part| {
        let part = part.to_ascii_lowercase().replace("%2e", ".").replace("%5c", "\\").replace("%2f", "/");
        part.split(['/', '\\']).any(|part| matches!(part, "." | ".."))
    })
}

#[cfg(test)]
mod tests;
