//! What the end of a worker means for what it hosted.

use std::{
    collections::{HashMap, VecDeque},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::ExitStatus,
    sync::{Mutex, PoisonError},
};

use kubewasm_host::exit::{CODE_KILLED, Exit, ExitReason};
use tokio::sync::Notify;

use crate::cgroup::Cgroup;

const SIGKILL: i32 = 9;
/// Kills that wait to be told of, at the most.
const UNTOLD: usize = 64;

/// How a worker ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Death {
    pub(super) pid: u32,
    /// Known of children only; an adopted worker is none.
    pub(super) status: Option<ExitStatus>,
    /// The kernel killed something in its cgroup for want of memory.
    pub(super) out_of_memory: bool,
}

impl Death {
    /// It ended by itself, and well.
    pub(super) fn is_clean(self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// The kernel has killed it for want of memory.
    pub(super) fn is_out_of_memory(self) -> bool {
        self.out_of_memory && self.status.is_none_or(|status| status.signal() == Some(SIGKILL))
    }

    /// How what it hosted ended.
    pub(super) fn exit(self) -> Exit {
        let pid = self.pid;
        if self.is_out_of_memory() {
            let message = format!(
                "the worker that hosted it (process {pid}) was killed by the kernel, which had no memory left for it"
            );
            return Exit::new(CODE_KILLED, ExitReason::OutOfMemory, message);
        }
        Exit::lost(match self.status {
            Some(status) => format!("the worker that hosted it (process {pid}) ended: {status}"),
            None => format!("the worker that hosted it (process {pid}) is gone"),
        })
    }
}

/// How a process ended, for people.
pub(super) fn describe(status: Option<ExitStatus>) -> String {
    status.map_or_else(|| "it is not known how".to_owned(), |status| status.to_string())
}

/// The kernel's kills that have been noted, by cgroup: several workers may share one, and a kill is one
/// worker's only.
#[derive(Debug, Default)]
pub(super) struct Kills {
    noted: Mutex<HashMap<String, u64>>,
    shortages: Mutex<HashMap<PathBuf, u64>>,
    system: SystemOoms,
}

impl Kills {
    /// Notes what has been so far.
    pub(super) fn note(&self, cgroup: &Cgroup) {
        if let Some(count) = cgroup.kills() {
            self.set(&key(cgroup), count);
        }
        self.were_limits(&cgroup.shortages());
    }

    /// A worker was killed for want of memory. If no cgroup that it was in had run short by a limit of its own, it was the
    /// machine that had no memory left, and that is to be told of.
    pub(super) fn took(&self, cgroup: &Cgroup, pid: u32) {
        let shortages = cgroup.shortages();
        if !shortages.is_empty() && !self.were_limits(&shortages) {
            self.system.put(pid);
        }
    }

    /// Process ids of workers that were killed because the machine had no memory left.
    pub(super) fn system(&self) -> &SystemOoms {
        &self.system
    }

    /// Whether one of these cgroups has run short since it was noted, or was not noted; it is noted then.
    fn were_limits(&self, shortages: &[(PathBuf, u64)]) -> bool {
        let mut noted = self.shortages.lock().unwrap_or_else(PoisonError::into_inner);
        let mut any = false;
        for (dir, count) in shortages {
            any |= noted.insert(dir.clone(), *count) != Some(*count);
        }
        any
    }

    /// Whether there has been one more than was noted; it is noted then.
    pub(super) fn take(&self, cgroup: &Cgroup) -> bool {
        cgroup.kills().is_some_and(|count| self.take_of(&key(cgroup), count))
    }

    /// Forgets a cgroup that is gone.
    pub(super) fn forget(&self, cgroup: &Cgroup) {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).remove(&key(cgroup));
        self.shortages.lock().unwrap_or_else(PoisonError::into_inner).remove(cgroup.dir());
    }

    fn set(&self, key: &str, count: u64) {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), count);
    }

    fn take_of(&self, key: &str, count: u64) -> bool {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let noted = noted.entry(key.to_owned()).or_insert(count);
        let more = count > *noted;
        if more {
            *noted += 1;
        }
        more
    }
}

/// Kills of the machine's that nobody was told of yet.
#[derive(Debug, Default)]
pub(super) struct SystemOoms {
    pids: Mutex<VecDeque<u32>>,
    more: Notify,
}

impl SystemOoms {
    fn put(&self, pid: u32) {
        let mut pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner);
        if pids.len() < UNTOLD {
            pids.push_back(pid);
        }
        drop(pids);
        self.more.notify_one();
    }

    /// Waits for one.
    pub(super) async fn take(&self) -> u32 {
        loop {
            let next = self.pids.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match next {
                Some(pid) => return pid,
                None => self.more.notified().await,
            }
        }
    }
}

fn key(cgroup: &Cgroup) -> String {
    cgroup.dir().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_worker_is_told_as_it_was() {
        let death = |status: Option<i32>, out_of_memory| Death {
            pid: 7,
            status: status.map(ExitStatus::from_raw),
            out_of_memory,
        };
        for (status, out_of_memory, reason, text) in [
            (Some(SIGKILL), false, ExitReason::Lost, "(process 7) ended: signal: 9 (SIGKILL)"),
            (Some(SIGKILL), true, ExitReason::OutOfMemory, "(process 7) was killed by the kernel"),
            (Some(11), false, ExitReason::Lost, "signal: 11"),
            (Some(11), true, ExitReason::Lost, "signal: 11"),
            (Some(1 << 8), false, ExitReason::Lost, "exit status: 1"),
            (None, false, ExitReason::Lost, "(process 7) is gone"),
            (None, true, ExitReason::OutOfMemory, "was killed by the kernel"),
        ] {
            let exit = death(status, out_of_memory).exit();
            assert_eq!((exit.code, exit.reason), (137, reason), "{status:?}");
            assert!(exit.message.contains(text), "{}", exit.message);
        }
        assert!(death(Some(0), false).is_clean());
        assert!(!death(Some(SIGKILL), false).is_clean() && !death(None, false).is_clean());
    }

    #[tokio::test]
    async fn a_kill_is_the_machines_where_no_cgroup_had_run_short() {
        let kills = Kills::default();
        let levels = |worker, node| [(PathBuf::from("/node/worker"), worker), (PathBuf::from("/node"), node)];
        assert!(kills.were_limits(&levels(0, 3)), "what was before is not known");
        assert!(!kills.were_limits(&levels(0, 3)));
        assert!(kills.were_limits(&levels(1, 3)), "its own limit");
        assert!(kills.were_limits(&levels(1, 4)), "that of all workers");
        assert!(!kills.were_limits(&levels(1, 4)), "both are known now");
        kills.system().put(7);
        kills.system().put(8);
        assert_eq!((kills.system().take().await, kills.system().take().await), (7, 8));
    }

    #[test]
    fn a_kill_is_one_workers_only() {
        let kills = Kills::default();
        kills.set("a", 3);
        assert!(!kills.take_of("a", 3));
        assert!(kills.take_of("a", 5) && kills.take_of("a", 5), "two were killed");
        assert!(!kills.take_of("a", 5));
        assert!(!kills.take_of("unknown", 9), "what was before is not known");
        assert!(kills.take_of("unknown", 10));
    }
}
