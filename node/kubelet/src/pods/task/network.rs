//! The addresses of a task's pod: there before anything of it begins.

use super::PodTask;
use crate::pods::{addresses::Settled, lifecycle::Note, reason::EventReason, shared::tell};

impl PodTask {
    /// Sees to it that the pod has addresses, and says whether it may begin. One that is on its way out needs none.
    pub(super) fn settle_addresses(&mut self) -> bool {
        if self.foreign || self.state.is_over() {
            return true;
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
                self.told_of_network = None;
                true
            }
            Settled::Waiting(_) if self.state.ending.is_some() || self.state.verdict.is_some() => true,
            Settled::Waiting(message) => {
                if self.told_of_network.as_ref() != Some(&message) {
                    let reason = EventReason::NetworkNotReady;
                    let note = Note { container: None, warning: true, reason, message: message.clone() };
                    tell(&self.shared.recorder, &self.reference, &self.spec, &note);
                    self.told_of_network = Some(message);
                }
                false
            }
        }
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
