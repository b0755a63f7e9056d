//! `hostPath` volumes, and the paths of the node that pods may have.

use std::{
    fs,
    os::unix::fs::FileTypeExt as _,
    path::{Component, Path, PathBuf},
};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::beneath::Opened;

/// Folders of the node below which pods may have hostPath volumes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedHostPaths {
    paths: Vec<PathBuf>,
}

impl AllowedHostPaths {
    /// # Errors
    /// The message for the user, when a path is not absolute, or has `..` in it.
    pub fn new(paths: Vec<PathBuf>) -> Result<Self, String> {
        match paths.iter().find(|path| !path.is_absolute() || has_parents(path)) {
            Some(path) => Err(format!(
                "--allow-host-path={} is not possible: it must be an absolute path without '..'",
                path.display()
            )),
            None => Ok(Self { paths }),
        }
    }

    /// The allowed folder that `path` is below, and the way from there: the innermost, if there are several.
    fn find<'a>(&'a self, path: &'a Path) -> Option<(&'a Path, &'a Path)> {
        let matching = self
            .paths
            .iter()
            .filter_map(|allowed| Some((allowed.as_path(), path.strip_prefix(allowed).ok()?)));
        matching.max_by_key(|(allowed, _)| allowed.components().count())
    }

    /// Why a pod cannot have the volume here; `None` when it can.
    pub(super) fn refusal(&self, source: &HostPathVolumeSource) -> Option<String> {
        let path = Path::new(&source.path);
        if has_parents(path) {
            return Some(format!("the path {} contains '..'", source.path));
        }
        if let Some(kind @ ("Socket" | "CharDevice" | "BlockDevice")) = source.type_.as_deref() {
            return Some(format!("a guest cannot use a hostPath of type {kind}"));
        }
        if self.find(path).is_none() {
            return Some(format!(
                "the path {} of the node is not among those that pods may have; an administrator can allow it by \
                 starting the node with --allow-host-path",
                source.path
            ));
        }
        None
    }

    /// Checks the volume's path on this node, makes it where its type says so, and returns it without links.
    /// A link below an allowed folder leads nowhere else.
    ///
    /// # Errors
    /// The message for the user; upstream's where it has one.
    pub(super) fn prepare(&self, source: &HostPathVolumeSource) -> Result<PathBuf, String> {
        if let Some(refusal) = self.refusal(source) {
            return Err(refusal);
        }
        let path = Path::new(&source.path);
        let Some((allowed, rest)) = self.find(path) else {
            return Err(format!("the path {} is not allowed", source.path));
        };
        let wrong = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::CrossesDevices => format!(
                "the path {} leads out of {}, which is what pods may have",
                source.path,
                allowed.display()
            ),
            _ => format!("cannot use the path {}: {error}", source.path),
        };
        let root = Opened::trusted(allowed).map_err(wrong)?;
        prepare(&root, rest, source, &wrong)
    }
}

/// Checks a path that an administrator has chosen, by the PersistentVolume that names it.
///
/// # Errors
/// As for [`AllowedHostPaths::prepare`].
pub(super) fn prepare_trusted(source: &HostPathVolumeSource) -> Result<PathBuf, String> {
    let wrong = |error: std::io::Error| format!("cannot use the path {}: {error}", source.path);
    if has_parents(Path::new(&source.path)) {
        return Err(format!("the path {} contains '..'", source.path));
    }
    let relative = Path::new(&source.path).strip_prefix("/").unwrap_or(Path::new(&source.path));
    let made =
        ["DirectoryOrCreate", "FileOrCreate", ""].contains(&source.type_.as_deref().unwrap_or_default());
    match Path::new(&source.path).canonicalize() {
        Ok(path) => {
            let opened = Opened::trusted(&path).map_err(wrong)?;
            prepare(&opened, Path::new(""), source, &wrong)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && made => {
            let root = Opened::trusted(Path::new("/")).map_err(wrong)?;
            prepare(&root, relative, source, &wrong)
        }
        Err(error) => Err(wrong(error)),
    }
}

fn prepare(
    root: &Opened,
    path: &Path,
    source: &HostPathVolumeSource,
    wrong: &dyn Fn(std::io::Error) -> String,
) -> Result<PathBuf, String> {
    let kind = source.type_.as_deref().unwrap_or_default();
    let opened = match kind {
        // With no type there is no check, and container runtimes make what is not there.
        "" | "DirectoryOrCreate" => root.make_below(path, 0o755),
        "FileOrCreate" => root.make_file_below(path, 0o644),
        _ => root.below(path),
    };
    let failed = |what: &str| format!("hostPath type check failed: {} is not {what}", source.path);
    let opened = match opened {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(match kind {
                "Directory" => failed("a directory"),
                "File" => failed("a file"),
                _ => wrong(error),
            });
        }
        other => other.map_err(wrong)?,
    };
    let found = opened.metadata().map_err(wrong)?.file_type();
    match kind {
        "" if !(found.is_dir() || found.is_file()) => {
            return Err(format!("the path {} is {}, which a guest cannot use", source.path, describe(found)));
        }
        "Directory" | "DirectoryOrCreate" if !found.is_dir() => return Err(failed("a directory")),
        "File" | "FileOrCreate" if !found.is_file() => return Err(failed("a file")),
        "" | "Directory" | "DirectoryOrCreate" | "File" | "FileOrCreate" => {}
        other => return Err(format!("{other} is an invalid volume type")),
    }
    opened.path().map_err(wrong)
}

