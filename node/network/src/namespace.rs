//! Network namespaces, held by their files.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
};

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace. It is there for as long as this is, or a process lives in it.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    /// Device and inode of its file, by which namespaces are told apart.
    id: (u64, u64),
}

impl Namespace {
    /// Makes one. Blocks.
    ///
    /// # Errors
    /// What the system says: EPERM without CAP_SYS_ADMIN.
    pub fn create() -> io::Result<Self> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Self::at("/proc/thread-self/ns/net")
        })
    }

    /// That of this process.
    ///
    /// # Errors
    /// What the system says.
    pub fn own() -> io::Result<Self> {
        Self::at("/proc/self/ns/net")
    }

    /// That of another process.
    ///
    /// # Errors
    /// What the system says.
    pub fn of(pid: u32) -> io::Result<Self> {
        Self::at(format!("/proc/{pid}/ns/net"))
    }

    /// That of a file: one below `/proc`, or one that a namespace is mounted on ([`crate::pinned`]).
    ///
    /// # Errors
    /// What the system says.
    pub fn at(path: impl AsRef<Path>) -> io::Result<Self> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        Ok(Self { id: (meta.dev(), meta.ino()), file })
    }

    /// Calls a function on a thread that is inside. A process that it starts is inside, too. Blocks until it returns.
    ///
    /// # Errors
    /// What the system says, or what the function does.
    pub fn run<T: Send>(&self, function: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        on_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            function()
        })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl PartialEq for Namespace {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Namespace {}

/// A thread that changes its namespace serves nobody else afterwards.
pub(crate) fn on_thread<T: Send>(function: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, function)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread has panicked")))
    })
}
