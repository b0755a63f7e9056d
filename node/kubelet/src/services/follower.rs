//! Follows Services and EndpointSlices, and says what follows from them.

use std::{future, net::IpAddr, sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::{
    core::v1::{Node, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client,
    runtime::{WatchStreamExt as _, watcher},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{Viewpoint, slices::Slices, table::TableMaker};
use crate::{collection::watch_collection, explain::explain_watch, mirror::Mirrored, runtime::ServiceTable};

/// Changes come in groups: what comes within this of the first is told with it.
const GATHER: Duration = Duration::from_millis(100);
/// Label of a Node.
const ZONE: &str = "topology.kubernetes.io/zone";
/// Slices of Services that nobody connects to through an address of theirs, or that somebody else serves, are not asked for.
const SELECTOR: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";

/// What it takes to follow Services.
#[derive(Debug)]
pub(crate) struct FollowerParts {
    pub(crate) services: Mirrored<Service>,
    pub(crate) node: watch::Receiver<Option<Arc<Node>>>,
    pub(crate) node_name: String,
    /// Addresses of the node, which NodePorts are at.
    pub(crate) addresses: Vec<IpAddr>,
}

/// Follows the Services of the cluster.
#[derive(Debug)]
pub(crate) struct Follower {
    parts: FollowerParts,
    slices: Slices,
    maker: TableMaker,
    refusals: Refusals,
}

/// Whether EndpointSlices may be read, as far as was said.
#[derive(Debug, Default, PartialEq, Eq)]
enum Refusals {
    #[default]
    None,
    Told,
}

impl Follower {
    pub(crate) fn new(parts: FollowerParts) -> Self {
        Self { parts, slices: Slices::default(), maker: TableMaker::default(), refusals: Refusals::None }
    }

    /// Follows them for ever, and tells of the newest table. Interruptions are ridden out with what was read before; so is a
    /// refusal.
    pub(crate) async fn run(self, client: Client, tell: impl FnMut(&Arc<ServiceTable>)) {
        let slices = Api::<EndpointSlice>::all(client);
        let config = watcher::Config::default().labels(SELECTOR);
        let events = watch_collection(slices, config).default_backoff();
        self.follow(events, tell).await;
    }

    async fn follow(
        mut self,
        events: impl Stream<Item = watcher::Result<watcher::Event<EndpointSlice>>>,
        mut tell: impl FnMut(&Arc<ServiceTable>),
    ) {
        let mut events = std::pin::pin!(events);
        let mut services = self.parts.services.changes();
        let mut node = self.parts.node.clone();
        let mut due: Option<Instant> = None;
        loop {
            let is_changed = tokio::select! {
                event = events.next() => match event {
                    Some(event) => self.note(event),
                    None => return,
                },
                changed = services.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                changed = node.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                () = until(due) => {
                    due = None;
                    if let Some(table) = self.table() {
                        tell(&Arc::new(table));
                    }
                    false
                }
            };
            if is_changed && due.is_none() {
                due = Some(Instant::now() + GATHER);
            }
        }
    }

    /// Takes note of an event. True when there is something to tell.
    fn note(&mut self, event: watcher::Result<watcher::Event<EndpointSlice>>) -> bool {
        match event {
            Ok(event) => {
                if self.refusals == Refusals::Told && matches!(event, watcher::Event::InitDone) {
                    tracing::info!("EndpointSlices can be read now: pods reach Services");
                    self.refusals = Refusals::None;
                }
                self.slices.note(event)
            }
            Err(error) => {
                self.say(&error);
                false
            }
        }
    }

    fn say(&mut self, error: &watcher::Error) {
        let text = explain_watch(error);
        if !is_forbidden(error) {
            tracing::warn!(error = text, "the watch of endpointslices was interrupted");
        } else if self.refusals == Refusals::None {
            self.refusals = Refusals::Told;
            tracing::error!(
                error = text,
                "this node may not read EndpointSlices, so that its pods reach no Services by their addresses; allow it with \
                 `kubectl create clusterrolebinding kubewasm-services --clusterrole=system:node-proxier \
                 --group=system:nodes`, or with --user and the name that the error tells; trying again"
            );
        } else {
            tracing::debug!(error = text, "this node may still not read EndpointSlices");
        }
    }

    /// The Services as they are now, once all that they follow from has been read.
    fn table(&mut self) -> Option<ServiceTable> {
        let store = self.parts.services.store().filter(|_| self.slices.are_complete())?;
        let here = Viewpoint {
            node: self.parts.node_name.clone(),
            zone: zone(self.parts.node.borrow().as_deref()),
            addresses: self.parts.addresses.clone(),
        };
        Some(self.maker.make(store.state(), &self.slices, &here))
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => future::pending().await,
    }
}

fn zone(node: Option<&Node>) -> String {
    let labels = node.and_then(|node| node.metadata.labels.as_ref());
    labels.and_then(|labels| labels.get(ZONE)).cloned().unwrap_or_default()
}

fn is_forbidden(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status))
        | WatchError(status) => status.code == 403,
        _ => false,
    }
}
