//! A root made of mounts that hang nowhere.
//!
//! ```text
//!   top   ◄── overlay(image, <scratch>/upper), or <scratch>/root, or a volume that is mounted at `/`
//!    ├── data      ◄── bind mount of a directory
//!    └── etc/hosts ◄── bind mount of a file
//! ```
//!
//! All of it hangs below one mount, and goes with it. Every mount is `nosuid,nodev,noexec`, with all that is mounted in
//! it: a guest has no use for programs and devices of this host, and a volume may hold some. What is mounted read-only is
//! so for the kernel. A mount below what is mounted (a disk below a hostPath) is shown with it and may be written to as
//! before, as container runtimes have it.
//!
//! Kernels before 6.15 hang nothing below a mount that hangs nowhere itself. There, the root is built at `<scratch>/root`
//! in this process' own mount namespace, copied as it is, and taken away.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, umount2};
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, fstat},
    io::Errno,
};

use super::{
    Directory, FilesError, copy,
    mount_api::{self, Context, READ_ONLY, RESTRICTED, Reach},
    namespace::Mounting,
    plan::{Base, Planned, RootDirs, RootPlan},
    walk::{self, Want},
};
use crate::spec::Mount;

/// A root that is being built.
struct Building {
    top: OwnedFd,
    /// Where it hangs meanwhile, if it has to.
    hung: Option<PathBuf>,
}

impl Drop for Building {
    fn drop(&mut self) {
        if let Some(root) = &self.hung {
            detach(root);
        }
    }
}

/// Makes a root, and mounts what is to be mounted.
pub(super) fn make(plan: &RootPlan<'_>, scratch: &Path, how: Mounting) -> Result<Directory, FilesError> {
    let places = begin(scratch)?;
    let top = match &plan.base {
        Base::Empty => show_directory(&places.root).map_err(scratch_error(&places.root))?,
        Base::Image(image) => show_image(image, &places, how.user_namespace)?,
        Base::Volume(volume) => show_volume(volume)?,
    };
    let mut building = Building { top, hung: None };
    if !how.nests && !plan.mounts.is_empty() {
        let place = walk::open_root(&places.root).map_err(io::Error::from);
        place
            .and_then(|place| mount_api::attach(&building.top, &place))
            .map_err(scratch_error(&places.root))?;
        building.hung = Some(places.root.clone());
    }
    let top = building.top.as_fd();
    for (path, mode) in &plan.skeleton {
        make_directory(top, path, *mode)?;
    }
    for planned in &plan.mounts {
        show(top, planned)?;
    }
    if let Some(path) = &plan.working_dir {
        make_directory(top, path, 0o755)?;
    }
    if plan.read_only {
        mount_api::restrict(&top, READ_ONLY, Reach::One).map_err(scratch_error(&places.root))?;
    }
    let fd = match building.hung {
        None => building.top.try_clone(),
        Some(_) => mount_api::clone(&top, Reach::All),
    };
    let fd = fd.map_err(scratch_error(&places.root))?;
    Ok(Directory { fd, guest: "/".into(), writable: true })
}

