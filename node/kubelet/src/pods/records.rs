//! The memory of pods on disk, one folder per UID.
//!
//! ```text
//! <root>/pods/<uid>/state.json                            the lifecycle's state, replaced as a whole
//! <root>/pods/<uid>/containers/<container>/<attempt>      what an attempt writes outside its mounts
//! <root>/pods/<uid>/containers/<container>/<attempt>.end  its termination message
//! <root>/pods/<uid>/etc-*, volumes/                       see `files` and `volumes`
//! ```
//!
//! Files are replaced by renaming, so a reader sees the old or the new one whatever happens to the agent.
//! They are not synced to the device: they have to outlive the agent, and nothing they tell of outlives
//! the machine.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    allocation::Allocation,
    lifecycle::{Now, PodState},
    reserve::Reserve,
};

/// The folder below which the pods' folders are, and the room that is kept for what must be noted down.
#[derive(Clone, Debug)]
pub struct Records {
    pods: PathBuf,
    reserve: Arc<Reserve>,
}

/// A record as it is on disk.
#[derive(Serialize, Deserialize)]
struct PodRecord<S> {
    #[serde(flatten)]
    state: S,
    /// What the clocks showed to the agent that has written it.
    saved: Option<Now>,
}

impl Records {
    /// Opens, and makes if need be, `<root>/pods`.
    ///
    /// # Errors
    /// What the system says; it names no path.
    pub fn open(root: &Path) -> io::Result<Self> {
        let pods = root.join("pods");
        fs::create_dir_all(&pods)?;
        // What containers are given of it is opened without following links.
        Ok(Self { pods: pods.canonicalize()?, reserve: Arc::new(Reserve::open(root)) })
    }

    /// Keeps room, from now on, for what must be saved where the disk is full: 4 MiB. Writes them, so that it belongs
    /// on a thread that may block.
    pub fn keep_reserve(&self) {
        self.reserve.fill();
    }

    /// The folder of a pod.
    #[must_use]
    pub fn dir(&self, uid: &str) -> PathBuf {
        self.pods.join(uid)
    }

    /// The folder for all that a container writes outside its mounts, one folder per attempt.
    #[must_use]
    pub fn container_dir(&self, uid: &str, container: &str) -> PathBuf {
        self.dir(uid).join("containers").join(container)
    }

    /// The folder for what an attempt of a container writes outside its mounts.
    #[must_use]
    pub fn scratch(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.container_dir(uid, container).join(attempt.to_string())
    }

    /// The file in which an attempt of a container leaves its termination message.
    #[must_use]
    pub fn termination_message(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.dir(uid).join("containers").join(container).join(format!("{attempt}.end"))
    }

