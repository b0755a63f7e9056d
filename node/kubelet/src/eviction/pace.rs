//! How often the node's disk and memory are looked at. Looking is a few system calls, so that it can be often; the less
//! room there is, the more often it is. Pure.

use std::time::Duration;

/// Between two looks at the most, and between two measurements of a pod that has a limit; upstream's number.
pub(crate) const LONGEST: Duration = Duration::from_secs(10);

/// Between two looks at the least.
pub(crate) const SHORTEST: Duration = Duration::from_millis(100);

/// Between two measurements of pods at the least, while nothing is wrong.
pub(crate) const LEAST_BETWEEN_MEASUREMENTS: Duration = Duration::from_secs(1);

/// How fast a disk or the memory may be filled: faster than guests were seen to write to the page cache.
const BYTES_PER_SECOND: u64 = 2 << 30;

/// How fast inodes may be used up.
const INODES_PER_SECOND: u64 = 200_000;

/// The time in which the given room, in bytes and in inodes, cannot be used up.
pub(crate) fn next_look(bytes: Option<u64>, inodes: Option<u64>) -> Duration {
    let time = |room: Option<u64>, rate: u64| {
        room.map(|room| {
            Duration::from_millis(
                u64::try_from(u128::from(room) * 1000 / u128::from(rate)).unwrap_or(u64::MAX),
            )
        })
    };
    let soonest =
        [time(bytes, BYTES_PER_SECOND), time(inodes, INODES_PER_SECOND)].into_iter().flatten().min();
    soonest.unwrap_or(LONGEST).clamp(SHORTEST, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_less_room_the_sooner() {
        for (bytes, inodes, expected) in [
            (None, None, LONGEST),
            (Some(1 << 40), Some(1 << 40), LONGEST),
            (Some(2 << 30), None, Duration::from_secs(1)),
            (Some(2 << 30), Some(100_000), Duration::from_millis(500)),
            (Some(0), Some(0), SHORTEST),
            (Some(u64::MAX), None, LONGEST),
        ] {
            assert_eq!(next_look(bytes, inodes), expected, "{bytes:?} {inodes:?}");
        }
    }
}
