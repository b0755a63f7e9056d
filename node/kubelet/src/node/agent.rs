//! The node's loops together, and what the rest of the program sees of them.

use std::{net::IpAddr, sync::Arc, time::Duration};

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, watcher::watch_object},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    conditions::Problems,
    lease,
    machine::Machine,
    object::{Fixed, Observed},
    status::StatusLoop,
};
use crate::{
    config::Config,
    events::{Recorder, node_reference},
    eviction::Pressure,
    identity::Connection,
    runtime::Runtime,
};

/// The longest a heartbeat waits for its answer.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a node is made of.
#[derive(Debug)]
pub struct NodeParts {
    /// The effective configuration.
    pub config: Config,
    /// Addresses from [`super::address::find`], as they are now.
    pub addresses: watch::Receiver<Vec<IpAddr>>,
    /// The port that the HTTPS server listens on.
    pub port: u16,
    /// The way to the API server.
    pub connection: Connection,
    /// Asked for its version and its images.
    pub runtime: Arc<dyn Runtime>,
    /// Told about changes of the node.
    pub recorder: Recorder,
    /// What the node runs short of.
    pub pressure: watch::Receiver<Pressure>,
}

/// Registers the node and keeps it alive. Made by [`NodeAgent::new`], driven by [`NodeAgent::run`].
#[derive(Debug)]
pub struct NodeAgent {
    parts: NodeParts,
    node: watch::Sender<Option<Arc<Node>>>,
    problems: watch::Receiver<Problems>,
}

/// What others see of the node, and tell it. Clones share it.
#[derive(Clone, Debug)]
pub struct NodeHandle {
    node: watch::Receiver<Option<Arc<Node>>>,
    problems: Arc<watch::Sender<Problems>>,
}

impl NodeHandle {
    /// The Node as the API server last showed it: its UID, labels, taints, allocatable. `None` before the
    /// registration, and from a deletion to the next registration.
    #[must_use]
    pub fn node(&self) -> watch::Receiver<Option<Arc<Node>>> {
        self.node.clone()
    }

    /// Tells what keeps the node from being ready, or with `None` that it no longer does. `source` is who
    /// says so; each source has one problem at a time. The text stands in the condition `Ready`, which is
    /// sent at once. True when that is news.
    pub fn set_problem(&self, source: &'static str, problem: Option<String>) -> bool {
        self.problems.send_if_modified(|problems| match problem {
            Some(problem) => problems.insert(source, problem.clone()) != Some(problem),
            None => problems.remove(source).is_some(),
        })
    }
}

impl NodeAgent {
    /// Puts the node together. Nothing is sent before [`NodeAgent::run`].
    #[must_use]
    pub fn new(parts: NodeParts) -> (Self, NodeHandle) {
        let (node, watched) = watch::channel(None);
        let (told, problems) = watch::channel(Problems::new());
        (Self { parts, node, problems }, NodeHandle { node: watched, problems: Arc::new(told) })
    }

    /// The Node as this machine registers it: what is known of it before the API server has one, and where
    /// there is no API server.
    #[must_use]
    pub fn expected(&self) -> Node {
        let NodeParts { config, addresses, port, runtime, .. } = &self.parts;
        let machine = Machine::read(&config.root_dir);
        let fixed = Fixed {
            config: config.clone(),
            addresses: addresses.borrow().clone(),
            port: *port,
            runtime_version: runtime.version(),
            runtime_handlers: runtime.handlers(),
        };
        let observed = Observed {
            machine,
            images: Vec::new(),
            problems: Problems::new(),
            pressure: Pressure::default(),
            now: Timestamp::now(),
        };
        super::object::node(&fixed, &observed)
    }

    /// Runs until cancelled. Must be called within a tokio runtime.
    pub async fn run(self, cancel: CancellationToken) {
        let NodeParts { config, addresses, port, connection, runtime, recorder, pressure } = self.parts;
        let name = config.node_name.clone();
        let lease_seconds = config.kubelet.node_lease_duration_seconds;
        let (runtime_version, runtime_handlers) = (runtime.version(), runtime.handlers());
        let heartbeats = connection.client_with_timeout(HEARTBEAT_TIMEOUT);

        let lease = lease::run(
            heartbeats.clone(),
            connection.clone(),
            name.clone(),
            lease_seconds,
            self.node.subscribe(),
            cancel.clone(),
        );
        let watching =
            watch_own(connection.client(), name, self.node.clone(), recorder.clone(), cancel.clone());
        let present = addresses.borrow().clone();
        let fixed = Fixed { config, addresses: present, port, runtime_version, runtime_handlers };
        let status = StatusLoop {
            client: heartbeats,
            connection,
            fixed: Arc::new(fixed),
            addresses,
            runtime,
            recorder,
            problems: self.problems,
            pressure,
            node: self.node,
        };
        tokio::join!(lease, watching, status.run(cancel));
    }
}

/// Shows everyone the Node as the API server has it, and tells when it is cordoned.
async fn watch_own(
    client: Client,
    name: String,
    node: watch::Sender<Option<Arc<Node>>>,
    recorder: Recorder,
    cancel: CancellationToken,
) {
    let api: Api<Node> = Api::all(client);
    let mut seen = Box::pin(watch_object(api, &name).default_backoff());
    let is_cordoned = |node: &Node| node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let mut cordoned: Option<bool> = None;
    while let Some(Some(update)) = cancel.run_until_cancelled(seen.next()).await {
        match update {
            Err(err) => tracing::debug!(error = %err, "cannot watch the own Node; trying again"),
            Ok(None) => {
                node.send_replace(None);
            }
            Ok(Some(now)) => {
                let is = is_cordoned(&now);
                if cordoned.is_some_and(|was| was != is) {
                    let reason = if is { "NodeNotSchedulable" } else { "NodeSchedulable" };
                    recorder.normal(
                        &node_reference(&name),
                        reason,
                        format!("Node {name} status is now: {reason}"),
                    );
                }
                cordoned = Some(is);
                node.send_replace(Some(Arc::new(now)));
            }
        }
    }
}

#[cfg(test)]
mod tests;
