//! Limits that change while an instance runs.

use std::sync::{MutexGuard, PoisonError};

use kubewasm_host::{BelowUse, GuestLimits};

use super::{HostedInstance, Hosting};
use crate::{spec::InstanceLimits, worker::charge::PodUse};

/// What has come of a change of limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) enum Resized {
    /// They are in effect.
    Applied,
    /// There is no such instance that runs.
    NotRunning,
    /// The instance has more memory, its volumes in memory included; nothing has changed.
    BelowUse(BelowUse),
    /// Its pod has more memory; nothing has changed.
    PodBelowUse(BelowUse),
    /// Another session has begun since it was sent.
    Stale,
}

impl Hosting {
    /// Gives an instance other limits. Its guests go on; those that are executed in it have them, too.
    pub(in crate::worker) fn resize(&self, session: &str, id: &str, limits: InstanceLimits) -> Resized {
        // One after the other, for the same reason as the tables of the network.
        let _one = self.0.resizes.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.0.table.is_session(session) {
            return Resized::Stale;
        }
        let Some(running) = self.0.table.running(id) else { return Resized::NotRunning };
        let before = *running.limits();
        let pod = self.holders(&running.spec.pod_uid);
        let Some(used) = PodUse::of(id, &pod) else { return Resized::NotRunning };
        let refused = |before, limit, used| {
            let lowered = limit > 0 && (before == 0 || limit < before);
            (lowered && used > limit).then_some(BelowUse { used, limit })
        };
        let own = refused(before.memory_limit_bytes, limits.memory_limit_bytes, used.of_instance());
        if let Some(below) = own {
            return Resized::BelowUse(below);
        }
        let (pod_before, pod_limit) = (before.pod_memory_limit_bytes, limits.pod_memory_limit_bytes);
        if let Some(below) = refused(pod_before, pod_limit, used.of_pod()) {
            return Resized::PodBelowUse(below);
        }
        let guest = GuestLimits { memory_bytes: limits.memory_limit_bytes, cpu: limits.cpu };
        if let Err(below) = self.0.host.resize(&running.account, guest) {
            return Resized::BelowUse(below);
        }
        *running.limits() = limits;
        Resized::Applied
    }
}

impl HostedInstance {
    /// Its limits as they are now.
    pub(super) fn limits(&self) -> MutexGuard<'_, InstanceLimits> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
