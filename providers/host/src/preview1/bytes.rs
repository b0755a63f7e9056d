//! A guest's memory, where calls of WASI 0.1 read and write plain numbers. Whatever lies outside is EFAULT.

use wasmtime_wasi::p1::types::Errno;
use wiggle::GuestMemory;

/// Buffers that one call takes at most, as for `readv` on Linux.
const BUFFERS: u32 = 1024;

/// The bytes of a memory.
pub(super) struct Bytes<'a>(&'a mut [u8]);

impl<'a> Bytes<'a> {
    /// Those of a memory that no other thread uses; others cannot be had here.
    pub(super) fn of(memory: &'a mut GuestMemory<'_>) -> Result<Self, Errno> {
        match memory {
            GuestMemory::Unshared(bytes) => Ok(Self(bytes)),
            GuestMemory::Shared(_) => Err(Errno::Notsup),
        }
    }

    pub(super) fn range(&mut self, at: u32, size: u32) -> Result<&mut [u8], Errno> {
        let (at, size) = (at as usize, size as usize);
        at.checked_add(size).and_then(|end| self.0.get_mut(at..end)).ok_or(Errno::Fault)
    }

    fn u32(&mut self, at: u32) -> Result<u32, Errno> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.range(at, 4)?);
        Ok(u32::from_le_bytes(bytes))
    }

    pub(super) fn put(&mut self, at: u32, value: &[u8]) -> Result<(), Errno> {
        let size = u32::try_from(value.len()).map_err(|_| Errno::Fault)?;
        self.range(at, size)?.copy_from_slice(value);
        Ok(())
    }

    pub(super) fn put_size(&mut self, at: u32, value: usize) -> Result<(), Errno> {
        let value = u32::try_from(value).map_err(|_| Errno::Overflow)?;
        self.put(at, &value.to_le_bytes())
    }

    /// The first buffer of a list that is not empty. A call may do less than it is asked for, and one buffer is what
    /// wasmtime-wasi takes, too.
    pub(super) fn buffer(&mut self, list: u32, count: u32) -> Result<&mut [u8], Errno> {
        if count > BUFFERS {
            return Err(Errno::Inval);
        }
        for number in 0..count {
            let entry =
                number.checked_mul(8).and_then(|offset| list.checked_add(offset)).ok_or(Errno::Fault)?;
            let size = self.u32(entry.checked_add(4).ok_or(Errno::Fault)?)?;
            if size > 0 {
                let at = self.u32(entry)?;
                return self.range(at, size);
            }
        }
        Ok(&mut [])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_outside_is_a_fault() {
        let mut memory = [0; 64];
        let mut memory = GuestMemory::Unshared(&mut memory);
        let mut bytes = Bytes::of(&mut memory).unwrap();
        for (at, size, expected) in [
            (0, 64, true),
            (64, 0, true),
            (60, 4, true),
            (61, 4, false),
            (65, 0, false),
            (u32::MAX, u32::MAX, false),
        ] {
            assert_eq!(bytes.range(at, size).is_ok(), expected, "{at} {size}");
        }
        assert_eq!(bytes.put(62, &[1, 2, 3]), Err(Errno::Fault));
        assert_eq!(bytes.put_size(60, 7), Ok(()));
        assert_eq!(bytes.u32(60), Ok(7));
    }

    #[test]
    fn the_first_buffer_with_room_is_used() {
        let mut memory = [0_u8; 64];
        for (at, value) in [(0, 40_u32), (4, 0), (8, 48), (12, 5), (16, 63), (20, 2)] {
            memory[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let mut memory = GuestMemory::Unshared(&mut memory);
        let mut bytes = Bytes::of(&mut memory).unwrap();
        assert_eq!(bytes.buffer(0, 2).unwrap().len(), 5);
        assert_eq!(bytes.buffer(0, 1).unwrap().len(), 0);
        assert_eq!(bytes.buffer(0, 0).unwrap().len(), 0);
        assert_eq!(bytes.buffer(16, 1), Err(Errno::Fault));
        assert_eq!(bytes.buffer(60, 1), Err(Errno::Fault));
        assert_eq!(bytes.buffer(u32::MAX - 2, 1), Err(Errno::Fault));
        assert_eq!(bytes.buffer(0, BUFFERS + 1), Err(Errno::Inval));
    }
}
