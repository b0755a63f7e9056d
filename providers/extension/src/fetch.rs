//! Modules of extensions: fetched through the module store, and looked at before anybody gets them.
//!
//! ```text
//!   ImageSpec ─[source]─► ModuleRequest ─► Store of the namespace ─► bytes ─[proxy_wasm]─► FetchedModule
//!                                              │ limits, digests, HTTP status, signatures
//!                                              └ what is not what was asked for is not kept
//! ```
//!
//! Each namespace has a store of its own, and one more for each bundle of authorities: what one tenant had credentials for, or
//! trusted an authority for, is nothing that another one can name. Bytes in memory are shared by all, by their digest.

pub mod proxy_wasm;
pub mod source;
mod stores;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use bytes::Bytes;
use kubewasm_modules::{
    Credential, Digest, Hold, Image, ImageKind, ImageName, ModuleError, PullFailure, Store, StoreError,
    StoreOptions,
};
use tokio::{io::AsyncReadExt as _, sync::Semaphore};

use self::{
    proxy_wasm::{AbiVersion, NotProxyWasm, abi_version},
    source::ModuleRequest,
    stores::Stores,
};
use crate::{resource::InlineModule, wasm_extension::PullPolicy};

/// Modules that are fetched and looked at, at the same time: each is in memory once more meanwhile.
const AT_ONCE: usize = 8;
/// The module of an image that is a file system, [as the compat variant of the image specification has
/// it](https://github.com/solo-io/wasm/blob/master/spec/spec-compat.md).
const COMPAT_MODULE: &str = "/plugin.wasm";
/// Files of an image that is a file system: a license, a module, and what else comes along.
const ENTRY_LIMIT: u64 = 4096;

/// Why there is no module. Each is a reason in a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchReason {
    /// The image cannot be asked for as it is described.
    InvalidImage,
    /// The Secret with credentials is missing, or of no use.
    PullSecretUnusable,
    /// The source does not have it.
    NotFound,
    /// The source refuses.
    Denied,
    /// The source does not answer, or not in whole.
    Unavailable,
    /// It is larger than this server takes.
    TooLarge,
    /// The source has something that is no module at all.
    NotWasm,
    /// It is WebAssembly, but no filter.
    NotProxyWasm,
    /// It is not what the digest says.
    DigestMismatch,
    /// A signature is asked for that is not there.
    SignatureInvalid,
    /// What its operator has configured for the source cannot be used.
    Misconfigured,
    /// This machine could not keep it.
    StoreFailed,
}

impl FetchReason {
    /// As conditions and Events have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidImage => "InvalidImage",
            Self::PullSecretUnusable => "PullSecretUnusable",
            Self::NotFound => "NotFound",
            Self::Denied => "Denied",
            Self::Unavailable => "Unavailable",
            Self::TooLarge => "TooLarge",
            Self::NotWasm => "NotWasm",
            Self::NotProxyWasm => "NotProxyWasm",
            Self::DigestMismatch => "DigestMismatch",
            Self::SignatureInvalid => "SignatureInvalid",
            Self::Misconfigured => "Misconfigured",
            Self::StoreFailed => "StoreFailed",
        }
    }

    /// Whether it came, and was then found to be something else than what was asked for.
    #[must_use]
    pub fn is_of_verification(self) -> bool {
        matches!(self, Self::NotWasm | Self::NotProxyWasm | Self::DigestMismatch | Self::SignatureInvalid)
    }

    /// Whether trying again is in vain until somebody changes the extension or a Secret.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::InvalidImage | Self::PullSecretUnusable)
    }
}

/// Why there is no module, for people too.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FetchFailure {
    /// Why.
    pub reason: FetchReason,
    /// In a sentence, with nothing secret in it.
    pub message: String,
}

