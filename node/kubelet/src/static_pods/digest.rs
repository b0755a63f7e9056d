//! The digest that a static pod's UID is made of.

/// 128-bit [FNV-1a](http://www.isthe.com/chongo/tech/comp/fnv/), which is what upstream uses here. It tells
/// versions of a file apart; it protects from nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fnv128a(u128);

impl Fnv128a {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

    pub(super) fn new() -> Self {
        Self(Self::OFFSET)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(Self::PRIME);
        }
    }

    /// 32 hexadecimal digits.
    pub(super) fn hex(self) -> String {
        format!("{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_vectors() {
        for (text, expected) in [
            ("", "6c62272e07bb014262b821756295c58d"),
            ("a", "d228cb696f1a8caf78912b704e4a8964"),
            ("foobar", "343e1662793c64bf6f0d3597ba446f18"),
        ] {
            let mut digest = Fnv128a::new();
            digest.write(text.as_bytes());
            assert_eq!(digest.hex(), expected, "{text:?}");
        }
    }
}
