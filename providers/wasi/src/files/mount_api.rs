//! The kernel's calls for mounts by descriptor (Linux 5.12 and newer).
//!
//! A mount made by them hangs nowhere: it lives for as long as its descriptor is open, in whatever process, and
//! everything that is mounted below it goes with it. Nothing can be reached through it but what is in it: `..` ends at
//! its top. `rustix` has no `mount_setattr`, so that the six calls are made here.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    ptr,
};

use libc::{c_int, c_long, c_uint};

/// What no guest needs of any mount.
pub(crate) const RESTRICTED: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
/// Nothing may be changed through the mount.
pub(crate) const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;

/// What a process has of mounts that it only reads: nothing changes, and no device is opened.
pub(crate) const READ_ONLY_HOST: u64 =
    libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;

/// Whether a call is about one mount, or about all that is mounted below it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    One,
    All,
}

impl Reach {
    const fn flag(self) -> c_int {
        match self {
            Self::One => 0,
            Self::All => libc::AT_RECURSIVE,
        }
    }
}

/// A file system that is being set up.
#[derive(Debug)]
pub(crate) struct Context(OwnedFd);

impl Context {
    /// Begins to set up a file system of this kind.
    pub(crate) fn open(kind: &CStr) -> io::Result<Self> {
        #[expect(unsafe_code, reason = "one of the calls that this module is for")]
        // SAFETY: the kernel reads a string that ends with NUL and lives until the call returns.
        let result = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) };
        descriptor(result).map(Self)
    }

    /// Sets an option that has a value.
    pub(crate) fn set(&self, key: &CStr, value: &CStr) -> io::Result<()> {
        self.configure(libc::FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())
    }

    /// Sets an option that has none.
    pub(crate) fn set_flag(&self, key: &CStr) -> io::Result<()> {
        self.configure(libc::FSCONFIG_SET_FLAG, key.as_ptr(), ptr::null())
    }

    /// Makes the file system, and a mount of it with these attributes.
    pub(crate) fn mount(self, attributes: u64) -> io::Result<OwnedFd> {
        self.configure(libc::FSCONFIG_CMD_CREATE, ptr::null(), ptr::null())?;
        #[expect(unsafe_code, reason = "one of the calls that this module is for")]
        // SAFETY: only numbers are passed.
        let result = unsafe {
            libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), libc::FSMOUNT_CLOEXEC, attributes)
        };
        descriptor(result)
    }

    fn configure(
        &self,
        command: c_uint,
        key: *const libc::c_char,
        value: *const libc::c_char,
    ) -> io::Result<()> {
        #[expect(unsafe_code, reason = "one of the calls that this module is for")]
        // SAFETY: key and value are null where the command takes none, and else strings that end with NUL and live
        // until the call returns: the callers above have borrowed them.
        let result = unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key, value, 0) };
        done(result)
    }
}

/// Makes a mount of what is open, which shows the same files: of a directory, or of a single file. With
/// [`Reach::All`], what is mounted below is shown with it.
pub(crate) fn clone(of: &impl AsFd, reach: Reach) -> io::Result<OwnedFd> {
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | (libc::AT_EMPTY_PATH | reach.flag()).cast_unsigned();
    #[expect(unsafe_code, reason = "one of the calls that this module is for")]
    // SAFETY: the kernel reads an empty string, which is static.
    let result = unsafe { libc::syscall(libc::SYS_open_tree, of.as_fd().as_raw_fd(), c"".as_ptr(), flags) };
    descriptor(result)
}

/// Hangs a mount that hangs nowhere over a place that is open.
pub(crate) fn attach(mount: &impl AsFd, place: &impl AsFd) -> io::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    let (from, to) = (mount.as_fd().as_raw_fd(), place.as_fd().as_raw_fd());
    #[expect(unsafe_code, reason = "one of the calls that this module is for")]
    // SAFETY: the kernel reads empty strings, which are static.
    let result = unsafe { libc::syscall(libc::SYS_move_mount, from, c"".as_ptr(), to, c"".as_ptr(), flags) };
    done(result)
}

/// Adds attributes to a mount. What it had before stays.
pub(crate) fn restrict(mount: &impl AsFd, attributes: u64, reach: Reach) -> io::Result<()> {
    set(mount, attributes, 0, reach)
}

/// Cuts a mount off from what is mounted on this host later, and adds attributes.
pub(crate) fn seal(mount: &impl AsFd, attributes: u64, reach: Reach) -> io::Result<()> {
    set(mount, attributes, libc::MS_PRIVATE, reach)
}

fn set(mount: &impl AsFd, attr_set: u64, propagation: u64, reach: Reach) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set, attr_clr: 0, propagation, userns_fd: 0 };
    let size = size_of::<libc::mount_attr>();
    let flags = libc::AT_EMPTY_PATH | reach.flag();
    #[expect(unsafe_code, reason = "one of the calls that this module is for")]
    // SAFETY: the kernel reads an empty string, which is static, and as many bytes of the structure as it has.
    let result = unsafe {
        let (fd, path) = (mount.as_fd().as_raw_fd(), c"".as_ptr());
        libc::syscall(libc::SYS_mount_setattr, fd, path, flags, ptr::from_ref(&attributes), size)
    };
    done(result)
}

fn done(result: c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn descriptor(result: c_long) -> io::Result<OwnedFd> {
    done(result)?;
    let fd = RawFd::try_from(result).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "the kernel's answer is a number")]
    // SAFETY: the calls above answer with a descriptor that is new, and so nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
