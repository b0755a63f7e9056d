//! The say that others have in whether a task's pod is taken: before anything of it begins, and once only.
//!
//! What a record tells of was taken: it is written when the pod begins, and not before. So a restarted agent asks about those
//! pods alone that the last one had not begun.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;

use super::{PodTask, Storage, TaskOutcome};
use crate::{
    admitter::Admission,
    pods::{
        admission::Rejection,
        clock,
        lifecycle::{Moment, PodState},
        reason::PodReason,
        shared::Shared,
    },
};

/// How soon it is asked again about what it cannot tell.
const RETRY: Duration = Duration::from_secs(2);

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitting {
    /// To be asked, not before this. Next: `Asked`.
    Due(Moment),
    /// It has not answered yet. Next: `Done`, or `Due`.
    Asked,
    /// There is nobody to ask, the pod is taken, or it is over.
    Done,
}

impl Admitting {
    /// Of a pod that has a record or has none. One that is on its way out already is not asked about.
    pub(super) fn begin(shared: &Shared, has_record: bool, state: &PodState) -> Self {
        match shared.admitter {
            Some(_) if !has_record && state.ending.is_none() => Self::Due(Moment::default()),
            _ => Self::Done,
        }
    }

    pub(super) fn is_done(self) -> bool {
        self == Self::Done
    }
}

impl PodTask {
    /// Sees to it that the pod is judged, and says whether it may begin.
    pub(super) fn settle_admission(&mut self, now: Moment) -> bool {
        let Some(admitter) = self.shared.admitter.clone().filter(|_| !self.admitting.is_done()) else {
            return true;
        };
        if self.state.ending.is_some() {
            return true;
        }
        if let Admitting::Due(due) = self.admitting
            && due <= now
        {
            self.admitting = Admitting::Asked;
            let pod = Arc::clone(&self.pod);
            let failed = {
                let pod = Arc::clone(&pod);
                |panic| TaskOutcome::Judged(pod, Admission::Later(format!("internal error: {panic}")))
            };
            self.spawn("the judgement of a pod", failed, async move {
                let admission = admitter.admit(&pod).await;
                TaskOutcome::Judged(pod, admission)
            });
        }
        false
    }

    /// Takes in what has come of `judged`, which was the pod when it was asked about.
    pub(super) fn record_admission(&mut self, judged: &Pod, admission: Admission) {
        // The pod may have come to its end meanwhile.
        if self.state.ending.is_some() {
            self.admitting = Admitting::Done;
            return;
        }
        match admission {
            Admission::Admitted if !is_same(judged, &self.pod) => {
                self.admitting = Admitting::Due(Moment::default());
            }
            Admission::Admitted => {
                self.admitting = Admitting::Done;
                self.state.is_admitted = true;
                self.state.admission_waits_for = None;
                self.storage = Storage::begin(&self.shared, &self.pod, &self.reference, &self.state);
            }
            Admission::Later(message) => {
                self.admitting = Admitting::Due(clock::now().steady.after(RETRY));
                self.state.admission_waits_for = Some(message);
            }
            Admission::Refused(message) => {
                self.admitting = Admitting::Done;
                self.refuse(message);
            }
        }
    }

    /// The pod is never run, or goes on no longer, because somebody who has a say in it has refused it.
    pub(super) fn refuse(&mut self, message: String) {
        let rejection = Rejection { reason: PodReason::PolicyViolation.to_string(), message };
        self.shared.metrics.rejected(&rejection.reason);
        self.shared.recorder.warning(&self.reference, &rejection.reason, rejection.message.clone());
        self.state.admission_waits_for = None;
        self.state.record_verdict(rejection.verdict(), clock::now());
    }
}

/// What is judged of a pod has not changed; its status is no part of that.
fn is_same(judged: &Pod, pod: &Pod) -> bool {
    let (before, now) = (&judged.metadata, &pod.metadata);
    judged.spec == pod.spec && before.labels == now.labels && before.annotations == now.annotations
}
