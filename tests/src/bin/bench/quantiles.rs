//! Quantiles of measured times.

use std::time::Duration;

use serde::Serialize;

/// Some quantiles of a sample of times, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Quantiles {
    /// Size of the sample.
    pub(crate) count: usize,
    /// Median.
    pub(crate) p50: f64,
    /// Nine of ten are not above it.
    pub(crate) p90: f64,
    /// 99 of a hundred are not above it; with fewer than a hundred, the largest.
    pub(crate) p99: f64,
}

impl Quantiles {
    /// Of a sample in any order, by nearest rank: every quantile is a time that was measured. `None` when
    /// the sample is empty.
    pub(crate) fn of(mut sample: Vec<Duration>) -> Option<Self> {
        sample.sort_unstable();
        let at = |percent: usize| {
            let rank = (sample.len() * percent).div_ceil(100).max(1);
            sample.get(rank - 1).map(|time| time.as_secs_f64() * 1_000.0)
        };
        Some(Self { count: sample.len(), p50: at(50)?, p90: at(90)?, p99: at(99)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_measured() {
        for (count, expected) in [
            (1, (1.0, 1.0, 1.0)),
            (2, (1.0, 2.0, 2.0)),
            (50, (25.0, 45.0, 50.0)),
            (100, (50.0, 90.0, 99.0)),
            (200, (100.0, 180.0, 198.0)),
        ] {
            let sample = (1..=count).rev().map(Duration::from_millis).collect();
            let got = Quantiles::of(sample).unwrap();
            assert_eq!((got.p50, got.p90, got.p99), expected, "{count}");
        }
        assert_eq!(Quantiles::of(vec![]), None);
    }
}
