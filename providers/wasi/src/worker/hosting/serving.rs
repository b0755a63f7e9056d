//! Containers that serve HTTP: what stands in the place of a guest is a server.

use std::sync::Arc;

use kubewasm_host::{
    Guest,
    exit::Exit,
    http::{HttpMonitor, HttpServer},
};
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    KILL_TIMEOUT,
    ending::{is_over, until_stopped},
};
use crate::worker::handover::HeldDirectories;

/// What a container does.
pub(super) enum Work {
    /// Its guest runs.
    Guest(Guest),
    /// It serves, with guests that are made of these files.
    Server(HttpServer, Arc<HeldDirectories>),
}

impl Work {
    pub(super) fn monitor(&self) -> Option<HttpMonitor> {
        match self {
            Self::Guest(_) => None,
            Self::Server(server, _) => Some(server.monitor()),
        }
    }

    /// Does it to its end, or until it is asked to stop.
    pub(super) async fn until_stopped(
        self,
        stop: watch::Receiver<Option<Instant>>,
        notice: Option<CancellationToken>,
    ) -> Exit {
        match self {
            Self::Guest(guest) => until_stopped(guest, stop, notice).await,
            Self::Server(server, _held) => {
                tokio::select! {
                    biased;
                    () = is_over(stop.clone()) => Exit::stopped(true),
                    exit = server.run(stop) => exit,
                }
            }
        }
    }
}

/// Ends what a server that is gone has left: connections, and guests that answer them.
pub(super) async fn end(monitor: &HttpMonitor) {
    if tokio::time::timeout(KILL_TIMEOUT, monitor.end()).await.is_err() {
        tracing::error!("connections of a server did not end");
    }
}
