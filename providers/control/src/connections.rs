//! Connections: how many there may be, and which of them makes room for another.
//!
//! A newcomer takes the place of the one that has been idle for longest, so that nobody who says nothing keeps an API server
//! out. Those with a request under way are not ended for it.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

/// The connections of one listener.
#[derive(Clone, Debug)]
pub(crate) struct Connections {
    most: usize,
    most_of_address: usize,
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
    address: IpAddr,
    /// When it last did something.
    active: u64,
    requests: usize,
    ended: CancellationToken,
}

/// There is no room for another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConnectionsFull {
    #[error("all {0} connections are busy")]
    All(usize),
    #[error("all {0} connections of this address are busy")]
    OfAddress(usize),
}

impl Connections {
    /// For so many in all, and so many of one address.
    pub(crate) fn new(most: usize, most_of_address: usize) -> Self {
        Self { most, most_of_address, table: Arc::default() }
    }

    /// Takes in a connection, for which another may be ended.
    ///
    /// # Errors
    /// [`ConnectionsFull`] where all have requests under way.
    pub(crate) fn admit(&self, address: IpAddr) -> Result<Arc<Ticket>, ConnectionsFull> {
        let mut table = self.lock();
        let of_address = table.open.values().filter(|connection| connection.address == address).count();
        if of_address >= self.most_of_address && !table.end_idle(|connection| connection.address == address) {
            return Err(ConnectionsFull::OfAddress(self.most_of_address));
        }
        if table.open.len() >= self.most && !table.end_idle(|_| true) {
            return Err(ConnectionsFull::All(self.most));
        }
        table.clock += 1;
        let id = table.clock;
        let ended = CancellationToken::new();
        table.open.insert(id, Connection { address, active: id, requests: 0, ended: ended.clone() });
        drop(table);
        Ok(Arc::new(Ticket { id, ended, connections: self.clone() }))
    }

    /// Ends the one that has been idle for longest, because the process has no file left for another.
    pub(crate) fn make_room(&self) {
        self.lock().end_idle(|_| true);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Ends the one of these that has been idle for longest. False where none is idle.
    fn end_idle(&mut self, of: impl Fn(&Connection) -> bool) -> bool {
        let idle = self.open.iter().filter(|(_, connection)| connection.requests == 0 && of(connection));
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
pub(crate) struct Ticket {
    id: u64,
    ended: CancellationToken,
    connections: Connections,
}

impl Ticket {
    /// Notes that a request is under way, until the result is dropped.
    pub(crate) fn request(self: &Arc<Self>) -> RequestMark {
        self.connections.lock().count(self.id, |requests| requests + 1);
        RequestMark(Arc::clone(self))
    }

    /// Returns when the connection has to make room for another.
    pub(crate) async fn ended(&self) {
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
pub(crate) struct RequestMark(Arc<Ticket>);

impl Drop for RequestMark {
    fn drop(&mut self) {
        self.0.connections.lock().count(self.0.id, |requests| requests.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    fn ended(tickets: &[Arc<Ticket>]) -> Vec<bool> {
        tickets.iter().map(|ticket| ticket.ended.is_cancelled()).collect()
    }

    #[test]
    fn the_one_that_is_idle_for_longest_makes_room() {
        let connections = Connections::new(2, 2);
        let mut tickets = vec![connections.admit(HERE).unwrap(), connections.admit(HERE).unwrap()];
        drop(tickets[0].request());
        tickets.push(connections.admit(HERE).unwrap());
        assert_eq!(ended(&tickets), [false, true, false]);
    }

    #[test]
    fn requests_under_way_are_left_alone() {
        let connections = Connections::new(2, 2);
        let tickets = [connections.admit(HERE).unwrap(), connections.admit(THERE).unwrap()];
        let marks = [tickets[0].request(), tickets[1].request()];
        assert_eq!(connections.admit(HERE).unwrap_err(), ConnectionsFull::All(2));
        let [_, second] = marks;
        drop(second);
        let third = connections.admit(HERE).unwrap();
        assert_eq!(ended(&tickets), [false, true]);
        drop((tickets, third));
        assert_eq!(connections.lock().open.len(), 1, "a request keeps its place");
    }

    #[test]
    fn one_address_makes_room_for_itself_alone() {
        let connections = Connections::new(3, 2);
        let tickets = [
            connections.admit(THERE).unwrap(),
            connections.admit(HERE).unwrap(),
            connections.admit(HERE).unwrap(),
        ];
        let fourth = connections.admit(HERE).unwrap();
        assert_eq!(
            ended(&tickets),
            [false, true, false],
            "and not the one of elsewhere, which is idle for longest"
        );
        let _marks = [tickets[2].request(), fourth.request()];
        assert_eq!(connections.admit(HERE).unwrap_err(), ConnectionsFull::OfAddress(2));
        assert!(connections.admit(THERE).is_ok());
    }

    #[test]
    fn a_place_is_given_back() {
        let connections = Connections::new(1, 1);
        for _ in 0..3 {
            drop(connections.admit(HERE).unwrap());
        }
        assert!(connections.lock().open.is_empty());
        connections.make_room();
    }
}
