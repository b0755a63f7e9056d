//! The folders that a node writes to, looked at before anything is begun.

use std::{
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::AgentError;
use crate::{config::Config, pods::LogLinks};

/// Checks that the node can keep its state below `root`, before anything else is begun, and that nobody else can
/// look into it: it is made with mode 0700, and one that others may enter is closed to them.
///
/// # Errors
/// [`AgentError::Root`].
pub fn check_root(root: &Path) -> Result<(), AgentError> {
    let usable = || {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root)?;
        let mode = std::fs::metadata(root)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            tracing::warn!(
                root = %root.display(),
                "the root directory was open to other users (mode {mode:04o}); it has mode 0700 now"
            );
            std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o700))?;
        }
        // Of a name of its own: several programs may begin at once.
        tempfile::Builder::new().prefix(".writable").tempfile_in(root)?.close()
    };
    usable().map_err(|source| AgentError::Root { path: root.to_path_buf(), source })
}

/// The directory of logs without links: log files are opened without following any. One that cannot be made is told of
/// by the containers whose logs would be in it.
pub(super) fn real_logs_dir(dir: &Path) -> PathBuf {
    std::fs::create_dir_all(dir).and_then(|()| dir.canonicalize()).unwrap_or_else(|error| {
        tracing::warn!(dir = %dir.display(), %error, "the directory for the logs of containers cannot be used");
        dir.to_owned()
    })
}

/// The links that log collectors go by. Where they cannot be made, the node goes without, and says so.
pub(super) fn log_links(config: &Config) -> LogLinks {
    let Some(dir) = &config.container_logs_dir else { return LogLinks::off() };
    LogLinks::open(dir, &config.kubelet.pod_logs_dir).unwrap_or_else(|error| {
        tracing::warn!(
            dir = %dir.display(), %error,
            "no links to the logs of containers are made; another directory is chosen with --container-logs-dir"
        );
        LogLinks::off()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_directory_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let made = dir.path().join("made/deep");
        check_root(&made).unwrap();
        assert_eq!(mode(&made), 0o700);
        for open in [0o755, 0o777, 0o710, 0o701] {
            let root = dir.path().join(format!("{open:o}"));
            std::fs::create_dir(&root).unwrap();
            std::fs::set_permissions(&root, std::fs::Permissions::from_mode(open)).unwrap();
            check_root(&root).unwrap();
            assert_eq!(mode(&root), 0o700, "{open:o}");
        }
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = check_root(&file).unwrap_err().to_string();
        assert!(error.contains("choose another with --root-dir"), "{error}");
    }

    /// A node, and `kubewasm module` beside it.
    #[test]
    fn several_programs_may_begin_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let begin = || (0..200).try_for_each(|_| check_root(dir.path()));
        std::thread::scope(|scope| {
            let programs = [(); 4].map(|()| scope.spawn(begin));
            for program in programs {
                program.join().unwrap().unwrap();
            }
        });
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
