//! Connections that nobody vouches for yet: how many there may be, and which of them makes room for another.
//!
//! A connection is vouched for once the gate has let one of its requests through; it does not count from then on.
//! Until then it is one of few, in all and from one address, and a newcomer takes the place of the one that has made
//! no progress for longest: from its own address if that has as many as it may, else from the address with the most.
//! So nobody who says nothing keeps anybody out, not even callers from the same address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

/// An address, as far as callers are told apart by it: of IPv6, the network of 64 bits that one host may choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Peer(IpAddr);

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            v4 => v4,
        })
    }
}

/// The connections of one listener.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    most: usize,
    most_of_peer: usize,
    strangers: Arc<Mutex<Strangers>>,
}

#[derive(Debug, Default)]
struct Strangers {
    /// Counts arrivals and progress: what is higher is later.
    clock: u64,
    by_id: HashMap<u64, UnknownPeer>,
}

#[derive(Debug)]
struct UnknownPeer {
    peer: Peer,
    /// When it last made progress.
    progress: u64,
    ended: CancellationToken,
}

impl Connections {
    /// Room for `most` connections that nobody vouches for, of which `most_of_peer` may come from one address.
    pub(super) fn new(most: usize, most_of_peer: usize) -> Self {
        Self { most, most_of_peer, strangers: Arc::default() }
    }

    /// Takes in a connection. Another one may be ended for it.
    pub(super) fn admit(&self, peer: Peer) -> Arc<Ticket> {
        let mut strangers = self.lock();
        if strangers.count(peer) >= self.most_of_peer {
            strangers.end_laggard(Some(peer));
        } else if strangers.by_id.len() >= self.most {
            strangers.end_laggard_of_many();
        }
        let id = strangers.tick();
        let ended = CancellationToken::new();
        strangers.by_id.insert(id, UnknownPeer { peer, progress: id, ended: ended.clone() });
        drop(strangers);
        Arc::new(Ticket { id, peer, ended, vouched: CancellationToken::new(), connections: self.clone() })
    }

    /// Ends the connection that has made no progress for longest, because the process has no file left for another.
    pub(super) fn make_room(&self) {
        self.lock().end_laggard(None);
    }

    fn lock(&self) -> MutexGuard<'_, Strangers> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Strangers {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn count(&self, peer: Peer) -> usize {
        self.by_id.values().filter(|stranger| stranger.peer == peer).count()
    }

    /// Ends the one without progress for longest, of one address or of all.
    fn end_laggard(&mut self, of: Option<Peer>) {
        let candidates =
            self.by_id.iter().filter(|(_, stranger)| of.is_none_or(|peer| stranger.peer == peer));
        let laggard = candidates.min_by_key(|(_, stranger)| stranger.progress).map(|(id, _)| *id);
        if let Some(stranger) = laggard.and_then(|id| self.by_id.remove(&id)) {
            stranger.ended.cancel();
        }
    }

    /// The same, of the address that has the most.
    fn end_laggard_of_many(&mut self) {
        let mut counts: HashMap<Peer, usize> = HashMap::new();
        for stranger in self.by_id.values() {
            *counts.entry(stranger.peer).or_default() += 1;
        }
        let largest = counts.values().copied().max();
        let many = |stranger: &UnknownPeer| counts.get(&stranger.peer).copied() == largest;
        let laggard = self.by_id.values().filter(|stranger| many(stranger)).min_by_key(|s| s.progress);
        let peer = laggard.map(|stranger| stranger.peer);
        self.end_laggard(peer);
    }
}

/// A connection's place; dropped with it.
#[derive(Debug)]
pub(super) struct Ticket {
    id: u64,
    peer: Peer,
    ended: CancellationToken,
    vouched: CancellationToken,
    connections: Connections,
}

impl Ticket {
    /// Where the connection comes from.
    pub(super) fn peer(&self) -> Peer {
        self.peer
    }

    /// Notes that the connection does something.
    pub(super) fn progress(&self) {
        let mut strangers = self.connections.lock();
        let now = strangers.tick();
        if let Some(stranger) = strangers.by_id.get_mut(&self.id) {
            stranger.progress = now;
        }
    }

    /// Somebody who may ask has asked: the connection counts no more. One that was to make room in this very moment
    /// does not get its place back.
    pub(super) fn vouch(&self) {
        if !self.vouched.is_cancelled() && self.connections.lock().by_id.remove(&self.id).is_some() {
            self.vouched.cancel();
        }
    }

    /// Returns when the connection has to make room for another.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Returns when nobody has vouched for the connection for that long; never, once somebody has.
    pub(super) async fn unvouched_for(&self, time: Duration) {
        if tokio::time::timeout(time, self.vouched.cancelled()).await.is_ok() {
            std::future::pending().await
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.connections.lock().by_id.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        address.parse::<IpAddr>().unwrap().into()
    }

    fn ended(tickets: &[Arc<Ticket>]) -> Vec<usize> {
        (0..tickets.len()).filter(|position| tickets[*position].ended.is_cancelled()).collect()
    }

    #[test]
    fn addresses_of_one_host_are_one_peer() {
        assert_eq!(peer("10.0.0.1"), peer("::ffff:10.0.0.1"));
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:1"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
        assert_ne!(peer("10.0.0.1"), peer("10.0.0.2"));
    }

    #[test]
    fn a_peer_with_many_makes_room_among_its_own() {
        let connections = Connections::new(10, 2);
        let one = peer("10.0.0.1");
        let mut tickets = vec![connections.admit(peer("10.0.0.2"))];
        tickets.extend((0..4).map(|_| connections.admit(one)));
        assert_eq!(ended(&tickets), [1, 2]);
    }

    #[test]
    fn the_one_without_progress_goes_first() {
        let connections = Connections::new(10, 2);
        let one = peer("10.0.0.1");
        let mut tickets = vec![connections.admit(one), connections.admit(one)];
        tickets[0].progress();
        tickets.push(connections.admit(one));
        assert_eq!(ended(&tickets), [1]);
    }

    #[test]
    fn the_peer_with_the_most_makes_room_for_others() {
        let connections = Connections::new(4, 3);
        let (few, many) = (peer("10.0.0.1"), peer("10.0.0.2"));
        let mut tickets = vec![connections.admit(few)];
        tickets.extend((0..3).map(|_| connections.admit(many)));
        tickets.push(connections.admit(peer("10.0.0.3")));
        assert_eq!(ended(&tickets), [1], "not the oldest of all");
    }

    #[test]
    fn who_is_vouched_for_does_not_count() {
        let connections = Connections::new(2, 2);
        let one = peer("10.0.0.1");
        let mut tickets = vec![connections.admit(one)];
        tickets[0].vouch();
        tickets.extend((0..5).map(|_| connections.admit(one)));
        assert_eq!(ended(&tickets), [1, 2, 3]);
        tickets[1].vouch();
        assert!(!tickets[1].vouched.is_cancelled(), "too late");
        drop(tickets);
        assert!(connections.lock().by_id.is_empty());
        connections.make_room();
    }
}