fn describe(kind: fs::FileType) -> &'static str {
    if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a pipe"
    } else {
        "a device"
    }
}

fn has_parents(path: &Path) -> bool {
    path.components().any(|part| part == Component::ParentDir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn source(path: &Path, kind: &str) -> HostPathVolumeSource {
        let type_ = (!kind.is_empty()).then(|| kind.to_owned());
        HostPathVolumeSource { path: path.to_str().unwrap().to_owned(), type_ }
    }

    #[test]
    fn types_are_checked_and_made() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("file"), "x").unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let allowed = AllowedHostPaths::new(vec![root.clone()]).unwrap();
        let table = [
            ("dir", "", Ok(())),
            ("file", "", Ok(())),
            ("pipe", "", Err("a pipe, which a guest cannot use")),
            ("none", "Directory", Err("is not a directory")),
            ("none", "File", Err("is not a file")),
            ("dir", "Directory", Ok(())),
            ("file", "Directory", Err("is not a directory")),
            ("file", "File", Ok(())),
            ("dir", "File", Err("is not a file")),
            ("dir", "FileOrCreate", Err("is not a file")),
            ("file", "DirectoryOrCreate", Err("is not a directory")),
            ("new/deep", "FileOrCreate", Err("cannot use the path")),
            ("made/deep", "DirectoryOrCreate", Ok(())),
            ("made/file", "FileOrCreate", Ok(())),
            ("unasked", "", Ok(())),
            ("file", "Socket", Err("a guest cannot use a hostPath of type Socket")),
            ("dir", "Folder", Err("Folder is an invalid volume type")),
        ];
        for (name, kind, expected) in table {
            let path = root.join(name);
            match (allowed.prepare(&source(&path, kind)), expected) {
                (Ok(found), Ok(())) => assert_eq!(found, path),
                (Err(message), Err(part)) => assert!(message.contains(part), "{name} {kind}: {message}"),
                (found, _) => panic!("{name} {kind}: {found:?}"),
            }
        }
        assert!(root.join("made/deep").is_dir() && root.join("made/file").is_file());
    }

    #[test]
    fn only_what_is_allowed_and_never_through_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("ours/inner")).unwrap();
        fs::create_dir(root.join("theirs")).unwrap();
        symlink(root.join("theirs"), root.join("ours/absolute")).unwrap();
        symlink("../theirs", root.join("ours/relative")).unwrap();
        symlink("inner", root.join("ours/link")).unwrap();
        symlink("/proc/self/root", root.join("ours/magic")).unwrap();
        let allowed = AllowedHostPaths::new(vec![root.join("ours")]).unwrap();
        let prepare = |name: &str| allowed.prepare(&source(&root.join(name), ""));
        assert_eq!(prepare("ours"), Ok(root.join("ours")));
        assert_eq!(prepare("ours/link"), Ok(root.join("ours/inner")));
        for name in ["ours/absolute", "ours/relative", "ours/relative/new", "ours/magic"] {
            assert!(prepare(name).unwrap_err().contains("leads out of"), "{name}");
        }
        assert!(!root.join("theirs/new").exists());
        for name in ["theirs", "ours/../theirs", "oursX", ""] {
            let error = prepare(name).unwrap_err();
            assert!(error.contains("--allow-host-path") || error.contains("'..'"), "{name}: {error}");
        }
        assert!(
            AllowedHostPaths::default()
                .prepare(&source(&root, ""))
                .unwrap_err()
                .contains("--allow-host-path")
        );
        assert!(AllowedHostPaths::new(vec!["data".into()]).is_err());
        assert!(AllowedHostPaths::new(vec!["/a/../b".into()]).is_err());
    }

    #[test]
    fn a_path_of_an_administrator_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join("disk")).unwrap();
        symlink(root.join("disk"), root.join("link")).unwrap();
        assert_eq!(prepare_trusted(&source(&root.join("link"), "Directory")), Ok(root.join("disk")));
        assert_eq!(prepare_trusted(&source(&root.join("new"), "DirectoryOrCreate")), Ok(root.join("new")));
        assert!(prepare_trusted(&source(&root.join("none"), "Directory")).is_err());
    }
}
