//! What this crate's tests share: trees as guests make them, and a process with few descriptors.

use std::{fs::File, os::fd::OwnedFd, path::Path, process::Command};

use rustix::{
    fs::{CWD, Mode, OFlags, mkdirat, openat},
    process::{Resource, Rlimit, setrlimit},
};

pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A folder for one test; in memory, where there is such a place: hundreds of thousands of directories are many for a disk
/// that others use.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Makes a chain of directories below `top`, each with one file that holds a byte, and returns the innermost.
pub(crate) fn chain(top: &Path, depth: usize) -> OwnedFd {
    let mut dir = openat(CWD, top, DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..depth {
        mkdirat(&dir, "d", Mode::RWXU).unwrap();
        dir = openat(&dir, "d", DIRECTORY, Mode::empty()).unwrap();
        let file = openat(&dir, "f", OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RWXU).unwrap();
        rustix::io::write(&file, b"x").unwrap();
    }
    dir
}

/// Variable that is set in the process that a test has started.
const INSIDE: &str = "KUBEWASM_TREES_TEST_INSIDE";

/// Runs `body` of the test `name` in a process of its own, that may open 40 files, on a thread with a stack of 64 KiB.
pub(crate) fn with_little(name: &str, body: impl FnOnce() + Send + 'static) {
    if std::env::var_os(INSIDE).is_none() {
        let program = std::env::current_exe().unwrap();
        let status = Command::new(program).args(["--exact", name, "--nocapture"]).env(INSIDE, "1").status();
        assert!(status.unwrap().success(), "{name} failed with few descriptors");
        return;
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(40), maximum: Some(40) }).unwrap();
    let thread = std::thread::Builder::new().stack_size(64 << 10).spawn(body).unwrap();
    thread.join().unwrap();
}

/// Runs `body` in a mount namespace of its own; not at all, with a line that says so, where this process may not
/// have one.
pub(crate) fn with_mounts(body: impl FnOnce() + Send + 'static) {
    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
    };
    let enter = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
    };
    let inside = move || match enter() {
        Ok(()) => body(),
        Err(error) => eprintln!("not tested: no mounts here ({error})"),
    };
    std::thread::spawn(inside).join().unwrap();
}

/// Mounts a directory or file at another.
pub(crate) fn bind(from: &Path, to: &Path) {
    use nix::mount::{MsFlags, mount};
    if from.is_file() {
        File::create(to).unwrap();
    } else {
        std::fs::create_dir_all(to).unwrap();
    }
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
}
