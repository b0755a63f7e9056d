//! Writing a projected volume so that a reader sees all of the old files or all of the new ones, in
//! upstream's layout:
//!
//! ```text
//! <volume>/..2026_01_02_15_04_05.1234567890/   the files, in a folder of their own
//! <volume>/..data  -> ..2026_01_02_15_04_05.1234567890
//! <volume>/<first part of a path>  -> ..data/<first part of a path>
//! ```
//!
//! Renaming a new link over `..data` is what changes the contents. The folder that it pointed to before
//! stays until [`sweep`]: a reader that has just followed the link still finds its file.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use jiff::Timestamp;

use super::payload::Payload;

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

/// Makes the files of the volume at `dir`, which exists, those of `payload`.
///
/// # Errors
/// What the system says. A reader sees the old files then.
pub(super) fn write(dir: &Path, payload: &Payload) -> io::Result<Written> {
    let current = current(dir)?;
    if let Some(current) = &current
        && is_same(&dir.join(current), payload)?
    {
        // A writer that was torn off may have got as far as the data, and no further.
        publish(dir, payload)?;
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
    publish(dir, payload)?;
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

/// Makes the links that readers go by, and removes those of files that are no more.
fn publish(dir: &Path, payload: &Payload) -> io::Result<()> {
    let first = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
    let wanted: BTreeSet<String> = payload.keys().map(|path| first(path)).collect();
    for name in &wanted {
        let (link, target) = (dir.join(name), Path::new(DATA).join(name));
        if fs::read_link(&link).is_ok_and(|present| present == target) {
            continue;
        }
        match symlink(&target, &link) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Not ours: a folder that was made for a mount inside the volume.
                tracing::debug!(path = %link.display(), "something else is in the place of a projected file");
            }
            other => other?,
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_own = |name: &str| name.starts_with("..") || wanted.contains(name);
        let is_ours = fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(DATA));
        if is_ours && !name.to_str().is_some_and(is_own) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
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
