//! The connections of a pod, and who may have which.
//!
//! A connection of HTTP/1.1 carries one request at a time: it is taken out of the pool for it, and comes back when the response
//! has come to its end. One of HTTP/2 stays in the pool, and requests take streams of it. Every connection has a [`Place`], from
//! before it is made until the last task that drives it is gone.

mod origin;

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use hyper::client::conn::http2;
use tokio::{
    runtime::Handle,
    sync::{Notify, OwnedSemaphorePermit, Semaphore, futures::Notified},
    time::Instant,
};

use super::{
    body::RequestBody,
    carrier::{Carrier, Exclusive, Shared},
    connect::Route,
    drive::DriverTasks,
    request::Origin,
    tls::TlsConfigs,
};
use crate::account::HeldMemory;
use origin::{Dropped, Idle, OriginPool};
pub(super) use origin::{Fitness, IDLE};

/// Connections of a pod.
const MOST_CONNECTIONS: usize = 256;
/// Connections of a pod to one origin.
const MOST_TO_ORIGIN: usize = 64;
/// Requests of a pod that have a connection or wait for one, until their responses have come to their end.
const MOST_REQUESTS: usize = 512;
/// Connections of a pod that are open and have nothing to do.
const MOST_IDLE: usize = 64;
/// How old a connection is that no more requests are sent on: so that names and Services that have changed are noticed.
const LONGEST_LIFE: Duration = Duration::from_secs(5 * 60);
/// How long a connection is waited for that should be free: the rest of a request is still being sent.
const SETTLES: Duration = Duration::from_secs(1);

/// The connections that the guests of a pod have for HTTP: one for all of them, shared behind an `Arc`. They end with it.
#[derive(Debug)]
pub struct HttpConnections {
    state: Mutex<PoolState>,
    bounds: PoolBounds,
    /// A place, a stream or a connection is free.
    freed: Notify,
    pub(super) requests: Arc<Semaphore>,
    pub(super) configs: TlsConfigs,
}

/// How many connections there are at most.
#[derive(Clone, Copy, Debug)]
struct PoolBounds {
    all: usize,
    to_origin: usize,
    idle: usize,
}

#[derive(Debug, Default)]
struct PoolState {
    /// Places that are taken.
    taken: usize,
    origins: HashMap<Origin, OriginPool>,
    /// Somebody looks after those that are idle.
    is_tended: bool,
}

/// A place for a connection. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    connections: Weak<HttpConnections>,
    origin: Origin,
    is_connecting: bool,
    _of_host: OwnedSemaphorePermit,
    _held: HeldMemory,
}

/// What there is for a request.
#[derive(Debug)]
pub(super) enum Checkout {
    Open(Box<Lease>),
    /// A connection can be made, by whoever gets a [`Place`].
    Room {
        /// One is about to be free, which [`HttpConnections::freed`] tells.
        is_settling: bool,
    },
    /// Nothing. Something will be free, which [`HttpConnections::freed`] tells.
    Nothing,
}

/// The use of a connection for one request.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) carrier: Carrier,
    /// It has carried others.
    pub(super) is_used: bool,
    origin: Origin,
    connections: Weak<HttpConnections>,
}

impl Default for HttpConnections {
    fn default() -> Self {
        let bounds = PoolBounds { all: MOST_CONNECTIONS, to_origin: MOST_TO_ORIGIN, idle: MOST_IDLE };
        Self {
            state: Mutex::default(),
            bounds,
            freed: Notify::new(),
            requests: Arc::new(Semaphore::new(MOST_REQUESTS)),
            configs: TlsConfigs::default(),
        }
    }
}

impl HttpConnections {
    /// With room for fewer.
    #[cfg(test)]
    pub(super) fn bounded(all: usize, idle: usize) -> Arc<Self> {
        let bounds = PoolBounds { all, to_origin: all, idle };
        Arc::new(Self { bounds, ..Self::default() })
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is done when something is free that was not when this was called, and it was enabled.
    pub(super) fn freed(&self) -> Notified<'_> {
        self.freed.notified()
    }

