//! Stacks of guests.

use std::fmt;

/// How much stack a guest has. Sizes are few, because each needs an engine of its own: they are powers of two.
///
/// Stack that is not touched costs address space only, so that the default is free. More than the default is charged
/// whole: it is asked for by those who recurse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stack(usize);

impl Stack {
    /// What a guest has that asks for nothing: 512 KiB, wasmtime's default.
    pub const DEFAULT: Self = Self(512 << 10);
    /// The most: 64 MiB.
    pub const LARGEST: Self = Self(64 << 20);

    /// The smallest stack of at least so many bytes, and at least the default; `None` for more than the largest.
    #[must_use]
    pub fn of_bytes(bytes: u64) -> Option<Self> {
        let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= Self::LARGEST.0)?;
        Some(Self(bytes.max(Self::DEFAULT.0).next_power_of_two()))
    }

    /// Its size in bytes.
    #[must_use]
    pub fn bytes(self) -> usize {
        self.0
    }

    /// Bytes that are charged for it: as much as it is larger than the default, and once more for the list of its frames,
    /// which is made when the guest traps.
    pub(crate) fn charge(self) -> u64 {
        2 * self.0.saturating_sub(Self::DEFAULT.0) as u64
    }
}

impl Default for Stack {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes < 1 << 20 => write!(f, "{} KiB", bytes >> 10),
            bytes => write!(f, "{} MiB", bytes >> 20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_two_between_the_bounds() {
        for (bytes, expected) in [
            (0, Some("512 KiB")),
            (512 << 10, Some("512 KiB")),
            ((512 << 10) + 1, Some("1 MiB")),
            (10_000_000, Some("16 MiB")),
            (64 << 20, Some("64 MiB")),
            ((64 << 20) + 1, None),
            (u64::MAX, None),
        ] {
            assert_eq!(Stack::of_bytes(bytes).map(|stack| stack.to_string()).as_deref(), expected, "{bytes}");
        }
        assert_eq!((Stack::DEFAULT.charge(), Stack(1 << 20).charge()), (0, 1 << 20));
    }
}