/// Makes the directories of a container, empty. An attempt that was cut short may have left some; an overlay would
/// not even accept them.
pub(super) fn begin(scratch: &Path) -> Result<RootDirs, FilesError> {
    let places = RootDirs::new(scratch);
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

/// Shows a directory of the container's own.
fn show_directory(path: &Path) -> io::Result<OwnedFd> {
    let mount = mount_api::clone(&walk::open_root(path)?, Reach::One)?;
    mount_api::seal(&mount, RESTRICTED, Reach::One)?;
    Ok(mount)
}

fn show_image(image: &Path, places: &RootDirs, user_namespace: bool) -> Result<OwnedFd, FilesError> {
    let failed = |source: io::Error| FilesError::Image { path: image.display().to_string(), source };
    directory(&places.upper, mode_of(image).map_err(failed)?)?;
    directory(&places.work, 0o700)?;
    let why = match overlay(image, places, user_namespace) {
        Ok(mount) => return Ok(mount),
        // No room for one more mount: a copy would need as many.
        Err(error) if error.raw_os_error() == Some(Errno::NOSPC.raw_os_error()) => return Err(failed(error)),
        Err(error) => error,
    };
    let why = format!("there can be no overlay with its upper layer in {}: {why}", places.upper.display());
    tracing::warn!(image = %image.display(), why, "copying the files of an image");
    copy::tree(image, &places.root, &why)?;
    show_directory(&places.root).map_err(scratch_error(&places.root))
}

/// The image below, what the container writes above. Volatile: what a container writes dies with it, and must
/// not cost a sync of the whole disk when it is unmounted.
fn overlay(image: &Path, places: &RootDirs, user_namespace: bool) -> io::Result<OwnedFd> {
    let (lower, upper, work) =
        (walk::open_root(image)?, walk::open_root(&places.upper)?, walk::open_root(&places.work)?);
    let layers = [(c"lowerdir", &lower), (c"upperdir", &upper), (c"workdir", &work)];
    let mount = |is_volatile: bool, redirects: bool| {
        let context = Context::open(c"overlay")?;
        for (key, dir) in layers {
            // By descriptor: whatever is in the paths, there is nothing to be quoted, and they always fit.
            context.set(key, &CString::new(path_of(dir))?)?;
        }
        if is_volatile {
            context.set_flag(c"volatile")?;
        }
        if user_namespace {
            context.set_flag(c"userxattr")?;
        } else if redirects {
            // With redirects a guest can rename a directory of its image; in a user namespace there are none.
            context.set(c"redirect_dir", c"on")?;
        }
        context.mount(RESTRICTED)
    };
    let result = match mount(true, true) {
        // An option that this kernel does not know.
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => mount(false, false),
        result => result,
    };
    let mounted = result?;
    // The kernel makes these for itself, closed to everybody. Who removes the container's directory one day may be
    // no root; where an option was not known, there are fewer.
    for own in ["work", "work/incompat", "work/incompat/volatile"] {
        let _ = fs::set_permissions(places.work.join(own), fs::Permissions::from_mode(0o700));
    }
    Ok(mounted)
}

fn show_volume(volume: &Mount) -> Result<OwnedFd, FilesError> {
    let source = open_source(&volume.host_path).map_err(mount_error(volume))?;
    if !is_directory(&source).map_err(mount_error(volume))? {
        return Err(mount_error(volume)(Errno::NOTDIR.into()));
    }
    mount_of(&source, volume.read_only).map_err(mount_error(volume))
}

fn show(top: BorrowedFd<'_>, planned: &Planned<'_>) -> Result<(), FilesError> {
    let Planned { mount: volume, place } = planned;
    let source = open_source(&volume.host_path).map_err(mount_error(volume))?;
    let want =
        if is_directory(&source).map_err(mount_error(volume))? { Want::Directory(0o755) } else { Want::File };
    let place = walk::make(top, place, want)
        .map_err(|error| FilesError::Place { guest: volume.guest_path.clone(), source: error.into() })?;
    let bind = || -> io::Result<()> {
        let mount = mount_of(&source, volume.read_only)?;
        mount_api::attach(&mount, &place.open()?)?;
        let (wanted, found) = (fstat(&source)?, fstat(place.open()?)?);
        if (wanted.st_dev, wanted.st_ino) != (found.st_dev, found.st_ino) {
            // Somebody moved the place while we mounted there; the mount goes with the root.
            return Err(Errno::BUSY.into());
        }
        Ok(())
    };
    bind().map_err(mount_error(volume))
}

/// Makes a mount of a volume, and of all that is mounted in it. What is mounted there later is not seen.
fn mount_of(source: &OwnedFd, read_only: bool) -> io::Result<OwnedFd> {
    let mount = mount_api::clone(source, Reach::All)?;
    mount_api::seal(&mount, RESTRICTED, Reach::All)?;
    if read_only {
        mount_api::restrict(&mount, READ_ONLY, Reach::One)?;
    }
    Ok(mount)
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
pub(super) fn directory(path: &Path, mode: u32) -> Result<(), FilesError> {
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

#[cfg(test)]
mod tests {
    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
    };

    use super::*;
    use crate::spec::RootSpec;

    /// On older kernels a root hangs somewhere while it is built, and nobody sees the difference.
    #[test]
    fn a_root_is_the_same_where_mounts_do_not_nest() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("not tested: not run as root");
            return;
        }
        // A thread can have a mount namespace of its own.
        let thread = std::thread::spawn(|| {
            const NONE: Option<&str> = None;
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(NONE, "/", NONE, MsFlags::MS_PRIVATE | MsFlags::MS_REC, NONE).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let dir = dir.path().canonicalize().unwrap();
            for folder in ["image/etc", "data/sub"] {
                fs::create_dir_all(dir.join(folder)).unwrap();
            }
            fs::write(dir.join("data/in"), "x").unwrap();
            let volume = |host: &str, guest: &str, read_only| Mount {
                host_path: dir.join(host),
                guest_path: guest.into(),
                read_only,
            };
            let mounts = vec![
                volume("data", "/data", true),
                volume("data/sub", "/data/sub", false),
                volume("data/in", "/etc/in", true),
            ];
            for (number, nests) in [false, true].into_iter().enumerate() {
                let spec = RootSpec {
                    image: Some(dir.join("image")),
                    read_only: true,
                    mounts: mounts.clone(),
                    ..RootSpec::default()
                };
                let plan = RootPlan::new(&spec, None).unwrap();
                let how = Mounting { user_namespace: false, nests };
                let root = make(&plan, &dir.join(number.to_string()), how).unwrap();
                let top = PathBuf::from(path_of(&root.fd));
                assert_eq!(fs::read_to_string(top.join("etc/in")).unwrap(), "x");
                let refused = |path: &str| fs::write(top.join(path), "y").unwrap_err().kind();
                for path in ["new", "data/new", "etc/in"] {
                    assert_eq!(refused(path), io::ErrorKind::ReadOnlyFilesystem, "{path}, nests: {nests}");
                }
                fs::write(top.join("data/sub/new"), "y").unwrap();
                let mounted = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
                assert!(!mounted.contains(&*dir.to_string_lossy()), "{mounted}");
                drop(root);
            }
        });
        thread.join().unwrap();
    }
}
