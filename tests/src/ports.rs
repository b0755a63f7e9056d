//! Free TCP ports for programs that want to be told theirs.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    sync::{Mutex, PoisonError},
};

use anyhow::{Result, bail};
use rand::RngExt as _;

/// Below the range from which Linux takes the ports of outgoing connections (32768 and up by default):
/// otherwise a connection could take a port between the moment it is found and the moment it is used.
const RANGE: Range<u16> = 20_000..32_000;

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port on which nothing listens, on any address, and which this process has not given out before.
///
/// # Errors
/// When no port was found in a thousand tries.
pub fn free() -> Result<u16> {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..1_000 {
        let port = rand::rng().random_range(RANGE);
        if !given.contains(&port) && TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            given.insert(port);
            return Ok(port);
        }
    }
    bail!(
        "no free TCP port found between {} and {}: close some listeners and try again",
        RANGE.start,
        RANGE.end
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_no_port_twice_and_none_that_is_taken() {
        let ports: Vec<u16> = (0..50).map(|_| free().unwrap()).collect();
        let distinct: BTreeSet<u16> = ports.iter().copied().collect();
        assert_eq!(distinct.len(), ports.len());
        assert!(ports.iter().all(|port| RANGE.contains(port)));
    }
}
