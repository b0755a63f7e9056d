//! Paths inside a root directory: resolved as by a process that has it for its root, and never outside.
//!
//! The directory must not change while a path is resolved: the store's file systems do not change once they
//! are in place, and one that is being unpacked has a single writer.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs, io,
    path::{Component, Path, PathBuf},
};

/// As many links as Linux follows in one path.
const LINKS_LIMIT: usize = 40;

/// What to do with a symbolic link that is the last part of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastLink {
    /// Resolve it, as `open` does.
    Follow,
    /// Take it for what it is, as `lstat` does.
    Keep,
}

/// Resolves `path` (absolute or not, it starts at the root) inside `root`, and returns where it is on the host.
///
/// `..` at the root stays at the root. Parts that do not exist are taken as they are written.
///
/// # Errors
/// `ELOOP` after too many links, and those of looking at the parts (`ENOTDIR`, `EACCES`, `ENAMETOOLONG`).
pub(crate) fn resolve(root: &Path, path: &Path, last: LastLink) -> io::Result<PathBuf> {
    let mut waiting: VecDeque<OsString> = parts(path);
    let mut resolved: Vec<OsString> = Vec::new();
    let mut links = 0;
    while let Some(part) = waiting.pop_front() {
        if part == ".." {
            resolved.pop();
            continue;
        }
        let mut place = root.to_owned();
        place.extend(&resolved);
        place.push(&part);
        let is_link = match fs::symlink_metadata(&place) {
            Ok(metadata) => metadata.is_symlink(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if !is_link || (waiting.is_empty() && last == LastLink::Keep) {
            resolved.push(part);
            continue;
        }
        links += 1;
        if links > LINKS_LIMIT {
            return Err(rustix::io::Errno::LOOP.into());
        }
        let target = fs::read_link(&place)?;
        if target.has_root() {
            resolved.clear();
        }
        for part in parts(&target).into_iter().rev() {
            waiting.push_front(part);
        }
    }
    let mut place = root.to_owned();
    place.extend(resolved);
    Ok(place)
}

/// Names and `..`, without roots and `.`.
fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_and_dots_stay_inside() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("usr/bin")).unwrap();
        fs::write(root.join("usr/bin/tool"), "").unwrap();
        fs::write(directory.path().join("secret"), "").unwrap();
        for (target, link) in [
            ("usr/bin", "bin"),
            ("/usr/bin/tool", "absolute"),
            ("../../../usr/bin/tool", "usr/up"),
            ("tool", "usr/bin/relative"),
            ("../secret", "escape"),
            ("/", "slash"),
            ("loop", "loop"),
            ("usr/bin/", "trailing"),
        ] {
            symlink(target, root.join(link)).unwrap();
        }
        for (path, expected) in [
            ("/bin/tool", "usr/bin/tool"),
            ("bin/relative", "usr/bin/tool"),
            ("absolute", "usr/bin/tool"),
            ("usr/up", "usr/bin/tool"),
            ("escape", "secret"),
            ("../../secret", "secret"),
            ("slash/../bin/./tool", "usr/bin/tool"),
            ("trailing/tool", "usr/bin/tool"),
            ("missing/../bin/tool", "usr/bin/tool"),
            ("", ""),
        ] {
            let found = resolve(&root, Path::new(path), LastLink::Follow).unwrap();
            assert_eq!(found, root.join(expected), "{path}");
        }
        let kept = resolve(&root, Path::new("bin/relative"), LastLink::Keep).unwrap();
        assert_eq!(kept, root.join("usr/bin/relative"));
        let error = resolve(&root, Path::new("loop"), LastLink::Follow).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::LOOP.raw_os_error()));
        assert!(
            resolve(&root, Path::new("absolute/under"), LastLink::Follow).is_err(),
            "a file has no children"
        );
    }
}
