//! What a task tells the world: the status, in the pod index and in the API, and the final DELETE.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{PodTask, TaskOutcome, uid};
use crate::{
    pods::{
        api::ApiError,
        index,
        lifecycle::{Moment, Now},
        status,
    },
    traces::within,
};

/// How long a failed final DELETE waits.
pub(super) const FINALIZE_RETRY: Duration = Duration::from_secs(2);

/// Where the final DELETE is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finalize {
    No,
    InFlight,
    RetryAt(Moment),
    Done,
}

impl PodTask {
    /// Computes the status, shows it, and writes it if it is new. That the pod has ended is told when the next agent
    /// will know it, too.
    pub(super) fn publish(&mut self, now: Now) {
        if self.foreign {
            self.shared.index.put(&self.name.uid, Arc::clone(&self.pod));
            return;
        }
        if self.state.is_over() && !self.state.is_settled(self.on_disk) {
            return;
        }
        let node = self.shared.node.borrow().clone();
        let version = self.shared.runtime.version();
        let object_status = self.object.as_ref().and_then(|object| object.status.as_ref());
        let api_conditions = object_status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let context = status::StatusContext {
            host_ips: &node.host_ips,
            runtime: version.split_once("://").map_or(version.as_str(), |(scheme, _)| scheme),
            previous: self.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or(api_conditions),
        };
        let status = status::of(&self.pod, &self.name, &self.spec, &self.state, context, now.wall);
        if let Some(object) = &self.object {
            self.publisher.observe(object, &status);
        }
        if self.status.as_ref() != Some(&status) {
            self.shared.index.put(&self.name.uid, Arc::new(index::shown(&self.pod, &status)));
            self.unpublished_since.get_or_insert_with(Instant::now);
        }
        if let Some(times) = self.start_clock.observe(&self.pod, &status, (Instant::now(), now.wall)) {
            self.shared.metrics.pod_started(times);
            self.trace.started();
        }
        if !self.is_gone()
            && let Some(object) = self.object.clone()
            && let Some(status) = self.publisher.next(&status, self.state.is_in_transit(), now.steady)
        {
            let shared = Arc::clone(&self.shared);
            let to = uid(Some(&object)).map(str::to_owned);
            let failed = {
                let uid = to.clone();
                move |panic| TaskOutcome::Published { uid, result: Err(ApiError::Later(panic)) }
            };
            let trace = self.trace.current();
            self.spawn("the writing of a status", failed, async move {
                let result = within(trace, shared.api.publish(&object, &status)).await.map(Box::new);
                TaskOutcome::Published { uid: to, result }
            });
        }
        self.status = Some(status);
    }

    /// Begins the traces of the pod's end when their time has come.
    pub(super) fn trace_end(&mut self) {
        match self.state.ending {
            _ if self.foreign => self.trace.close(),
            None => {}
            Some(_) if self.state.all_stopped() => self.trace.terminated(&self.name),
            Some(_) => self.trace.terminating(&self.name),
        }
    }

    /// Ends the trace that the task is in, if nothing belongs to it any more. That of a deleted pod lasts as long as the task.
    pub(super) fn settle_trace(&mut self) {
        let is_told = match &self.object {
            Some(_) => self.status.as_ref().is_some_and(|status| self.publisher.is_settled(status)),
            None => true,
        };
        if self.state.ending.is_none() {
            self.trace.settle(!self.pulls.is_empty() || !self.starting.is_empty(), is_told);
        } else if self.state.is_over() && self.is_unmounted() && is_told && self.spec.deletion.is_none() {
            self.trace.close();
        }
    }

    /// A status was written: if it is the newest one, the API server is up to date.
    pub(super) fn note_settled(&mut self) {
        let is_settled = self.status.as_ref().is_some_and(|status| self.publisher.is_settled(status));
        if let Some(since) = self.unpublished_since.take_if(|_| is_settled) {
            self.shared.metrics.status_synced(since.elapsed());
        }
    }

    /// Lets go of a deleted pod once its volumes are gone and its last status is in the API; returns when to try again.
    pub(super) fn finalize(&mut self, now: Moment) -> Option<Moment> {
        let settled = self.foreign || self.status.as_ref().is_some_and(|s| self.publisher.is_settled(s));
        let due = match self.finalize {
            Finalize::No => true,
            Finalize::RetryAt(at) => at <= now,
            Finalize::InFlight | Finalize::Done => false,
        };
        if self.spec.deletion.is_some() && self.state.is_over() && self.is_unmounted() && settled && due {
            self.finalize = Finalize::InFlight;
            let (shared, pod) = (Arc::clone(&self.shared), Arc::clone(&self.pod));
            let failed = |panic| TaskOutcome::Finalized(Err(ApiError::Later(panic)));
            let trace = self.trace.current();
            let work = async move { TaskOutcome::Finalized(within(trace, shared.api.finalize(&pod)).await) };
            self.spawn("the final DELETE", failed, work);
        }
        match self.finalize {
            Finalize::RetryAt(at) => Some(at),
            _ => None,
        }
    }
}
