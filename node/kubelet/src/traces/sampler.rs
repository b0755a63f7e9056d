//! Which of the traces that begin here are recorded.

/// Those whose number, its last 63 bits, is below a bound: the rule of OpenTelemetry's `TraceIDRatioBased`, by which all
/// who go by one rate decide alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sampler {
    bound: u64,
}

const MILLION: u64 = 1_000_000;

impl Sampler {
    pub(super) fn new(per_million: u32) -> Self {
        let share = u128::from(per_million).min(MILLION.into()) * (1 << 63) / u128::from(MILLION);
        Self { bound: u64::try_from(share).unwrap_or(1 << 63) }
    }

    pub(super) fn samples(self, trace_id: [u8; 16]) -> bool {
        let [.., a, b, c, d, e, f, g, h] = trace_id;
        u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1 < self.bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_the_share_of_numbers_that_are_recorded() {
        let id = |tail: u64| (u128::from(u64::MAX) << 64 | u128::from(tail)).to_be_bytes();
        let (lowest, middle, highest) = (id(0), id(1 << 63), id(u64::MAX));
        for (rate, expected) in [
            (0, [false, false, false]),
            (1, [true, false, false]),
            (500_000, [true, false, false]),
            (500_001, [true, true, false]),
            (1_000_000, [true, true, true]),
            (u32::MAX, [true, true, true]),
        ] {
            let sampler = Sampler::new(rate);
            assert_eq!([lowest, middle, highest].map(|id| sampler.samples(id)), expected, "{rate}");
        }
    }
}