impl FetchFailure {
    pub(crate) fn new(reason: FetchReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl From<PullFailure> for FetchFailure {
    fn from(failure: PullFailure) -> Self {
        use FetchReason::{
            Denied, DigestMismatch, Misconfigured, NotFound, NotWasm, SignatureInvalid, StoreFailed,
            TooLarge, Unavailable,
        };
        let reason = match &failure {
            PullFailure::Unavailable(_) => Unavailable,
            PullFailure::Denied(_) => Denied,
            PullFailure::NotFound(_) => NotFound,
            PullFailure::Mismatch(_) => DigestMismatch,
            PullFailure::SignatureInvalid(_) => SignatureInvalid,
            PullFailure::Unsupported(_) | PullFailure::EmptyLayer(_) | PullFailure::Malformed(_) => NotWasm,
            PullFailure::TooLarge(_) => TooLarge,
            PullFailure::Configuration(_) => Misconfigured,
            PullFailure::Store(_) => StoreFailed,
        };
        Self::new(reason, failure.to_string())
    }
}

impl From<StoreError> for FetchFailure {
    fn from(error: StoreError) -> Self {
        let reason = match &error {
            StoreError::SignatureInvalid { .. } => FetchReason::SignatureInvalid,
            _ => FetchReason::StoreFailed,
        };
        Self::new(reason, error.to_string())
    }
}

impl From<ModuleError> for FetchFailure {
    fn from(error: ModuleError) -> Self {
        let reason = match &error {
            ModuleError::Store { .. } => FetchReason::StoreFailed,
            _ => FetchReason::NotWasm,
        };
        Self::new(reason, error.to_string())
    }
}

impl From<NotProxyWasm> for FetchFailure {
    fn from(error: NotProxyWasm) -> Self {
        let reason = match &error {
            NotProxyWasm::NotWasm(_) => FetchReason::NotWasm,
            NotProxyWasm::OtherKind(_) | NotProxyWasm::UnknownAbi(_) => FetchReason::NotProxyWasm,
        };
        Self::new(reason, error.to_string())
    }
}

/// A filter's bytes. All extensions of one digest have the same.
#[derive(Debug)]
pub struct FilterModule {
    /// That of the bytes.
    pub digest: Digest,
    /// The ABI that it is for.
    pub abi: AbiVersion,
    /// The bytes.
    pub inline: InlineModule,
}

impl FilterModule {
    /// Bytes that it has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.inline.bytes().len() as u64
    }
}

/// A module that was fetched. While it lives, it is not removed from the store.
#[derive(Clone)]
pub struct FetchedModule {
    /// What it is.
    pub module: Arc<FilterModule>,
    _hold: Option<Hold>,
}

impl FetchedModule {
    /// One that is in no store.
    #[cfg(test)]
    pub(crate) fn in_memory(bytes: &[u8]) -> Self {
        let module = FilterModule {
            digest: Digest::of(bytes),
            abi: AbiVersion::V0_2_1,
            inline: InlineModule::new(Bytes::copy_from_slice(bytes)),
        };
        Self { module: Arc::new(module), _hold: None }
    }
}

impl fmt::Debug for FetchedModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FetchedModule").field(&self.module.digest).finish()
    }
}

impl PartialEq for FetchedModule {
    fn eq(&self, other: &Self) -> bool {
        self.module.digest == other.module.digest
    }
}

/// How modules are fetched.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// Where stores are kept.
    pub root: PathBuf,
    /// Of each store; the limits of sizes are [`FetchOptions::max_bytes`]'. Files are taken from its `file_directories`.
    pub store: StoreOptions,
    /// Bytes that a module may have.
    pub max_bytes: u64,
}

/// Fetches modules.
#[derive(Debug)]
pub struct ModuleFetcher {
    stores: Stores,
    directories: Vec<PathBuf>,
    max_bytes: u64,
    permits: Semaphore,
    modules: Mutex<HashMap<Digest, Weak<FilterModule>>>,
}

impl ModuleFetcher {
    /// One that has fetched nothing yet.
    #[must_use]
    pub fn new(options: FetchOptions) -> Self {
        let FetchOptions { root, mut store, max_bytes } = options;
        store.layer_limit = max_bytes;
        // Packed, a module may be beside a little else, and what is packed is larger when it is not.
        store.image_limit = max_bytes.saturating_mul(2);
        store.entry_limit = ENTRY_LIMIT;
        Self {
            directories: store.file_directories.clone(),
            stores: Stores::new(root, store),
            max_bytes,
            permits: Semaphore::new(AT_ONCE),
            modules: Mutex::default(),
        }
    }

    /// Directories of this machine that modules may be in.
    #[must_use]
    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// Fetches a module for an extension of this namespace. Credentials are tried in order, then none.
    ///
    /// # Errors
    /// [`FetchFailure`]; nothing of what came is kept then.
    pub async fn fetch(
        &self,
        namespace: &str,
        request: &ModuleRequest,
        credentials: &[Credential],
    ) -> Result<FetchedModule, FetchFailure> {
        let _permit = self
            .permits
            .acquire()
            .await
            .map_err(|_| FetchFailure::new(FetchReason::Unavailable, "the server is stopping"))?;
        let store = self.stores.open(namespace, request.ca_bundle.as_deref()).await?;
        let name = &request.name;
        let present = match request.policy {
            // One that the policy for signatures does not take as it is may be made good by a pull.
            PullPolicy::IfNotPresent => store.get(name).unwrap_or_default(),
            PullPolicy::Always => None,
        };
        let image = match present {
            Some(image) => image,
            None => self.pull(&store, name, credentials).await?,
        };
        match self.examine(&store, &image, request.digest).await {
            Ok(module) => Ok(FetchedModule { module, _hold: Some(store.hold(&image)?) }),
            Err(failure) => {
                if failure.reason != FetchReason::StoreFailed {
                    discard(store, image).await;
                }
                Err(failure)
            }
        }
    }

