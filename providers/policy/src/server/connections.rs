//! Connections: how many there may be, and which of them makes room for another.
//!
//! A newcomer takes the place of the one that has been idle for longest, so that nobody who says nothing keeps an API server
//! out. Those with a request under way are not ended for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// The connections of one listener.
#[derive(Clone, Debug)]
pub(super) struct Connections {
    most: usize,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    /// Counts arrivals and requests: what is higher is later.
    clock: u64,
    open: HashMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    /// When it last did something.
    active: u64,
    requests: usize,
    ended: CancellationToken,
}

impl Connections {
    pub(super) fn new(most: usize) -> Self {
        Self { most, table: Arc::default() }
    }

    /// Takes in a connection, for which another may be ended; none where all have requests under way.
    pub(super) fn admit(&self) -> Option<Arc<Ticket>> {
        let mut table = self.lock();
        if table.open.len() >= self.most && !table.end_idle() {
            return None;
        }
        table.clock += 1;
        let id = table.clock;
        let ended = CancellationToken::new();
        table.open.insert(id, Connection { active: id, requests: 0, ended: ended.clone() });
        drop(table);
        Some(Arc::new(Ticket { id, ended, connections: self.clone() }))
    }

    /// Ends the one that has been idle for longest, because the process has no file left for another.
    pub(super) fn make_room(&self) {
        self.lock().end_idle();
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn end_idle(&mut self) -> bool {
        let idle = self.open.iter().filter(|(_, connection)| connection.requests == 0);
        let longest = idle.min_by_key(|(_, connection)| connection.active).map(|(id, _)| *id);
        match longest.and_then(|id| self.open.remove(&id)) {
            Some(connection) => {
                connection.ended.cancel();
                true
            }
            None => false,
        }
    }

    fn count(&mut self, id: u64, change: impl FnOnce(usize) -> usize) {
        self.clock += 1;
        let now = self.clock;
        if let Some(connection) = self.open.get_mut(&id) {
            connection.active = now;
            connection.requests = change(connection.requests);
        }
    }
}

/// A connection's place; dropped with it.
#[derive(Debug)]
pub(super) struct Ticket {
    id: u64,
    ended: CancellationToken,
    connections: Connections,
}

impl Ticket {
    /// Notes that a request is under way, until the result is dropped.
    pub(super) fn request(self: &Arc<Self>) -> RequestMark {
        self.connections.lock().count(self.id, |requests| requests + 1);
        RequestMark(Arc::clone(self))
    }

    /// Returns when the connection has to make room for another.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.connections.lock().open.remove(&self.id);
    }
}

/// A request that is under way.
#[derive(Debug)]
pub(super) struct RequestMark(Arc<Ticket>);

impl Drop for RequestMark {
    fn drop(&mut self) {
        self.0.connections.lock().count(self.0.id, |requests| requests.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(tickets: &[Arc<Ticket>]) -> Vec<bool> {
        tickets.iter().map(|ticket| ticket.ended.is_cancelled()).collect()
    }

    #[test]
    fn the_one_that_is_idle_for_longest_makes_room() {
        let connections = Connections::new(2);
        let mut tickets = vec![connections.admit().unwrap(), connections.admit().unwrap()];
        drop(tickets[0].request());
        tickets.push(connections.admit().unwrap());
        assert_eq!(ended(&tickets), [false, true, false]);
    }

    #[test]
    fn requests_under_way_are_left_alone() {
        let connections = Connections::new(2);
        let tickets = [connections.admit().unwrap(), connections.admit().unwrap()];
        let marks = [tickets[0].request(), tickets[1].request()];
        assert!(connections.admit().is_none());
        let [_, second] = marks;
        drop(second);
        let third = connections.admit().unwrap();
        assert_eq!(ended(&tickets), [false, true]);
        drop((tickets, third));
        assert_eq!(connections.lock().open.len(), 1, "a request keeps its place");
    }

    #[test]
    fn a_place_is_given_back() {
        let connections = Connections::new(1);
        for _ in 0..3 {
            drop(connections.admit().unwrap());
        }
        assert!(connections.lock().open.is_empty());
        connections.make_room();
    }
}
