//! `hostPath` volumes, and the paths of the node that pods may have.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::FileTypeExt as _},
    path::{Component, Path, PathBuf},
};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use super::{beneath::Opened, protected::ProtectedPaths};

/// Which paths of the node pods may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedHostPaths {
    folders: Vec<AllowedFolder>,
    protected: ProtectedPaths,
}

/// A folder of the node below which pods may have hostPath volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AllowedFolder {
    path: PathBuf,
    /// For reading alone, whatever a pod says.
    read_only: bool,
}

/// How a folder is marked that is for reading alone.
const READ_ONLY: &[u8] = b":ro";

/// A path of the node that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prepared {
    /// Without links.
    pub(super) path: PathBuf,
    /// For reading alone.
    pub(super) read_only: bool,
}

impl AllowedHostPaths {
    /// Takes folders as `--allow-host-path` names them, each with `:ro` at its end when it is for reading alone. Nothing
    /// that is protected can be had, neither this way nor by a PersistentVolume.
    ///
    /// # Errors
    /// The message for the user, when a path is not absolute, has `..` in it, or gives the node away.
    pub fn new(folders: Vec<PathBuf>, protected: ProtectedPaths) -> Result<Self, String> {
        let read = |written: PathBuf| {
            let bytes = written.as_os_str().as_bytes();
            let (path, read_only) = match bytes.strip_suffix(READ_ONLY) {
                Some(path) => (PathBuf::from(OsStr::from_bytes(path)), true),
                None => (written.clone(), false),
            };
            let refusal = if !path.is_absolute() || has_parents(&path) {
                Some("it must be an absolute path without '..'".to_owned())
            } else {
                protected.refusal(&path)
            };
            match refusal {
                Some(why) => Err(format!("--allow-host-path={} is not possible: {why}", written.display())),
                None => Ok(AllowedFolder { path, read_only }),
            }
        };
        let folders = folders.into_iter().map(read).collect::<Result<_, _>>()?;
        Ok(Self { folders, protected })
    }

    /// The same, with these paths protected, too.
    ///
    /// # Errors
    /// As for [`AllowedHostPaths::new`]: an allowed folder gives one of them away.
    pub fn protecting(self, paths: impl IntoIterator<Item = PathBuf>) -> Result<Self, String> {
        let protected = self.protected.and(paths);
        for folder in &self.folders {
            if let Some(why) = protected.refusal(&folder.path) {
                return Err(format!("--allow-host-path={} is not possible: {why}", folder.path.display()));
            }
        }
        Ok(Self { protected, ..self })
    }

    /// The allowed folder that `path` is below, and the way from there: the innermost, if there are several.
    fn find<'a>(&'a self, path: &'a Path) -> Option<(&'a AllowedFolder, &'a Path)> {
        let matching =
            self.folders.iter().filter_map(|folder| Some((folder, path.strip_prefix(&folder.path).ok()?)));
        matching.max_by_key(|(folder, _)| folder.path.components().count())
    }

    /// Why a pod cannot have the volume here; `None` when it can. Looks at the path as it is written alone.
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
    /// A link below an allowed folder leads nowhere else. Nothing is made in a folder that is for reading alone.
    ///
    /// # Errors
    /// The message for the user; upstream's where it has one.
    pub(super) fn prepare(&self, source: &HostPathVolumeSource) -> Result<Prepared, String> {
        if let Some(refusal) = self.refusal(source) {
            return Err(refusal);
        }
        let path = Path::new(&source.path);
        let Some((folder, rest)) = self.find(path) else {
            return Err(format!("the path {} is not allowed", source.path));
        };
        let wrong = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::CrossesDevices => format!(
                "the path {} leads out of {}, which is what pods may have",
                source.path,
                folder.path.display()
            ),
            std::io::ErrorKind::NotFound if folder.read_only => format!(
                "the path {} is not there, and nothing is made in {}, which pods may only read",
                source.path,
                folder.path.display()
            ),
            _ => format!("cannot use the path {}: {error}", source.path),
        };
        let root = Opened::trusted(&folder.path).map_err(wrong)?;
        let path = prepare(&root, rest, source, !folder.read_only, &wrong)?;
        // The allowed folder may be a link, and lead elsewhere than when the node started.
        match self.protected.refusal(&path) {
            Some(refusal) => Err(refusal),
            None => Ok(Prepared { path, read_only: folder.read_only }),
        }
    }

    /// Checks a path that an administrator has chosen, by the PersistentVolume that names it. It need not be allowed;
    /// links are followed to wherever they lead, but for what is protected.
    ///
    /// # Errors
    /// As for [`AllowedHostPaths::prepare`].
    pub(super) fn prepare_trusted(&self, source: &HostPathVolumeSource) -> Result<PathBuf, String> {
        let wrong = |error: std::io::Error| format!("cannot use the path {}: {error}", source.path);
        let path = Path::new("/").join(&source.path);
        if has_parents(&path) {
            return Err(format!("the path {} contains '..'", source.path));
        }
        // Before anything is made.
        if let Some(refusal) = self.protected.refusal(&path) {
            return Err(refusal);
        }
        let made =
            ["DirectoryOrCreate", "FileOrCreate", ""].contains(&source.type_.as_deref().unwrap_or_default());
        let found = match path.canonicalize() {
            Ok(path) => {
                let opened = Opened::trusted(&path).map_err(wrong)?;
                prepare(&opened, Path::new(""), source, true, &wrong)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && made => {
                let root = Opened::trusted(Path::new("/")).map_err(wrong)?;
                prepare(&root, path.strip_prefix("/").unwrap_or(&path), source, true, &wrong)
            }
            Err(error) => Err(wrong(error)),
        }?;
        self.protected.refusal(&found).map_or(Ok(found), Err)
    }
}

