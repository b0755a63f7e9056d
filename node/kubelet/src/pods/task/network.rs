//! The addresses of a task's pod: there before anything of it begins.

use super::PodTask;
use crate::{
    pods::{
        addresses::Settled,
        host_ports,
        lifecycle::{Moment, Note},
        reason::EventReason,
        shared::tell,
    },
    policies::LocalPod,
    runtime::{ExposedPort, RuntimeError},
};

impl PodTask {
    /// Sees to it that the pod has addresses, and that ports of the node lead there, and says whether it may begin. One
    /// that is on its way out needs none.
    pub(super) async fn settle_addresses(&mut self, now: Moment) -> bool {
        if self.foreign || self.state.is_over() {
            self.shared.policies.note(&self.name.uid, None);
            return true;
        }
        if self.shared.addresses.are_of_sandboxes() && !self.has_host_network() {
            return self.settle_sandbox(now);
        }
        let node = self.shared.node.borrow().host_ips.clone();
        let begun = !self.state.containers.is_empty();
        let settled = self.shared.addresses.settle(
            &self.name.uid,
            self.has_host_network(),
            &self.state.addresses,
            begun,
            &node,
        );
        match settled {
            Settled::Addresses(addresses) => {
                self.state.addresses = addresses;
                let own = self.network_slot().filter(|_| !self.has_host_network());
                let pod = own.map(|_| LocalPod::of(&self.pod, &self.reference));
                self.shared.policies.note(&self.name.uid, pod);
                match self.open_host_ports().await {
                    Ok(()) => {
                        self.told_of_network = None;
                        true
                    }
                    Err(error) => self.wait_for_network(format!(
                        "network is not ready: the node's ports cannot lead to the pod: {error}"
                    )),
                }
            }
            Settled::Waiting(message) => self.wait_for_network(message),
        }
    }

    async fn open_host_ports(&mut self) -> Result<(), RuntimeError> {
        // Without addresses of its own, it has the node's ports themselves.
        if self.network_slot().is_none() || self.state.ending.is_some() {
            return Ok(());
        }
        self.state.host_ports = host_ports::of(&self.pod, &self.state.addresses);
        let (runtime, uid) = (self.shared.runtime.as_ref(), &self.name.uid);
        self.shared.host_ports.open(runtime, uid, &self.state.host_ports).await
    }

    /// Tells once what the pod waits for, and says whether it may begin.
    fn wait_for_network(&mut self, message: String) -> bool {
        if self.state.ending.is_some() || self.state.verdict.is_some() {
            return true;
        }
        if self.told_of_network.as_ref() != Some(&message) {
            let reason = EventReason::NetworkNotReady;
            let note = Note { container: None, warning: true, reason, message: message.clone() };
            tell(&self.shared.recorder, &self.reference, &self.spec, &note);
            self.told_of_network = Some(message);
        }
        false
    }

    /// The ports of the node that are the pod's, if it has no addresses of its own and not all of the node's are its own.
    pub(super) fn exposed_ports(&self) -> Option<Vec<ExposedPort>> {
        let addresses = &self.shared.addresses;
        let has_own = self.network_slot().is_some()
            || addresses.are_of_sandboxes()
            || addresses.are_from_before(&self.state.addresses, &self.shared.node.borrow().host_ips);
        (!has_own && !self.has_host_network()).then(|| host_ports::exposed(&self.pod))
    }

    fn has_host_network(&self) -> bool {
        self.pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true)
    }

    /// See [`ContainerSpec::network_slot`](crate::runtime::ContainerSpec::network_slot).
    pub(super) fn network_slot(&self) -> Option<u32> {
        let (slot, addresses) = self.shared.addresses.held_by(&self.name.uid)?;
        (addresses == self.state.addresses).then_some(slot)
    }
}
