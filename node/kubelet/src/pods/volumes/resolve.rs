//! From the mounts that a container plans to paths of this node.

use std::{collections::BTreeMap, io::Read as _, path::Path};

use k8s_openapi::api::core::v1::Container;

use super::{VolumePlace, VolumePlaces, beneath::Opened, plan};
use crate::{
    pods::{lifecycle::Trouble, reason::WaitingReason},
    runtime::{ImageError, Mount, Runtime},
};

/// Bytes of a file of variables that are read at most.
const ENV_FILE_BYTES: u64 = 1 << 20;

/// Mode of directories that are made to be mounted on; upstream's.
const MOUNT_POINT: u32 = 0o755;

fn config_error(message: impl Into<String>) -> Trouble {
    Trouble { reason: WaitingReason::CreateContainerConfigError, message: message.into() }
}

/// The volume mounts of a container, whose volumes are at `places`. A path that is returned exists, and has
/// no link in it: whoever opens it without following links opens what was checked here.
///
/// # Errors
/// The waiting reason and message of the container.
pub(in crate::pods) async fn mounts(
    container: &Container,
    env: &[(String, String)],
    places: &VolumePlaces,
    runtime: &dyn Runtime,
) -> Result<Vec<Mount>, Trouble> {
    let mut mounts = Vec::new();
    for (index, planned) in plan::mounts(container, env).map_err(config_error)?.into_iter().enumerate() {
        let place = places.get(&planned.volume).ok_or_else(|| {
            config_error(format!(
                "cannot find volume \"{}\" to mount into container \"{}\"",
                planned.volume, container.name
            ))
        })?;
        let (root, read_only, may_make) = match place {
            VolumePlace::Path { path, read_only } => (path.clone(), *read_only, true),
            VolumePlace::Image(image) => (image_root(runtime, image).await?, true, false),
        };
        let host_path = if planned.sub_path.is_empty() {
            root
        } else {
            sub_path(&root, &planned.sub_path, may_make).map_err(|error| {
                // What exactly is wrong would tell of files that are not the pod's.
                tracing::warn!(
                    container = container.name, volume = planned.volume, index, %error, "a sub-path could not be prepared"
                );
                config_error(format!(
                    "failed to prepare subPath for volumeMount \"{}\" of container \"{}\"",
                    planned.volume, container.name
                ))
            })?
        };
        mounts.push(Mount {
            host_path,
            guest_path: planned.guest_path,
            read_only: read_only || planned.read_only,
        });
    }
    Ok(mounts)
}

/// Makes the places for mounts that are inside others which are read-only, and are of the node's making (`is_own`): whoever
/// mounts them later cannot. A directory for a directory, a file for a file. What cannot be made is told of where it is
/// mounted.
pub(in crate::pods) fn make_mount_points(mounts: &[Mount], is_own: impl Fn(&Path) -> bool) {
    let guest_paths: Vec<&str> = mounts.iter().map(|mount| mount.guest_path.as_str()).collect();
    for (mount, nested) in mounts.iter().zip(plan::nested(&guest_paths)) {
        let Some((outer, way)) = nested.and_then(|(index, way)| Some((mounts.get(index)?, way))) else {
            continue;
        };
        if outer.read_only
            && is_own(&outer.host_path)
            && let Err(error) = make_mount_point(&outer.host_path, &way, &mount.host_path)
        {
            tracing::warn!(path = mount.guest_path, %error, "there is no place for a mount inside a volume");
        }
    }
}

fn make_mount_point(volume: &Path, way: &Path, source: &Path) -> std::io::Result<()> {
    let volume = Opened::plain(volume)?;
    if Opened::plain(source)?.metadata()?.is_dir() {
        volume.make_below(way, MOUNT_POINT)?;
    } else {
        volume.make_below(way.parent().unwrap_or(Path::new("")), MOUNT_POINT)?;
        volume.make_file_below(way, 0o644)?;
    }
    Ok(())
}

async fn image_root(runtime: &dyn Runtime, image: &str) -> Result<std::path::PathBuf, Trouble> {
    let trouble =
        |error: ImageError| Trouble { reason: WaitingReason::of_image(&error), message: error.to_string() };
    match runtime.image_files(image).await.map_err(trouble)? {
        Some(path) => Opened::trusted(&path)
            .and_then(|opened| opened.path())
            .map_err(|error| config_error(format!("cannot open the files of image {image}: {error}"))),
        None => Err(config_error(format!(
            "image {image} has no files to mount: it is a module alone, or is not on this node any more"
        ))),
    }
}

