//! Which volumes a container mounts where: a function from the container and its environment, after
//! upstream's `makeMounts`.

use std::{
    collections::BTreeSet,
    path::{Component, Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use crate::pods::environment::expand;

/// One mount, before its volume's place on the node is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PlannedMount {
    /// Name of the volume.
    pub(super) volume: String,
    /// The way from the volume's root: relative, without `..`; empty for the root itself.
    pub(super) sub_path: String,
    /// Absolute path in the guest.
    pub(super) guest_path: String,
    /// The guest may not write.
    pub(super) read_only: bool,
}

/// The mounts of a container, those of fewer path parts first, so that nested ones come after what they are
/// in.
///
/// # Errors
/// The message of `CreateContainerConfigError`, in upstream's words.
pub(super) fn mounts(container: &Container, env: &[(String, String)]) -> Result<Vec<PlannedMount>, String> {
    let mut planned = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        planned.push(PlannedMount {
            volume: mount.name.clone(),
            sub_path: sub_path(mount, env)?,
            guest_path: absolute(&mount.mount_path),
            read_only: mount.read_only == Some(true),
        });
    }
    planned.sort_by_key(|mount| Path::new(&mount.guest_path).components().count());
    Ok(planned)
}

/// Where something is mounted inside a volume: paths from its root.
pub(super) type MountPoints = BTreeSet<PathBuf>;

/// Where containers of the pod mount something directly inside this volume, as far as they mount the whole of it. After
/// upstream's `MakeNestedMountpoints`.
pub(super) fn mount_points(pod: &Pod, volume: &str) -> MountPoints {
    let spec = pod.spec.as_ref();
    let ephemeral = spec.and_then(|s| s.ephemeral_containers.as_deref()).unwrap_or_default();
    let of_containers = super::source::containers(pod).map(|container| &container.volume_mounts);
    let all = of_containers.chain(ephemeral.iter().map(|container| &container.volume_mounts));
    all.flatten().flat_map(|mounts| inside(mounts, volume)).collect()
}

fn inside(mounts: &[VolumeMount], volume: &str) -> Vec<PathBuf> {
    let is_empty = |path: &Option<String>| path.as_deref().unwrap_or_default().is_empty();
    let whole =
        mounts.iter().filter(|m| m.name == volume && is_empty(&m.sub_path) && is_empty(&m.sub_path_expr));
    let paths: Vec<PathBuf> = mounts.iter().map(|mount| normal(&mount.mount_path)).collect();
    let whole: Vec<PathBuf> = whole.map(|mount| normal(&mount.mount_path)).collect();
    let direct = |path: &PathBuf| {
        let outer = innermost(&paths, path)?;
        whole.contains(outer).then(|| path.strip_prefix(outer).ok().map(Path::to_owned)).flatten()
    };
    paths.iter().filter_map(direct).collect()
}

/// The innermost of `paths` that `path` is below.
fn innermost<'a>(paths: &'a [PathBuf], path: &Path) -> Option<&'a PathBuf> {
    let above = paths.iter().filter(|other| *other != path && path.starts_with(other));
    above.max_by_key(|other| other.components().count())
}

