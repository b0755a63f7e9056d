//! Writing a projected volume so that a reader sees all of the old files or all of the new ones, in
//! upstream's layout:
//!
//! ```text
//! <volume>/..2026_01_02_15_04_05.1234567890/   the files, in a folder of their own
//! <volume>/..data  -> ..2026_01_02_15_04_05.1234567890
//! <volume>/<first part of a path>  -> ..data/<first part of a path>
//! ```
//!
//! Where something is to be mounted inside the volume, directories lead there, which no change of the contents
//! replaces; what else is in those directories is linked file by file (`links`).
//!
//! Renaming a new link over `..data` is what changes the contents. The folder that it pointed to before
//! stays until [`sweep`]: a reader that has just followed the link still finds its file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::{Component, Path, PathBuf},
};

use jiff::Timestamp;

use super::{payload::Payload, plan::MountPoints};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// What a write has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// The files were there already.
    Nothing,
    /// The files are new; those from before are still there beside them, until [`sweep`].
    Files,
}

/// Makes the files of the volume at `dir`, which exists, those of `payload`, and directories on the way to
/// `mount_points`.
///
/// # Errors
/// What the system says. A reader sees the old files then.
pub(super) fn write(dir: &Path, payload: &Payload, mount_points: &MountPoints) -> io::Result<Written> {
    let links = links(payload, mount_points);
    let current = current(dir)?;
    if let Some(current) = &current
        && is_same(&dir.join(current), payload)?
    {
        // A writer that was torn off may have got as far as the data, and no further.
        publish(dir, &links, mount_points)?;
        return Ok(Written::Nothing);
    }
    sweep(dir)?;
    let now = Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S").to_string();
    let name = format!("..{now}.{:010}", rand::random::<u32>());
    let folder = dir.join(&name);
    make_folder(&folder)?;
    for (path, file) in payload {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            make_folder(parent)?;
        }
        write_file(&path, &file.bytes, file.mode)?;
    }
    let new = dir.join(NEW_DATA);
    remove_file(&new)?;
    symlink(&name, &new)?;
    fs::rename(new, dir.join(DATA))?;
    publish(dir, &links, mount_points)?;
    Ok(Written::Files)
}

/// Removes what is left of earlier contents.
///
/// # Errors
/// What the system says.
pub(super) fn sweep(dir: &Path) -> io::Result<()> {
    let current = current(dir)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_old = name.to_str().is_some_and(|n| n.starts_with("..2") && Some(n) != current.as_deref());
        if is_old && entry.file_type()?.is_dir() {
            kubewasm_trees::remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Where `..data` points to.
fn current(dir: &Path) -> io::Result<Option<String>> {
    match fs::read_link(dir.join(DATA)) {
        Ok(target) => Ok(target.to_str().map(str::to_owned)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// True when `folder` holds the files of `payload` and no others.
fn is_same(folder: &Path, payload: &Payload) -> io::Result<bool> {
    let mut seen = 0;
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        let entries = match fs::read_dir(&next) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let path = entry.path();
            let file = path.strip_prefix(folder).ok().and_then(Path::to_str).and_then(|p| payload.get(p));
            let Some(file) = file else { return Ok(false) };
            let mode = entry.metadata()?.permissions().mode() & 0o7777;
            if mode != file.mode || fs::read(&path)? != file.bytes {
                return Ok(false);
            }
            seen += 1;
        }
    }
    Ok(seen == payload.len())
}

/// The links that readers go by, and where they lead: for each file the shortest part of its path that no mount
/// point is below. A file that would be at a mount point, or below one, is covered by the mount, and gets none.
fn links(payload: &Payload, mount_points: &MountPoints) -> BTreeMap<PathBuf, PathBuf> {
    let mut links = BTreeMap::new();
    for file in payload.keys() {
        let mut path = PathBuf::new();
        let mut up = PathBuf::new();
        for part in Path::new(file) {
            path.push(part);
            if mount_points.contains(&path) {
                break;
            }
            if mount_points.iter().any(|point| point.starts_with(&path)) {
                up.push("..");
                continue;
            }
            let target = up.join(DATA).join(&path);
            links.insert(path, target);
            break;
        }
    }
    links
}

/// The directories that lead to mount points, outer ones first.
fn ways(mount_points: &MountPoints) -> BTreeSet<PathBuf> {
    let above = |point: &PathBuf| point.ancestors().skip(1).map(Path::to_owned).collect::<Vec<_>>();
    let all: BTreeSet<_> = mount_points.iter().flat_map(above).collect();
    all.into_iter().filter(|path| !path.as_os_str().is_empty()).collect()
}

/// Makes the directories and links that readers go by, and removes links of files that are no more.
fn publish(dir: &Path, links: &BTreeMap<PathBuf, PathBuf>, mount_points: &MountPoints) -> io::Result<()> {
    let ways = ways(mount_points);
    for way in &ways {
        let path = dir.join(way);
        if is_ours(&path) {
            // A mount has come into use below what was one link.
            fs::remove_file(&path)?;
        }
        match make_folder(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                tracing::debug!(path = %path.display(), "something else is in the way to a mount point");
            }
            other => other?,
        }
    }
    for (name, target) in links {
        let link = dir.join(name);
        if fs::read_link(&link).is_ok_and(|present| present == *target) {
            continue;
        }
        match symlink(target, &link) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Not ours: what was made for a mount inside the volume.
                tracing::debug!(path = %link.display(), "something else is in the place of a projected file");
            }
            other => other?,
        }
    }
    for folder in std::iter::once(PathBuf::new()).chain(ways) {
        for entry in fs::read_dir(dir.join(&folder))? {
            let path = entry?.path();
            let name = folder.join(path.file_name().unwrap_or_default());
            if name != Path::new(DATA) && !links.contains_key(&name) && is_ours(&path) {
                fs::remove_file(path)?;
            }
        }
    }
    Ok(())
}

/// It is a link to the contents.
fn is_ours(path: &Path) -> bool {
    fs::read_link(path).is_ok_and(|target| {
        target.components().find(|part| *part != Component::ParentDir)
            == Some(Component::Normal(DATA.as_ref()))
    })
}

fn make_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    // The process's umask may have taken something off.
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

/// Nobody else ever sees the file with more permissions than it is to have.
fn write_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    use io::Write as _;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.set_permissions(fs::Permissions::from_mode(mode))
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
