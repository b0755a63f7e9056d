//! What the store knows of an image.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    error::StoreError,
    module_url::ModuleUrl,
    reference::{InvalidReference, Reference},
};

/// What an image is asked for by: a name in a registry, the URL of a module, or a file on this machine.
///
/// In text, a path is what starts with `/`, `./` or `../`, and a URL what has `://` behind its scheme; no image reference
/// does. `oci://` before a reference says nothing new.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ImageName {
    /// An image of a registry.
    Reference(Reference),
    /// A module that is a file somewhere.
    Url(ModuleUrl),
    /// A module file that was imported. The store compares absolute paths.
    Path(PathBuf),
}

impl ImageName {
    /// True when the name itself says which content it means.
    pub(crate) fn is_pinned(&self) -> bool {
        match self {
            Self::Reference(reference) => reference.digest().is_some(),
            Self::Url(url) => url.digest().is_some(),
            Self::Path(_) => false,
        }
    }

    /// The text under which the store keeps the name.
    pub(crate) fn key(&self) -> Result<String, StoreError> {
        let path = match self {
            Self::Reference(reference) => return Ok(reference.key()),
            Self::Url(url) => return Ok(url.key()),
            Self::Path(path) => path,
        };
        let absolute = std::path::absolute(path).map_err(StoreError::io("find", path))?;
        absolute.into_os_string().into_string().map_err(|_| {
            let error = io::Error::new(io::ErrorKind::InvalidFilename, "its name is not UTF-8");
            StoreError::io("keep", path)(error)
        })
    }
}

impl FromStr for ImageName {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if ["/", "./", "../"].iter().any(|start| text.starts_with(start)) {
            return Ok(Self::Path(PathBuf::from(text)));
        }
        match text.split_once("://") {
            None => text.parse().map(Self::Reference),
            Some(("oci", reference)) => reference.parse().map(Self::Reference),
            Some(_) => {
                ModuleUrl::parse(text).map(Self::Url).map_err(|problem| InvalidReference::url(text, problem))
            }
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reference(reference) => reference.fmt(f),
            Self::Url(url) => url.fmt(f),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

impl From<Reference> for ImageName {
    fn from(reference: Reference) -> Self {
        Self::Reference(reference)
    }
}

impl From<&Reference> for ImageName {
    fn from(reference: &Reference) -> Self {
        reference.clone().into()
    }
}

impl From<ModuleUrl> for ImageName {
    fn from(url: ModuleUrl) -> Self {
        Self::Url(url)
    }
}

impl From<&Self> for ImageName {
    fn from(name: &Self) -> Self {
        name.clone()
    }
}

/// An image that is complete in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The name it was asked for by, or one of its names in a listing.
    pub reference: ImageName,
    /// What the name resolved to: the digest of a manifest, of an index of manifests, or of an imported file.
    pub digest: Digest,
    /// The manifest that was chosen; differs from `digest` when that is an index.
    pub manifest: Digest,
    /// All names under which the store knows this content, digests first.
    pub names: Vec<String>,
    /// Bytes that it takes in the store, packed and unpacked.
    pub size_bytes: u64,
    /// The image's ENTRYPOINT; for an artifact that is a module alone, one name for the module.
    pub entrypoint: Vec<String>,
    /// The image's CMD.
    pub cmd: Vec<String>,
    /// The image's environment, in order.
    pub env: Vec<(String, String)>,
    /// The image's WORKDIR, when it has one.
    pub working_dir: Option<String>,
    /// The image's USER, when it has one, as written (`1000`, `1000:1000`, `nobody`).
    pub user: Option<String>,
    /// A module alone, or a file system that has modules in it.
    pub kind: ImageKind,
}

impl Image {
    /// `repository@sha256:…`, `https://…@sha256:…`, or `file@sha256:…` for an imported module: what a status calls
    /// `imageID`.
    #[must_use]
    pub fn id(&self) -> String {
        match &self.reference {
            ImageName::Reference(reference) => reference.key_of(&self.digest),
            ImageName::Url(url) => url.key_of(&self.digest),
            ImageName::Path(path) => format!("{}@{}", file_name(path), self.digest),
        }
    }
}

/// The last part of a path, as text; the whole path when it has none.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// What an image is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ImageKind {
    /// One module; whatever the command, this is what runs.
    Module {
        /// Digest of the module.
        module: Digest,
    },
    /// A root file system; the command says which file of it is the module.
    Filesystem,
}

/// User and password for a registry. Its `Debug` shows the user only.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credential {
    /// User name; empty when `password` is an identity token (OAuth 2 refresh token).
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("username", &self.username).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_references_are_told_apart_by_their_beginning() {
        for (text, path) in [
            ("./hello.wasm", true),
            ("../hello.wasm", true),
            ("/srv/hello.wasm", true),
            ("hello.wasm", false),
            ("localhost/hello", false),
        ] {
            let name: ImageName = text.parse().unwrap();
            assert_eq!(matches!(name, ImageName::Path(_)), path, "{text}");
        }
        assert!("Hello".parse::<ImageName>().is_err());
    }

    #[test]
    fn urls_and_references_are_told_apart_by_their_scheme() {
        let name = |text: &str| text.parse::<ImageName>();
        assert_eq!(name("oci://r.io/app:v1"), name("r.io/app:v1"));
        assert!(matches!(name("https://r.io/app.wasm"), Ok(ImageName::Url(_))));
        assert!(matches!(name("s3://bucket/app.wasm"), Ok(ImageName::Url(_))));
        for (text, why) in
            [("https://u:hunter2@r.io/x", "a user name"), ("https://r.io/x?sig=hunter2", "a query string")]
        {
            let error = name(text).unwrap_err().to_string();
            assert!(
                error.contains(&format!("couldn't parse image name \"https://r.io/x\": {why}")),
                "{error}"
            );
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(name("oci://./x").is_err() && name("oci://").is_err() && name("gopher://x/y").is_err());
    }

    #[test]
    fn a_credential_does_not_show_its_password() {
        let credential = Credential { username: "u".into(), password: "hunter2".into() };
        assert_eq!(format!("{credential:?}"), r#"Credential { username: "u", .. }"#);
    }
}
