//! Addresses of servers, and their passwords, which are never shown.

use std::fmt;

use percent_encoding::percent_decode_str;
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

    /// The user, and the password where there is one, as they are: a URL has them percent-encoded. `None` where it has neither.
    ///
    /// # Errors
    /// In words that hold neither, when they are no text.
    pub(super) fn user(&self) -> Result<Option<(String, Option<String>)>, String> {
        let decoded = |text| match percent_decode_str(text).decode_utf8() {
            Ok(text) => Ok(text.into_owned()),
            Err(_) => Err("its user or its password is not UTF-8 when it is percent-decoded".to_owned()),
        };
        let (user, password) = (self.0.username(), self.0.password());
        if user.is_empty() && password.is_none() {
            return Ok(None);
        }
        Ok(Some((decoded(user)?, password.map(decoded).transpose()?)))
    }

    /// Without user and password, for clients that are told of them apart. `None` where a URL of this kind can have none.
    pub(super) fn without_user(&self) -> Option<Url> {
        let mut url = self.0.clone();
        url.set_username("").and_then(|()| url.set_password(None)).ok()?;
        Some(url)
    }

    /// With everything that is in it.
    #[cfg(feature = "wasi-keyvalue")]
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
        let odd = ServerUrl::parse("http://[p@ss").unwrap();
        assert_eq!(odd.to_string(), "http://ss", "all that is before the last @ is a user");
        for wrong in [
            "p@ss",
            "redis://user:p@ss@:1",
            "redis:p@ss",
            "http://user:p@ss@[::1",
            "http://host:port/p@ss",
            "",
        ] {
            let error = ServerUrl::parse(wrong).unwrap_err();
            assert!(!error.contains("p@ss"), "{error}");
        }
    }

    #[test]
    fn users_are_decoded_and_taken_out() {
        let user = |text| ServerUrl::parse(text).unwrap().user();
        let some =
            |user: &str, password: Option<&str>| Ok(Some((user.to_owned(), password.map(str::to_owned))));
        assert_eq!(user("nats://host"), Ok(None));
        assert_eq!(user("nats://us%40er:p%3Ass+%C3%BC@host"), some("us@er", Some("p:ss+ü")));
        assert_eq!(user("nats://token@host"), some("token", None));
        assert_eq!(user("redis://:pass@host"), some("", Some("pass")));
        let error = user("nats://user:p%FFss@host").unwrap_err();
        assert!(!error.contains("p%FFss"), "{error}");

        let bare = |text| ServerUrl::parse(text).unwrap().without_user().unwrap().to_string();
        assert_eq!(bare("nats://us%40er:pass@host:1/path"), "nats://host:1/path");
        assert_eq!(bare("ws://token@host"), "ws://host/");
    }
}
