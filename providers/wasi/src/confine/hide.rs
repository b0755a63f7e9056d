//! Files of the agent that a worker cannot see: they are covered by something empty in its own mount namespace.
//!
//! A directory is covered as a whole. A single file is not: whoever replaces a file renames another one over it, and
//! the kernel takes away what was mounted there. Instead, its directory is covered, and everything else in it is
//! shown again; the name is not there then, whatever happens to the file.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fs, io,
    os::{
        fd::AsRawFd,
        unix::fs::{PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
};

use nix::mount::{MsFlags, mount};

/// Directories with more in them are shared with the rest of the machine (`/etc`): what is shown again is what is
/// there today, and each entry is a mount.
const ENTRIES_LIMIT: usize = 64;

const NONE: Option<&str> = None;

/// What no worker needs of what covers something.
const RESTRICTED: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// Covers all of `hidden`, but for the directories `home` and `shown`, which stay where they are. What is not there yet
/// must not appear later either. The process must be in a mount namespace of its own.
pub(super) fn hide(hidden: &[PathBuf], home: &Path, shown: &[PathBuf]) -> io::Result<String> {
    let mut stays = vec![fs::canonicalize(home)?];
    // What is not there is not shown later either.
    stays.extend(shown.iter().filter_map(|path| fs::canonicalize(path).ok()));
    let mut names: BTreeMap<PathBuf, BTreeSet<OsString>> = BTreeMap::new();
    let mut folders = BTreeSet::new();
    for path in hidden {
        let found = fs::canonicalize(path).ok();
        match found {
            Some(folder) if folder.is_dir() => {
                folders.insert(folder);
            }
            // Of a link, both ends.
            found => [Some(path.clone()), found].iter().flatten().filter_map(|path| place(path)).for_each(
                |(folder, name)| {
                    names.entry(folder).or_default().insert(name);
                },
            ),
        }
    }
    let mut covered = Vec::new();
    for (folder, names) in &names {
        let is_gone = leave_out(folder, names)?;
        for path in names.iter().map(|name| folder.join(name)) {
            if is_gone {
                covered.push(path.display().to_string());
            } else if path.exists() {
                cover_file(&path)?;
                covered.push(format!(
                    "{} (until it is replaced: its directory holds much else)",
                    path.display()
                ));
            }
        }
    }
    for folder in &folders {
        // Its name may have been left out with others.
        if folder.exists() {
            cover_dir(folder, &stays)?;
        }
        covered.push(folder.display().to_string());
    }
    Ok(if covered.is_empty() { "none".to_owned() } else { covered.join(", ") })
}

/// The directory that a path is in, without links, and its name there.
fn place(path: &Path) -> Option<(PathBuf, OsString)> {
    let parent =
        path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    Some((fs::canonicalize(parent?).ok()?, path.file_name()?.to_owned()))
}

/// Covers a directory by one that has all of its entries but these; false where it holds too many.
fn leave_out(folder: &Path, names: &BTreeSet<OsString>) -> io::Result<bool> {
    let entries: Vec<fs::DirEntry> = fs::read_dir(folder)?.collect::<io::Result<_>>()?;
    if entries.len() > ENTRIES_LIMIT || folder.parent().is_none() {
        return Ok(false);
    }
    // Open before it is covered: the way back to what is in it.
    let inside = fs::File::open(folder)?;
    let mode = inside.metadata()?.permissions().mode() & 0o777;
    cover(folder, &format!("size=64k,nr_inodes=128,mode={mode:o}"))?;
    for entry in entries.iter().filter(|entry| !names.contains(&entry.file_name())) {
        let source = beneath(&inside).join(entry.file_name());
        let target = folder.join(entry.file_name());
        // What has gone meanwhile need not be shown.
        let Ok(kind) = fs::symlink_metadata(&source).map(|metadata| metadata.file_type()) else { continue };
        if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target)?;
            continue;
        }
        if kind.is_dir() {
            fs::create_dir(&target)?;
        } else {
            fs::File::create(&target)?;
        }
        show(&source, &target)?;
    }
    close(folder)?;
    Ok(true)
}

fn cover_file(path: &Path) -> io::Result<()> {
    mount(Some("/dev/null"), path, NONE, MsFlags::MS_BIND, NONE)?;
    Ok(())
}

fn cover_dir(path: &Path, stays: &[PathBuf]) -> io::Result<()> {
    // Open before it is covered: the way back to what stays.
    let inside: Vec<(&Path, fs::File)> = stays
        .iter()
        .filter_map(|dir| Some((dir.as_path(), dir.strip_prefix(path).ok()?)))
        .map(|(dir, below)| Ok((below, fs::File::open(dir)?)))
        .collect::<io::Result<_>>()?;
    cover(path, "size=4k,nr_inodes=16,mode=0700")?;
    for (below, dir) in &inside {
        let target = path.join(below);
        fs::create_dir_all(&target)?;
        show(&beneath(dir), &target)?;
    }
    close(path)
}

/// Puts an empty directory over one.
fn cover(path: &Path, options: &str) -> io::Result<()> {
    Ok(mount(Some("none"), path, Some("tmpfs"), RESTRICTED, Some(options))?)
}

/// Shows something with all that is mounted in it.
fn show(source: &Path, target: &Path) -> io::Result<()> {
    Ok(mount(Some(source), target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?)
}

/// Nothing is added to what covers a directory any more.
fn close(path: &Path) -> io::Result<()> {
    let flags = RESTRICTED | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    Ok(mount(NONE, path, NONE, flags, NONE)?)
}

/// A path that means what is open, whatever covers it.
fn beneath(dir: &fs::File) -> PathBuf {
    format!("/proc/self/fd/{}", dir.as_raw_fd()).into()
}
