//! Opening files where somebody else may have put a link.

use std::{
    fs::File,
    io,
    os::{fd::BorrowedFd, unix::fs::MetadataExt as _},
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};

/// As [`open_plain`]; a relative path is that of a directory which is open, and stays below it.
///
/// # Errors
/// As there; `CrossesDevices` for a path that leads out of the directory.
pub fn open_plain_at(dir: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> io::Result<File> {
    open(dir, path, flags, mode, ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH)
}

/// Opens a file no part of whose path is a symbolic link, and which has no other name. Anything but a regular file
/// is refused, and nobody is waited for (a pipe would have us wait). With `OFlags::CREATE` the file is made with
/// `mode`.
///
/// # Errors
/// Says so when there is a link, or no plain file; what the system says otherwise.
pub fn open_plain(path: &Path, flags: OFlags, mode: Mode) -> io::Result<File> {
    open(CWD, path, flags, mode, ResolveFlags::NO_SYMLINKS)
}

fn open(
    dir: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> io::Result<File> {
    // Without a file to make, the kernel takes no mode.
    let mode = if flags.contains(OFlags::CREATE) { mode } else { Mode::empty() };
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match openat2(dir, path, flags, mode, resolve) {
        Err(Errno::LOOP) => {
            return Err(io::Error::other("a part of its path is a symbolic link, which is not followed"));
        }
        other => File::from(other?),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    // None at all: it was removed meanwhile.
    if metadata.nlink() > 1 {
        return Err(io::Error::other("it is a hard link: another name means the same file"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{Read as _, Write as _},
        os::unix::fs::symlink,
    };

    use super::*;

    #[test]
    fn links_and_all_that_is_no_file_are_refused() {
        let dir = crate::testing::folder();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("secret"), "secret").unwrap();
        fs::write(root.join("d/plain"), "plain").unwrap();
        symlink("../secret", root.join("d/link")).unwrap();
        symlink(root.join("d"), root.join("way")).unwrap();
        fs::hard_link(root.join("secret"), root.join("d/hard")).unwrap();
        rustix::fs::mknodat(CWD, root.join("d/pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        let append = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE;
        for flags in [OFlags::RDONLY, append] {
            for (name, part) in [
                ("d/link", "symbolic link"),
                ("way/plain", "symbolic link"),
                ("d/hard", "hard link"),
                ("d/pipe", "no regular file"),
            ] {
                let error = open_plain(&root.join(name), flags, Mode::RWXU).unwrap_err().to_string();
                assert!(error.contains(part), "{name}: {error}");
            }
            assert!(open_plain(&root.join("d"), flags, Mode::RWXU).is_err());
        }
        let mut text = String::new();
        let mut plain = open_plain(&root.join("d/plain"), OFlags::RDONLY, Mode::empty()).unwrap();
        plain.read_to_string(&mut text).unwrap();
        assert_eq!(text, "plain");
        open_plain(&root.join("d/new"), append, Mode::RUSR | Mode::WUSR).unwrap().write_all(b"x").unwrap();
        assert_eq!(fs::read(root.join("d/new")).unwrap(), b"x");
        assert_eq!(fs::read(root.join("secret")).unwrap(), b"secret");
        let absent = open_plain(&root.join("d/none"), OFlags::RDONLY, Mode::empty()).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
    }
}
