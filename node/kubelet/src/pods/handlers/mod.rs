//! Probes and lifecycle hooks: one attempt of each.
//!
//! ```text
//! lifecycle::step ─► Action::Probe, PostStart, PreStop ─► attempt ─► probe, hook ─┬─► exec ─► runtime::Runtime
//!        ▲                                                   │                    ├─► http ─► client
//!        │                                                   ├─► events           ├─► tcp ──► dial
//!        └─ record_probe, record_post_start, record_pre_stop ┘                    └─► grpc ─► dial
//! ```
//!
//! When a probe is due and what its result means for the container is decided in
//! [`lifecycle::probe`](super::lifecycle::probe); here it is carried out, and what came of it is put into
//! upstream's words. [`address`] says where a handler may connect to: to its own pod, nowhere else. Where a pod shares the
//! node's network, the provider is asked whether it is the pod that listens there.

mod address;
mod attempt;
mod client;
mod dial;
mod exec;
mod grpc;
mod http;
mod ongoing;
mod tcp;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, time::Duration};

use k8s_openapi::{
    api::core::v1::{Container, LifecycleHandler, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

use self::address::HandlerAddressError;
pub(super) use self::{address::Addresses, attempt::Attempt, ongoing::Ongoing};
use super::lifecycle::PodName;
use crate::{duration, runtime::Runtime};

/// How often a probe that could not be carried out is tried, as upstream's `maxProbeRetries` has it.
const TRIES: usize = 3;

/// The container that a probe or hook is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    /// Its pod, for messages.
    pub(super) pod: &'a PodName,
    /// The container as the pod has it: for the names of its ports and its variables.
    pub(super) container: &'a Container,
    /// Where the pod is.
    pub(super) addresses: Addresses<'a>,
    /// Container id of the attempt.
    pub(super) id: &'a str,
    /// Runs what `exec` names.
    pub(super) runtime: &'a dyn Runtime,
}

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ProbeOutcome {
    /// The container is well.
    Success {
        /// What is to be said about it all the same.
        warning: Option<String>,
    },
    /// The container is not well: what it answered, or that it did not.
    Failure(String),
    /// The probe could not be carried out, which says nothing of the container: no such port, a host that
    /// may not be probed, a module that cannot be started.
    Error(String),
}

impl ProbeOutcome {
    fn success() -> Self {
        Self::Success { warning: None }
    }
}

/// Why a hook did not do its work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HookError {
    /// It ran and failed, or could not be run.
    #[error("{0}")]
    Failed(String),
    /// Its time was over.
    #[error("the lifecycle hook did not end within {time}", time = duration::format(*.0))]
    CutOff(Duration),
}

/// Runs a probe once, `timeout` long at the most. What cannot be carried out is tried again at once, up
/// to three times in all.
pub(super) async fn probe(target: Target<'_>, probe: &Probe, timeout: Duration) -> ProbeOutcome {
    let mut tries = 1;
    loop {
        match attempt_probe(target, probe, timeout).await {
            ProbeOutcome::Error(_) if tries < TRIES => tries += 1,
            outcome => return outcome,
        }
    }
}

/// Why a handler is not sent to a container.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum NotSent {
    /// There is nowhere to send it, which says nothing of the container.
    #[error("{0}")]
    Nowhere(String),
    /// The container does not answer there, whoever else may.
    #[error("{0}")]
    Unanswered(String),
}

impl From<NotSent> for ProbeOutcome {
    fn from(error: NotSent) -> Self {
        match error {
            NotSent::Nowhere(error) => Self::Error(error),
            NotSent::Unanswered(error) => Self::Failure(error),
        }
    }
}

impl Target<'_> {
    /// The socket at which the pod answers for `host` (the pod itself where there is none) and `port`.
    ///
    /// Where its addresses are the node's, that is a port at which it listens itself: nothing is sent to another process, and
    /// no answer of one is taken for the pod's.
    async fn find(
        &self,
        host: Option<&str>,
        port: &IntOrString,
        within: Duration,
    ) -> Result<SocketAddr, NotSent> {
        let address = self.addresses.socket(host, port, self.container).map_err(|error| match error {
            HandlerAddressError::NotExposed(_) => NotSent::Unanswered(error.to_string()),
            error => NotSent::Nowhere(error.to_string()),
        })?;
        if !self.addresses.are_shared() {
            return Ok(address);
        }
        match tokio::time::timeout(within, self.runtime.listens(&self.pod.uid, address)).await {
            Ok(Ok(true)) => Ok(address),
            Ok(Ok(false)) => Err(NotSent::Unanswered(format!(
                "dial tcp {address}: connect: connection refused (no container of this pod listens there; the address is \
                 the node's, and another process that may listen is not asked)"
            ))),
            Ok(Err(error)) => Err(NotSent::Nowhere(format!(
                "it cannot be found out whether this pod listens on {address}: {error}"
            ))),
            Err(_) => Err(NotSent::Nowhere(format!(
                "it could not be found out within {} whether this pod listens on {address}",
                duration::format(within)
            ))),
        }
    }
}

async fn attempt_probe(target: Target<'_>, probe: &Probe, timeout: Duration) -> ProbeOutcome {
    if let Some(action) = &probe.exec {
        exec::probe(target, action.command.as_deref().unwrap_or_default(), timeout).await
    } else if let Some(action) = &probe.http_get {
        http::probe(target, action, timeout).await
    } else if let Some(action) = &probe.tcp_socket {
        match target.find(action.host.as_deref(), &action.port, timeout).await {
            Ok(address) => tcp::probe(address, timeout).await,
            Err(error) => error.into(),
        }
    } else if let Some(action) = &probe.grpc {
        match target.find(None, &IntOrString::Int(action.port), timeout).await {
            Ok(address) => grpc::probe(address, action.service.as_deref().unwrap_or_default(), timeout).await,
            Err(error) => error.into(),
        }
    } else {
        ProbeOutcome::Error(format!("missing probe handler for {}:{}", target.pod, target.container.name))
    }
}

/// Runs a hook to its end, or until `within` is over. What it returns is a warning about how it was done.
///
/// # Errors
/// [`HookError::Failed`] with a message for `state.waiting`; [`HookError::CutOff`] when its time was over.
pub(super) async fn hook(
    target: Target<'_>,
    handler: &LifecycleHandler,
    within: Duration,
) -> Result<Option<String>, HookError> {
    let run = async {
        if let Some(action) = &handler.exec {
            let command = action.command.as_deref().unwrap_or_default();
            exec::hook(target, command, within).await.map(|()| None)
        } else if let Some(action) = &handler.http_get {
            http::hook(target, action, within).await
        } else if let Some(action) = &handler.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0))).await;
            Ok(None)
        } else {
            // `tcpSocket` is in the API for old manifests' sake; no kubelet carries it out.
            let what = if handler.tcp_socket.is_some() {
                "is a tcpSocket, which no hook can be"
            } else {
                "names none"
            };
            Err(HookError::Failed(format!(
                "Cannot run handler: the lifecycle hook of Container {:?} in Pod \"{}\" {what}; use exec, httpGet or sleep",
                target.container.name, target.pod
            )))
        }
    };
    tokio::time::timeout(within, run).await.unwrap_or(Err(HookError::CutOff(within)))
}
