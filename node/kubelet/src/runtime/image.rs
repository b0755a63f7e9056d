//! Images, as a provider keeps and fetches them.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::RuntimeCause;

/// An image in the local store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `repository@sha256:…`: what `imageID` says.
    pub id: String,
    /// The reference as the store resolved it, with registry and tag (`docker.io/library/x:latest`).
    pub reference: String,
    /// Bytes that the image takes in the store.
    pub size_bytes: u64,
    /// All names under which the store knows the image, digests first, for `status.images`.
    pub names: Vec<String>,
    /// The image's ENTRYPOINT; for an artifact that is a module alone, one name for the module.
    pub entrypoint: Vec<String>,
    /// The image's CMD.
    pub cmd: Vec<String>,
    /// The image's environment, in order.
    pub env: Vec<(String, String)>,
    /// The image's WORKDIR.
    pub working_dir: Option<String>,
}

/// An image in the local store, with what is known of its use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUse {
    /// The image.
    pub image: Image,
    /// When the store first had it.
    pub arrived_at: Timestamp,
    /// When it was last pulled, looked up, or used by a container.
    pub last_used_at: Timestamp,
    /// A container uses it, as its image or as a volume.
    pub in_use: bool,
}

/// An image that its registry has been asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledImage {
    /// The image, which is in the local store now.
    pub image: Image,
    /// Position, among the credentials of [`Runtime::pull`], of the one that was used; `None`: nobody's.
    pub credential: Option<usize>,
}

impl From<Image> for PulledImage {
    /// It was pulled with nobody's credentials.
    fn from(image: Image) -> Self {
        Self { image, credential: None }
    }
}

/// User and password for a registry. Its `Debug` shows neither password nor token.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// User name; empty when `password` is an identity token.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Why an image is not there. Each variant is one waiting reason of the contract.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Not an image reference: waiting reason `InvalidImageName`. Does not pass with time.
    #[error(transparent)]
    InvalidName(RuntimeCause),
    /// The registry answered and said no, or what it sent was wrong: `ErrImagePull`.
    #[error(transparent)]
    Pull(RuntimeCause),
    /// The registry did not answer: `RegistryUnavailable`.
    #[error(transparent)]
    RegistryUnavailable(RuntimeCause),
    /// The node's policy for signatures does not take the image: `SignatureValidationFailed`. Of an image that is
    /// here, a pull may find the signature that is missing.
    #[error(transparent)]
    SignatureInvalid(RuntimeCause),
    /// The local store failed: `ImageInspectError`.
    #[error(transparent)]
    Store(RuntimeCause),
}
