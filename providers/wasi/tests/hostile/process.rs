//! What the kernel says about a worker.

use std::{fs, time::Duration};

/// A worker process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Worker(pub(crate) i32);

/// What threads have used and wanted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Time {
    /// On a processor.
    pub(crate) ran: Duration,
    /// Ready to run, and none was free.
    pub(crate) waited: Duration,
}

impl Worker {
    /// Most memory that was ever resident, in bytes.
    pub(crate) fn most_resident(self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Open files.
    pub(crate) fn files(self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.0)).unwrap().count()
    }

    /// Mappings of memory.
    pub(crate) fn mappings(self) -> usize {
        fs::read_to_string(format!("/proc/{}/maps", self.0)).unwrap().lines().count()
    }

    /// Time of the threads of this name, which have not ended.
    pub(crate) fn time(self, name: &str) -> Time {
        let mut sum = Time::default();
        for task in fs::read_dir(format!("/proc/{}/task", self.0)).unwrap() {
            let task = task.unwrap().path();
            // A thread may end while it is looked at.
            let Ok(comm) = fs::read_to_string(task.join("comm")) else { continue };
            if comm.trim() != name {
                continue;
            }
            let Ok(text) = fs::read_to_string(task.join("schedstat")) else { continue };
            let mut numbers = text.split_whitespace().map(|number| number.parse().unwrap());
            sum.ran += Duration::from_nanos(numbers.next().unwrap());
            sum.waited += Duration::from_nanos(numbers.next().unwrap());
        }
        sum
    }
}
