//! Charging volumes in memory to the pods that fill them.
//!
//! The kernel does so for containers of processes: what is in a tmpfs is on the account of who wrote it, and who has more
//! than its limit is killed. Here nobody asks for each page; the volumes are looked at, several times a second, and a file
//! system's own size is what bounds them in between.
//!
//! A volume that one running instance of its pod may fill is on that instance's account. What several may fill is on
//! that of the pod, and when the pod has more than it may, the one of them that has most memory itself ends.

use std::{collections::BTreeMap, os::fd::OwnedFd, path::Path, time::Duration};

use kubewasm_host::Preopen;
use rustix::{
    fs::{Mode, OFlags, ResolveFlags, fstat, fstatvfs, openat2},
    io::Errno,
};

/// Between two looks.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// An instance, with what it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) id: String,
    /// Bytes of its own account.
    pub(super) memory: u64,
    /// Bytes that it may have; 0 where its pod names no limit.
    pub(super) limit: u64,
    /// The volumes that it may fill.
    pub(super) volumes: Vec<VolumeUse>,
}

/// A volume in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VolumeUse {
    /// Number of its file system.
    pub(super) device: u64,
    /// Bytes that are in it.
    pub(super) bytes: u64,
}

/// Opens the volumes at these places of a guest, before it runs: what it renames later does not matter.
pub(super) fn open(preopens: &[Preopen], guest_paths: &[String]) -> Vec<OwnedFd> {
    let opened = guest_paths.iter().filter_map(|path| {
        open_one(preopens, path)
            .inspect_err(|error| tracing::warn!(path, %error, "a volume in memory is not charged"))
            .ok()
    });
    opened.collect()
}

fn open_one(preopens: &[Preopen], guest_path: &str) -> rustix::io::Result<OwnedFd> {
    let below = |preopen: &Preopen| Some(Path::new(guest_path).strip_prefix(&preopen.guest).ok()?.to_owned());
    let holding = preopens.iter().filter_map(|preopen| Some((preopen, below(preopen)?)));
    let (preopen, way) = holding.min_by_key(|(_, way)| way.components().count()).ok_or(Errno::NOENT)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open(&preopen.host, flags | OFlags::DIRECTORY, Mode::empty())?;
    let way = if way.as_os_str().is_empty() { Path::new(".") } else { &way };
    openat2(root, way, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Looks at a volume.
///
/// # Errors
/// What the system says.
pub(super) fn look(volume: &OwnedFd) -> rustix::io::Result<VolumeUse> {
    let (found, stat) = (fstat(volume)?, fstatvfs(volume)?);
    let bytes = stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize);
    Ok(VolumeUse { device: found.st_dev, bytes })
}

/// What an instance and its pod have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodUse<'a> {
    holder: &'a Holder,
    /// Bytes in volumes that this instance alone may fill.
    own_volumes: u64,
    /// Bytes in all volumes of the pod.
    volumes: u64,
    /// Bytes on the accounts of all instances of the pod.
    memory: u64,
}

impl<'a> PodUse<'a> {
    /// What the instance `id` has, of all that run of its pod.
    pub(super) fn of(id: &str, pod: &'a [Holder]) -> Option<Self> {
        let holder = pod.iter().find(|holder| holder.id == id)?;
        let mut volumes: BTreeMap<u64, (u64, Vec<&Holder>)> = BTreeMap::new();
        for holder in pod {
            for volume in &holder.volumes {
                let (bytes, holders) = volumes.entry(volume.device).or_default();
                *bytes = volume.bytes.max(*bytes);
                if !holders.contains(&holder) {
                    holders.push(holder);
                }
            }
        }
        let is_own = |holders: &[&Holder]| holders.iter().all(|other| other.id == id);
        let own_volumes =
            volumes.values().filter(|(_, holders)| is_own(holders)).map(|(bytes, _)| bytes).sum();
        Some(Self {
            holder,
            own_volumes,
            volumes: volumes.values().map(|(bytes, _)| bytes).sum(),
            memory: pod.iter().map(|holder| holder.memory).sum(),
        })
    }

    /// Bytes that count against the limit of the instance.
    pub(super) fn of_instance(&self) -> u64 {
        self.holder.memory.saturating_add(self.own_volumes)
    }

    /// Bytes that count against the limit of the pod.
    pub(super) fn of_pod(&self) -> u64 {
        self.memory.saturating_add(self.volumes)
    }
}

