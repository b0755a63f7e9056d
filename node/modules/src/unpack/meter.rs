//! Bounds on what an archive makes its reader read.

use std::{cell::Cell, io, io::Read, rc::Rc};

/// What may be read for one header: long names and extended attributes are kept in memory by the tar library.
const HEADER_LIMIT: u64 = 1 << 20;

/// Counts what comes out of a decompressor, and ends it when that is too much.
#[derive(Clone, Debug)]
pub(super) struct Meter(Rc<MeterState>);

#[derive(Debug)]
struct MeterState {
    limit: u64,
    bytes: Cell<u64>,
    /// What may be read until the next header is complete; `None` while contents are read.
    header: Cell<Option<u64>>,
    exceeded: Cell<bool>,
}

impl Meter {
    /// Allows `limit` bytes in all.
    pub(super) fn new(limit: u64) -> Self {
        Self(Rc::new(MeterState {
            limit,
            bytes: Cell::new(0),
            header: Cell::new(None),
            exceeded: Cell::new(false),
        }))
    }

    /// The metered form of `inner`.
    pub(super) fn reader<R: Read>(&self, inner: R) -> Metered<R> {
        Metered { inner, meter: self.clone() }
    }

    /// Says that a header is read while the result lives.
    pub(super) fn headers(&self) -> HeaderGuard {
        self.0.header.set(Some(HEADER_LIMIT));
        HeaderGuard(self.clone())
    }

    /// Bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes.get()
    }

    /// True when reading ended because of the limit.
    pub(super) fn is_exceeded(&self) -> bool {
        self.0.exceeded.get()
    }
}

/// See [`Meter::headers`].
#[derive(Debug)]
pub(super) struct HeaderGuard(Meter);

impl Drop for HeaderGuard {
    fn drop(&mut self) {
        self.0.0.header.set(None);
    }
}

/// A reader that is counted.
#[derive(Debug)]
pub(super) struct Metered<R> {
    inner: R,
    meter: Meter,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let state = &*self.meter.0;
        let count = self.inner.read(buffer)?;
        state.bytes.set(state.bytes.get().saturating_add(count as u64));
        if state.bytes.get() > state.limit {
            state.exceeded.set(true);
            return Err(io::Error::other("it unpacks to too many bytes"));
        }
        if let Some(left) = state.header.get() {
            let left = left.checked_sub(count as u64);
            state
                .header
                .set(Some(left.ok_or_else(|| io::Error::other("a header in it is larger than 1 MiB"))?));
        }
        Ok(count)
    }
}
