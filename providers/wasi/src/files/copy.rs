//! Copies the files of an image, where they cannot be shown below an overlay. Bounded.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use super::FilesError;

/// Most bytes of an image that is copied for each of its containers.
const BYTES_LIMIT: u64 = 1 << 30;
/// Most files, directories and links of such an image.
const ENTRIES_LIMIT: u64 = 100_000;

/// What may still be copied.
#[derive(Debug)]
struct CopyBudget {
    bytes: u64,
    entries: u64,
}

#[derive(Debug)]
enum Failure {
    Io(io::Error),
    Limit(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Copies the directories, files and links below `from`, which nobody changes meanwhile, to the directory `to`.
/// Other things are left out. `why` is told where the image is too large for it.
pub(super) fn tree(from: &Path, to: &Path, why: &str) -> Result<(), FilesError> {
    let mut budget = CopyBudget { bytes: BYTES_LIMIT, entries: ENTRIES_LIMIT };
    directory(from, to, &mut budget).map_err(|failure| match failure {
        Failure::Io(source) => FilesError::Image { path: from.display().to_string(), source },
        Failure::Limit(limit) => FilesError::TooLarge { limit, why: why.to_owned() },
    })
}

/// The depth is that of a path in an image, which is bounded.
fn directory(from: &Path, to: &Path, budget: &mut CopyBudget) -> Result<(), Failure> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        budget.entries = budget
            .entries
            .checked_sub(1)
            .ok_or_else(|| Failure::Limit(format!("{ENTRIES_LIMIT} files and directories")))?;
        let metadata = fs::symlink_metadata(&source)?;
        if metadata.is_dir() {
            let mode = metadata.permissions().mode() & 0o777;
            match fs::DirBuilder::new().mode(mode).create(&target) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
                _ => {}
            }
            fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
            directory(&source, &target, budget)?;
        } else if metadata.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
        } else if metadata.is_file() {
            budget.bytes = budget
                .bytes
                .checked_sub(metadata.len())
                .ok_or_else(|| Failure::Limit(format!("{} MiB", BYTES_LIMIT >> 20)))?;
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_directories_and_links_are_copied_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("bin")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("bin/tool"), "tool").unwrap();
        fs::set_permissions(from.join("bin/tool"), fs::Permissions::from_mode(0o751)).unwrap();
        symlink("/etc/passwd", from.join("bin/link")).unwrap();
        tree(&from, &to, "").unwrap();
        assert_eq!(fs::read(to.join("bin/tool")).unwrap(), b"tool");
        assert_eq!(fs::metadata(to.join("bin/tool")).unwrap().permissions().mode() & 0o777, 0o751);
        assert_eq!(fs::read_link(to.join("bin/link")).unwrap(), Path::new("/etc/passwd"));
    }

    #[test]
    fn an_image_that_is_too_large_is_not_copied() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        fs::File::create(from.join("sparse")).unwrap().set_len(BYTES_LIMIT + 1).unwrap();
        let error = tree(&from, &to, "there can be no overlay").unwrap_err().to_string();
        assert!(error.contains("more than 1024 MiB") && error.contains("there can be no overlay"), "{error}");
        assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
    }
}