    /// Looks for an open connection to an origin, or else for room for another one. `fitness` says of each whether it will do.
    pub(super) fn check_out(
        self: &Arc<Self>,
        origin: &Origin,
        fitness: impl Fn(&Route) -> Fitness,
    ) -> Checkout {
        // What is dropped is dropped without the lock, which a place takes that is free.
        let mut dropped = Dropped::default();
        let mut state = self.lock();
        let fitness = |route: &Route, opened: Instant| match opened.elapsed() < LONGEST_LIFE {
            true => fitness(route),
            false => Fitness::Stale,
        };
        let mut is_settling = false;
        if let Some(known) = state.origins.get_mut(origin) {
            is_settling = known.settling > 0;
            if let Some(carrier) = known.take_open(fitness, &mut dropped) {
                let connections = Arc::downgrade(self);
                let lease = Lease { carrier, is_used: true, origin: origin.clone(), connections };
                return Checkout::Open(Box::new(lease));
            }
            if known.speaks_h2 && known.connecting > 0 {
                return Checkout::Nothing;
            }
            if known.taken >= self.bounds.to_origin {
                // Others may not want what this guest may not have.
                known.drop_oldest(&mut dropped);
                return Checkout::Nothing;
            }
        }
        if state.taken >= self.bounds.all {
            state.drop_oldest(&mut dropped);
            return Checkout::Nothing;
        }
        Checkout::Room { is_settling }
    }

    /// Takes a place for a connection to an origin. `None`: somebody else has taken it.
    pub(super) fn place(
        self: &Arc<Self>,
        origin: &Origin,
        of_host: OwnedSemaphorePermit,
        held: HeldMemory,
    ) -> Option<Place> {
        let mut state = self.lock();
        if state.taken >= self.bounds.all {
            return None;
        }
        let known = state.origins.entry(origin.clone()).or_default();
        if known.taken >= self.bounds.to_origin {
            return None;
        }
        known.taken += 1;
        known.connecting += 1;
        state.taken += 1;
        let connections = Arc::downgrade(self);
        Some(Place {
            connections,
            origin: origin.clone(),
            is_connecting: true,
            _of_host: of_host,
            _held: held,
        })
    }

    /// A connection of HTTP/1.1 that was just made.
    pub(super) fn lease_new(self: &Arc<Self>, origin: &Origin, connection: Exclusive) -> Lease {
        let connections = Arc::downgrade(self);
        let carrier = Carrier::Exclusive(connection);
        Lease { carrier, is_used: false, origin: origin.clone(), connections }
    }

    /// One of HTTP/2, which others may use at once.
    pub(super) fn share_new(
        self: &Arc<Self>,
        origin: &Origin,
        sender: http2::SendRequest<RequestBody>,
        route: Route,
        tasks: DriverTasks,
    ) -> Option<Lease> {
        let (shared, stream) = Shared::new(sender, route, tasks)?;
        let mut state = self.lock();
        let known = state.origins.entry(origin.clone()).or_default();
        known.speaks_h2 = true;
        known.shared.push(Arc::clone(&shared));
        drop(state);
        self.freed.notify_waiters();
        let carrier = Carrier::Stream(shared, stream);
        Some(Lease { carrier, is_used: false, origin: origin.clone(), connections: Arc::downgrade(self) })
    }

    /// Nobody is to use this connection any more; what is under way on it goes on.
    pub(super) fn retire(&self, origin: &Origin, retired: &Arc<Shared>) {
        let mut state = self.lock();
        if let Some(known) = state.origins.get_mut(origin) {
            known.shared.retain(|shared| !Arc::ptr_eq(shared, retired));
        }
    }

    /// A connection is about to be free, or not any more.
    fn settles(&self, origin: &Origin, settles: bool) {
        if let Some(known) = self.lock().origins.get_mut(origin) {
            known.settling = if settles { known.settling + 1 } else { known.settling.saturating_sub(1) };
        }
    }

