//! What goes where in a container's file system: from the specification to an ordered list. Pure.

use std::path::{Path, PathBuf};

use crate::spec::{Mount, RootSpec};

/// Most mounts of one container.
pub(super) const MOUNTS_LIMIT: usize = 512;
/// Longest path in a guest, in bytes; as long as Linux takes one.
const PATH_LIMIT: usize = 4095;
/// Directories that every root has, if the image has nothing in their places, and their modes.
const SKELETON: [(&str, u32); 1] = [("tmp", 0o1777)];

/// The specification asks for what cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// More mounts than a container may have.
    #[error("the container has {count} mounts, and {MOUNTS_LIMIT} is the most")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// A path in the guest that is none.
    #[error("the path {path:?} in the container {why}")]
    Path {
        /// As it was given, shortened.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// What is below everything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Base<'a> {
    /// An empty directory of the container's own.
    Empty,
    /// The files of an image, which no container may change.
    Image(&'a Path),
    /// A volume that is mounted at `/`: the root itself.
    Volume(&'a Mount),
}

/// A mount, and its place in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Planned<'a> {
    pub(super) mount: &'a Mount,
    pub(super) place: GuestPath,
}

/// A path in the guest from the root: names only, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GuestPath(Vec<String>);

/// A whole root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RootPlan<'a> {
    pub(super) base: Base<'a>,
    /// The guest may change nothing but what is mounted.
    pub(super) read_only: bool,
    /// Directories to be made before anything is mounted, with their modes.
    pub(super) skeleton: Vec<(GuestPath, u32)>,
    /// What is mounted, in an order in which nothing covers what came before, but for what is mounted at the
    /// same place: there the last one is seen.
    pub(super) mounts: Vec<Planned<'a>>,
    /// The initial working directory, to be made when all is mounted.
    pub(super) working_dir: Option<GuestPath>,
}

impl GuestPath {
    /// Reads a path as a container runtime does: from the root, `..` resolved by its letters. `None` is the
    /// root.
    fn parse(path: &str) -> Result<Option<Self>, PlanError> {
        let wrong = |why| PlanError::Path { path: path.chars().take(80).collect(), why };
        if path.len() > PATH_LIMIT {
            return Err(wrong("has more than 4095 bytes"));
        }
        if path.contains('\0') {
            return Err(wrong("contains a NUL byte"));
        }
        let mut names: Vec<String> = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(names.pop()),
                name if name.len() > 255 => return Err(wrong("has a part of more than 255 bytes")),
                name => names.push(name.to_owned()),
            }
        }
        Ok((!names.is_empty()).then_some(Self(names)))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// True for a path below this one.
    pub(super) fn holds(&self, other: &Self) -> bool {
        other.0.len() > self.0.len() && other.0.starts_with(&self.0)
    }
}

impl std::fmt::Display for GuestPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|name| write!(f, "/{name}"))
    }
}

impl<'a> RootPlan<'a> {
    /// Plans a root.
    pub(super) fn new(spec: &'a RootSpec, working_dir: Option<&str>) -> Result<Self, PlanError> {
        if spec.mounts.len() > MOUNTS_LIMIT {
            return Err(PlanError::TooMany { count: spec.mounts.len() });
        }
        let mut base = spec.image.as_deref().map_or(Base::Empty, Base::Image);
        let mut mounts = Vec::with_capacity(spec.mounts.len());
        for mount in &spec.mounts {
            match GuestPath::parse(&mount.guest_path)? {
                None => base = Base::Volume(mount),
                Some(place) => mounts.push(Planned { mount, place }),
            }
        }
        // What is nearer to the root comes first; the sort is stable, so the order of what is equally near stays.
        mounts.sort_by_key(|planned| planned.place.0.len());
        let skeleton = match base {
            // A volume is shown as it is.
            Base::Volume(_) => Vec::new(),
            Base::Empty | Base::Image(_) => SKELETON
                .iter()
                .map(|(name, mode)| (GuestPath(vec![(*name).to_owned()]), *mode))
                .filter(|(path, _)| !mounts.iter().any(|planned| planned.place == *path))
                .collect(),
        };
        let working_dir = working_dir.map(GuestPath::parse).transpose()?.flatten();
        let read_only = match base {
            Base::Volume(mount) => mount.read_only,
            Base::Empty | Base::Image(_) => spec.read_only,
        };
        Ok(Self { base, read_only, skeleton, mounts, working_dir })
    }
}

