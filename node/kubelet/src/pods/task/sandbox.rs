//! The network of a task's pod, where the provider makes one for each: there before anything of the pod begins, and found
//! again by the next agent.

use std::{sync::Arc, time::Duration};

use super::{PodTask, TaskOutcome};
use crate::{
    pods::{
        files::resolv_conf::Dns,
        lifecycle::{Moment, Note},
        reason::EventReason,
        sandbox,
        shared::tell,
    },
    retry::Backoff,
    runtime::{SandboxAddresses, SandboxError},
};

/// How soon a network that could not be made is tried again, at first and at last.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// How soon it is, where no pod gets one.
const NOT_READY_RETRY: Duration = Duration::from_secs(2);

/// How far the network of a pod is.
#[derive(Debug)]
pub(super) struct Sandbox {
    stage: SandboxStage,
    backoff: Backoff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SandboxStage {
    /// The provider has not been asked for it yet, or had none to give. Next: `Asked`, not before this.
    Wanted(Moment),
    /// The provider is making it, or looking for it. Next: `Ready`, or `Wanted`.
    Asked,
    /// It is there, and the pod has its addresses. Next: `Wanted`, where there is a doubt.
    Ready,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            stage: SandboxStage::Wanted(Moment::default()),
            backoff: Backoff::new(FIRST_RETRY, LONGEST_RETRY),
        }
    }
}

impl PodTask {
    /// Sees to it that the pod has its network, and says whether the pod may begin.
    pub(super) fn settle_sandbox(&mut self, now: Moment) -> bool {
        match self.sandbox.stage {
            SandboxStage::Ready => return true,
            _ if self.state.ending.is_some() || self.state.verdict.is_some() => return true,
            SandboxStage::Asked => return false,
            SandboxStage::Wanted(due) if due > now => return false,
            SandboxStage::Wanted(_) => {}
        }
        self.sandbox.stage = SandboxStage::Asked;
        let (shared, pod) = (Arc::clone(&self.shared), Arc::clone(&self.pod));
        let failed = |panic: String| TaskOutcome::SandboxSetUp(Err(SandboxError::Failed(panic.into())));
        self.spawn("the making of a network", failed, async move {
            let settings = &shared.volumes.settings().dns;
            let node_dns = shared.volumes.node_dns().unwrap_or_default();
            let (dns, _) = Dns::of(&pod, settings, &node_dns);
            TaskOutcome::SandboxSetUp(match sandbox::of(&pod, dns) {
                Ok(sandbox) => {
                    let work = shared.runtime.set_up_sandbox(&sandbox);
                    shared.metrics.operation("run_podsandbox", work).await
                }
                Err(message) => Err(SandboxError::Failed(message.into())),
            })
        });
        false
    }

    /// Something could not be started: the provider is asked whether the network is still there.
    pub(super) fn doubt_sandbox(&mut self) {
        if self.sandbox.stage == SandboxStage::Ready {
            self.sandbox.stage = SandboxStage::Wanted(Moment::default());
        }
    }

    /// Takes in what has come of it.
    pub(super) fn record_sandbox(&mut self, result: Result<SandboxAddresses, SandboxError>, now: Moment) {
        if matches!(result, Err(SandboxError::Failed(_))) {
            self.shared.metrics.pod_not_started();
        }
        let (reason, message, pause) = match result {
            Ok(SandboxAddresses { addresses, was_lost }) => {
                if was_lost {
                    let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
                    self.note_of_sandbox(false, EventReason::SandboxChanged, message);
                }
                self.state.addresses = addresses;
                self.told_of_network = None;
                self.sandbox = Sandbox { stage: SandboxStage::Ready, ..Sandbox::default() };
                return;
            }
            Err(SandboxError::NotReady(cause)) => {
                let message = format!("network is not ready: {}", not_ready(&cause.to_string()));
                (EventReason::NetworkNotReady, message, NOT_READY_RETRY)
            }
            Err(SandboxError::Failed(cause)) => {
                let message = format!("Failed to create pod sandbox: {cause}");
                (EventReason::FailedCreatePodSandBox, message, self.sandbox.backoff.next())
            }
        };
        self.sandbox.stage = SandboxStage::Wanted(now.after(pause));
        if self.told_of_network.as_ref() != Some(&message) {
            self.note_of_sandbox(true, reason, message.clone());
            self.told_of_network = Some(message);
        }
    }

    fn note_of_sandbox(&self, warning: bool, reason: EventReason, message: String) {
        let note = Note { container: None, warning, reason, message };
        tell(&self.shared.recorder, &self.reference, &self.spec, &note);
    }
}

/// That no pod gets a network, in the kubelet's words: in the node's condition `Ready`, and in Events of pods.
pub(crate) fn not_ready(cause: &str) -> String {
    format!(
        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:{cause}"
    )
}
