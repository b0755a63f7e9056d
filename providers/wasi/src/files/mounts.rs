//! A root made of mounts, in the worker's own mount namespace.
//!
//! ```text
//!   <scratch>/root   ◄── overlay(image, <scratch>/upper), or itself, or a volume that is mounted at `/`
//!        ├── data    ◄── bind mount of a directory
//!        └── etc/hosts ◄── bind mount of a file
//! ```
//!
//! All of it hangs below one mount, and goes with it. Every mount is `nosuid,nodev,noexec`: a guest has no use
//! for programs and devices of this host, and a volume may hold some. What is mounted read-only is so for the
//! kernel. A mount below what is mounted (a disk below a hostPath) is shown with it and keeps its own settings,
//! as container runtimes have it.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, StatVfsMountFlags, fstat, fstatvfs},
    io::Errno,
};

use super::{
    FilesError, Preopen, Root, copy,
    plan::{Base, Places, Plan, Planned},
    walk::{self, Want},
};
use crate::spec::Mount;

/// What no guest needs of any mount.
const RESTRICTED: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
const NO_TEXT: Option<&str> = None;

/// Makes a root, and mounts what is to be mounted.
pub(super) fn make(plan: &Plan<'_>, scratch: &Path, user_namespace: bool) -> Result<Root, FilesError> {
    let places = begin(scratch)?;
    // From here on, dropping it takes the mounts away.
    let root = Root::new(
        vec![Preopen { host: places.root.clone(), guest: "/".into(), writable: true }],
        (!plan.is_plain()).then(|| places.root.clone()),
    );
    match &plan.base {
        _ if plan.is_plain() => {}
        Base::Empty => bind_root(&places.root, &places.root).map_err(scratch_error(&places.root))?,
        Base::Image(image) => show_image(image, &places, user_namespace)?,
        Base::Volume(volume) => show_volume(volume, &places.root)?,
    }
    let top = walk::open_root(&places.root).map_err(|error| scratch_error(&places.root)(error.into()))?;
    for (path, mode) in &plan.skeleton {
        make_directory(top.as_fd(), path, *mode)?;
    }
    for planned in &plan.mounts {
        show(top.as_fd(), planned)?;
    }
    if let Some(path) = &plan.working_dir {
        make_directory(top.as_fd(), path, 0o755)?;
    }
    if !plan.is_plain() {
        seal(&places.root, top.as_fd(), plan.read_only).map_err(scratch_error(&places.root))?;
    }
    Ok(root)
}

/// Makes the directories of a container, empty. An attempt that was cut short may have left some; an overlay would
/// not even accept them.
pub(super) fn begin(scratch: &Path) -> Result<Places, FilesError> {
    let places = Places::new(scratch);
    for left in [&places.root, &places.upper, &places.work] {
        if left.exists() {
            // Never through a mount into a volume.
            detach(left);
            kubewasm_trees::remove(left).map_err(scratch_error(left))?;
        }
    }
    directory(scratch, 0o700)?;
    directory(&places.root, 0o755)?;
    Ok(places)
}

/// Takes away what is mounted at `root` and below. What is not mounted is fine: somebody who removed the
/// directory in another namespace has taken its mounts away, too.
pub(super) fn detach(root: &Path) {
    match umount2(root, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(error) => {
            tracing::warn!(root = %root.display(), %error, "cannot unmount a container's file system");
        }
    }
}

fn show_image(image: &Path, places: &Places, user_namespace: bool) -> Result<(), FilesError> {
    let failed = |source: io::Error| FilesError::Image { path: image.display().to_string(), source };
    directory(&places.upper, mode_of(image).map_err(failed)?)?;
    directory(&places.work, 0o700)?;
    let why = match overlay(image, places, user_namespace) {
        Ok(()) => return Ok(()),
        // No room for one more mount: a copy would need as many.
        Err(error) if error.raw_os_error() == Some(Errno::NOSPC.raw_os_error()) => return Err(failed(error)),
        Err(error) => error,
    };
    let why = format!("there can be no overlay with its upper layer in {}: {why}", places.upper.display());
    tracing::warn!(image = %image.display(), why, "copying the files of an image");
    copy::tree(image, &places.root, &why)?;
    bind_root(&places.root, &places.root).map_err(scratch_error(&places.root))
}

/// The image below, what the container writes above. Volatile: what a container writes dies with it, and must
/// not cost a sync of the whole disk when it is unmounted.
fn overlay(image: &Path, places: &Places, user_namespace: bool) -> io::Result<()> {
    let (lower, upper, work) =
        (walk::open_root(image)?, walk::open_root(&places.upper)?, walk::open_root(&places.work)?);
    // By descriptor: whatever is in the paths, there is nothing to be quoted, and they always fit.
    let base =
        format!("lowerdir={},upperdir={},workdir={}", path_of(&lower), path_of(&upper), path_of(&work));
    let extras = if user_namespace {
        [",volatile,userxattr", ",userxattr"]
    } else {
        // With redirects a guest can rename a directory of its image; in a user namespace there are none.
        [",volatile,redirect_dir=on", ""]
    };
    let mut result = Ok(());
    for extra in extras {
        let data = format!("{base}{extra}");
        result = mount(Some("overlay"), &places.root, Some("overlay"), RESTRICTED, Some(data.as_str()));
        // An option that this kernel does not know.
        if result != Err(nix::errno::Errno::EINVAL) {
            break;
        }
    }
    result?;
    // The kernel makes these for itself, closed to everybody. Who removes the container's directory one day may be
    // no root; where an option was not known, there are fewer.
    for own in ["work", "work/incompat", "work/incompat/volatile"] {
        let _ = fs::set_permissions(places.work.join(own), fs::Permissions::from_mode(0o700));
    }
    Ok(())
}