    /// A connection is free for the next request.
    fn park(self: &Arc<Self>, origin: &Origin, connection: Exclusive) {
        // Without a runtime there is nobody to use it.
        let Ok(runtime) = Handle::try_current() else { return };
        let mut dropped = Dropped::default();
        let mut state = self.lock();
        if let Some(known) = state.origins.get_mut(origin) {
            known.idle.push(Idle { connection, since: Instant::now() });
        }
        if state.idle() > self.bounds.idle {
            state.drop_oldest(&mut dropped);
        }
        self.tend(&mut state, &runtime);
        drop(state);
        self.freed.notify_waiters();
    }

    /// Sees to it that what is idle does not stay for ever.
    fn tend(self: &Arc<Self>, state: &mut PoolState, runtime: &Handle) {
        if mem::replace(&mut state.is_tended, true) {
            return;
        }
        let connections = Arc::downgrade(self);
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(IDLE / 4).await;
                let Some(connections) = connections.upgrade() else { return };
                if !connections.close_idle(Instant::now()) {
                    return;
                }
            }
        });
    }

    /// Closes what has been idle for too long, and says whether there is more to look after.
    pub(super) fn close_idle(&self, now: Instant) -> bool {
        let mut dropped = Dropped::default();
        let mut state = self.lock();
        for known in state.origins.values_mut() {
            known.close_idle(now, &mut dropped);
        }
        state.is_tended =
            state.origins.values().any(|known| !known.idle.is_empty() || !known.shared.is_empty());
        state.is_tended
    }
}

impl PoolState {
    fn idle(&self) -> usize {
        self.origins.values().map(|known| known.idle.len()).sum()
    }

    /// Drops the connection that has been idle for longest.
    fn drop_oldest(&mut self, dropped: &mut Dropped) {
        let idle = self.origins.values_mut().filter_map(|known| Some((known.idle_since()?, known)));
        if let Some((_, known)) = idle.min_by_key(|(since, _)| *since) {
            known.drop_oldest(dropped);
        }
    }
}

impl Place {
    /// It is not being connected any more.
    pub(super) fn connected(&mut self) {
        let Some(connections) = self.connections.upgrade() else { return };
        if mem::replace(&mut self.is_connecting, false)
            && let Some(known) = connections.lock().origins.get_mut(&self.origin)
        {
            known.connecting -= 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connected();
        let Some(connections) = self.connections.upgrade() else { return };
        let mut state = connections.lock();
        state.taken -= 1;
        if let Some(known) = state.origins.get_mut(&self.origin) {
            known.taken -= 1;
            if known.taken == 0 {
                // Whatever is left of it is closed.
                let known = state.origins.remove(&self.origin);
                drop(state);
                drop(known);
            }
        }
        connections.freed.notify_waiters();
    }
}

impl Lease {
    /// Nobody else uses the connection now.
    pub(super) fn is_exclusive(&self) -> bool {
        matches!(self.carrier, Carrier::Exclusive(_))
    }

    /// The response has come to its end: the connection is free for others.
    pub(super) fn give_back(self) {
        let Self { carrier, origin, connections, .. } = self;
        let Some(connections) = connections.upgrade() else { return };
        match carrier {
            Carrier::Stream(shared, stream) => {
                shared.touch();
                drop(stream);
                if let Ok(runtime) = Handle::try_current() {
                    connections.tend(&mut connections.lock(), &runtime);
                }
                connections.freed.notify_waiters();
            }
            Carrier::Exclusive(connection) if connection.sender.is_ready() => {
                connections.park(&origin, connection);
            }
            Carrier::Exclusive(mut connection) => {
                let Ok(runtime) = Handle::try_current() else { return };
                connections.settles(&origin, true);
                let connections = Arc::downgrade(&connections);
                runtime.spawn(async move {
                    let ready = tokio::time::timeout(SETTLES, connection.sender.ready()).await;
                    let Some(connections) = connections.upgrade() else { return };
                    if let Ok(Ok(())) = ready {
                        connections.park(&origin, connection);
                    }
                    connections.settles(&origin, false);
                });
            }
        }
    }
}
