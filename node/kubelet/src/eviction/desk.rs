//! Between those who look after the node and the pods: what the node runs short of, whether it goes down, and who has to go.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::pressure::Pressure;
use crate::pods::reason::PodReason;

/// Why a pod has to go, and how fast.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvictionOrder {
    /// Reason of the status.
    pub reason: PodReason,
    /// Message of status and Event.
    pub message: String,
    /// Annotations of the Event: what the message says, for programs.
    pub annotations: BTreeMap<String, String>,
    /// What it was decided by.
    pub cause: EvictionCause,
    /// What is left of the pod's grace.
    pub grace: Duration,
    /// The node had to, rather than the pod has done something that it may not: condition `DisruptionTarget`.
    pub disrupts: bool,
}

/// What has decided that a pod has to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EvictionCause {
    /// A threshold, or a limit of the pod's own, as upstream's `kubelet_evictions` names it.
    Signal(&'static str),
    /// A critical pod lacks this resource.
    Preemption(String),
    /// The end of the machine. The Event of the node tells of it.
    Shutdown,
}

/// Where the watcher leaves its orders and each pod's task finds its own. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct EvictionDesk {
    shared: Arc<DeskShared>,
}

#[derive(Debug, Default)]
struct DeskShared {
    pressure: watch::Sender<Pressure>,
    shutting_down: AtomicBool,
    orders: Mutex<HashMap<String, watch::Sender<Option<EvictionOrder>>>>,
}

impl EvictionDesk {
    /// What the node runs short of now.
    #[must_use]
    pub fn pressure(&self) -> watch::Receiver<Pressure> {
        self.shared.pressure.subscribe()
    }

    pub(crate) fn set_pressure(&self, pressure: Pressure) {
        self.shared.pressure.send_if_modified(|present| std::mem::replace(present, pressure) != pressure);
    }

    /// The machine is about to go down: no pod is taken any more.
    #[must_use]
    pub fn is_shutting_down(&self) -> bool {
        self.shared.shutting_down.load(Ordering::Relaxed)
    }

    pub(crate) fn set_shutting_down(&self, shutting_down: bool) {
        self.shared.shutting_down.store(shutting_down, Ordering::Relaxed);
    }

    /// Orders for the pod of this UID, for the one task that looks after it.
    pub(crate) fn orders(&self, uid: &str) -> Orders {
        let (sender, receiver) = watch::channel(None);
        self.lock().insert(uid.to_owned(), sender);
        Orders { desk: self.clone(), uid: uid.to_owned(), receiver }
    }

    /// Orders a pod to go; false when nobody looks after it, or it has been ordered to before.
    pub(crate) fn evict(&self, uid: &str, order: EvictionOrder) -> bool {
        self.lock().get(uid).is_some_and(|sender| {
            sender.send_if_modified(|present| {
                let is_first = present.is_none();
                present.get_or_insert(order);
                is_first
            })
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, watch::Sender<Option<EvictionOrder>>>> {
        self.shared.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The orders for one pod.
#[derive(Debug)]
pub(crate) struct Orders {
    desk: EvictionDesk,
    uid: String,
    receiver: watch::Receiver<Option<EvictionOrder>>,
}

impl Orders {
    /// Waits until the pod has to go. May be dropped.
    pub(crate) async fn next(&mut self) -> EvictionOrder {
        match self.receiver.wait_for(Option::is_some).await.map(|order| order.clone()) {
            Ok(Some(order)) => order,
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        let mut orders = self.desk.lock();
        // A task that has come after this one keeps its own.
        if orders.get(&self.uid).is_some_and(|sender| sender.subscribe().same_channel(&self.receiver)) {
            orders.remove(&self.uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_order_reaches_its_pod_and_nobody_when_that_is_gone() {
        let desk = EvictionDesk::default();
        let order = EvictionOrder {
            reason: PodReason::Evicted,
            message: "why".to_owned(),
            annotations: BTreeMap::new(),
            cause: EvictionCause::Signal("memory.available"),
            grace: Duration::from_secs(1),
            disrupts: true,
        };
        assert!(!desk.evict("a", order.clone()));
        let mut orders = desk.orders("a");
        let _others = desk.orders("b");
        assert!(desk.evict("a", order.clone()));
        assert!(!desk.evict("a", order.clone()), "it has its order");
        assert_eq!(orders.next().await, order);
        drop(orders);
        assert!(!desk.evict("a", order));
    }
}
