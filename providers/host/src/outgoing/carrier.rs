//! Connections that requests go over.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::client::conn::{http1, http2};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::{body::RequestBody, connect::Route, drive::DriverTasks};

/// Requests on one connection of HTTP/2 at a time.
const MOST_STREAMS: usize = 100;

/// A connection of HTTP/1.1.
#[derive(Debug)]
pub(super) struct Exclusive {
    pub(super) sender: http1::SendRequest<RequestBody>,
    pub(super) route: Route,
    pub(super) opened: Instant,
    pub(super) _tasks: DriverTasks,
}

/// A connection of HTTP/2.
#[derive(Debug)]
pub(super) struct Shared {
    sender: http2::SendRequest<RequestBody>,
    pub(super) route: Route,
    pub(super) opened: Instant,
    streams: Arc<Semaphore>,
    /// When its last request began or ended.
    used: Mutex<Instant>,
    _tasks: DriverTasks,
}

/// What a request goes over.
#[derive(Debug)]
pub(super) enum Carrier {
    Exclusive(Exclusive),
    Stream(Arc<Shared>, OwnedSemaphorePermit),
}

impl Carrier {
    pub(super) fn route(&self) -> &Route {
        match self {
            Self::Exclusive(connection) => &connection.route,
            Self::Stream(shared, _) => &shared.route,
        }
    }
}

impl Shared {
    /// One that was just made, and its first stream.
    pub(super) fn new(
        sender: http2::SendRequest<RequestBody>,
        route: Route,
        tasks: DriverTasks,
    ) -> Option<(Arc<Self>, OwnedSemaphorePermit)> {
        let streams = Arc::new(Semaphore::new(MOST_STREAMS));
        let opened = Instant::now();
        let shared = Self { sender, route, opened, streams, used: Mutex::new(opened), _tasks: tasks };
        let shared = Arc::new(shared);
        let stream = shared.stream()?;
        Some((shared, stream))
    }

    /// Room for one request, if there is any.
    pub(super) fn stream(&self) -> Option<OwnedSemaphorePermit> {
        let stream = Arc::clone(&self.streams).try_acquire_owned().ok()?;
        self.touch();
        Some(stream)
    }

    /// Nobody can use it any more.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Since when there are no requests on it; `None` where there are some.
    pub(super) fn unused_since(&self) -> Option<Instant> {
        let is_unused = self.streams.available_permits() == MOST_STREAMS;
        is_unused.then(|| *self.used.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A request has begun or ended.
    pub(super) fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// For one request more.
    pub(super) fn sender(&self) -> http2::SendRequest<RequestBody> {
        self.sender.clone()
    }
}