/// Why the instance `id` has to end, of all that run of its pod; `pod_limit` is in bytes, 0 for none.
pub(super) fn excess(id: &str, pod: &[Holder], pod_limit: u64) -> Option<String> {
    let used = PodUse::of(id, pod)?;
    let PodUse { holder, own_volumes, volumes, memory } = used;
    if holder.limit > 0 && own_volumes > 0 && used.of_instance() > holder.limit {
        return Some(describe("the limit", holder.limit, holder.memory, own_volumes));
    }
    if pod_limit == 0 || volumes == 0 || used.of_pod() <= pod_limit {
        return None;
    }
    let fillers = pod.iter().filter(|holder| holder.volumes.iter().any(|volume| volume.bytes > 0));
    let most = fillers.max_by_key(|holder| (holder.memory, &holder.id))?;
    (most.id == id).then(|| describe("the limit of the pod", pod_limit, memory, volumes))
}

fn describe(whose: &str, limit: u64, memory: u64, volumes: u64) -> String {
    format!(
        "out of memory: {whose} is {limit} bytes, and {memory} are used, and {volumes} in volumes of medium Memory"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(id: &str, memory: u64, limit: u64, volumes: &[(u64, u64)]) -> Holder {
        let volumes =
            volumes.iter().map(|(device, bytes)| VolumeUse { device: *device, bytes: *bytes }).collect();
        Holder { id: id.to_owned(), memory, limit, volumes }
    }

    #[test]
    fn who_fills_a_volume_has_it_on_its_account() {
        let ends = |pod: &[Holder], limit| -> Vec<String> {
            let ends = pod.iter().filter(|holder| excess(&holder.id, pod, limit).is_some());
            ends.map(|holder| holder.id.clone()).collect()
        };
        // Alone: up to its limit, and of one volume that it has at two places once.
        assert!(ends(&[holder("a", 60, 100, &[(1, 40), (1, 40)])], 100).is_empty());
        assert_eq!(ends(&[holder("a", 60, 100, &[(1, 40), (2, 1)])], 100), ["a"]);
        // Without a limit there is none.
        assert!(ends(&[holder("a", 60, 0, &[(1, 1000)])], 0).is_empty());
        // What another one has does not count, and another one does not end.
        let pod = [holder("a", 10, 100, &[(1, 95)]), holder("b", 100, 100, &[]), holder("c", 1, 0, &[])];
        assert_eq!(ends(&pod, 0), ["a"]);
        // Shared: all together, and of those who may fill it the largest ends.
        let pod = |bytes| {
            [
                holder("a", 20, 100, &[(1, bytes)]),
                holder("b", 30, 100, &[(1, bytes)]),
                holder("c", 50, 100, &[]),
            ]
        };
        assert!(ends(&pod(200), 300).is_empty());
        assert_eq!(ends(&pod(201), 300), ["b"]);
        // An empty volume is no reason to end.
        assert!(ends(&[holder("a", 101, 100, &[(1, 0)])], 100).is_empty());
        let text = excess("a", &[holder("a", 60, 100, &[(1, 41)])], 100).unwrap();
        assert_eq!(
            text,
            "out of memory: the limit is 100 bytes, and 60 are used, and 41 in volumes of medium Memory"
        );
    }

    #[test]
    fn a_volume_tells_what_is_in_it_wherever_its_guest_moves_it() {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        std::fs::create_dir_all(dir.path().join("root/a/v")).unwrap();
        std::fs::create_dir(dir.path().join("w")).unwrap();
        let preopen = |host: &str, guest: &str| Preopen {
            host: dir.path().join(host),
            guest: guest.to_owned(),
            writable: true,
        };
        let preopens = [preopen("root", "/"), preopen("w", "/a/w")];
        let paths = ["/a/v", "/a/w", "/none"].map(str::to_owned);
        let opened = open(&preopens, &paths);
        assert_eq!(opened.len(), 2, "one is not there");
        std::fs::rename(dir.path().join("root/a"), dir.path().join("root/b")).unwrap();
        std::fs::write(dir.path().join("root/b/v/file"), vec![1; 1 << 20]).unwrap();
        let used = opened.iter().map(|volume| look(volume).unwrap());
        assert!(used.into_iter().all(|used| used.bytes >= 1 << 20));
    }
}
