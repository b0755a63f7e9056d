//! What `-o json` prints. Fields are added, and never removed or given another meaning; `docs/user-guide.md` has them.

use jiff::Timestamp;
use kubewasm_host::inspect::ModuleForm;
use kubewasm_modules::{Digest, Image, ImageKind, ImageUse};
use serde::Serialize;

/// An image of the store.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImageShape {
    pub(super) reference: String,
    pub(super) digest: Digest,
    /// Of the manifest that was chosen, where `digest` is that of an index.
    manifest: Digest,
    names: Vec<String>,
    /// `module` or `filesystem`.
    kind: &'static str,
    pub(super) size_bytes: u64,
}

impl From<&Image> for ImageShape {
    fn from(image: &Image) -> Self {
        Self {
            reference: image.reference.to_string(),
            digest: image.digest,
            manifest: image.manifest,
            names: image.names.clone(),
            kind: match image.kind {
                ImageKind::Module { .. } => "module",
                ImageKind::Filesystem => "filesystem",
            },
            size_bytes: image.size_bytes,
        }
    }
}

/// `ls`
#[derive(Debug, Serialize)]
pub(super) struct ListShape {
    pub(super) images: Vec<UseShape>,
}

/// An image and its use.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UseShape {
    #[serde(flatten)]
    pub(super) image: ImageShape,
    arrived_at: Option<Timestamp>,
    pub(super) last_used_at: Option<Timestamp>,
    /// A container has it, as its image or as a volume.
    pub(super) in_use: bool,
}

impl From<&ImageUse> for UseShape {
    fn from(used: &ImageUse) -> Self {
        Self {
            image: ImageShape::from(&used.image),
            arrived_at: Timestamp::try_from(used.arrived_at).ok(),
            last_used_at: Timestamp::try_from(used.last_used_at).ok(),
            in_use: used.held,
        }
    }
}

/// `push`
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PushShape {
    pub(super) reference: String,
    /// Of the manifest.
    pub(super) digest: Digest,
    /// Of the module.
    pub(super) module: Digest,
    /// Of the module.
    pub(super) size_bytes: u64,
}

/// `inspect`
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InspectShape {
    /// `null` for a file.
    pub(super) image: Option<ImageShape>,
    /// The key that has signed it, as the policy names it; `null` where no policy asks for that.
    pub(super) signed_by: Option<String>,
    pub(super) module: SurfaceShape,
    pub(super) precompiled: Vec<PrecompiledShape>,
}

/// A module.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SurfaceShape {
    pub(super) digest: Digest,
    pub(super) size_bytes: u64,
    pub(super) form: ModuleForm,
    /// How it is run; `null` when it is not.
    pub(super) kind: Option<String>,
    /// Why it is not run.
    pub(super) problem: Option<String>,
    pub(super) imports: Vec<String>,
    pub(super) exports: Vec<String>,
}

/// A compiled form of a module.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PrecompiledShape {
    /// Names the engine, its settings and the processor.
    pub(super) key: String,
    pub(super) size_bytes: u64,
    /// It is for this program and this machine.
    pub(super) current: bool,
    /// What the policy called the key by which it was trusted, of a form that was fetched; `null` for one that was
    /// compiled here.
    pub(super) signed_by: Option<String>,
}

/// `rm` and `prune`
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RemovedShape {
    pub(super) removed: Vec<ImageShape>,
}

/// `precompile`
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CompiledShape {
    pub(super) reference: String,
    /// Of the module.
    pub(super) module: Digest,
    pub(super) kind: String,
    pub(super) key: String,
    /// Of the compiled form.
    pub(super) size_bytes: u64,
    /// Digest of the manifest that was pushed, which is what is to be signed; `null` without `--push`.
    pub(super) pushed: Option<Digest>,
}
