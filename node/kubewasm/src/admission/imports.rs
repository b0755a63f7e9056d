//! What modules must not import: the policies that take no program.

use std::{fmt, str::FromStr};

/// Names of imports: one, or all that begin alike. An interface is named with its version or without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ImportPattern {
    beginning: String,
    is_open: bool,
}

/// A text that is no pattern.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no imports: an interface (wasi:sockets/tcp), a function of a core module \
     (wasi_snapshot_preview1::sock_accept), or what they begin with and a `*` behind it (wasi:sockets/*)"
)]
pub(super) struct InvalidImportPattern(String);

impl FromStr for ImportPattern {
    type Err = InvalidImportPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (beginning, is_open) = match text.strip_suffix('*') {
            Some(beginning) => (beginning, true),
            None => (text, false),
        };
        let is_name = |c: char| c.is_ascii_graphic() && c != '*';
        if (beginning.is_empty() && !is_open) || !beginning.chars().all(is_name) {
            return Err(InvalidImportPattern(text.to_owned()));
        }
        Ok(Self { beginning: beginning.to_owned(), is_open })
    }
}

impl ImportPattern {
    pub(super) fn matches(&self, import: &str) -> bool {
        let without_version = import.split_once('@').map_or(import, |(name, _)| name);
        match self.is_open {
            true => import.starts_with(&self.beginning),
            false => import == self.beginning || without_version == self.beginning,
        }
    }
}

impl fmt::Display for ImportPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.beginning, if self.is_open { "*" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_named_alone_or_by_how_they_begin() {
        for (pattern, import, expected) in [
            ("wasi:sockets/*", "wasi:sockets/tcp@0.2.0", true),
            ("wasi:sockets/*", "wasi:sockets/ip-name-lookup@0.3.0", true),
            ("wasi:sockets/*", "wasi:socketsx/tcp@0.2.0", false),
            ("wasi:sockets/tcp", "wasi:sockets/tcp@0.2.6", true),
            ("wasi:sockets/tcp", "wasi:sockets/tcp-create-socket@0.2.6", false),
            ("wasi:sockets/tcp@0.2.0", "wasi:sockets/tcp@0.2.0", true),
            ("wasi:sockets/tcp@0.2.0", "wasi:sockets/tcp@0.2.6", false),
            ("wasi_snapshot_preview1::sock_*", "wasi_snapshot_preview1::sock_accept", true),
            ("wasi_snapshot_preview1::sock_*", "wasi_snapshot_preview1::fd_read", false),
            ("*", "anything", true),
        ] {
            assert_eq!(
                pattern.parse::<ImportPattern>().unwrap().matches(import),
                expected,
                "{pattern} {import}"
            );
        }
        for text in ["", "wasi:*/tcp", "a b", "**", "a\n"] {
            assert_eq!(text.parse::<ImportPattern>(), Err(InvalidImportPattern(text.to_owned())));
        }
    }
}
