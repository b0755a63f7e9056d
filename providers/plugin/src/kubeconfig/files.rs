//! Which files there are, and what is in them.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::{
    error::KubeconfigError,
    merge::{Kubeconfig, LocatedFile},
    model::KubeconfigFile,
};

/// Bytes of one file; those of users with a thousand clusters have less.
const LARGEST: u64 = 16 << 20;

/// Where a user's kubeconfigs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KubeconfigSources {
    /// One file, which must be there.
    One(PathBuf),
    /// Those of `KUBECONFIG`, or the one in the user's home: those that are not there do not count.
    Any(Vec<PathBuf>),
}

impl KubeconfigSources {
    /// By client-go's rules: a flag, else the list in `KUBECONFIG`, else the file in the home folder.
    pub(crate) fn find(flag: Option<&Path>, variable: Option<&std::ffi::OsStr>, home: Option<&Path>) -> Self {
        if let Some(flag) = flag.filter(|flag| !flag.as_os_str().is_empty()) {
            return Self::One(flag.to_owned());
        }
        match variable.filter(|variable| !variable.is_empty()) {
            Some(list) => {
                Self::Any(std::env::split_paths(list).filter(|path| path != Path::new("")).collect())
            }
            None => Self::Any(home.map(|home| home.join(".kube/config")).into_iter().collect()),
        }
    }

    /// Reads them. Without any that is there, what comes of it is empty.
    pub(crate) fn read(&self) -> Result<Kubeconfig, KubeconfigError> {
        let (paths, must_be_there) = match self {
            Self::One(path) => (std::slice::from_ref(path), true),
            Self::Any(paths) => (paths.as_slice(), false),
        };
        let mut files = Vec::new();
        for path in paths {
            match read_text(path) {
                Ok(text) => files.push(parse(path, &text)?),
                Err(error) if error.kind() == io::ErrorKind::NotFound && !must_be_there => {}
                Err(source) => return Err(KubeconfigError::Read { path: path.clone(), source }),
            }
        }
        Kubeconfig::merge(files)
    }
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {LARGEST} bytes")));
    }
    Ok(text)
}

/// Reads the text of the file at `path`, which paths in it begin beside.
pub(super) fn parse(path: &Path, text: &str) -> Result<LocatedFile, KubeconfigError> {
    let malformed = |message: String| KubeconfigError::Malformed { path: path.to_owned(), message };
    let folder = std::path::absolute(path)
        .map_err(|source| KubeconfigError::Read { path: path.to_owned(), source })?
        .parent()
        .map_or_else(|| PathBuf::from("/"), Path::to_owned);
    // An empty file is one in which nothing was written yet.
    let file = serde_yaml_ng::from_str::<Option<KubeconfigFile>>(text)
        .map_err(|error| malformed(what_is_wrong(&error)))?
        .unwrap_or_default();
    Ok(LocatedFile { path: path.to_owned(), folder, file })
}

/// The place of a mistake, and no value from there.
fn what_is_wrong(error: &serde_yaml_ng::Error) -> String {
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or_default();
    let text = match text.contains("missing field") {
        true => text,
        false => "it is not YAML, or a value is not of the type that a kubeconfig has there",
    };
    match error.location() {
        Some(place) => format!("line {}: {text}", place.line()),
        None => text.to_owned(),
    }
}
