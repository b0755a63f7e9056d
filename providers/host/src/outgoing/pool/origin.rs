//! What there is of one origin.

use std::{mem, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::super::{
    carrier::{Carrier, Exclusive, Shared},
    connect::Route,
};

/// How long they are kept: less than what most servers do, so that a request seldom meets one that is being closed.
pub(in crate::outgoing) const IDLE: Duration = Duration::from_secs(30);

/// What is there of one origin.
#[derive(Debug, Default)]
pub(super) struct OriginPool {
    /// Places.
    pub(super) taken: usize,
    /// Those of them whose connections are being made.
    pub(super) connecting: usize,
    /// Those of HTTP/1.1 whose response has ended, and that are not free yet.
    pub(super) settling: usize,
    /// It has spoken HTTP/2: one connection is enough for many requests.
    pub(super) speaks_h2: bool,
    /// The one that was used last at the end.
    pub(super) idle: Vec<Idle>,
    pub(super) shared: Vec<Arc<Shared>>,
}

/// A connection of HTTP/1.1 that has nothing to do.
#[derive(Debug)]
pub(super) struct Idle {
    pub(super) connection: Exclusive,
    pub(super) since: Instant,
}

/// Whether a connection that is open may carry a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::outgoing) enum Fitness {
    Fit,
    /// Not of this guest.
    Forbidden,
    /// Nor of anybody: it leads to somebody who does not answer for the origin any more.
    Stale,
}

/// What goes with the end of a function, and not before.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    idle: Vec<Idle>,
    shared: Vec<Arc<Shared>>,
}

impl OriginPool {
    /// An open connection that will do.
    pub(super) fn take_open(
        &mut self,
        fitness: impl Fn(&Route, Instant) -> Fitness,
        dropped: &mut Dropped,
    ) -> Option<Carrier> {
        let mut taken = None;
        for shared in mem::take(&mut self.shared) {
            let fitness = match shared.is_closed() {
                true => Fitness::Stale,
                false => fitness(&shared.route, shared.opened),
            };
            if fitness == Fitness::Stale {
                dropped.shared.push(shared);
                continue;
            }
            if taken.is_none() && fitness == Fitness::Fit {
                taken = shared.stream().map(|stream| Carrier::Stream(Arc::clone(&shared), stream));
            }
            self.shared.push(shared);
        }
        let mut kept = Vec::new();
        while taken.is_none() {
            let Some(idle) = self.idle.pop() else { break };
            let Exclusive { sender, route, opened, .. } = &idle.connection;
            let fitness = if sender.is_ready() { fitness(route, *opened) } else { Fitness::Stale };
            match fitness {
                Fitness::Fit => taken = Some(Carrier::Exclusive(idle.connection)),
                Fitness::Forbidden => kept.push(idle),
                Fitness::Stale => dropped.idle.push(idle),
            }
        }
        self.idle.extend(kept.into_iter().rev());
        taken
    }

    /// Since when the connection has been idle that has been so for longest.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let shared = self.shared.iter().filter_map(|shared| shared.unused_since());
        self.idle.first().map(|idle| idle.since).into_iter().chain(shared).min()
    }

    /// Drops that connection.
    pub(super) fn drop_oldest(&mut self, dropped: &mut Dropped) {
        let Some(oldest) = self.idle_since() else { return };
        if self.idle.first().is_some_and(|idle| idle.since == oldest) {
            dropped.idle.push(self.idle.remove(0));
        } else if let Some(place) =
            self.shared.iter().position(|shared| shared.unused_since() == Some(oldest))
        {
            dropped.shared.push(self.shared.swap_remove(place));
        }
    }

    /// Drops what has been idle for too long.
    pub(super) fn close_idle(&mut self, now: Instant, dropped: &mut Dropped) {
        let is_over = |since: Instant| now.saturating_duration_since(since) >= IDLE;
        for idle in mem::take(&mut self.idle) {
            let is_over = is_over(idle.since) || !idle.connection.sender.is_ready();
            if is_over { dropped.idle.push(idle) } else { self.idle.push(idle) }
        }
        for shared in mem::take(&mut self.shared) {
            let is_over = shared.is_closed() || shared.unused_since().is_some_and(is_over);
            if is_over { dropped.shared.push(shared) } else { self.shared.push(shared) }
        }
    }
}
