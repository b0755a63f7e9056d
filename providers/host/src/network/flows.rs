//! Whom a socket exchanges datagrams with.
//!
//! UDP has no connections: the answer to a datagram that was allowed is known by the one that it answers. So what was allowed
//! one way may come the other, until it has been quiet for a while.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Peers of one socket; of more, those are forgotten that have been quiet for longest.
const MOST_FLOWS: usize = 1024;
/// How long a peer may be quiet, as with Linux' connection tracking.
const QUIET: Duration = Duration::from_secs(120);
/// Addresses of one socket that stand for others: the newest are remembered.
const MOST_CHOSEN: usize = 64;

/// Whom one socket exchanges datagrams with, by the kernel's addresses.
#[derive(Debug, Default)]
pub(super) struct Flows {
    last: HashMap<SocketAddr, Instant>,
    /// Where something goes, and where the guest has sent it.
    chosen: VecDeque<(SocketAddr, SocketAddr)>,
}

impl Flows {
    /// Whether a peer is known; then it has been heard of now.
    pub(super) fn renew(&mut self, peer: SocketAddr, now: Instant) -> bool {
        match self.last.get_mut(&peer) {
            Some(last) if now.saturating_duration_since(*last) <= QUIET => {
                *last = now;
                true
            }
            Some(_) | None => false,
        }
    }

    /// Something was allowed to or from a peer.
    pub(super) fn open(&mut self, peer: SocketAddr, now: Instant) {
        if self.last.len() >= MOST_FLOWS && !self.last.contains_key(&peer) {
            self.make_room(now);
        }
        self.last.insert(peer, now);
    }

    fn make_room(&mut self, now: Instant) {
        self.last.retain(|_, last| now.saturating_duration_since(*last) <= QUIET);
        if self.last.len() < MOST_FLOWS {
            return;
        }
        let mut times: Vec<Instant> = self.last.values().copied().collect();
        let (_, limit, _) = times.select_nth_unstable(MOST_FLOWS / 4);
        let limit = *limit;
        self.last.retain(|_, last| *last > limit);
    }

    /// Takes note that what the guest sends to `wanted` goes to `actual`.
    pub(super) fn choose(&mut self, actual: SocketAddr, wanted: SocketAddr) {
        self.chosen.retain(|(known, _)| *known != actual);
        self.chosen.truncate(MOST_CHOSEN - 1);
        self.chosen.push_front((actual, wanted));
    }

    /// What goes to `actual` is what the guest has sent there.
    pub(super) fn unchoose(&mut self, actual: SocketAddr) {
        self.chosen.retain(|(known, _)| *known != actual);
    }

    /// Whether that was chosen for something that the guest has sent.
    pub(super) fn is_chosen(&self, actual: SocketAddr) -> bool {
        self.chosen.iter().any(|(known, _)| *known == actual)
    }

    /// Where the guest has sent what goes to `actual`.
    pub(super) fn wanted(&self, actual: SocketAddr) -> SocketAddr {
        self.chosen.iter().find(|(known, _)| *known == actual).map_or(actual, |(_, wanted)| *wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u32) -> SocketAddr {
        SocketAddr::new(std::net::Ipv4Addr::from_bits(0x0a00_0000 + n).into(), 53)
    }

    #[test]
    fn a_peer_is_known_until_it_has_been_quiet() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        assert!(!flows.renew(peer(1), now));
        flows.open(peer(1), now);
        assert!(flows.renew(peer(1), now + QUIET), "and heard of again");
        assert!(flows.renew(peer(1), now + 2 * QUIET));
        assert!(!flows.renew(peer(1), now + 4 * QUIET));
        assert!(!flows.renew(peer(2), now));
    }

    #[test]
    fn of_many_peers_the_newest_are_known() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        for n in 0..5000u32 {
            flows.open(peer(n), now + Duration::from_micros(n.into()));
        }
        assert!(flows.last.len() <= MOST_FLOWS);
        let later = now + Duration::from_secs(1);
        assert!(flows.renew(peer(4999), later) && !flows.renew(peer(0), later));
    }

    #[test]
    fn what_stands_for_something_else_is_known() {
        let mut flows = Flows::default();
        for n in 0..1000 {
            flows.choose(peer(n), peer(7777));
        }
        assert_eq!(flows.chosen.len(), MOST_CHOSEN);
        flows.choose(peer(999), peer(8888));
        assert_eq!(
            (flows.wanted(peer(999)), flows.wanted(peer(998)), flows.wanted(peer(1))),
            (peer(8888), peer(7777), peer(1))
        );
        assert!(flows.is_chosen(peer(999)) && !flows.is_chosen(peer(1)));
        flows.unchoose(peer(999));
        assert!(!flows.is_chosen(peer(999)) && flows.is_chosen(peer(998)));
    }
}
