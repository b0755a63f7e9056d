//! Streams: how many there may be, and which of them nobody reads.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use kubewasm_control::listener::Peer;

/// How far an Envoy has come with what it was handed.
#[derive(Debug)]
pub(super) struct StreamProgress {
    start: Instant,
    /// Milliseconds from the start until a piece was handed over that is not taken yet, and one; zero where there is none.
    handed: AtomicU64,
}

impl Default for StreamProgress {
    fn default() -> Self {
        Self { start: Instant::now(), handed: AtomicU64::new(0) }
    }
}

impl StreamProgress {
    pub(super) fn handed(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.handed.store(millis.saturating_add(1), Ordering::Relaxed);
    }

    pub(super) fn taken(&self) {
        self.handed.store(0, Ordering::Relaxed);
    }

    /// For how long a piece has not been taken.
    fn stalled(&self) -> Option<Duration> {
        let since = self.handed.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.start.elapsed().saturating_sub(Duration::from_millis(since)))
    }
}

/// There is no room for another stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum StreamsFull {
    #[error("there are {0} streams already, which is all that this server has; come again later")]
    All(usize),
    #[error("this client has {0} streams already, which is all that it may have")]
    OfClient(usize),
}

/// All streams.
#[derive(Clone, Debug)]
pub(super) struct StreamTable {
    most: usize,
    most_of_client: usize,
    open: Arc<Mutex<OpenStreams>>,
}

#[derive(Debug, Default)]
struct OpenStreams {
    last: u64,
    streams: HashMap<u64, OpenStream>,
    /// How many there are of each client.
    clients: HashMap<String, usize>,
}

#[derive(Debug)]
struct OpenStream {
    client: String,
    peer: Arc<Peer>,
    progress: Arc<StreamProgress>,
}

impl StreamTable {
    pub(super) fn new(most: usize, most_of_client: usize) -> Self {
        Self { most, most_of_client, open: Arc::default() }
    }

    /// Takes in a stream of this client's.
    pub(super) fn admit(&self, client: String, peer: Arc<Peer>) -> Result<StreamTicket, StreamsFull> {
        let mut open = self.lock();
        if open.streams.len() >= self.most {
            return Err(StreamsFull::All(self.most));
        }
        if open.clients.get(&client).is_some_and(|count| *count >= self.most_of_client) {
            return Err(StreamsFull::OfClient(self.most_of_client));
        }
        *open.clients.entry(client.clone()).or_default() += 1;
        open.last += 1;
        let id = open.last;
        let progress = Arc::<StreamProgress>::default();
        open.streams.insert(id, OpenStream { client, peer, progress: Arc::clone(&progress) });
        drop(open);
        Ok(StreamTicket { id, progress, table: self.clone() })
    }

    /// Ends the connections of those that have taken nothing for that long of what they were handed. How many streams.
    pub(super) fn end_stalled(&self, longest: Duration) -> u64 {
        let open = self.lock();
        let stalled = open
            .streams
            .values()
            .filter(|stream| stream.progress.stalled().is_some_and(|stalled| stalled >= longest));
        stalled.fold(0, |count, stream| {
            tracing::warn!(client = ?stream.client, peer = %stream.peer.address, "an Envoy reads nothing; its connection is ended");
            stream.peer.abort.cancel();
            count + 1
        })
    }

    fn lock(&self) -> MutexGuard<'_, OpenStreams> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream's place; dropped with it.
#[derive(Debug)]
pub(super) struct StreamTicket {
    id: u64,
    pub(super) progress: Arc<StreamProgress>,
    table: StreamTable,
}

impl Drop for StreamTicket {
    fn drop(&mut self) {
        let mut open = self.table.lock();
        let Some(stream) = open.streams.remove(&self.id) else { return };
        if let Some(count) = open.clients.get_mut(&stream.client) {
            *count -= 1;
            if *count == 0 {
                open.clients.remove(&stream.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn peer() -> Arc<Peer> {
        Arc::new(Peer {
            address: ([127, 0, 0, 1], 1).into(),
            certificates: Vec::new(),
            going: CancellationToken::new(),
            abort: CancellationToken::new(),
        })
    }

    #[test]
    fn one_client_does_not_take_all_streams() {
        let table = StreamTable::new(3, 2);
        let admit = |client: &str| table.admit(client.to_owned(), peer());
        let tickets = [admit("a").unwrap(), admit("a").unwrap()];
        assert_eq!(admit("a").unwrap_err(), StreamsFull::OfClient(2));
        let other = admit("b").unwrap();
        assert_eq!(admit("c").unwrap_err(), StreamsFull::All(3));
        drop(tickets);
        drop((admit("a").unwrap(), other));
        let open = table.lock();
        assert!(open.streams.is_empty() && open.clients.is_empty());
    }

    #[test]
    fn who_takes_nothing_is_ended_and_who_waits_is_not() {
        let table = StreamTable::new(3, 3);
        let peers = [peer(), peer(), peer()];
        let tickets = peers.each_ref().map(|peer| table.admit("a".to_owned(), Arc::clone(peer)).unwrap());
        tickets[0].progress.handed();
        tickets[1].progress.handed();
        tickets[1].progress.taken();
        assert_eq!(table.end_stalled(Duration::from_secs(3600)), 0);
        assert_eq!(table.end_stalled(Duration::ZERO), 1);
        assert_eq!(peers.map(|peer| peer.abort.is_cancelled()), [true, false, false]);
    }
}
