//! What each sandbox was made with, on disk before it is made: one file for each, by the id of its sandbox.
//!
//! Files are replaced by renaming, so that a reader sees the old or the new one whatever happens to the agent. They are not
//! synced to the device: what they tell of does not outlive the machine. They hold what a network's configuration holds, and
//! are for root alone.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{attachment::Attachment, config::NetworkConfig, error::SandboxError, result::AddResult};

/// Ending of the files that are records, and of those that are being written.
const ENDING: &str = "json";
const UNFINISHED: &str = "new";

/// One sandbox.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    pub(crate) attachment: Attachment,
    /// The configuration of the time.
    pub(crate) network: NetworkConfig,
    /// Where its namespace is mounted.
    pub(crate) namespace: PathBuf,
    /// What has come of it. Without one, it was begun, and may be half there.
    pub(crate) added: Option<AddResult>,
}

/// The directory of records.
#[derive(Clone, Debug)]
pub(crate) struct SandboxRecords {
    dir: PathBuf,
}

impl SandboxRecords {
    /// Opens it, makes it if need be, and removes what was not written to its end. Blocks.
    pub(crate) fn open(dir: &Path) -> Result<Self, SandboxError> {
        let open = || {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            for path in paths(dir, UNFINISHED)? {
                fs::remove_file(path)?;
            }
            Ok(Self { dir: dir.to_owned() })
        };
        open().map_err(at(dir))
    }

    /// All of them. One that cannot be read is told of and left out; its sandbox stays. Blocks.
    pub(crate) fn all(&self) -> Result<Vec<SandboxRecord>, SandboxError> {
        let mut all = Vec::new();
        for path in paths(&self.dir, ENDING).map_err(at(&self.dir))? {
            match read(&path) {
                Ok(record) => all.extend(record),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "the record of a sandbox cannot be read");
                }
            }
        }
        Ok(all)
    }

    /// That of a sandbox, if there is one. Blocks.
    pub(crate) fn get(&self, id: &str) -> Result<Option<SandboxRecord>, SandboxError> {
        let path = self.path(id, ENDING);
        read(&path).map_err(at(&path))
    }

    /// Writes one, or another one in its place. Blocks.
    pub(crate) fn put(&self, record: &SandboxRecord) -> Result<(), SandboxError> {
        let id = &record.attachment.container_id;
        let (path, unfinished) = (self.path(id, ENDING), self.path(id, UNFINISHED));
        let write = || {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            fs::rename(&unfinished, &path)
        };
        write().map_err(at(&path))
    }

    /// Removes one. It may be gone already. Blocks.
    pub(crate) fn remove(&self, id: &str) -> Result<(), SandboxError> {
        let path = self.path(id, ENDING);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&path)(error)),
            _ => Ok(()),
        }
    }

    /// Ids are hexadecimal digits.
    fn path(&self, id: &str, ending: &str) -> PathBuf {
        self.dir.join(format!("{id}.{ending}"))
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> SandboxError {
    let path = path.to_owned();
    move |source| SandboxError::Record { path, source }
}

fn read(path: &Path) -> io::Result<Option<SandboxRecord>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes?,
    };
    // What serde says may show what it has read.
    let wrong = |error: serde_json::Error| {
        let place =
            format!("no record of a sandbox: error in line {}, column {}", error.line(), error.column());
        io::Error::new(io::ErrorKind::InvalidData, place)
    };
    serde_json::from_slice(&bytes).map(Some).map_err(wrong)
}

fn paths(dir: &Path, ending: &str) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(dir)?.map(|entry| Ok(entry?.path()));
    let paths: Vec<_> = paths.collect::<io::Result<_>>()?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|found| found == ending)).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::{
        attachment::{PodName, SandboxRequest},
        config,
    };

    fn record(uid: &str) -> SandboxRecord {
        let pod = PodName { uid: uid.to_owned(), ..PodName::default() };
        let network = br#"{"cniVersion": "1.0.0", "name": "n", "type": "bridge", "mtu": 1400}"#;
        SandboxRecord {
            attachment: Attachment::of(&SandboxRequest { pod, ..SandboxRequest::default() }).unwrap(),
            network: config::single(network).unwrap(),
            namespace: "/run/netns/cni-1".into(),
            added: None,
        }
    }

    #[test]
    fn records_are_what_was_written_down() {
        let dir = tempfile::tempdir().unwrap();
        let records = SandboxRecords::open(&dir.path().join("cni")).unwrap();
        let begun = record("a");
        let id = &begun.attachment.container_id.clone();
        assert_eq!(records.get(id).unwrap(), None);
        records.put(&begun).unwrap();
        assert_eq!(records.get(id).unwrap().as_ref(), Some(&begun));
        let done = SandboxRecord { added: Some(AddResult::new()), ..begun };
        records.put(&done).unwrap();
        records.put(&record("b")).unwrap();
        assert_eq!(records.get(id).unwrap().as_ref(), Some(&done));
        assert_eq!(records.all().unwrap().len(), 2);
        let mode = fs::metadata(records.path(id, ENDING)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        records.remove(id).unwrap();
        records.remove(id).unwrap();
        assert_eq!(records.get(id).unwrap(), None);
    }

    #[test]
    fn what_was_not_written_to_its_end_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let records = SandboxRecords::open(dir.path()).unwrap();
        fs::write(records.path("ab", UNFINISHED), "{").unwrap();
        fs::write(records.path("cd", ENDING), "{\"password\": hunter2}").unwrap();
        let records = SandboxRecords::open(dir.path()).unwrap();
        assert_eq!(records.all().unwrap(), []);
        assert!(!records.path("ab", UNFINISHED).exists());
        let error = records.get("cd").unwrap_err().to_string();
        assert!(
            error.contains("cd.json") && error.contains("line 1") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
