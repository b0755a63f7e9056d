//! Which addresses a pod has.
//!
//! A pod's addresses are decided before anything of it begins, and kept in its record
//! ([`State::addresses`](super::lifecycle::State::addresses)). All readers take them from there: the status, the
//! variables of containers, `/etc/hosts`, probes and hooks, and the provider.
//!
//! Pods with `hostNetwork` have the node's. So have all others where the provider has no network for them; where it
//! has, they have addresses of their own from the node's ranges, which are known when the control plane has given the node
//! some. What was decided for a pod stays: one that has begun with the node's addresses ends with them.
//!
//! Where the provider makes a network for each pod (a *sandbox*), it says which addresses the pod has, and makes the network
//! again where it was lost.

pub(crate) mod pool;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use pool::AddressPool;

/// The addresses of all pods of a node. Clones are the same.
#[derive(Clone, Debug)]
pub struct PodAddresses(Arc<Mutex<Plan>>);

/// Where addresses come from.
#[derive(Debug)]
enum Plan {
    /// It is not known yet. Next: one of the others, and never another again.
    Undecided,
    /// All pods have the node's.
    Shared,
    /// Pods have addresses of their own.
    Own(AddressPool),
    /// The provider makes a network for each pod, and says which addresses the pod has in it.
    Sandboxes,
}

/// What can be said of a pod's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// These are its addresses.
    Addresses(Vec<IpAddr>),
    /// It has none yet, and cannot begin; for people, why.
    Waiting(String),
}

impl PodAddresses {
    /// Pods share the node's addresses.
    #[must_use]
    pub fn shared() -> Self {
        Self(Arc::new(Mutex::new(Plan::Shared)))
    }

    /// The provider makes a network for each pod, and gives it addresses.
    #[must_use]
    pub fn of_sandboxes() -> Self {
        Self(Arc::new(Mutex::new(Plan::Sandboxes)))
    }

    /// The provider makes a network for each pod.
    pub(super) fn are_of_sandboxes(&self) -> bool {
        matches!(*self.plan(), Plan::Sandboxes)
    }

