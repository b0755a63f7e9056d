//! How long something takes, by samples, and how certain that is. Pure.
//!
//! The bootstrap: samples are drawn again and again from those that there are, with repetition, and the means of these tell where the
//! true mean may be. [Efron and Tibshirani](https://doi.org/10.1201/9780429246593), as criterion does it.

/// The mean of samples, and between what it is for 95 of 100.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    pub(super) low: f64,
    pub(super) mean: f64,
    pub(super) high: f64,
}

/// Estimates the mean of samples, by so many resamples. The same samples lead to the same estimate. There is at least one.
pub(super) fn estimate(samples: &[f64], resamples: u32) -> Estimate {
    let mean = mean(samples.iter().copied(), samples.len());
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut means: Vec<f64> = (0..resamples)
        .map(|_| {
            let drawn = (0..samples.len()).filter_map(|_| samples.get(numbers.below(samples.len())).copied());
            self::mean(drawn, samples.len())
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let at = |thousandth: usize| {
        let place = means.len().saturating_sub(1).saturating_mul(thousandth) / 1000;
        means.get(place).copied().unwrap_or(mean)
    };
    Estimate { low: at(25).min(mean), mean, high: at(975).max(mean) }
}

fn mean(samples: impl Iterator<Item = f64>, count: usize) -> f64 {
    // Counts of samples are small.
    let count = u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    samples.sum::<f64>() / f64::from(count)
}

/// Numbers that look as if they were drawn: [SplitMix64](https://doi.org/10.1145/2714064.2660195).
struct Numbers(u64);

impl Numbers {
    /// One below `limit`, which is not 0. The error of the remainder is far below that of samples.
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % u64::try_from(limit.max(1)).unwrap_or(u64::MAX)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_that_are_alike_are_certain() {
        assert_eq!(estimate(&[2.0; 50], 1000), Estimate { low: 2.0, mean: 2.0, high: 2.0 });
        assert_eq!(estimate(&[3.0], 0), Estimate { low: 3.0, mean: 3.0, high: 3.0 });
    }

    /// Of numbers between 0 and 1 the mean has a standard error of 1/√(12n).
    #[test]
    fn the_interval_is_as_wide_as_theory_has_it() {
        let mut numbers = Numbers(7);
        let samples: Vec<f64> = (0..1200)
            .map(|_| f64::from(u32::try_from(numbers.below(1 << 30)).unwrap()) / f64::from(1 << 30))
            .collect();
        let Estimate { low, mean, high } = estimate(&samples, 4000);
        assert!(low < mean && mean < high);
        assert!((mean - 0.5).abs() < 0.04, "{mean}");
        let expected = 2.0 * 1.96 / (12.0_f64 * 1200.0).sqrt();
        assert!(((high - low) / expected - 1.0).abs() < 0.15, "{low} {high}");
    }
}
