//! Where cgroups of our own go: read from `/proc/self/mountinfo` and `/proc/PID/cgroup`. Pure.

use std::path::{Path, PathBuf};

/// A mount of a hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CgroupMount {
    pub(super) dir: PathBuf,
    /// What of the hierarchy is mounted there.
    pub(super) root: PathBuf,
    pub(super) unified: bool,
}

/// The mount of the memory controller. See proc_pid_mountinfo(5). Version 1 goes first where both are mounted,
/// because a controller belongs to one of them.
pub(super) fn memory_mount(mountinfo: &str) -> Option<CgroupMount> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, dir) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        let unified = match kind {
            "cgroup2" => true,
            "cgroup" if options.split(',').any(|option| option == "memory") => false,
            _ => return None,
        };
        Some(CgroupMount { dir: dir.into(), root: root.into(), unified })
    });
    mounts.min_by_key(|mount| mount.unified)
}

/// The directory of the cgroup of who has this `/proc/PID/cgroup`.
pub(super) fn locate(mount: &CgroupMount, membership: &str) -> Option<PathBuf> {
    let path = membership.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let is_it = match mount.unified {
            true => controllers.is_empty(),
            false => controllers.split(',').any(|name| name == "memory"),
        };
        is_it.then_some(path)
    })?;
    Some(mount.dir.join(Path::new(path).strip_prefix(&mount.root).ok()?))
}

/// The directory below which the cgroup of all workers goes.
///
/// Of version 1 that is the top of the hierarchy, where the kubelet has its own. Of version 2 it is what a service
/// manager has handed over, if this process is in a subgroup of it (systemd: `Delegate=yes` with
/// `DelegateSubgroup=`), and else the top. The cgroup of the service itself would not do: with controllers handed
/// down from it, it may hold no processes, and systemd could not start the next agent in it while workers remain.
pub(super) fn base(mount: &CgroupMount, own: Option<&Path>, is_delegated: impl Fn(&Path) -> bool) -> PathBuf {
    let service = own.and_then(Path::parent).filter(|dir| dir.starts_with(&mount.dir));
    match service {
        Some(service) if mount.unified && is_delegated(service) => service.to_owned(),
        _ => mount.dir.clone(),
    }
}

/// The count in `memory.events` (version 2) or `memory.oom_control` (version 1).
pub(super) fn kills(text: &str) -> Option<u64> {
    count(text, "oom_kill ")
}

/// The count in `memory.events.local` of how often a cgroup itself had no more to give.
pub(super) fn shortages(text: &str) -> Option<u64> {
    count(text, "oom ")
}

fn count(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)).and_then(|count| count.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "35 26 0:30 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      36 26 0:31 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      40 26 0:35 / /sys/fs/cgroup/unified rw,relatime - cgroup2 none rw\n";
    const V2: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const OF_A_CONTAINER: &str =
        "36 26 0:31 /kubepods/pod1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";

    #[test]
    fn the_memory_controller_is_found_wherever_it_is() {
        for (mounts, membership, expected) in [
            (V1, "4:memory:/a/b\n1:cpu:/x\n0::/y\n", Some("/sys/fs/cgroup/memory/a/b")),
            (V1, "4:memory:/\n", Some("/sys/fs/cgroup/memory/")),
            (V2, "0::/system.slice/kubewasm.service\n", Some("/sys/fs/cgroup/system.slice/kubewasm.service")),
            (OF_A_CONTAINER, "4:memory:/kubepods/pod1/c\n", Some("/sys/fs/cgroup/memory/c")),
            (OF_A_CONTAINER, "4:memory:/elsewhere\n", None),
            (V1, "1:cpu:/x\n", None),
            ("", "0::/y\n", None),
        ] {
            let found = memory_mount(mounts).and_then(|mount| locate(&mount, membership));
            assert_eq!(found, expected.map(PathBuf::from), "{membership}");
        }
    }

    #[test]
    fn workers_go_below_what_was_delegated_or_else_to_the_top() {
        const SERVICE: &str = "/sys/fs/cgroup/system.slice/kubewasm.service";
        for (mounts, membership, delegated, expected) in [
            // systemd 254 and later: the agent is in a subgroup of what it was given.
            (V2, "0::/system.slice/kubewasm.service/agent\n", SERVICE, SERVICE),
            // Before: it is in the very cgroup, which could not hold the next agent.
            (V2, "0::/system.slice/kubewasm.service\n", SERVICE, "/sys/fs/cgroup"),
            // Started by hand, or in a container with a namespace of its own.
            (V2, "0::/user.slice/session.scope\n", "/nowhere", "/sys/fs/cgroup"),
            (V2, "0::/\n", "/sys/fs", "/sys/fs/cgroup"),
            // Version 1 lets a cgroup have both processes and children, and nobody hands it over.
            (
                V1,
                "4:memory:/system.slice/x/agent\n",
                "/sys/fs/cgroup/memory/system.slice/x",
                "/sys/fs/cgroup/memory",
            ),
        ] {
            let mount = memory_mount(mounts).unwrap();
            let own = locate(&mount, membership);
            let found = base(&mount, own.as_deref(), |dir| dir == Path::new(delegated));
            assert_eq!(found, Path::new(expected), "{membership}");
        }
    }

    #[test]
    fn kills_are_read_of_both_versions() {
        for (text, expected) in [
            ("low 0\nhigh 0\nmax 4\noom 1\noom_kill 1\noom_group_kill 0\n", Some(1)),
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", Some(3)),
            ("oom_kill_disable 0\nunder_oom 0\n", None),
            ("", None),
        ] {
            assert_eq!(kills(text), expected, "{text}");
        }
    }
}
