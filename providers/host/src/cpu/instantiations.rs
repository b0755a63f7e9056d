//! How long instances took to be made.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Upper bounds of the buckets of [`InstantiationStats`], in microseconds; the last bucket has none.
pub const INSTANTIATION_BUCKETS_MICROS: [u64; 11] =
    [50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 100_000, 1_000_000];

/// How long all instances took that a host has made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstantiationStats {
    /// All of it together.
    pub duration: Duration,
    /// How many took no longer than each bound, without those of the buckets before; at last, how many took longer.
    pub buckets: [u64; INSTANTIATION_BUCKETS_MICROS.len() + 1],
}

/// Counts them.
#[derive(Debug, Default)]
pub(crate) struct Instantiations {
    nanos: AtomicU64,
    buckets: [AtomicU64; INSTANTIATION_BUCKETS_MICROS.len() + 1],
}

impl Instantiations {
    /// An instance was made.
    pub(crate) fn took(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = INSTANTIATION_BUCKETS_MICROS.partition_point(|bound| *bound < micros);
        self.nanos.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> InstantiationStats {
        InstantiationStats {
            duration: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)),
            buckets: self.buckets.each_ref().map(|count| count.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_in_the_first_bucket_that_has_room_for_it() {
        let made = Instantiations::default();
        for micros in [1, 50, 51, 1_000_000, 1_000_001] {
            made.took(Duration::from_micros(micros));
        }
        let stats = made.stats();
        assert_eq!(stats.buckets, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(stats.duration, Duration::from_micros(2_000_103));
    }
}