fn show_volume(volume: &Mount, root: &Path) -> Result<(), FilesError> {
    let failed = mount_error(volume);
    let source = open_source(&volume.host_path).map_err(failed)?;
    if !is_directory(&source).map_err(mount_error(volume))? {
        return Err(mount_error(volume)(Errno::NOTDIR.into()));
    }
    let bind = || -> io::Result<()> {
        mount(Some(path_of(&source).as_str()), root, NO_TEXT, MsFlags::MS_BIND | MsFlags::MS_REC, NO_TEXT)?;
        let mounted = walk::open_root(root)?;
        restrict(mounted.as_fd(), volume.read_only)
    };
    bind().map_err(mount_error(volume))
}

fn show(top: BorrowedFd<'_>, planned: &Planned<'_>) -> Result<(), FilesError> {
    let Planned { mount: volume, place } = planned;
    let source = open_source(&volume.host_path).map_err(mount_error(volume))?;
    let want =
        if is_directory(&source).map_err(mount_error(volume))? { Want::Directory(0o755) } else { Want::File };
    let place = walk::make(top, place, want)
        .map_err(|error| FilesError::Place { guest: volume.guest_path.clone(), source: error.into() })?;
    let bind = || -> io::Result<()> {
        let target = place.open()?;
        let (from, to) = (path_of(&source), path_of(&target));
        mount(Some(from.as_str()), to.as_str(), NO_TEXT, MsFlags::MS_BIND | MsFlags::MS_REC, NO_TEXT)?;
        let mounted = place.open()?;
        let (wanted, found) = (fstat(&source)?, fstat(&mounted)?);
        if (wanted.st_dev, wanted.st_ino) != (found.st_dev, found.st_ino) {
            // Somebody moved the place while we mounted there; the mount goes with the root.
            return Err(Errno::BUSY.into());
        }
        restrict(mounted.as_fd(), volume.read_only)
    };
    bind().map_err(mount_error(volume))
}

/// Opens what is to be mounted. No part of its path may be a link: whoever put it there after the path was
/// checked would have us mount what it leads to.
pub(super) fn open_source(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let open = rustix::fs::openat2(rustix::fs::CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    open.map_err(|error| match error {
        Errno::LOOP => io::Error::other("a part of its path is a symbolic link, which is not followed"),
        error => error.into(),
    })
}

/// Mounts a directory on itself or on another, so that there is a mount to hang others below.
fn bind_root(source: &Path, root: &Path) -> io::Result<()> {
    mount(Some(source), root, NO_TEXT, MsFlags::MS_BIND, NO_TEXT)?;
    restrict(walk::open_root(root)?.as_fd(), false)
}

/// The last step: what is mounted on this host from now on does not appear here, and the root is closed.
fn seal(root: &Path, top: BorrowedFd<'_>, read_only: bool) -> io::Result<()> {
    mount(NO_TEXT, root, NO_TEXT, MsFlags::MS_PRIVATE | MsFlags::MS_REC, NO_TEXT)?;
    if read_only { restrict(top, true) } else { Ok(()) }
}

/// Narrows a mount. What it was before stays, because in a user namespace nothing of it may be taken away.
fn restrict(mounted: BorrowedFd<'_>, read_only: bool) -> io::Result<()> {
    let has = fstatvfs(mounted)?.f_flag;
    let mut flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | RESTRICTED;
    flags.set(MsFlags::MS_RDONLY, read_only || has.contains(StatVfsMountFlags::RDONLY));
    flags.set(MsFlags::MS_NOATIME, has.contains(StatVfsMountFlags::NOATIME));
    flags.set(MsFlags::MS_NODIRATIME, has.contains(StatVfsMountFlags::NODIRATIME));
    flags.set(MsFlags::MS_RELATIME, has.contains(StatVfsMountFlags::RELATIME));
    Ok(mount(NO_TEXT, path_of(&mounted).as_str(), NO_TEXT, flags, NO_TEXT)?)
}

/// A path that means what is open, and nothing else.
pub(super) fn path_of(fd: &impl std::os::fd::AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

pub(super) fn is_directory(fd: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(fd)?.st_mode) == FileType::Directory)
}

fn mode_of(path: &Path) -> io::Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o777)
}

pub(super) fn make_directory(
    top: BorrowedFd<'_>,
    path: &super::plan::GuestPath,
    mode: u32,
) -> Result<(), FilesError> {
    walk::make(top, path, Want::Directory(mode))
        .map(drop)
        .map_err(|error| FilesError::Place { guest: path.to_string(), source: error.into() })
}

/// Makes a directory of the container's own; one that is there is fine.
fn directory(path: &Path, mode: u32) -> Result<(), FilesError> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(scratch_error(path))
}

pub(super) fn scratch_error(path: &Path) -> impl Fn(io::Error) -> FilesError {
    let path: PathBuf = path.to_owned();
    move |source| FilesError::Scratch { path: path.display().to_string(), source }
}

pub(super) fn mount_error(volume: &Mount) -> impl Fn(io::Error) -> FilesError {
    let (host, guest) = (volume.host_path.display().to_string(), volume.guest_path.clone());
    move |source| FilesError::Mount { host: host.clone(), guest: guest.clone(), source }
}
