//! What the store writes down of an image and of a name.

use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    error::StoreError,
    image::{Image, ImageKind, ImageName},
    layout::{self, Layout},
    source::FileVersion,
};

/// A complete image, by the digest its names resolve to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) digest: Digest,
    pub(crate) manifest: Digest,
    pub(crate) kind: ImageKind,
    /// Everything of it below `blobs`, each once.
    pub(crate) blobs: Vec<Blob>,
    /// Bytes of the unpacked file system; 0 when there is none.
    pub(crate) unpacked: u64,
    /// Names that were given to it; a name that means another image by now does not count.
    pub(crate) names: Vec<String>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) working_dir: Option<String>,
    pub(crate) user: Option<String>,
    /// When the store first had it, in seconds since 1970; 0 where that was not noted.
    #[serde(default)]
    pub(crate) arrived: u64,
}

/// A file below `blobs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

/// Which image a name means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Name {
    pub(crate) name: String,
    pub(crate) digest: Digest,
    /// It was given to nobody's credentials: everybody may have it.
    #[serde(default)]
    pub(crate) public: bool,
    /// What the source of a file calls this version of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<FileVersion>,
}

/// All records of a store.
#[derive(Debug, Default)]
pub(crate) struct ModuleRecords {
    pub(crate) intact: Vec<Record>,
    /// Some record could not be understood.
    pub(crate) damaged: bool,
}

impl Record {
    /// Reads all records, of complete and of incomplete images.
    pub(crate) fn all(layout: &Layout) -> Result<ModuleRecords, StoreError> {
        let mut records = ModuleRecords::default();
        for path in layout::children(&layout.images())? {
            match layout.read::<Self>(&path)? {
                Some(record) => records.intact.push(record),
                None => records.damaged |= path.exists(),
            }
        }
        Ok(records)
    }

    /// The record that `name` leads to, if it is there and all its files are.
    pub(crate) fn find(layout: &Layout, name: &str) -> Result<Option<Self>, StoreError> {
        let Some(digest) = resolve(layout, name)? else {
            return Ok(None);
        };
        let record: Option<Self> = layout.read(&layout.image(&digest))?;
        Ok(record.filter(|record| record.digest == digest && record.is_complete(layout)))
    }

    /// True when every blob is there with its size, and so is the file system.
    pub(crate) fn is_complete(&self, layout: &Layout) -> bool {
        let has_blob = |blob: &Blob| blob.is_in(layout);
        let has_root = match self.kind {
            ImageKind::Module { .. } => true,
            ImageKind::Filesystem => layout.rootfs(&self.manifest).is_dir(),
        };
        has_root && self.blobs.iter().all(has_blob)
    }

    /// Leaves only the names that mean this image, digests first.
    pub(crate) fn settle_names(&mut self, layout: &Layout) -> Result<(), StoreError> {
        let mut names = Vec::with_capacity(self.names.len());
        for name in std::mem::take(&mut self.names) {
            if resolve(layout, &name)? == Some(self.digest) {
                names.push(name);
            }
        }
        names.sort_by_key(|name| !is_digest_name(name));
        self.names = names;
        Ok(())
    }

    /// The image, asked for as `reference`.
    pub(crate) fn into_image(self, reference: ImageName) -> Image {
        let packed: u64 = self.blobs.iter().map(|blob| blob.size).sum();
        Image {
            reference,
            digest: self.digest,
            manifest: self.manifest,
            names: self.names,
            size_bytes: packed.saturating_add(self.unpacked),
            entrypoint: self.entrypoint,
            cmd: self.cmd,
            env: self.env,
            working_dir: self.working_dir,
            user: self.user,
            kind: self.kind,
        }
    }
}

impl Blob {
    /// True when the store has it. Its content was checked when it came; a size that differs means that the
    /// disk lost something since.
    pub(crate) fn is_in(&self, layout: &Layout) -> bool {
        std::fs::metadata(layout.blob(&self.digest)).is_ok_and(|metadata| metadata.len() == self.size)
    }
}

impl Name {
    /// What is written of `name`, if anything.
    pub(crate) fn read(layout: &Layout, name: &str) -> Result<Option<Self>, StoreError> {
        let record: Option<Self> = layout.read(&layout.name(name))?;
        Ok(record.filter(|record| record.name == name))
    }
}

/// Which image `name` means now.
pub(crate) fn resolve(layout: &Layout, name: &str) -> Result<Option<Digest>, StoreError> {
    Ok(Name::read(layout, name)?.map(|record| record.digest))
}

/// True for `repository@sha256:…` and `https://…@sha256:…`, false for `repository:tag`, other URLs and paths.
pub(crate) fn is_digest_name(name: &str) -> bool {
    !name.starts_with('/')
        && name.rsplit_once('@').is_some_and(|(_, digest)| digest.contains(':') && !digest.contains('/'))
}
