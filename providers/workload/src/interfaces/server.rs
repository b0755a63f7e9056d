//! Addresses of servers, and their passwords, which are never shown.

use std::fmt;

use url::Url;

/// Where a server is, and who asks.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ServerUrl(Url);

impl ServerUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// In words that do not hold the URL, in which there may be a password.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("it is no URL: {error}"))?;
        if url.host_str().is_none_or(str::is_empty) {
            return Err("it is a URL without a host".to_owned());
        }
        Ok(Self(url))
    }

    pub(super) fn scheme(&self) -> &str {
        self.0.scheme()
    }

    /// With everything that is in it.
    pub(super) fn secret(&self) -> &Url {
        &self.0
    }
}

/// Without user, password, path and query.
impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.0.scheme(), self.0.host_str().unwrap_or_default())?;
        self.0.port().map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        let url = ServerUrl::parse("redis://user:p%40ss@host:1/2?key=p%40ss").unwrap();
        assert_eq!(format!("{url} {url:?}"), "redis://host:1 redis://host:1");
        for wrong in ["p@ss", "redis://user:p@ss@:1", "redis:p@ss", "http://[p@ss", ""] {
            let error = ServerUrl::parse(wrong).unwrap_err();
            assert!(!error.contains("p@ss"), "{error}");
        }
    }
}