fn prepare(
    root: &Opened,
    path: &Path,
    source: &HostPathVolumeSource,
    may_make: bool,
    wrong: &dyn Fn(std::io::Error) -> String,
) -> Result<PathBuf, String> {
    let kind = source.type_.as_deref().unwrap_or_default();
    let opened = match kind {
        // With no type there is no check, and container runtimes make what is not there.
        "" | "DirectoryOrCreate" if may_make => root.make_below(path, 0o755),
        "FileOrCreate" if may_make => root.make_file_below(path, 0o644),
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

    fn allow(folder: PathBuf) -> AllowedHostPaths {
        AllowedHostPaths::new(vec![folder], ProtectedPaths::default()).unwrap()
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
        let allowed = allow(root.clone());
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
                (Ok(found), Ok(())) => assert_eq!(found, Prepared { path, read_only: false }),
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
        let allowed = allow(root.join("ours"));
        let prepare = |name: &str| allowed.prepare(&source(&root.join(name), "")).map(|found| found.path);
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
        for wrong in ["data", "data:ro", "/a/../b", ":ro"] {
            let error = AllowedHostPaths::new(vec![wrong.into()], ProtectedPaths::default()).unwrap_err();
            assert!(error.contains(&format!("--allow-host-path={wrong} is not possible")), "{error}");
        }
    }

    #[test]
    fn a_path_of_an_administrator_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join("disk")).unwrap();
        symlink(root.join("disk"), root.join("link")).unwrap();
        let none = AllowedHostPaths::default();
        let prepare = |name: &str, kind: &str| none.prepare_trusted(&source(&root.join(name), kind));
        assert_eq!(prepare("link", "Directory"), Ok(root.join("disk")));
        assert_eq!(prepare("new", "DirectoryOrCreate"), Ok(root.join("new")));
        assert!(prepare("none", "Directory").is_err());
    }

    /// Neither a flag nor a PersistentVolume nor a link gives a pod what would give it the node, and nothing is made on
    /// the way.
    #[test]
    fn what_gives_the_node_away_cannot_be_had() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("node/modules")).unwrap();
        fs::create_dir(root.join("data")).unwrap();
        symlink(root.join("node"), root.join("data/link")).unwrap();
        symlink(root.join("data"), root.join("allowed")).unwrap();
        let protected = ProtectedPaths::with([root.join("node")]);
        let allow = |folder: PathBuf| AllowedHostPaths::new(vec![folder], protected.clone());
        for folder in ["node", "node/modules", "", "data/link", "data/link/modules"] {
            let error = allow(root.join(folder)).unwrap_err();
            assert!(error.contains("it would have the node"), "{error}");
            assert!(allow(root.join(format!("{folder}:ro"))).is_err(), "{folder}");
        }
        for folder in
            ["/", "/proc", "/sys:ro", "/dev/shm", "/var", "/run/docker.sock", "/var/run/docker.sock"]
        {
            assert!(allow(folder.into()).is_err(), "{folder}");
        }
        let allowed = allow(root.join("allowed")).unwrap();
        assert!(allowed.prepare(&source(&root.join("allowed"), "")).is_ok());
        assert!(allowed.prepare(&source(&root.join("allowed/link"), "")).is_err());
        // It leads elsewhere now.
        fs::remove_file(root.join("allowed")).unwrap();
        symlink(root.join("node"), root.join("allowed")).unwrap();
        let error = allowed.prepare(&source(&root.join("allowed/modules"), "")).unwrap_err();
        assert!(error.contains("it would have the node"), "{error}");

        for (path, kind) in [
            (root.join("node/new"), "DirectoryOrCreate"),
            (root.join("data/link/new"), "FileOrCreate"),
            (root.clone(), "Directory"),
            ("/".into(), ""),
            ("proc".into(), "Directory"),
            ("/var/run".into(), ""),
        ] {
            let error = allowed.prepare_trusted(&source(&path, kind)).unwrap_err();
            assert!(error.contains("it would have the node"), "{error}");
        }
        assert!(!root.join("node/new").exists());
    }

    #[test]
    fn a_folder_for_reading_alone_is_only_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("data/there/open")).unwrap();
        let folders = vec![root.join("data:ro"), root.join("data/there/open")];
        let allowed = AllowedHostPaths::new(folders, ProtectedPaths::default()).unwrap();
        let prepare = |name: &str, kind: &str| allowed.prepare(&source(&root.join(name), kind));
        let found = |path: &str, read_only| Ok(Prepared { path: root.join(path), read_only });
        assert_eq!(prepare("data/there", "DirectoryOrCreate"), found("data/there", true));
        assert_eq!(prepare("data", ""), found("data", true));
        assert_eq!(prepare("data/there/open/new", ""), found("data/there/open/new", false));
        for kind in ["", "DirectoryOrCreate", "FileOrCreate"] {
            let error = prepare("data/new", kind).unwrap_err();
            assert!(error.contains("which pods may only read"), "{error}");
        }
        assert!(!root.join("data/new").exists());
    }
}
