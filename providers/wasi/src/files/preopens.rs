//! A root without mounts: a directory of the container's own, and one more preopened directory for each mount.
//!
//! What it costs: a guest that looks at its first preopened directory only does not see the others; a guest is
//! told EPERM instead of EROFS; an image is copied for each of its containers; a single file that may be written
//! must be on the file system of the container's directory, where it is linked, and one that may not is copied
//! as it is at the start.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, linkat, openat, unlinkat},
    io::Errno,
};

use super::{
    Directory, FilesError, copy,
    mounts::{begin, is_directory, mount_error, open_source, path_of, scratch_error},
    plan::{Base, GuestPath, Planned, RootPlan},
    walk::{self, Want},
};
use crate::spec::Mount;

/// Most bytes of a single file that is copied.
const FILE_LIMIT: u64 = 16 << 20;

/// A mount whose source was found.
struct MountSource<'a> {
    planned: &'a Planned<'a>,
    fd: OwnedFd,
    is_directory: bool,
}

/// Makes a root. What must not be changed behind our back is held open, and given to the guest as it is.
pub(super) fn make(plan: &RootPlan<'_>, scratch: &Path) -> Result<Vec<Directory>, FilesError> {
    let places = begin(scratch)?;
    let sources = plan.mounts.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    let mut given = Vec::new();
    let mut give = |fd: OwnedFd, guest: String, writable: bool| given.push(Directory { fd, guest, writable });
    let open = |path: &Path| walk::open_root(path).map_err(|error| scratch_error(path)(error.into()));
    match &plan.base {
        Base::Volume(volume) => {
            give(open_source(&volume.host_path).map_err(mount_error(volume))?, "/".into(), !plan.read_only);
        }
        // Nothing has to be made in it.
        Base::Image(image) if plan.read_only && sources.iter().all(|source| source.is_directory) => {
            give(open(image)?, "/".into(), false);
        }
        base => {
            if let Base::Image(image) = base {
                copy::tree(image, &places.root, "this host allows no mounts")?;
            }
            let top = open(&places.root)?;
            for (path, mode) in &plan.skeleton {
                make_directory(&top, path, *mode)?;
            }
            for source in &sources {
                if !plan.mounts.iter().any(|other| other.place.holds(&source.planned.place)) {
                    fill(&top, source)?;
                }
            }
            if let Some(path) = &plan.working_dir
                && !plan.mounts.iter().any(|mount| mount.place.holds(path))
            {
                make_directory(&top, path, 0o755)?;
            }
            give(top, "/".into(), !plan.read_only);
        }
    }
    for MountSource { planned, fd, is_directory } in sources {
        let covered = plan.mounts.iter().any(|other| other.place.holds(&planned.place));
        if is_directory {
            give(fd, planned.place.to_string(), !planned.mount.read_only);
        } else if covered || matches!(plan.base, Base::Volume(_)) {
            return Err(single_file(planned.mount, "it is inside another mount"));
        }
    }
    Ok(given)
}

fn find<'a>(planned: &'a Planned<'a>) -> Result<MountSource<'a>, FilesError> {
    let fd = open_source(&planned.mount.host_path).map_err(mount_error(planned.mount))?;
    let is_directory = is_directory(&fd).map_err(mount_error(planned.mount))?;
    Ok(MountSource { planned, fd, is_directory })
}

/// Puts into the root what stands for a mount: an empty directory, or the file.
fn fill(top: &OwnedFd, source: &MountSource<'_>) -> Result<(), FilesError> {
    let Planned { mount, place } = source.planned;
    if source.is_directory {
        return make_directory(top, place, 0o755);
    }
    let failed = |error: Errno| FilesError::Place { guest: mount.guest_path.clone(), source: error.into() };
    let place = walk::make(top.as_fd(), place, Want::File).map_err(failed)?;
    unlinkat(place.parent(), place.name(), AtFlags::empty()).map_err(failed)?;
    if !mount.read_only {
        let link = linkat(
            rustix::fs::CWD,
            path_of(&source.fd),
            place.parent(),
            place.name(),
            AtFlags::SYMLINK_FOLLOW,
        );
        return link.map_err(|error| single_file(mount, &format!("it cannot be linked there ({error})")));
    }
    let copy = || -> io::Result<u64> {
        let from = File::open(path_of(&source.fd))?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut to = File::from(openat(place.parent(), place.name(), flags, Mode::from_raw_mode(0o444))?);
        io::copy(&mut from.take(FILE_LIMIT + 1), &mut to)
    };
    match copy().map_err(mount_error(mount))? {
        size if size > FILE_LIMIT => {
            Err(single_file(mount, &format!("it has more than {} MiB", FILE_LIMIT >> 20)))
        }
        _ => Ok(()),
    }
}

fn make_directory(top: &OwnedFd, path: &GuestPath, mode: u32) -> Result<(), FilesError> {
    super::mounts::make_directory(top.as_fd(), path, mode)
}

fn single_file(mount: &Mount, why: &str) -> FilesError {
    FilesError::SingleFile {
        host: mount.host_path.display().to_string(),
        guest: mount.guest_path.clone(),
        why: why.to_owned(),
    }
}
