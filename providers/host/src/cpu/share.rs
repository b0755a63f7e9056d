//! How much a container counts against others.

use std::time::Duration;

/// Weight of a container that asks for one core.
const ONE_CORE: u64 = 1024;
/// What a container counts that asks for nothing, or for next to nothing.
const LEAST: u64 = 2;
/// The most that a container counts.
const MOST: u64 = 262_144;

/// What a container counts when there is not enough processor time for all: a container of twice the weight
/// gets twice as much. The numbers are those of the kubelet's `cpu.shares`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weight(u64);

impl Weight {
    /// The weight of a container that asks for this many thousandths of a core.
    pub(crate) fn of_request(millis: u64) -> Self {
        Self((millis.saturating_mul(ONE_CORE) / 1000).clamp(LEAST, MOST))
    }

    /// Processor time in virtual nanoseconds: slower for those who weigh more.
    pub(crate) fn virtual_time(self, used: Duration) -> u128 {
        used.as_nanos().saturating_mul(ONE_CORE.into()) / u128::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_those_of_the_kubelet() {
        for (millis, weight) in [
            (0, 2),
            (1, 2),
            (2, 2),
            (100, 102),
            (1000, 1024),
            (4000, 4096),
            (1 << 30, 262_144),
            (u64::MAX, 262_144),
        ] {
            assert_eq!(Weight::of_request(millis), Weight(weight), "{millis}m");
        }
    }

    #[test]
    fn who_weighs_twice_as_much_ages_half_as_fast() {
        let second = Duration::from_secs(1);
        let age = |millis| Weight::of_request(millis).virtual_time(second);
        assert_eq!(age(1000), second.as_nanos());
        assert_eq!(age(2000) * 2, age(1000));
        assert_eq!(age(0), second.as_nanos() * 512);
        assert!(Weight::of_request(0).virtual_time(Duration::MAX) > 0, "no overflow");
    }
}
