//! What a plugin is given besides the API server: directories, variables, keys as they are pressed. Pure.

use std::{collections::BTreeSet, fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

/// Grants that one plugin may want.
const MOST: usize = 64;
/// Bytes of the text of one.
const LONGEST: usize = 1024;

/// One thing that a plugin is given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Grant {
    /// `fs=ro:PATH`: a directory and all below it, to read.
    ReadDirectory(PathBuf),
    /// `fs=rw:PATH`: the same, to change as well. A path that is not absolute is below the folder in which it is run.
    WriteDirectory(PathBuf),
    /// `env=NAME`: a variable of the user's environment.
    Variable(String),
    /// `tty=raw`: each key as it is pressed, unseen. Ctrl-C stays what it is.
    RawTerminal,
}

/// A text that is no grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no grant: write fs=ro:PATH, fs=rw:PATH, env=NAME or tty=raw")]
pub struct InvalidGrant(String);

/// What a plugin is given, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Grants(BTreeSet<Grant>);

impl FromStr for Grant {
    type Err = InvalidGrant;

    fn from_str(text: &str) -> Result<Self, InvalidGrant> {
        // A plugin's wishes are shown on a terminal.
        let shown: String = text.chars().take(80).filter(|c| !c.is_control()).collect();
        let invalid = || InvalidGrant(shown.clone());
        if text.len() > LONGEST || text.chars().any(char::is_control) {
            return Err(invalid());
        }
        let path = |path: &str| if path.is_empty() { Err(invalid()) } else { Ok(PathBuf::from(path)) };
        match text.split_once('=') {
            Some(("fs", rest)) => match rest.split_once(':') {
                Some(("ro", rest)) => path(rest).map(Self::ReadDirectory),
                Some(("rw", rest)) => path(rest).map(Self::WriteDirectory),
                _ => Err(invalid()),
            },
            Some(("env", name)) if is_variable(name) => Ok(Self::Variable(name.to_owned())),
            Some(("tty", "raw")) => Ok(Self::RawTerminal),
            _ => Err(invalid()),
        }
    }
}

fn is_variable(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ReadDirectory(path) => write!(f, "fs=ro:{}", path.display()),
            Self::WriteDirectory(path) => write!(f, "fs=rw:{}", path.display()),
            Self::Variable(name) => write!(f, "env={name}"),
            Self::RawTerminal => f.write_str("tty=raw"),
        }
    }
}

impl TryFrom<String> for Grant {
    type Error = InvalidGrant;

    fn try_from(text: String) -> Result<Self, InvalidGrant> {
        text.parse()
    }
}

impl From<Grant> for String {
    fn from(grant: Grant) -> Self {
        grant.to_string()
    }
}

impl Grant {
    /// What it means, for whoever is asked.
    #[must_use]
    pub fn meaning(&self) -> String {
        match self {
            Self::ReadDirectory(path) => format!("read all files in {}", path.display()),
            Self::WriteDirectory(path) => format!("read and change all files in {}", path.display()),
            Self::Variable(name) => format!("see the environment variable {name}"),
            Self::RawTerminal => "see each key as it is pressed".to_owned(),
        }
    }

    /// Whether who has this has `other` with it.
    fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::WriteDirectory(own), Self::ReadDirectory(wanted)) => own == wanted,
            _ => self == other,
        }
    }
}

impl Grants {
    /// Reads a list, as plugins ask for it: with white space or commas between.
    ///
    /// # Errors
    /// [`InvalidGrant`], of the first that is none or is too many.
    pub fn parse_list(text: &str) -> Result<Self, InvalidGrant> {
        let words = text.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
        let grants = words.map(str::parse).collect::<Result<BTreeSet<Grant>, _>>()?;
        match grants.iter().nth(MOST) {
            Some(one_more) => Err(InvalidGrant(one_more.to_string())),
            None => Ok(Self(grants)),
        }
    }

    /// All of them, in the order in which they are listed.
    pub fn iter(&self) -> impl Iterator<Item = &Grant> {
        self.0.iter()
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether who has these has this one.
    #[must_use]
    pub fn include(&self, wanted: &Grant) -> bool {
        self.0.iter().any(|own| own.includes(wanted))
    }

    /// What of `wanted` is not among these.
    #[must_use]
    pub fn missing(&self, wanted: &Self) -> Self {
        wanted.0.iter().filter(|wanted| !self.include(wanted)).cloned().collect()
    }

    /// These and others.
    #[must_use]
    pub fn with(&self, others: &Self) -> Self {
        self.0.union(&others.0).cloned().collect()
    }
}

impl FromIterator<Grant> for Grants {
    fn from_iter<I: IntoIterator<Item = Grant>>(grants: I) -> Self {
        Self(grants.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_read_as_they_are_written() {
        for text in
            ["fs=ro:/etc/x", "fs=rw:.", "fs=ro:~/notes", "env=EDITOR", "env=_a1", "tty=raw", "fs=ro:a:b"]
        {
            assert_eq!(text.parse::<Grant>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "fs",
            "fs=/x",
            "fs=ro:",
            "fs=wo:/x",
            "env=",
            "env=1A",
            "env=A=B",
            "tty=cooked",
            "net=x",
            "fs=ro:/\u{1b}[2J",
        ] {
            let error = text.parse::<Grant>().unwrap_err().to_string();
            assert!(error.contains("is no grant") && !error.contains('\u{1b}'), "{error}");
        }
    }

    #[test]
    fn only_what_is_not_there_yet_is_missing() {
        let own = Grants::parse_list("fs=rw:. env=A").unwrap();
        let wanted = Grants::parse_list("fs=ro:., env=A\nenv=B fs=rw:/x").unwrap();
        assert_eq!(own.missing(&wanted), Grants::parse_list("env=B fs=rw:/x").unwrap());
        assert!(own.missing(&own).is_empty());
        let read = Grants::parse_list("fs=ro:.").unwrap();
        assert_eq!(read.missing(&own), own, "to read is not to change");
        let many: Vec<String> = (0..=MOST).map(|n| format!("env=A{n}")).collect();
        assert!(Grants::parse_list(&many.join(" ")).is_err());
    }
}