/// A path of a guest with neither `.` nor `..` in it.
fn normal(path: &str) -> PathBuf {
    let mut parts = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => parts.push(name),
            Component::ParentDir => {
                parts.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    parts
}

/// The mount points that are inside other mounts: for each, the index of the mount that it is directly in, and the
/// way from there.
pub(super) fn nested(guest_paths: &[&str]) -> Vec<Option<(usize, PathBuf)>> {
    let paths: Vec<PathBuf> = guest_paths.iter().map(|path| normal(path)).collect();
    let outer = |path: &PathBuf| {
        let outer = innermost(&paths, path)?;
        let index = paths.iter().rposition(|other| other == outer)?;
        Some((index, path.strip_prefix(outer).ok()?.to_owned()))
    };
    paths.iter().map(outer).collect()
}

fn sub_path(mount: &VolumeMount, env: &[(String, String)]) -> Result<String, String> {
    let written = mount.sub_path.as_deref().unwrap_or_default();
    let path = match mount.sub_path_expr.as_deref().filter(|expression| !expression.is_empty()) {
        Some(expression) => expanded(expression, env)?,
        None => written.to_owned(),
    };
    if path.starts_with('/') {
        return Err(format!("error SubPath `{path}` must not be an absolute path"));
    }
    if Path::new(&path).components().any(|part| part == Component::ParentDir) {
        return Err(format!("unable to provision SubPath `{path}`: must not contain '..'"));
    }
    Ok(path)
}

fn expanded(expression: &str, env: &[(String, String)]) -> Result<String, String> {
    let missing = std::cell::RefCell::new(BTreeSet::new());
    let lookup = |name: &str| {
        let value = env.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value.as_str());
        if value.is_empty() {
            missing.borrow_mut().insert(name.to_owned());
        }
        Some(value)
    };
    let path = expand(expression, lookup);
    let missing: Vec<String> = missing.into_inner().into_iter().collect();
    if missing.is_empty() { Ok(path) } else { Err(format!("missing value for {}", missing.join(", "))) }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// True when the container mounts something of its own exactly at `path`.
pub(in crate::pods) fn is_taken(container: &Container, path: &str) -> bool {
    let same = |mount: &VolumeMount| {
        Path::new(&absolute(&mount.mount_path)).components().eq(Path::new(path).components())
    };
    container.volume_mounts.iter().flatten().any(same)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn container(mounts: Value) -> Container {
        serde_json::from_value(json!({"name": "c", "volumeMounts": mounts})).unwrap()
    }

    fn env() -> Vec<(String, String)> {
        [("POD", "web-0"), ("EMPTY", ""), ("UP", ".."), ("ROOT", "/etc")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn sub_paths_as_written_and_expanded() {
        let table = [
            (json!({}), Ok("")),
            (json!({"subPath": "a/b"}), Ok("a/b")),
            (json!({"subPath": "a..b/..c"}), Ok("a..b/..c")),
            (json!({"subPath": "/a"}), Err("error SubPath `/a` must not be an absolute path")),
            (json!({"subPath": ".."}), Err("unable to provision SubPath `..`: must not contain '..'")),
            (
                json!({"subPath": "a/../../b"}),
                Err("unable to provision SubPath `a/../../b`: must not contain '..'"),
            ),
            (json!({"subPathExpr": "logs/$(POD)"}), Ok("logs/web-0")),
            (json!({"subPathExpr": "$$(POD)"}), Ok("$(POD)")),
            (json!({"subPathExpr": "$(NONE)/$(EMPTY)/$(POD)"}), Err("missing value for EMPTY, NONE")),
            (json!({"subPathExpr": "$(ROOT)"}), Err("error SubPath `/etc` must not be an absolute path")),
            (
                json!({"subPathExpr": "a/$(UP)"}),
                Err("unable to provision SubPath `a/..`: must not contain '..'"),
            ),
        ];
        for (mut mount, expected) in table {
            mount["name"] = json!("v");
            mount["mountPath"] = json!("/m");
            let planned = mounts(&container(json!([mount.clone()])), &env());
            let path = planned.map(|p| p[0].sub_path.clone());
            assert_eq!(path.as_deref().map_err(String::as_str), expected, "{mount}");
        }
    }

    #[test]
    fn nested_mounts_come_after_what_they_are_in() {
        let planned = mounts(
            &container(json!([
                {"name": "inner", "mountPath": "/data/cache/deep", "readOnly": true},
                {"name": "relative", "mountPath": "etc"},
                {"name": "outer", "mountPath": "/data/"},
                {"name": "outer", "mountPath": "/again"},
            ])),
            &[],
        )
        .unwrap();
        let short: Vec<_> =
            planned.iter().map(|p| (p.volume.as_str(), p.guest_path.as_str(), p.read_only)).collect();
        assert_eq!(
            short,
            [
                ("relative", "/etc", false),
                ("outer", "/data/", false),
                ("outer", "/again", false),
                ("inner", "/data/cache/deep", true),
            ]
        );
    }

    #[test]
    fn a_path_is_taken_by_a_mount_at_it_only() {
        let container = container(json!([
            {"name": "v", "mountPath": "/etc/hosts"}, {"name": "w", "mountPath": "/dev/"},
        ]));
        for (path, taken) in [("/etc/hosts", true), ("/etc/hostname", false), ("/dev", true), ("/etc", false)]
        {
            assert_eq!(is_taken(&container, path), taken, "{path}");
        }
    }

    #[test]
    fn mount_points_are_directly_inside_the_whole_volume() {
        let mounts = |list: &[(&str, &str, &str)]| -> Value {
            list.iter()
                .map(|(name, path, sub)| json!({"name": name, "mountPath": path, "subPath": sub}))
                .collect()
        };
        let pod: Pod = serde_json::from_value(json!({"spec": {
            "initContainers": [{"name": "i", "volumeMounts": mounts(&[("v", "/v", ""), ("w", "/v/init", "")])}],
            "containers": [
                {"name": "a", "volumeMounts": mounts(&[
                    ("w", "/etc/app/tls/deep", ""), ("v", "/etc/app/", ""), ("w", "/etc/app/./tls", "file"),
                    ("w", "/etc/application", ""), ("w", "/etc", ""), ("w", "/etc/app/a/../b/c", ""),
                ])},
                {"name": "b", "volumeMounts": mounts(&[("v", "/part", "sub"), ("w", "/part/x", "")])},
                {"name": "c", "volumeMounts": mounts(&[("w", "/v/other", "")])},
            ],
            "ephemeralContainers": [{"name": "e", "volumeMounts": mounts(&[("v", "/", ""), ("w", "/data", "")])}],
        }}))
        .unwrap();
        let expected: MountPoints = ["b/c", "data", "init", "tls"].map(PathBuf::from).into();
        assert_eq!(mount_points(&pod, "v"), expected);
        assert_eq!(mount_points(&pod, "w"), ["app", "application"].map(PathBuf::from).into());
        assert_eq!(mount_points(&pod, "x"), MountPoints::new());
        let nested = nested(&["/a/b", "/a", "/a/b/c/d", "/x", "/a"]);
        let found: Vec<_> =
            nested.iter().map(|at| at.as_ref().map(|(i, way)| (*i, way.to_str().unwrap()))).collect();
        assert_eq!(found, [Some((4, "b")), None, Some((0, "c/d")), None, None]);
    }
}
