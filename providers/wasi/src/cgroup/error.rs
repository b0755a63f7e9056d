//! Why there are no cgroups of our own, and what to do about it.

use std::{io, path::Path};

/// Why there are no cgroups of our own. The text says what failed and, where that is known, the way out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CgroupError {
    /// The hierarchy does not account for memory.
    #[error(
        "no memory controller in {path}: the kernel must be started with it (cgroup_enable=memory), and in a container or a service it must be handed down (systemd: Delegate=yes)"
    )]
    NoController {
        /// The directory that lacks it, or the list of mounts.
        path: String,
    },
    /// A file of the hierarchy could not be used.
    #[error("cannot {what} {path}: {source}{}", advice(.source))]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl CgroupError {
    /// The kind of failure, where a file was used.
    pub(super) fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io { source, .. } => Some(source.kind()),
            Self::NoController { .. } => None,
        }
    }
}

pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.display().to_string();
    move |source| CgroupError::Io { what, path, source }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; run the node as root, or as a service of systemd with Delegate=yes and DelegateSubgroup=agent"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "; give the node's container a cgroup file system that it may write to (a privileged one has it)"
        }
        io::ErrorKind::ResourceBusy => {
            "; the cgroup has processes of its own, which must be in one below it (systemd: DelegateSubgroup=agent)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_the_way_out() {
        for (errno, expected) in [
            (rustix::io::Errno::ACCESS, "run the node as root"),
            (rustix::io::Errno::ROFS, "cgroup file system that it may write to"),
            (rustix::io::Errno::BUSY, "DelegateSubgroup=agent"),
        ] {
            let text = failed("write", Path::new("/sys/fs/cgroup/x"))(errno.into()).to_string();
            assert!(text.starts_with("cannot write /sys/fs/cgroup/x: ") && text.contains(expected), "{text}");
        }
    }
}
