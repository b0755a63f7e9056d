//! Paths of a guest, which lead nowhere but below the directory that they begin at.
//!
//! The kernel resolves them (`openat2` with `RESOLVE_BENEATH`): neither `..` nor a symbolic link leads out, whatever others
//! rename meanwhile. Calls that take a directory and a name are given the directory that was resolved and the last component,
//! which none of them follows.

use std::{
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat2},
    io::{Errno, Result},
};

use super::inline;

/// Longest path, its end included: `PATH_MAX`.
pub(super) const LONGEST: usize = 4096;
/// How often a path is resolved again that was being renamed. As a kernel that is asked for `..` has it, nobody can keep that
/// up for long.
const ATTEMPTS: u32 = 64;

/// Opens what a path leads to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    pub(super) flags: OFlags,
    /// Of a file that is made.
    pub(super) mode: Mode,
}

impl Opening {
    /// A handle to what is there, which reads nothing of it. A symbolic link at the end is followed, or is what is meant.
    pub(super) fn handle(follow: bool) -> Self {
        let last = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        Self { flags: OFlags::PATH | OFlags::CLOEXEC | last, mode: Mode::empty() }
    }

    fn open(self, from: impl AsFd, path: &CString, more: ResolveFlags) -> Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | more;
        let mut attempts = ATTEMPTS;
        loop {
            match openat2(&from, path.as_c_str(), self.flags, self.mode, resolve) {
                // Where it has to come from a disk, that is the answer, and not that something was renamed.
                Err(Errno::AGAIN) if attempts > 0 && !more.contains(ResolveFlags::CACHED) => attempts -= 1,
                // What would lead out.
                Err(Errno::XDEV) => return Err(Errno::PERM),
                opened => return opened,
            }
        }
    }

    /// Opens what is known to the kernel without a look at the disk: `None` where it is not, or makes something.
    pub(super) fn cached(self, from: impl AsFd, path: &CString) -> Option<Result<OwnedFd>> {
        if self.flags.intersects(OFlags::CREATE | OFlags::TRUNC) {
            return None;
        }
        match self.open(from, path, ResolveFlags::CACHED) {
            // Linux before 5.12 does not know the flag.
            Err(Errno::AGAIN | Errno::INVAL) => None,
            opened => Some(opened),
        }
    }

    /// The same, from wherever it has to come. May wait.
    pub(super) fn blocking(self, from: impl AsFd, path: &CString) -> Result<OwnedFd> {
        self.open(from, path, ResolveFlags::empty())
    }

    /// Opens it, and does something with it at once.
    pub(super) async fn then<T: Send + 'static>(
        self,
        from: &Arc<OwnedFd>,
        path: CString,
        next: impl FnOnce(OwnedFd) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if let Some(opened) = self.cached(from, &path) {
            return next(opened?);
        }
        let from = Arc::clone(from);
        let work = move || next(self.blocking(from, &path)?);
        // What makes a file or cuts one off changes what is in memory, like a write.
        if self.flags.intersects(OFlags::CREATE | OFlags::TRUNC) {
            inline::run(work).await
        } else {
            inline::wait(work).await
        }
    }
}

/// A name in a directory, which the name's own links lead nowhere from.
#[derive(Debug)]
pub(super) struct Entry {
    parent: Parent,
    name: CString,
}

#[derive(Debug)]
enum Parent {
    /// The directory that the path begins at.
    Start(Arc<OwnedFd>),
    /// One below that.
    Below(OwnedFd),
}

impl Entry {
    /// Finds the directory of what a path is about. May wait.
    pub(super) fn find(from: Arc<OwnedFd>, path: &CString) -> Result<Self> {
        let (parent, name) = split(path.as_bytes());
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let Some(parent) = parent else { return Ok(Self { parent: Parent::Start(from), name }) };
        let parent = CString::new(parent).map_err(|_| Errno::INVAL)?;
        let opening =
            Opening { flags: OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, mode: Mode::empty() };
        let below = match opening.cached(&from, &parent) {
            Some(opened) => opened?,
            None => opening.blocking(&from, &parent)?,
        };
        Ok(Self { parent: Parent::Below(below), name })
    }

    /// The directory, and the name in it with the slashes behind it.
    pub(super) fn at(&self) -> (&OwnedFd, &CString) {
        match &self.parent {
            Parent::Start(directory) => (directory, &self.name),
            Parent::Below(directory) => (directory, &self.name),
        }
    }
}

/// The path of the directory, if it is not the one that the path begins at, and the last component with the slashes behind it.
fn split(path: &[u8]) -> (Option<&[u8]>, &[u8]) {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    match path[..end].iter().rposition(|byte| *byte == b'/') {
        // With the slash, so that an absolute path stays one.
        Some(slash) => (Some(&path[..=slash]), &path[slash + 1..]),
        // Nothing but slashes.
        None if end == 0 && !path.is_empty() => (Some(path), b"."),
        None => (None, path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_its_directory_and_the_last_component() {
        for (path, parent, name) in [
            ("", None, ""),
            ("a", None, "a"),
            ("a/", None, "a/"),
            ("..", None, ".."),
            ("a/b", Some("a/"), "b"),
            ("a//b//", Some("a//"), "b//"),
            ("/a", Some("/"), "a"),
            ("/", Some("/"), "."),
            ("a/..", Some("a/"), ".."),
        ] {
            assert_eq!(split(path.as_bytes()), (parent.map(str::as_bytes), name.as_bytes()), "{path:?}");
        }
    }

    #[test]
    fn no_path_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("inside");
        std::fs::create_dir_all(inside.join("sub")).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("../secret", inside.join("out")).unwrap();
        std::os::unix::fs::symlink("..", inside.join("up")).unwrap();
        std::os::unix::fs::symlink(dir.path(), inside.join("absolute")).unwrap();
        std::os::unix::fs::symlink("sub", inside.join("in")).unwrap();
        let from: Arc<OwnedFd> = Arc::new(std::fs::File::open(&inside).unwrap().into());
        let open = |path: &str| {
            let path = CString::new(path).unwrap();
            Opening::handle(true).blocking(&from, &path).map(drop)
        };
        for path in ["../secret", "sub/../../secret", "out", "up/secret", "absolute/secret", "/etc", "up"] {
            assert_eq!(open(path), Err(Errno::PERM), "{path}");
            let entry = Entry::find(Arc::clone(&from), &CString::new(format!("{path}/x")).unwrap());
            assert!(entry.is_err(), "{path}");
        }
        for path in ["sub", "in", "sub/..", "in/../sub"] {
            assert_eq!(open(path), Ok(()), "{path}");
        }
    }
}
