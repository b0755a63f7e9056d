//! What is counted of workers over their lives, and beyond them.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use kubewasm_host::InstantiationStats;

/// Counts of all workers of a node, since the agent was started.
#[derive(Debug, Default)]
pub(crate) struct WorkerTally {
    started: AtomicU64,
    died: AtomicU64,
    made: Mutex<Made>,
}

/// How long instances took to be made.
#[derive(Debug, Default)]
struct Made {
    /// As the worker of each group has said last.
    last: HashMap<String, InstantiationStats>,
    /// In workers that are gone.
    gone: InstantiationStats,
}

impl WorkerTally {
    /// A worker process was started.
    pub(super) fn started(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    /// One has ended without having been told to, or has not come up.
    pub(super) fn died(&self) {
        self.died.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were started, and how many have died.
    pub(crate) fn processes(&self) -> (u64, u64) {
        (self.started.load(Ordering::Relaxed), self.died.load(Ordering::Relaxed))
    }

    /// The worker of a group says this. One that says less than before is another one.
    pub(super) fn has_made(&self, group: &str, stats: InstantiationStats) {
        let mut made = self.lock();
        if let Some(before) = made.last.insert(group.to_owned(), stats.clone())
            && before.duration > stats.duration
        {
            made.gone = sum(&made.gone, &before);
        }
    }

    /// How long all instances took.
    pub(crate) fn instantiations(&self) -> InstantiationStats {
        let made = self.lock();
        made.last.values().fold(made.gone.clone(), |all, stats| sum(&all, stats))
    }

    fn lock(&self) -> MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sum(a: &InstantiationStats, b: &InstantiationStats) -> InstantiationStats {
    let mut sum = a.clone();
    sum.duration = sum.duration.saturating_add(b.duration);
    for (count, more) in sum.buckets.iter_mut().zip(b.buckets) {
        *count = count.saturating_add(more);
    }
    sum
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_a_worker_has_made_is_counted_beyond_its_life() {
        let stats = |millis, count| {
            let mut stats = InstantiationStats {
                duration: Duration::from_millis(millis),
                ..InstantiationStats::default()
            };
            stats.buckets[3] = count;
            stats
        };
        let tally = WorkerTally::default();
        tally.has_made("a", stats(5, 2));
        tally.has_made("b", stats(1, 1));
        tally.has_made("a", stats(7, 3));
        assert_eq!(tally.instantiations(), stats(8, 4));
        tally.has_made("a", stats(2, 1));
        assert_eq!(tally.instantiations(), stats(10, 5), "another worker counts from nothing");
    }
}
