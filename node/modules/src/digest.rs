//! Content digests: the name of everything the store keeps.

use std::{fmt, io, path::Path, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest, written `sha256:` and 64 lower-case hexadecimal digits.
///
/// Registries may name content by other algorithms; none does in practice, and the store takes this one only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The digest of a file's content. Reads the whole file; call it where blocking is fine.
    ///
    /// # Errors
    /// Those of opening and reading the file.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let mut hasher = Hasher::default();
        io::copy(&mut std::fs::File::open(path)?, &mut hasher)?;
        Ok(hasher.finish())
    }

    /// The 64 hexadecimal digits, without the algorithm. Fit for a file name.
    #[must_use]
    pub fn hex(&self) -> String {
        use fmt::Write as _;
        self.0.iter().fold(String::with_capacity(64), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no digest. The texts are those of `opencontainers/go-digest`, which users meet elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDigest {
    /// Not `algorithm:encoded`, or not lower-case hexadecimal.
    #[error("invalid checksum digest format")]
    Format,
    /// Too many or too few digits for the algorithm.
    #[error("invalid checksum digest length")]
    Length,
    /// An algorithm other than SHA-256.
    #[error("unsupported digest algorithm")]
    Algorithm,
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (algorithm, encoded) = text.split_once(':').ok_or(InvalidDigest::Format)?;
        if algorithm != "sha256" {
            return Err(InvalidDigest::Algorithm);
        }
        if encoded.len() != 64 {
            return Err(InvalidDigest::Length);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(encoded.as_bytes().chunks_exact(2)) {
            let mut digits = pair.iter().map(|digit| nibble(*digit));
            let (Some(Some(high)), Some(Some(low))) = (digits.next(), digits.next()) else {
                return Err(InvalidDigest::Format);
            };
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Computes a [`Digest`] of content that comes in pieces.
#[derive(Clone, Default)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digest_of_nothing_is_the_known_one_and_survives_text() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(Digest::of(b"")));
    }

    #[test]
    fn texts_that_are_no_digests() {
        for (text, problem) in [
            ("", InvalidDigest::Format),
            ("e3b0c442", InvalidDigest::Format),
            ("sha512:00", InvalidDigest::Algorithm),
            ("sha256:00", InvalidDigest::Length),
            (&EMPTY.replace('e', "E"), InvalidDigest::Format),
            (&EMPTY.replace('e', "/"), InvalidDigest::Format),
            (&format!("sha256:{}", "é".repeat(32)), InvalidDigest::Format),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(problem), "{text}");
        }
    }
}
