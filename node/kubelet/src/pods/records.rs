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
};

use super::lifecycle::State;

/// The folder below which the pods' folders are.
#[derive(Clone, Debug)]
pub struct Records {
    pods: PathBuf,
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
        Ok(Self { pods: pods.canonicalize()? })
    }

    /// The folder of a pod.
    #[must_use]
    pub fn dir(&self, uid: &str) -> PathBuf {
        self.pods.join(uid)
    }

    /// The folder for what an attempt of a container writes outside its mounts.
    #[must_use]
    pub fn scratch(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.dir(uid).join("containers").join(container).join(attempt.to_string())
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

    /// What is remembered of a pod. A file that cannot be understood counts as none: the API server and
    /// the provider know the rest.
    ///
    /// # Errors
    /// When there is a file that cannot be read.
    pub fn load(&self, uid: &str) -> io::Result<Option<State>> {
        let path = self.dir(uid).join("state.json");
        match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(state) => Ok(Some(state)),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "cannot understand a pod's record; starting afresh");
                    Ok(None)
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Remembers a pod.
    ///
    /// # Errors
    /// What the system says; nothing has changed then.
    pub fn save(&self, uid: &str, state: &State) -> io::Result<()> {
        let dir = self.dir(uid);
        let bytes = serde_json::to_vec(state)?;
        let (new, current) = (dir.join(".state.json.new"), dir.join("state.json"));
        match fs::write(&new, &bytes) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&dir)?;
                fs::write(&new, &bytes)?;
            }
            other => other?,
        }
        fs::rename(new, current)
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn what_is_saved_is_found_again_until_it_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let records = Records::open(root.path()).unwrap();
        assert_eq!(records.load("u").unwrap(), None);
        let mut state = State { start_time: Some(Timestamp::UNIX_EPOCH), ..State::default() };
        state.container("c").attempts = 3;
        records.save("u", &state).unwrap();
        assert_eq!(Records::open(root.path()).unwrap().load("u").unwrap(), Some(state));
        assert_eq!(records.uids().unwrap(), ["u"]);
        records.remove("u").unwrap();
        records.remove("u").unwrap();
        assert_eq!(records.load("u").unwrap(), None);
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
        assert_eq!(records.load("u").unwrap(), None);
    }
}
