//! From the mounts that a container plans to paths of this node.

use std::{collections::BTreeMap, io::Read as _, path::Path};

use k8s_openapi::api::core::v1::Container;

use super::{Place, Places, beneath::Opened, plan};
use crate::{
    pods::{lifecycle::Trouble, reason::WaitingReason},
    runtime::{ImageError, Mount, Runtime},
};

/// Bytes of a file of variables that are read at most.
const ENV_FILE_BYTES: u64 = 1 << 20;

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
    places: &Places,
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
            Place::Path { path, read_only } => (path.clone(), *read_only, true),
            Place::Image(image) => (image_root(runtime, image).await?, true, false),
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
    places: &Places,
) -> Result<BTreeMap<(String, String), Option<String>>, Trouble> {
    let mut files = BTreeMap::new();
    for (volume, path) in wanted {
        let Some(Place::Path { path: root, .. }) = places.get(&volume) else {
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
        let places: Places = Arc::new(BTreeMap::from([(
            "v".to_owned(),
            Place::Path { path: root.join("v"), read_only: false },
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
}
