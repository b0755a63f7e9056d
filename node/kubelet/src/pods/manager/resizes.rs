//! Which resizes the node agrees to, after upstream's `pkg/kubelet/allocation/allocation_manager.go`.
//!
//! A pod that asks for more than it was given gets it when there is room beside what all others were given; until then it goes on
//! with what it has, and the resize waits. What waits is looked at again when something changes that may have made room, the least
//! first, then by priority, class of service and age.

use std::{cmp::Reverse, sync::Arc, time::Instant};

use k8s_openapi::api::core::v1::Pod;

use super::{PodManager, is_over};
use crate::pods::{
    admission::{self, Amounts, ResizeRefusal, resources},
    allocation::Allocation,
    lifecycle::{resize::PendingResize, spec::is_static},
    task::{Desired, ResizeDecision},
};

/// Why waiting resizes are looked at again, as the metric names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RetryTrigger {
    Periodic,
    PodsAdded,
    PodsRemoved,
    PodUpdated,
}

impl RetryTrigger {
    fn as_str(self) -> &'static str {
        match self {
            Self::Periodic => "periodic_retry",
            Self::PodsAdded => "pods_added",
            Self::PodsRemoved => "pods_removed",
            Self::PodUpdated => "pod_updated",
        }
    }
}

impl PodManager {
    /// What a pod was given, as far as that is noted down; what it asks for otherwise.
    pub(super) fn allocation_of(&self, uid: &str, pod: &Pod) -> Allocation {
        // A pod of the first generation has never been changed.
        if is_static(pod) || pod.metadata.generation == Some(1) || !self.shared.records.knows(uid) {
            return Allocation::of(pod);
        }
        self.shared.records.allocation(uid).unwrap_or_else(|| Allocation::of(pod))
    }

    /// Decides whether a pod gets what it asks for, and tells its task what it has.
    pub(super) fn settle_resize(&mut self, uid: &str, trigger: RetryTrigger) {
        let Some(handle) = self.handles.get(uid).filter(|handle| !handle.gone) else { return };
        let wanted = Arc::clone(&handle.wanted);
        let object = self.object_of(&wanted);
        let allocated = handle.allocation.applied_to(&wanted);
        let is_settled = Arc::ptr_eq(&allocated, &wanted);
        let (pod, resize) = if is_settled {
            (wanted, ResizeDecision::Settled)
        } else if !self.unsynced.is_empty() {
            (allocated, ResizeDecision::NotYet)
        } else {
            match self.fits(uid, &allocated, &wanted) {
                Ok(()) => (wanted, ResizeDecision::Settled),
                Err(pending) => (allocated, ResizeDecision::Pending(pending)),
            }
        };
        let Some(handle) = self.handles.get_mut(uid) else { return };
        let waited = handle.resize_waits.is_some();
        if let ResizeDecision::Pending(pending) = &resize {
            handle.resize_waits.get_or_insert_with(Instant::now);
            if pending.is_infeasible && handle.resize != resize {
                self.resize_metrics.infeasible();
            }
        } else if resize == ResizeDecision::Settled {
            handle.resize_waits = None;
            handle.allocation = Allocation::of(&pod);
            handle.footprint = resources::footprint(&pod);
            if waited && !is_settled {
                self.resize_metrics.accepted_after_wait(trigger.as_str());
            }
        }
        handle.pod = Arc::clone(&pod);
        handle.resize = resize.clone();
        handle.desired.send_replace(Desired::Pod { pod, object, resize });
        self.count_pending();
    }

    /// Has another look at the resizes that wait.
    pub(super) fn retry_resizes(&mut self, trigger: RetryTrigger) {
        if !self.unsynced.is_empty() {
            return;
        }
        let waiting = self.handles.iter().filter(|(_, handle)| {
            !handle.gone && matches!(handle.resize, ResizeDecision::Pending(_) | ResizeDecision::NotYet)
        });
        let mut waiting: Vec<_> = waiting
            .map(|(uid, handle)| {
                let grows = grows(&handle.pod, &handle.wanted).next().is_some();
                let priority = handle.wanted.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
                let class = handle.wanted.status.as_ref().and_then(|status| status.qos_class.as_deref());
                let is_guaranteed = class == Some("Guaranteed");
                (grows, Reverse(priority), Reverse(is_guaranteed), handle.resize_waits, uid.clone())
            })
            .collect();
        waiting.sort();
        for (.., uid) in waiting {
            self.settle_resize(&uid, trigger);
        }
    }

    /// Whether there is room for what a pod asks for, beside what the others were given.
    fn fits(&self, uid: &str, allocated: &Pod, wanted: &Pod) -> Result<(), PendingResize> {
        let Some(view) = &self.shared.admission else { return Ok(()) };
        if is_over(wanted) || wanted.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let mut used = Amounts::new();
        let others = self.taken().filter(|(other, _)| *other != uid);
        others.for_each(|(_, handle)| resources::add(&mut used, &handle.footprint));
        let names: Vec<_> = grows(allocated, wanted).collect();
        let fits = admission::admit_resize(wanted, &view.borrow(), &used, &names);
        fits.map_err(|ResizeRefusal { is_infeasible, message }| PendingResize {
            is_infeasible,
            message,
            generation: wanted.metadata.generation,
        })
    }

    fn count_pending(&self) {
        let pending = |infeasible| {
            let waits = |resize: &ResizeDecision| matches!(resize, ResizeDecision::Pending(pending) if pending.is_infeasible == infeasible);
            self.handles.values().filter(|handle| waits(&handle.resize)).count()
        };
        self.resize_metrics.set_pending(pending(false), pending(true));
    }
}

/// The resources of which a pod asks for more than it was given.
fn grows<'a>(allocated: &Pod, wanted: &Pod) -> impl Iterator<Item = &'a str> {
    let (before, after) = (resources::requests(allocated), resources::requests(wanted));
    ["cpu", "memory"]
        .into_iter()
        .filter(move |name| after.get(*name).copied().unwrap_or(0) > before.get(*name).copied().unwrap_or(0))
}