    /// What was fetched before under this name, where the source cannot be asked now.
    pub async fn kept(&self, namespace: &str, request: &ModuleRequest) -> Option<FetchedModule> {
        let store = self.stores.open(namespace, request.ca_bundle.as_deref()).await.ok()?;
        let image = store.get(&request.name).ok()??;
        let module = self.examine(&store, &image, request.digest).await.ok()?;
        Some(FetchedModule { module, _hold: Some(store.hold(&image).ok()?) })
    }

    async fn pull(
        &self,
        store: &Store,
        name: &ImageName,
        credentials: &[Credential],
    ) -> Result<Image, FetchFailure> {
        match store.pull(name, credentials, None).await {
            Ok(fetched) => Ok(fetched.image),
            Err(error) => match error.reason {
                PullFailure::TooLarge(_) => Err(self.too_large()),
                reason => Err(reason.into()),
            },
        }
    }

    fn too_large(&self) -> FetchFailure {
        FetchFailure::new(
            FetchReason::TooLarge,
            format!(
                "it has more than {} bytes, which is this server's limit for a module (--max-module-bytes)",
                self.max_bytes
            ),
        )
    }

    /// Looks at what a store has.
    async fn examine(
        &self,
        store: &Store,
        image: &Image,
        wanted: Option<Digest>,
    ) -> Result<Arc<FilterModule>, FetchFailure> {
        let module = match image.kind {
            ImageKind::Module { .. } => {
                let command = image.entrypoint.first().map_or("module", String::as_str);
                store.module(image, command).await?
            }
            ImageKind::Filesystem => store.module(image, COMPAT_MODULE).await?,
        };
        if let Some(wanted) = wanted
            && wanted != module.digest
        {
            return Err(FetchFailure::new(
                FetchReason::DigestMismatch,
                format!("the module has the digest {}, and {wanted} is wanted", module.digest),
            ));
        }
        if let Some(known) = self.known(&module.digest) {
            return Ok(known);
        }
        let bytes = self.read(&module.path).await?;
        let digest = module.digest;
        let looked = tokio::task::spawn_blocking(move || {
            if Digest::of(&bytes) != digest {
                let message = "the file in the store has changed since it came".to_owned();
                return Err(FetchFailure::new(FetchReason::StoreFailed, message));
            }
            Ok(FilterModule { digest, abi: abi_version(&bytes)?, inline: InlineModule::new(bytes) })
        });
        let module = looked
            .await
            .map_err(|_| FetchFailure::new(FetchReason::Unavailable, "the server is stopping"))??;
        Ok(self.share(module))
    }

    async fn read(&self, path: &Path) -> Result<Bytes, FetchFailure> {
        let failed = |error: std::io::Error| {
            FetchFailure::new(FetchReason::StoreFailed, format!("cannot read {}: {error}", path.display()))
        };
        let file = tokio::fs::File::open(path).await.map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(self.max_bytes.saturating_add(1)).read_to_end(&mut bytes).await.map_err(failed)?;
        if bytes.len() as u64 > self.max_bytes {
            return Err(self.too_large());
        }
        Ok(bytes.into())
    }

    fn known(&self, digest: &Digest) -> Option<Arc<FilterModule>> {
        self.modules.lock().unwrap_or_else(PoisonError::into_inner).get(digest)?.upgrade()
    }

    /// The one that is shared: this, or another one that was quicker.
    fn share(&self, module: FilterModule) -> Arc<FilterModule> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        modules.retain(|_, module| module.strong_count() > 0);
        if let Some(there) = modules.get(&module.digest).and_then(Weak::upgrade) {
            return there;
        }
        let module = Arc::new(module);
        modules.insert(module.digest, Arc::downgrade(&module));
        module
    }

    /// Removes what nobody uses any more from disk: modules of former versions, and all of namespaces that are not among these.
    pub async fn sweep(&self, namespaces: BTreeSet<String>) {
        self.stores.sweep(namespaces).await;
    }
}

/// Takes an image out of the store that is not what was asked for. Another extension may have it for what it is.
async fn discard(store: Store, image: Image) {
    let removed = tokio::task::spawn_blocking(move || match store.remove(&image.reference) {
        Err(StoreError::InUse { .. } | StoreError::Absent { .. }) | Ok(()) => {}
        Err(error) => tracing::warn!(%error, "cannot remove a module that is not to be kept"),
    });
    // It is lost at the end of the process alone.
    let _ = removed.await;
}

#[cfg(test)]
mod tests;
