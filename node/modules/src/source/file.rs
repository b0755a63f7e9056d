//! A module in a directory of this machine that the operator has opened for images.

use std::{
    fs::File,
    io::{Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2},
    io::Errno,
};
use tokio::io::AsyncReadExt as _;

use super::{BlobBody, FileVersion, KnownImage, ModuleSource, Part, RemoteFile, Resolution, Target};
use crate::{
    error::{PullFailure, StoreError},
    module_url::ModuleUrl,
};

const CHUNK: usize = 64 << 10;

/// A file below one of the directories that are allowed.
pub(super) struct FileSource {
    directory: PathBuf,
    /// Below the directory.
    file: PathBuf,
}

impl FileSource {
    pub(super) fn new(name: &ModuleUrl, allowed: &[PathBuf]) -> Result<Self, PullFailure> {
        let path = name
            .path()
            .ok_or_else(|| PullFailure::Unsupported("it names no file of this machine".to_owned()))?;
        let below =
            |directory: &PathBuf| Some((directory.clone(), path.strip_prefix(directory).ok()?.to_owned()));
        match allowed.iter().find_map(below) {
            Some((directory, file)) => Ok(Self { directory, file }),
            None => Err(PullFailure::Denied(
                "this node takes no module from that directory; its operator allows one with --allow-image-dir"
                    .to_owned(),
            )),
        }
    }

    fn open(&self) -> Result<File, PullFailure> {
        let path = self.directory.join(&self.file);
        open_beneath(&self.directory, &self.file).map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR => {
                PullFailure::NotFound(format!("there is no file {}", path.display()))
            }
            Errno::XDEV | Errno::LOOP => {
                PullFailure::Denied(format!("{} leads out of the directory that is allowed", path.display()))
            }
            Errno::ISDIR => PullFailure::Malformed(format!("{} is no regular file", path.display())),
            _ => StoreError::io("read", &path)(errno.into()).into(),
        })
    }

    fn body(&self, mut file: File, offset: u64) -> Result<BlobBody, PullFailure> {
        let path = self.directory.join(&self.file);
        file.seek(SeekFrom::Start(offset)).map_err(StoreError::io("read", &path))?;
        let chunks = stream::try_unfold(tokio::fs::File::from_std(file), move |mut file| {
            let path = path.clone();
            async move {
                let mut buffer = vec![0; CHUNK];
                let count = file.read(&mut buffer).await.map_err(StoreError::io("read", &path))?;
                buffer.truncate(count);
                Ok((count > 0).then(|| (Bytes::from(buffer), file)))
            }
        });
        Ok(BlobBody::new(offset, chunks.boxed()))
    }
}

#[async_trait::async_trait]
impl ModuleSource for FileSource {
    async fn resolve(&mut self, known: Option<&KnownImage>) -> Result<Resolution, PullFailure> {
        let file = self.open()?;
        let path = self.directory.join(&self.file);
        let metadata = file.metadata().map_err(StoreError::io("read", &path))?;
        // What a file is replaced by, or written over with, differs in one of these.
        let version = FileVersion::EntityTag(format!(
            "{}-{}-{}-{}.{:09}",
            metadata.dev(),
            metadata.ino(),
            metadata.len(),
            metadata.ctime(),
            metadata.ctime_nsec()
        ));
        let target = if known.is_some_and(|known| known.version.as_ref() == Some(&version)) {
            Target::Unchanged
        } else {
            let (size, body) = (Some(metadata.len()), self.body(file, 0)?);
            Target::File(RemoteFile { size, version: Some(version), body })
        };
        Ok(Resolution { target, credential: None })
    }

    async fn read(&self, _part: Part, offset: u64) -> Result<BlobBody, PullFailure> {
        self.body(self.open()?, offset)
    }
}

/// Opens a regular file below `directory`: no link and no `..` leads out of it. `ISDIR` for what is no regular file.
fn open_beneath(directory: &Path, file: &Path) -> Result<File, Errno> {
    let root =
        rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut resolve = ResolveFlags::NO_MAGICLINKS;
    if directory != Path::new("/") {
        resolve |= ResolveFlags::BENEATH;
    }
    // What is no regular file may keep those waiting who open it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat2(root, file, flags, Mode::empty(), resolve)?;
    match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file.into()),
        _ => Err(Errno::ISDIR),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn nothing_leads_out_of_the_directory() {
        let (inside, outside) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let at = |name: &str| inside.path().join(name);
        fs::write(outside.path().join("secret"), "x").unwrap();
        fs::write(at("file"), "x").unwrap();
        symlink("file", at("near")).unwrap();
        symlink(outside.path().join("secret"), at("far")).unwrap();
        symlink(outside.path(), at("folder")).unwrap();
        symlink("loop", at("loop")).unwrap();
        fs::create_dir(at("dir")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), Mode::RUSR).unwrap();
        for (name, opens) in [
            ("file", true),
            ("near", true),
            ("dir/../file", true),
            ("far", false),
            ("folder/secret", false),
            ("../x", false),
            ("loop", false),
            ("dir", false),
            ("pipe", false),
            ("none", false),
        ] {
            assert_eq!(open_beneath(inside.path(), Path::new(name)).is_ok(), opens, "{name}");
        }
    }
}
