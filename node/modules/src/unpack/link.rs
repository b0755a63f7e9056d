//! Symbolic links as they are unpacked: with targets that stay inside the root by themselves.

use std::path::{Component, Path, PathBuf};

/// The target of a link that lies `depth` directories below the root, rewritten so that whoever follows it from
/// where it lies, and knows nothing of a root, ends where a process with that root would: absolute targets
/// become relative, and none climbs higher than the root.
///
/// The hosts of guests resolve paths beneath an open directory and refuse to follow an absolute link at all.
pub(super) fn inside(target: &Path, depth: usize) -> PathBuf {
    let mut parts = target.components().peekable();
    let mut climbs = if target.has_root() { depth } else { 0 };
    while let Some(part) = parts.next_if(|part| !matches!(part, Component::Normal(_) | Component::Prefix(_)))
    {
        if part == Component::ParentDir {
            climbs = (climbs + 1).min(depth);
        }
    }
    let inside: PathBuf = std::iter::repeat_n(Component::ParentDir, climbs).chain(parts).collect();
    if inside.as_os_str().is_empty() { PathBuf::from(".") } else { inside }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_stay_inside() {
        for (target, depth, expected) in [
            ("tool", 0, "tool"),
            ("tool", 3, "tool"),
            ("./tool", 1, "tool"),
            ("../lib/tool", 1, "../lib/tool"),
            ("../../lib/tool", 1, "../lib/tool"),
            ("../lib", 0, "lib"),
            ("/usr/bin/tool", 0, "usr/bin/tool"),
            ("/usr/bin/tool", 2, "../../usr/bin/tool"),
            ("/../../etc/passwd", 1, "../etc/passwd"),
            ("/", 0, "."),
            ("/", 2, "../.."),
            (".", 2, "."),
            ("..", 0, "."),
            ("a/../b", 1, "a/../b"),
            ("/a/../b", 1, "../a/../b"),
        ] {
            assert_eq!(inside(Path::new(target), depth), Path::new(expected), "{target} at {depth}");
        }
    }
}
