//! Looking at the files of static pods, and reading them.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Bytes that a file may have; upstream's number.
const LIMIT: u64 = 10 << 20;

/// Metadata by which a change of a file is noticed without reading it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Seconds and nanoseconds since 1970.
    pub(super) modified: (i64, i64),
    pub(super) length: u64,
    pub(super) inode: u64,
}

/// The files at `path`: those in it, if it is a directory, without files that begin with a dot and without
/// directories; itself, if it is a file; none, if there is nothing.
///
/// # Errors
/// When it cannot be told what is there.
pub(super) fn look(path: &Path) -> io::Result<BTreeMap<PathBuf, Stamp>> {
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        other => other?,
    };
    if metadata.is_file() {
        return Ok(BTreeMap::from([(path.to_owned(), stamp(&metadata))]));
    }
    if !metadata.is_dir() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a directory nor a file"));
    }
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        // Links are followed: a mounted ConfigMap is made of them.
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => found.insert(path, stamp(&metadata)),
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            // It is there, and reading it will say what is wrong with it.
            Err(_) => found.insert(path, Stamp::default()),
        };
    }
    Ok(found)
}

fn stamp(metadata: &fs::Metadata) -> Stamp {
    Stamp {
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        length: metadata.len(),
        inode: metadata.ino(),
    }
}

/// The text of a file. The error is a sentence that does not name the file.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let cannot = |error: io::Error| format!("cannot be read: {error}");
    let mut bytes = Vec::new();
    fs::File::open(path).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes)).map_err(cannot)?;
    if bytes.len() as u64 > LIMIT {
        return Err(format!("more than {LIMIT} bytes are too much for a pod"));
    }
    String::from_utf8(bytes).map_err(|error| format!("is not text: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let found = look(path).unwrap();
        found.keys().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_folder_is_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        for name in ["b.yaml", "a.json", ".hidden.yaml", "noext"] {
            fs::write(path.join(name), "x").unwrap();
        }
        fs::create_dir(path.join("below")).unwrap();
        fs::write(path.join("below/c.yaml"), "x").unwrap();
        symlink(path.join("below/c.yaml"), path.join("link.yaml")).unwrap();
        symlink(path.join("nowhere"), path.join("dangling.yaml")).unwrap();
        symlink(path.join("itself.yaml"), path.join("itself.yaml")).unwrap();
        assert_eq!(names(path), ["a.json", "b.yaml", "itself.yaml", "link.yaml", "noext"]);
        assert!(read(&path.join("itself.yaml")).unwrap_err().starts_with("cannot be read"));
    }

    #[test]
    fn a_file_is_itself_and_nothing_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pod.yaml");
        assert_eq!(look(&path).unwrap(), BTreeMap::new());
        fs::write(&path, "x").unwrap();
        assert_eq!(names(&path), ["pod.yaml"]);
        assert_eq!(look(&path).unwrap()[&path].length, 1);
        assert!(look(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn a_change_changes_the_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pod.yaml");
        fs::write(&path, "x").unwrap();
        let before = look(&path).unwrap();
        fs::write(folder.path().join("new"), "y").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_ne!(look(&path).unwrap(), before);
    }

    #[test]
    fn what_is_too_much_or_no_text_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pod.yaml");
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(read(&path).unwrap_err().starts_with("is not text"));
        fs::File::create(&path).unwrap().set_len(LIMIT + 1).unwrap();
        assert!(read(&path).unwrap_err().contains("too much"));
        fs::write(&path, "x").unwrap();
        assert_eq!(read(&path).as_deref(), Ok("x"));
    }
}
