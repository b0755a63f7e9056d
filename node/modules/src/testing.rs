//! What this crate's unit tests share.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::{
    Image, ImageKind, ImageName, Store, StoreOptions,
    digest::Digest,
    record::{Name, Record},
    usage,
};

/// The smallest module there is.
pub(crate) const EMPTY_MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// A store in a directory of its own.
pub(crate) struct Fixture {
    pub(crate) directory: TempDir,
    pub(crate) store: Store,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(StoreOptions::default())
    }

    pub(crate) fn with(options: StoreOptions) -> Self {
        let directory = TempDir::new().unwrap();
        let store = Store::open(&directory.path().join("store"), options).unwrap();
        Self { directory, store }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// A file beside the store.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// A container image, as if it had been pulled as `reference`; `fill` makes its files.
    pub(crate) fn filesystem(&self, reference: &str, fill: impl FnOnce(&Path)) -> Image {
        let digest = Digest::of(reference.as_bytes());
        let root = self.store.inner.layout.rootfs(&digest);
        fs::create_dir(&root).unwrap();
        fill(&root);
        let ImageName::Reference(reference) = reference.parse().unwrap() else { panic!("{reference}") };
        let record = Record {
            digest,
            manifest: digest,
            kind: ImageKind::Filesystem,
            blobs: Vec::new(),
            unpacked: 1,
            names: Vec::new(),
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            env: Vec::new(),
            working_dir: None,
            user: None,
            arrived: usage::now(),
        };
        let names = [reference.key(), reference.key_of(&digest)].map(|name| Name {
            name,
            digest,
            public: false,
            version: None,
        });
        self.store.inner.record(record, &names).unwrap().into_image(reference.into())
    }
}

/// Names of the files below a directory of the store, sorted.
pub(crate) fn files(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
