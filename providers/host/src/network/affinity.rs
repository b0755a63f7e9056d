//! Which endpoint of a Service a pod was sent to (`sessionAffinity: ClientIP`).

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use kubewasm_rules::Protocol;

/// The sending pod's address, and the Service's.
pub(super) type AffinityKey = (IpAddr, Protocol, SocketAddr);

/// Most that are remembered at a time, some 100 bytes each. Who comes when there are as many is sent somewhere anew.
const MOST: usize = 1 << 16;
/// There are never fewer looked through in vain.
const FEW: usize = 64;

/// What is remembered, each for the time that its Service says, from its last use.
#[derive(Debug, Default)]
pub(super) struct Affinities {
    known: HashMap<AffinityKey, (SocketAddr, Instant)>,
    /// How many there are to be before those that are over are looked for again: twice as many as there were then, so
    /// that it costs next to nothing for each.
    sweep_at: usize,
}

impl Affinities {
    /// Where it was sent to, if that is to be remembered still.
    pub(super) fn find(&self, key: &AffinityKey, now: Instant) -> Option<SocketAddr> {
        self.known.get(key).filter(|(_, until)| now < *until).map(|(endpoint, _)| *endpoint)
    }

    /// Takes note of where it is sent to.
    pub(super) fn note(&mut self, key: AffinityKey, endpoint: SocketAddr, now: Instant, timeout: Duration) {
        if self.known.len() >= self.sweep_at.max(FEW) {
            self.known.retain(|_, (_, until)| now < *until);
            self.sweep_at = (self.known.len() * 2).min(MOST);
        }
        let has_room = self.known.len() < MOST || self.known.contains_key(&key);
        if let Some(until) = now.checked_add(timeout).filter(|_| has_room) {
            self.known.insert(key, (endpoint, until));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16, client: u32) -> AffinityKey {
        (IpAddr::V4(client.into()), Protocol::Tcp, SocketAddr::from(([10, 96, 0, 1], port)))
    }

    #[test]
    fn an_endpoint_is_remembered_from_its_last_use_on() {
        let (mut affinities, start) = (Affinities::default(), Instant::now());
        let (endpoint, minute) = (SocketAddr::from(([10, 0, 0, 1], 80)), Duration::from_secs(60));
        affinities.note(key(80, 1), endpoint, start, minute);
        assert_eq!(affinities.find(&key(80, 1), start + minute / 2), Some(endpoint));
        assert_eq!(affinities.find(&key(80, 2), start), None, "another pod");
        assert_eq!(affinities.find(&key(81, 1), start), None, "another Service");
        affinities.note(key(80, 1), endpoint, start + minute / 2, minute);
        assert_eq!(affinities.find(&key(80, 1), start + minute), Some(endpoint));
        assert_eq!(affinities.find(&key(80, 1), start + 2 * minute), None);
    }

    #[test]
    fn no_more_are_remembered_than_there_is_room_for() {
        let (mut affinities, start) = (Affinities::default(), Instant::now());
        let (endpoint, minute) = (SocketAddr::from(([10, 0, 0, 1], 80)), Duration::from_secs(60));
        let most = u32::try_from(MOST).unwrap();
        for client in 0..most + 100 {
            affinities.note(key(80, client), endpoint, start, minute);
        }
        assert_eq!(affinities.known.len(), MOST);
        assert_eq!(affinities.find(&key(80, most + 1), start), None);
        affinities.note(key(80, most + 1), endpoint, start + minute, minute);
        assert_eq!(affinities.known.len(), 1, "all others are over");
    }
}