    /// Removes what an attempt of a container has written outside its mounts, and its termination message.
    /// Blocking.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove_attempt(&self, uid: &str, container: &str, attempt: u32) -> io::Result<()> {
        kubewasm_trees::remove(&self.scratch(uid, container, attempt))?;
        match fs::remove_file(self.termination_message(uid, container, attempt)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Something is remembered of the pod: it was taken before.
    #[must_use]
    pub fn knows(&self, uid: &str) -> bool {
        self.dir(uid).join("state.json").exists()
    }

    /// What is remembered of a pod, its timers on the clock of `now`. A file that cannot be understood counts as
    /// none: the API server and the provider know the rest.
    ///
    /// # Errors
    /// When there is a file that cannot be read.
    pub fn load(&self, uid: &str, now: Now) -> io::Result<Option<PodState>> {
        let path = self.dir(uid).join("state.json");
        match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice::<PodRecord<PodState>>(&bytes) {
                Ok(PodRecord { mut state, saved }) => {
                    if let Some(then) = saved {
                        state.translate(then, now);
                    }
                    Ok(Some(state))
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot understand a pod's record; starting afresh");
                    Ok(None)
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a pod was given, if that is noted down.
    #[must_use]
    pub fn allocation(&self, uid: &str) -> Option<Allocation> {
        #[derive(Deserialize)]
        struct Allocated {
            allocation: Option<Allocation>,
        }
        let bytes = fs::read(self.dir(uid).join("state.json")).ok()?;
        serde_json::from_slice::<Allocated>(&bytes).ok()?.allocation
    }

    /// Remembers a pod. `must` takes from the room that is kept for it where the disk is full.
    ///
    /// # Errors
    /// What the system says; nothing has changed then.
    pub fn save(&self, uid: &str, state: &PodState, must: bool, now: Now) -> io::Result<()> {
        let dir = self.dir(uid);
        let bytes = serde_json::to_vec(&PodRecord { state, saved: Some(now) })?;
        let (new, current) = (dir.join(".state.json.new"), dir.join("state.json"));
        let written = match write(&dir, &new, &bytes) {
            Err(error) if is_full(&error) && must => {
                // Its folder may be what there is no room for.
                if !dir.exists() && self.reserve.give_up_one() {
                    fs::create_dir_all(&dir)?;
                }
                self.reserve.write(&new, &bytes)
            }
            written => written.inspect(|()| self.reserve.refill()),
        };
        let saved = written.and_then(|()| fs::rename(&new, current));
        // Half a record is of no use, and in the way of the next one.
        saved.inspect_err(|_| drop(fs::remove_file(&new)))
    }

    /// Forgets a pod, and all that its folder holds. Blocking.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self, uid: &str) -> io::Result<()> {
        kubewasm_trees::remove(&self.dir(uid))
    }

    /// UIDs of all pods that are remembered.
    ///
    /// # Errors
    /// What the system says.
    pub fn uids(&self) -> io::Result<Vec<String>> {
        let mut uids = Vec::new();
        for entry in fs::read_dir(&self.pods)? {
            uids.extend(entry?.file_name().into_string().ok());
        }
        Ok(uids)
    }
}

/// Writes a file into a folder, which is made if need be.
fn write(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::write(path, bytes) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(dir)?;
            fs::write(path, bytes)
        }
        other => other,
    }
}

/// There is no room, whoever says so.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::pods::{
        clock,
        lifecycle::{Stage, backoff::INITIAL},
    };

    #[test]
    fn what_is_saved_is_found_again_until_it_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let records = Records::open(root.path()).unwrap();
        let now = clock::now();
        assert_eq!(records.load("u", now).unwrap(), None);
        let mut state = PodState { start_time: Some(Timestamp::UNIX_EPOCH), ..PodState::default() };
        state.container("c").attempts = 3;
        state.container("c").stage = Stage::BackOff { until: now.steady.after(INITIAL) };
        records.save("u", &state, false, now).unwrap();
        let again = Records::open(root.path()).unwrap();
        assert_eq!(again.load("u", now).unwrap(), Some(state.clone()));
        // The next agent's clock shows what the wall clock has been set to.
        let hour = std::time::Duration::from_secs(3600);
        let later = Now { steady: now.steady.after(hour), ..now };
        state.container("c").stage = Stage::BackOff { until: later.steady.after(INITIAL) };
        assert_eq!(again.load("u", later).unwrap(), Some(state));
        assert_eq!(records.uids().unwrap(), ["u"]);
        records.remove("u").unwrap();
        records.remove("u").unwrap();
        assert_eq!(records.load("u", now).unwrap(), None);
    }

    /// A file system of that many bytes, where this process may mount one.
    struct SmallDisk(tempfile::TempDir);

    impl SmallDisk {
        fn mount(bytes: u64) -> Option<Self> {
            let dir = tempfile::tempdir().unwrap();
            let (flags, size) = (nix::mount::MsFlags::empty(), format!("size={bytes}"));
            match nix::mount::mount(None::<&str>, dir.path(), Some("tmpfs"), flags, Some(size.as_str())) {
                Ok(()) => Some(Self(dir)),
                Err(error) => {
                    eprintln!("not tested: this process may not mount: {error}");
                    None
                }
            }
        }

        /// Writes until nothing more is taken.
        fn fill(&self) {
            let mut file =
                fs::File::options().append(true).create(true).open(self.0.path().join("filler")).unwrap();
            while io::Write::write_all(&mut file, &[1; 512]).is_ok() {}
        }
    }

    impl Drop for SmallDisk {
        fn drop(&mut self) {
            let _ = nix::mount::umount(self.0.path());
        }
    }

    /// What has to be noted down is, though a guest takes every block as soon as it is free; what has not must wait.
    #[test]
    fn on_a_full_disk_there_is_room_for_the_end_of_pods() {
        let Some(disk) = SmallDisk::mount(9 << 20) else { return };
        let records = Records::open(disk.0.path()).unwrap();
        records.keep_reserve();
        let now = clock::now();
        let mut state = PodState::default();
        records.save("old", &state, false, now).unwrap();
        for round in 1..=10 {
            disk.fill();
            state.round = round;
            assert!(is_full(&records.save("old", &state, false, now).unwrap_err()));
            assert_eq!(records.load("old", now).unwrap().unwrap().round, round - 1, "nothing has changed");
            records.save("old", &state, true, now).unwrap();
            assert_eq!(records.load("old", now).unwrap().as_ref(), Some(&state));
        }
        // A long one, of a pod that has no folder yet.
        disk.fill();
        state.container("c").spec_image = "x".repeat(200 * 1024);
        records.save("new", &state, true, now).unwrap();
        assert_eq!(records.load("new", now).unwrap(), Some(state));
        assert!(!disk.0.path().join("pods/new/.state.json.new").exists());
    }

    #[test]
    fn what_was_kept_and_used_is_made_again_when_there_is_room() {
        let Some(disk) = SmallDisk::mount(9 << 20) else { return };
        let pieces = || fs::read_dir(disk.0.path().join("reserve")).unwrap().count();
        let records = Records::open(disk.0.path()).unwrap();
        records.keep_reserve();
        let all = pieces();
        disk.fill();
        while records.reserve.give_up_one() {}
        disk.fill();
        let error = records.save("p", &PodState::default(), true, clock::now()).unwrap_err();
        assert!(is_full(&error), "{error}");
        records.keep_reserve();
        assert_eq!(pieces(), 0, "the last room is not taken for it");
        fs::remove_file(disk.0.path().join("filler")).unwrap();
        records.save("p", &PodState::default(), true, clock::now()).unwrap();
        records.keep_reserve();
        assert_eq!(pieces(), all);
    }

    #[test]
    fn an_attempt_goes_without_the_others() {
        let root = tempfile::tempdir().unwrap();
        let records = Records::open(root.path()).unwrap();
        for attempt in [0, 1] {
            fs::create_dir_all(records.scratch("u", "c", attempt).join("upper")).unwrap();
            fs::write(records.termination_message("u", "c", attempt), "why").unwrap();
        }
        records.remove_attempt("u", "c", 0).unwrap();
        records.remove_attempt("u", "c", 0).unwrap();
        assert!(!records.scratch("u", "c", 0).exists() && !records.termination_message("u", "c", 0).exists());
        assert!(records.scratch("u", "c", 1).exists() && records.termination_message("u", "c", 1).exists());
    }

    #[test]
    fn a_torn_file_counts_as_none() {
        let root = tempfile::tempdir().unwrap();
        let records = Records::open(root.path()).unwrap();
        fs::create_dir(records.dir("u")).unwrap();
        fs::write(records.dir("u").join("state.json"), b"{\"start").unwrap();
        assert_eq!(records.load("u", clock::now()).unwrap(), None);
    }
}
