//! Which streams a connection has.

use std::collections::HashMap;

use crate::stream::Feed;

/// Streams that a connection may have at once: half as many forwarded connections.
pub(super) const STREAMS: usize = 1024;

/// The streams of a connection, and what has ended of each.
#[derive(Debug, Default)]
pub(super) struct Table {
    streams: HashMap<u32, Open>,
    last: u32,
}

/// A stream of which one direction at least is open.
#[derive(Debug)]
struct Open {
    /// `None` once the client has sent everything.
    feed: Option<Feed>,
    has_fed: bool,
    /// This side has sent everything.
    has_ended: bool,
}

/// Why a stream is not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its number is an earlier stream's, or not a client's.
    InvalidId,
    /// There are as many as there may be.
    TooMany,
}

impl Table {
    /// Whether the client may open a stream by this number. It cannot again.
    pub(super) fn claim(&mut self, id: u32) -> Result<(), Refusal> {
        if id.is_multiple_of(2) || id <= self.last {
            return Err(Refusal::InvalidId);
        }
        self.last = id;
        if self.streams.len() >= STREAMS { Err(Refusal::TooMany) } else { Ok(()) }
    }

    /// The last stream that a client has opened.
    pub(super) fn last(&self) -> u32 {
        self.last
    }

    pub(super) fn insert(&mut self, id: u32, feed: Feed) {
        self.streams.insert(id, Open { feed: Some(feed), has_fed: false, has_ended: false });
    }

    /// Takes what feeds a stream, to be given back with [`Table::restore`]. `None` when nothing more may come of it: there is
    /// no such stream, or it is the client's no more.
    pub(super) fn take_feed(&mut self, id: u32) -> Option<Feed> {
        self.streams.get_mut(&id)?.feed.take()
    }

    /// Gives back what feeds a stream, unless the stream is gone.
    pub(super) fn restore(&mut self, id: u32, feed: Feed) {
        if let Some(open) = self.streams.get_mut(&id) {
            open.feed = Some(feed);
        }
    }

    /// The client has sent everything of a stream, whose feed has been taken.
    pub(super) fn received(&mut self, id: u32) {
        if let Some(open) = self.streams.get_mut(&id) {
            open.has_fed = true;
            if open.has_ended {
                self.streams.remove(&id);
            }
        }
    }

    /// This side has sent everything of a stream.
    pub(super) fn sent(&mut self, id: u32) {
        if let Some(open) = self.streams.get_mut(&id) {
            open.has_ended = true;
            if open.has_fed {
                self.streams.remove(&id);
            }
        }
    }

    /// One side has taken a stream back. Says whether there was one, and gives what feeds it.
    pub(super) fn remove(&mut self, id: u32) -> Option<Option<Feed>> {
        self.streams.remove(&id).map(|open| open.feed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Life, Outbox, Stream};

    fn open(table: &mut Table, id: u32) -> Result<Stream, Refusal> {
        table.claim(id)?;
        let (stream, feed) = Stream::new(id, &Outbox::new().0, Life::begin().0);
        table.insert(id, feed);
        Ok(stream)
    }

    #[test]
    fn numbers_rise_and_are_odd() {
        let mut table = Table::default();
        let _kept = open(&mut table, 3).unwrap();
        for id in [1, 2, 3, 4] {
            assert_eq!(open(&mut table, id).unwrap_err(), Refusal::InvalidId, "{id}");
        }
        assert_eq!(table.last(), 3);
        let _kept = open(&mut table, 5).unwrap();
    }

    #[test]
    fn a_stream_is_there_until_both_sides_have_ended() {
        let mut table = Table::default();
        let streams: Vec<_> = [1, 3, 5].map(|id| open(&mut table, id).unwrap()).into();
        table.take_feed(1).unwrap().end();
        table.received(1);
        assert!(table.take_feed(1).is_none(), "the client has sent everything");
        table.sent(1);
        table.sent(3);
        table.take_feed(3).unwrap().end();
        table.received(3);
        assert_eq!(table.streams.len(), 1);
        assert!(table.remove(5).is_some() && table.remove(5).is_none());
        drop(streams);
    }

    #[test]
    fn there_is_a_last_one() {
        let mut table = Table::default();
        let ids = (0..).map(|n| n * 2 + 1);
        let kept: Vec<_> = ids.clone().map_while(|id| open(&mut table, id).ok()).collect();
        assert_eq!(kept.len(), STREAMS);
        table.remove(1);
        assert!(open(&mut table, u32::try_from(STREAMS).unwrap() * 2 + 3).is_ok(), "there is room again");
    }
}
