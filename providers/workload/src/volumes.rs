//! Volumes of a workload, and where its components see them.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use kubewasm_host::Preopen;

use crate::{
    error::WorkloadError,
    workload::{HostPathVolume, Volume, VolumeMount, VolumeType},
};

/// The directories of one workload. Those that were made for it are removed with it.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    paths: HashMap<String, PathBuf>,
    own: Option<PathBuf>,
}

impl Drop for Volumes {
    fn drop(&mut self) {
        if let Some(own) = self.own.take() {
            // What cannot be removed now goes with the engine's directory.
            let _ = fs::remove_dir_all(own);
        }
    }
}

fn invalid(what: String, reason: impl Into<String>) -> WorkloadError {
    WorkloadError::Invalid { what, reason: reason.into() }
}

impl Volumes {
    /// Finds or makes them, in a directory of this workload's own below `root`.
    pub(crate) fn make(volumes: &[Volume], root: &Path, directory: &str) -> Result<Self, WorkloadError> {
        let mut made = Self::default();
        for Volume { name, volume_type } in volumes {
            if made.paths.contains_key(name) {
                return Err(invalid(format!("volume `{name}`"), "there are two of this name"));
            }
            let path = match volume_type {
                VolumeType::HostPath(HostPathVolume { local_path }) => {
                    let path = PathBuf::from(local_path);
                    if !path.is_absolute() {
                        return Err(invalid(format!("volume `{name}`"), "its path must begin with /"));
                    }
                    let checked = fs::metadata(&path).and_then(|meta| match meta.is_dir() {
                        true => Ok(()),
                        false => Err(io::ErrorKind::NotADirectory.into()),
                    });
                    checked.map_err(|source| volume_error(name, &path, source))?;
                    path
                }
                VolumeType::EmptyDir(_) => {
                    let own = made.own.get_or_insert_with(|| root.join(directory)).clone();
                    // Names are the workload's, and a number is nobody's way out.
                    let path = own.join(made.paths.len().to_string());
                    let mut builder = fs::DirBuilder::new();
                    builder.recursive(true).mode(0o700);
                    builder.create(&path).map_err(|source| volume_error(name, &path, source))?;
                    path
                }
            };
            made.paths.insert(name.clone(), path);
        }
        Ok(made)
    }

    /// What a component has of them, below an empty root.
    pub(crate) fn preopens(
        &self,
        component: &str,
        mounts: &[VolumeMount],
        empty_root: &Path,
    ) -> Result<Vec<Preopen>, WorkloadError> {
        if mounts.is_empty() {
            return Ok(Vec::new());
        }
        let what = || format!("component `{component}`");
        let (mut preopens, mut seen) = (Vec::new(), HashSet::new());
        for VolumeMount { name, mount_path, read_only } in mounts {
            let path = self.paths.get(name);
            let path = path
                .ok_or_else(|| invalid(what(), format!("it mounts a volume `{name}`, and there is none")))?;
            let is_path = mount_path.starts_with('/') && !mount_path.split('/').any(|part| part == "..");
            let guest = match mount_path.trim_end_matches('/') {
                "" => "/",
                path => path,
            };
            if !is_path {
                let reason = format!("it mounts `{name}` at {mount_path:?}: write a path such as /data");
                return Err(invalid(what(), reason));
            }
            if !seen.insert(guest) {
                return Err(invalid(what(), format!("it mounts two volumes at {guest}")));
            }
            preopens.push(Preopen { host: path.clone(), guest: guest.to_owned(), writable: !read_only });
        }
        if !seen.contains("/") {
            preopens.push(Preopen { host: empty_root.to_owned(), guest: "/".to_owned(), writable: false });
        }
        // `/` first.
        preopens.sort_by(|one, other| one.guest.cmp(&other.guest));
        Ok(preopens)
    }
}

fn volume_error(name: &str, path: &Path, source: io::Error) -> WorkloadError {
    WorkloadError::Volume { volume: name.to_owned(), path: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::EmptyDirVolume;

    fn empty(name: &str) -> Volume {
        Volume { name: name.into(), volume_type: VolumeType::EmptyDir(EmptyDirVolume {}) }
    }

    fn mount(name: &str, path: &str) -> VolumeMount {
        VolumeMount { name: name.into(), mount_path: path.into(), read_only: true }
    }

    #[test]
    fn what_was_made_goes_with_the_workload_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let local_path = dir.path().join("mine").display().to_string();
        fs::create_dir(&local_path).unwrap();
        let host = Volume {
            name: "../host".into(),
            volume_type: VolumeType::HostPath(HostPathVolume { local_path: local_path.clone() }),
        };
        let volumes = Volumes::make(&[host, empty("../../escape")], dir.path(), "w").unwrap();
        let mounts = [mount("../host", "/host/"), mount("../../escape", "/tmp")];
        let preopens = volumes.preopens("c", &mounts, Path::new("/empty")).unwrap();
        let guests: Vec<_> = preopens.iter().map(|preopen| &*preopen.guest).collect();
        assert_eq!(guests, ["/", "/host", "/tmp"]);
        let made = preopens[2].host.clone();
        assert!(made.starts_with(dir.path().join("w")) && made.is_dir());
        drop(volumes);
        assert!(!made.exists() && Path::new(&local_path).exists());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let relative = HostPathVolume { local_path: "data".into() };
        let relative = Volume { name: "v".into(), volume_type: VolumeType::HostPath(relative) };
        let gone = HostPathVolume { local_path: dir.path().join("gone").display().to_string() };
        let gone = Volume { name: "v".into(), volume_type: VolumeType::HostPath(gone) };
        for volumes in [vec![relative], vec![gone], vec![empty("v"), empty("v")]] {
            assert!(Volumes::make(&volumes, dir.path(), "w").is_err(), "{volumes:?}");
        }
        let volumes = Volumes::make(&[empty("v")], dir.path(), "w").unwrap();
        for mounts in [
            vec![mount("other", "/a")],
            vec![mount("v", "a")],
            vec![mount("v", "/a/../b")],
            vec![mount("v", "/a"), mount("v", "/a/")],
        ] {
            assert!(volumes.preopens("c", &mounts, Path::new("/empty")).is_err(), "{mounts:?}");
        }
    }
}