    /// It is decided later, by [`PodAddresses::decide_shared`] or [`PodAddresses::decide_own`].
    #[must_use]
    pub fn undecided() -> Self {
        Self(Arc::new(Mutex::new(Plan::Undecided)))
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pods share the node's addresses, if nothing else was decided before.
    pub(crate) fn decide_shared(&self) {
        let mut plan = self.plan();
        if matches!(*plan, Plan::Undecided) {
            *plan = Plan::Shared;
        }
    }

    /// Pods have addresses of their own from this pool, if nothing was decided before.
    pub(crate) fn decide_own(&self, pool: AddressPool) {
        let mut plan = self.plan();
        if matches!(*plan, Plan::Undecided) {
            *plan = Plan::Own(pool);
        }
    }

    /// It is not decided yet where addresses come from.
    pub(crate) fn is_undecided(&self) -> bool {
        matches!(*self.plan(), Plan::Undecided)
    }

    /// Pods have addresses of their own.
    pub(crate) fn are_own(&self) -> bool {
        matches!(*self.plan(), Plan::Own(_))
    }

    /// Whether those of a pod are its own by what an earlier agent has given it: they are not the node's. An agent that has just
    /// begun does not know yet where addresses come from, and its pods are asked meanwhile whether they are ready.
    pub(super) fn are_from_before(&self, addresses: &[IpAddr], node: &[IpAddr]) -> bool {
        self.is_undecided() && !addresses.is_empty() && !addresses.iter().any(|ip| node.contains(ip))
    }

    /// What a pod has for its own: its slot, and its addresses.
    pub(super) fn held_by(&self, uid: &str) -> Option<(u32, Vec<IpAddr>)> {
        match &*self.plan() {
            Plan::Own(pool) => pool.held_by(uid),
            Plan::Undecided | Plan::Shared | Plan::Sandboxes => None,
        }
    }

    /// Nothing of a pod is there any more that uses its addresses.
    pub(super) fn release(&self, uid: &str) {
        if let Plan::Own(pool) = &mut *self.plan() {
            pool.release(uid);
        }
    }

    /// Decides the addresses of a pod. `recorded` are those that it has, `begun` whether something of it has run with
    /// them.
    pub(super) fn settle(
        &self,
        uid: &str,
        host_network: bool,
        recorded: &[IpAddr],
        begun: bool,
        node: &[IpAddr],
    ) -> Settled {
        if host_network {
            return Settled::Addresses(decide(recorded, node));
        }
        let has_nodes = begun && !recorded.is_empty() && recorded.iter().all(|ip| node.contains(ip));
        match &mut *self.plan() {
            Plan::Shared => Settled::Addresses(decide(recorded, node)),
            // What the provider has said.
            Plan::Sandboxes => Settled::Addresses(recorded.to_vec()),
            _ if has_nodes => Settled::Addresses(recorded.to_vec()),
            Plan::Undecided if begun && !recorded.is_empty() => Settled::Addresses(recorded.to_vec()),
            Plan::Undecided => Settled::Waiting(
                "network is not ready: the Node has no podCIDR yet; the controller manager gives it one if it runs \
                 with --allocate-node-cidrs"
                    .to_owned(),
            ),
            Plan::Own(pool) => {
                if pool.claim(uid, recorded) {
                    return Settled::Addresses(recorded.to_vec());
                }
                let Some(addresses) = pool.take(uid) else {
                    let ranges = pool::list(pool.ranges());
                    return Settled::Waiting(format!("network is not ready: no address is left in {ranges}"));
                };
                Settled::Addresses(addresses)
            }
        }
    }
}

/// The addresses of a pod that shares those of its node: the `recorded` ones stay for as long as the node still has all
/// of them, and a pod that has none, or lost one, takes the node's.
fn decide(recorded: &[IpAddr], node: &[IpAddr]) -> Vec<IpAddr> {
    let kept = !recorded.is_empty() && recorded.iter().all(|ip| node.contains(ip));
    if kept { recorded.to_vec() } else { node.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(text: &str) -> Vec<IpAddr> {
        text.split_whitespace().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_stay_while_the_node_has_them() {
        for (recorded, node, expected) in [
            ("", "", ""),
            ("", "10.0.0.1 fd00::1", "10.0.0.1 fd00::1"),
            ("10.0.0.1", "10.0.0.2 10.0.0.1", "10.0.0.1"),
            ("10.0.0.1 fd00::1", "fd00::1 10.0.0.1", "10.0.0.1 fd00::1"),
            ("10.0.0.1 fd00::1", "10.0.0.1", "10.0.0.1"),
            ("10.0.0.1", "10.0.0.2", "10.0.0.2"),
        ] {
            assert_eq!(decide(&ips(recorded), &ips(node)), ips(expected), "{recorded:?} on {node:?}");
        }
    }

    /// Once it is known where addresses come from, what pods had before is respected.
    #[test]
    fn a_pod_keeps_what_it_has_begun_with() {
        let node = ips("192.0.2.1");
        let addresses = PodAddresses::undecided();
        let settle =
            |uid: &str, recorded: &str, begun| addresses.settle(uid, false, &ips(recorded), begun, &node);
        let waits = |settled| matches!(settled, Settled::Waiting(text) if text.contains("podCIDR"));
        let are = |text: &str| Settled::Addresses(ips(text));
        assert!(waits(settle("new", "", false)) && waits(settle("new", "10.0.0.9", false)));
        assert_eq!(settle("old", "10.0.0.7", true), are("10.0.0.7"), "it is known to others by it");
        assert_eq!(addresses.settle("host", true, &[], false, &node), are("192.0.2.1"));
        let recorded = [("old", "10.0.0.7"), ("none", ""), ("shared", "192.0.2.1"), ("far", "10.9.0.7")];
        let recorded = recorded.map(|(uid, text)| (uid.to_owned(), ips(text)));
        let pool = AddressPool::of_records(&["10.0.0.0/29".parse().unwrap()], &recorded).unwrap();
        assert_eq!(pool.in_use(), Vec::<IpAddr>::new(), "7 is for broadcasts");
        addresses.decide_own(pool);
        let settle =
            |uid: &str, recorded: &str, begun| addresses.settle(uid, false, &ips(recorded), begun, &node);
        assert_eq!(settle("new", "10.0.0.6", false), are("10.0.0.6"), "nobody else has it");
        assert_eq!(settle("shared", "192.0.2.1", true), are("192.0.2.1"));
        assert_eq!(settle("shared", "192.0.2.1", false), are("10.0.0.2"), "nothing of it has begun");
        assert_eq!(settle("far", "10.9.0.7", true), are("10.0.0.3"), "the node has other ranges now");
        assert_eq!(settle("late", "10.0.0.2", true), are("10.0.0.4"), "another pod has it");
        assert_eq!(settle("last", "", false), are("10.0.0.5"));
        let full = settle("one more", "", false);
        assert!(
            matches!(&full, Settled::Waiting(text) if text.contains("no address is left in 10.0.0.0/29"))
        );
        addresses.release("far");
        assert_eq!(settle("one more", "", false), are("10.0.0.3"));
        assert_eq!(addresses.held_by("one more"), Some((3, ips("10.0.0.3"))));
    }

    #[test]
    fn the_provider_of_networks_says_which_addresses_pods_have() {
        let addresses = PodAddresses::of_sandboxes();
        addresses.decide_shared();
        let settle = |host_network, recorded: &str| {
            addresses.settle("a", host_network, &ips(recorded), true, &ips("192.0.2.1"))
        };
        assert!(addresses.are_of_sandboxes() && !addresses.is_undecided());
        assert_eq!(settle(false, "10.0.0.7"), Settled::Addresses(ips("10.0.0.7")));
        assert_eq!(settle(true, ""), Settled::Addresses(ips("192.0.2.1")));
        assert_eq!(addresses.held_by("a"), None);
    }

    #[test]
    fn what_is_decided_stays() {
        let addresses = PodAddresses::undecided();
        assert!(addresses.is_undecided());
        addresses.decide_shared();
        addresses.decide_own(AddressPool::new(&["10.0.0.0/24".parse().unwrap()]).unwrap());
        let node = ips("192.0.2.1");
        assert_eq!(addresses.settle("a", false, &[], false, &node), Settled::Addresses(node.clone()));
        assert_eq!((addresses.held_by("a"), addresses.is_undecided()), (None, false));
    }

    #[test]
    fn what_an_earlier_agent_has_given_tells_whose_it_is_until_it_is_decided() {
        let addresses = PodAddresses::undecided();
        let node = ips("192.0.2.1");
        assert!(addresses.are_from_before(&ips("10.0.0.2"), &node));
        assert!(!addresses.are_from_before(&node, &node));
        assert!(!addresses.are_from_before(&[], &node));
        addresses.decide_shared();
        assert!(!addresses.are_from_before(&ips("10.0.0.2"), &node));
    }
}