/// A path below a volume, which is made as a folder where it is missing.
fn sub_path(root: &Path, path: &str, may_make: bool) -> std::io::Result<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let root = Opened::trusted(root)?;
    if !may_make {
        return root.below(Path::new(path))?.path();
    }
    let mode = root.metadata()?.permissions().mode() & 0o7777;
    root.make_below(Path::new(path), mode)?.path()
}

/// Files of variables that a container's environment refers to, by volume and path; `None` for one that is
/// not there.
///
/// # Errors
/// The waiting reason and message of the container.
pub(in crate::pods) fn env_files(
    wanted: impl IntoIterator<Item = (String, String)>,
    places: &VolumePlaces,
) -> Result<BTreeMap<(String, String), Option<String>>, Trouble> {
    let mut files = BTreeMap::new();
    for (volume, path) in wanted {
        let Some(VolumePlace::Path { path: root, .. }) = places.get(&volume) else {
            return Err(config_error(format!(
                "cannot find the volume \"{volume}\" referenced by FileKeyRef"
            )));
        };
        let text = match read(root, &path) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(volume, path, %error, "a file of variables cannot be read");
                return Err(config_error("couldn't parse env file"));
            }
        };
        files.insert((volume, path), text);
    }
    Ok(files)
}

fn read(root: &Path, path: &str) -> std::io::Result<String> {
    let file = Opened::trusted(root)?.read_below(Path::new(path))?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > ENV_FILE_BYTES {
        return Err(std::io::Error::other(format!("it is no file of at most {ENV_FILE_BYTES} bytes")));
    }
    let mut text = String::new();
    file.take(ENV_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, sync::Arc};

    use super::*;

    #[test]
    fn files_of_variables_stay_in_their_volume() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join("v")).unwrap();
        fs::write(root.join("secret"), "A='outside'").unwrap();
        fs::write(root.join("v/env"), "A='1'").unwrap();
        symlink("env", root.join("v/link")).unwrap();
        symlink("../secret", root.join("v/out")).unwrap();
        fs::write(root.join("v/big"), vec![b'x'; (1 << 20) + 1]).unwrap();
        let places: VolumePlaces = Arc::new(BTreeMap::from([(
            "v".to_owned(),
            VolumePlace::Path { path: root.join("v"), read_only: false },
        )]));
        let read = |volume: &str, path: &str| {
            let files = env_files([(volume.to_owned(), path.to_owned())], &places);
            files.map(|f| f.into_values().next().flatten()).map_err(|trouble| trouble.message)
        };
        assert_eq!(read("v", "env"), Ok(Some("A='1'".to_owned())));
        assert_eq!(read("v", "link"), Ok(Some("A='1'".to_owned())));
        assert_eq!(read("v", "none"), Ok(None));
        for path in ["out", "../secret", ".", "big"] {
            assert_eq!(read("v", path), Err("couldn't parse env file".to_owned()), "{path}");
        }
        assert!(read("w", "env").unwrap_err().contains("cannot find the volume \"w\""));
    }

    #[test]
    fn places_for_mounts_inside_what_is_read_only_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for name in ["pod/cm", "pod/open", "pod/tls", "host"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        fs::write(root.join("pod/file"), "").unwrap();
        symlink(root.join("host"), root.join("pod/cm/out")).unwrap();
        let mount = |guest: &str, host: &str, read_only: bool| Mount {
            host_path: root.join(host),
            guest_path: guest.to_owned(),
            read_only,
        };
        let mounts = [
            mount("/cm", "pod/cm", true),
            mount("/cm/tls", "pod/tls", true),
            mount("/cm/tls/deep", "pod/tls", true),
            mount("/cm/a/file", "pod/file", true),
            mount("/cm/out/x", "pod/tls", true),
            mount("/open", "pod/open", false),
            mount("/open/tls", "pod/tls", true),
            mount("/host", "host", true),
            mount("/host/tls", "pod/tls", true),
        ];
        for _ in 0..2 {
            make_mount_points(&mounts, |path| path.starts_with(root.join("pod")));
        }
        assert!(root.join("pod/cm/tls").is_dir() && root.join("pod/tls/deep").is_dir());
        assert!(root.join("pod/cm/a/file").is_file());
        // A guest that may write there is served by who mounts; what is not the node's is left alone.
        for untouched in ["pod/open", "host"] {
            assert_eq!(fs::read_dir(root.join(untouched)).unwrap().count(), 0, "{untouched}");
        }
    }
}