/// The directories below a container's own that hold its root.
#[derive(Clone, Debug)]
pub(super) struct RootDirs {
    /// The root as the guest sees it.
    pub(super) root: PathBuf,
    /// What it changes of its image.
    pub(super) upper: PathBuf,
    /// What the overlay needs for itself.
    pub(super) work: PathBuf,
}

impl RootDirs {
    pub(super) fn new(scratch: &Path) -> Self {
        Self { root: scratch.join("root"), upper: scratch.join("upper"), work: scratch.join("work") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(guest_path: &str) -> Mount {
        Mount {
            host_path: format!("/host{guest_path}").into(),
            guest_path: guest_path.into(),
            read_only: false,
        }
    }

    fn spec(paths: &[&str]) -> RootSpec {
        RootSpec { mounts: paths.iter().map(|path| mount(path)).collect(), ..RootSpec::default() }
    }

    #[test]
    fn paths_are_read_from_the_root() {
        for (path, expected) in [
            ("/", None),
            ("", None),
            ("/..", None),
            ("/a", Some("/a")),
            ("a/b", Some("/a/b")),
            ("//a///b/./", Some("/a/b")),
            ("/a/../b", Some("/b")),
            ("/a/../../../b", Some("/b")),
            ("/a b/ü", Some("/a b/ü")),
        ] {
            let found = GuestPath::parse(path).unwrap().map(|path| path.to_string());
            assert_eq!(found.as_deref(), expected, "{path:?}");
        }
    }

    #[test]
    fn paths_that_are_none_are_refused_with_the_reason() {
        let (long, part) = ("/a".repeat(2048), format!("/{}", "x".repeat(256)));
        for (path, expected) in [
            (long.as_str(), "has more than 4095 bytes"),
            (&part, "has a part of more than 255 bytes"),
            ("/a\0b", "contains a NUL byte"),
        ] {
            let error = RootPlan::new(&spec(&[path]), None).unwrap_err().to_string();
            assert!(error.contains(expected) && error.len() < 200, "{error}");
            assert!(RootPlan::new(&RootSpec::default(), Some(path)).is_err(), "also as a working directory");
        }
        let many: Vec<String> = (0..=MOUNTS_LIMIT).map(|n| format!("/{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(RootPlan::new(&spec(&many), None), Err(PlanError::TooMany { count: MOUNTS_LIMIT + 1 }));
        assert!(RootPlan::new(&spec(&many[1..]), None).is_ok());
    }

    #[test]
    fn what_is_nearer_to_the_root_is_mounted_first() {
        let spec = spec(&["/a/b/c", "/a", "/z", "/a/b", "/a/"]);
        let plan = RootPlan::new(&spec, None).unwrap();
        let order: Vec<&str> = plan.mounts.iter().map(|m| m.mount.guest_path.as_str()).collect();
        assert_eq!(order, ["/a", "/z", "/a/", "/a/b", "/a/b/c"]);
    }

    #[test]
    fn a_volume_at_the_root_is_the_root() {
        let image = RootSpec { image: Some("/image".into()), read_only: true, ..spec(&["/", "/a"]) };
        let plan = RootPlan::new(&image, None).unwrap();
        assert_eq!(plan.base, Base::Volume(&image.mounts[0]));
        assert_eq!((plan.mounts.len(), plan.read_only), (1, false), "the volume's own setting counts");
        assert!(plan.skeleton.is_empty(), "nothing is added to it");
    }

    #[test]
    fn every_other_root_has_a_directory_for_temporary_files() {
        let tmp = |spec: &RootSpec| {
            let plan = RootPlan::new(spec, None).unwrap();
            plan.skeleton.iter().map(|(path, mode)| (path.to_string(), *mode)).collect::<Vec<_>>()
        };
        assert_eq!(tmp(&spec(&[])), [("/tmp".to_owned(), 0o1777)]);
        assert_eq!(tmp(&spec(&["/data"])), [("/tmp".to_owned(), 0o1777)]);
        assert_eq!(tmp(&spec(&["/tmp"])), [], "what is mounted there counts");
    }
}
