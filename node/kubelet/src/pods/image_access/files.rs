//! Records of pulls on disk: one file each, replaced by renaming, and synced.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use super::record::{ImagePullIntent, ImagePulledRecord, hex};
use crate::config::IMAGE_ACCESS;

/// Bytes of a record; nobody means one larger than this.
const LARGEST: u64 = 1 << 20;
/// What the names of files begin with.
const PREFIX: &str = "sha256-";

/// The two folders.
#[derive(Debug)]
pub(super) struct RecordFiles {
    pulling: PathBuf,
    pulled: PathBuf,
}

impl RecordFiles {
    /// Makes the folders that are missing; only this user may enter them.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let folder = root.join(IMAGE_ACCESS);
        let files = Self { pulling: folder.join("pulling"), pulled: folder.join("pulled") };
        for folder in [&files.pulling, &files.pulled] {
            DirBuilder::new().mode(0o700).recursive(true).create(folder)?;
        }
        Ok(files)
    }

    /// With what the image was pulled; `None`: it was not, as far as is known. An error, too, when there is a file
    /// that cannot be understood.
    pub(super) fn record(&self, id: &str) -> io::Result<Option<ImagePulledRecord>> {
        let record: Option<ImagePulledRecord> = read(&path(&self.pulled, id))?;
        Ok(record.filter(|record| record.image_ref == id))
    }

    pub(super) fn write_record(&self, record: &ImagePulledRecord) -> io::Result<()> {
        write(&path(&self.pulled, &record.image_ref), record)
    }

    pub(super) fn remove_record(&self, id: &str) -> io::Result<()> {
        remove(&path(&self.pulled, id))
    }

    /// Ids of all images that there are records of. Files that cannot be understood are left out.
    pub(super) fn recorded(&self) -> io::Result<Vec<String>> {
        Ok(all::<ImagePulledRecord>(&self.pulled)?.into_iter().map(|record| record.image_ref).collect())
    }

    pub(super) fn write_intent(&self, image: &str) -> io::Result<()> {
        write(&path(&self.pulling, image), &ImagePullIntent::new(image))
    }

    pub(super) fn remove_intent(&self, image: &str) -> io::Result<()> {
        remove(&path(&self.pulling, image))
    }

    /// Images whose pulls are under way, or were when an agent ended.
    pub(super) fn intents(&self) -> io::Result<Vec<String>> {
        Ok(all::<ImagePullIntent>(&self.pulling)?.into_iter().map(|intent| intent.image).collect())
    }
}

fn path(folder: &Path, key: &str) -> PathBuf {
    folder.join(format!("{PREFIX}{}", hex(key.as_bytes())))
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(LARGEST).read_to_end(&mut bytes)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    Ok(Some(serde_json::from_slice(&bytes)?))
}

fn all<T: DeserializeOwned>(folder: &Path) -> io::Result<Vec<T>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        match read(&entry.path()) {
            Ok(record) => found.extend(record),
            Err(error) => {
                tracing::warn!(path = %entry.path().display(), %error, "cannot understand a record of a pull");
            }
        }
    }
    Ok(found)
}

fn write<T: Serialize>(path: &Path, record: &T) -> io::Result<()> {
    let Some(folder) = path.parent() else { return Err(io::ErrorKind::InvalidInput.into()) };
    // One writer at a time, and this name is no record's.
    let new = folder.join(".new");
    let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
