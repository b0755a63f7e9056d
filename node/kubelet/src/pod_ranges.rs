//! Decides once, after the start of the agent, where the addresses of pods come from.
//!
//! The configuration's `podCIDR` counts at once. Otherwise it is the Node's `spec.podCIDRs`, which the control plane sets
//! when it gets to it. A node that may do without waits for them for a moment only: its pods have the node's address then.

use std::{net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use tokio::sync::watch;

use crate::{
    pods::{Records, Shared, addresses::pool::AddressPool, clock},
    retry::Backoff,
    runtime::HostPort,
};

/// How long a registered Node is waited for to be given a range.
const PATIENCE: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What it takes to decide.
#[derive(Debug)]
pub(crate) struct Decision {
    pub(crate) shared: Arc<Shared>,
    /// What the configuration says; empty for nothing.
    pub(crate) configured: Vec<IpNet>,
    pub(crate) node: watch::Receiver<Option<Arc<Node>>>,
    /// Pods have addresses of their own, or none.
    pub(crate) required: bool,
}

impl Decision {
    /// Returns when it is decided.
    pub(crate) async fn run(mut self) {
        if !self.shared.addresses.is_undecided() {
            return;
        }
        let Some(ranges) = self.find().await else {
            tracing::warn!(
                "the Node has no podCIDR, so that pods have the node's address and do not listen; for addresses of \
                 their own, run the controller manager with --allocate-node-cidrs and --cluster-cidr, or set podCIDR in \
                 the node's configuration"
            );
            self.shared.addresses.decide_shared();
            return;
        };
        let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        while let Err(error) = self.decide(&ranges).await {
            tracing::error!(?ranges, error, "pods cannot be given addresses; trying again");
            tokio::time::sleep(pauses.next()).await;
        }
        tracing::info!(?ranges, "pods have addresses of their own");
    }

    async fn find(&mut self) -> Option<Vec<IpNet>> {
        if !self.configured.is_empty() {
            return Some(std::mem::take(&mut self.configured));
        }
        // The sender lives as long as the agent.
        self.node.wait_for(Option::is_some).await.ok()?;
        let given = self.node.wait_for(|node| node.as_deref().is_some_and(|node| !given(node).is_empty()));
        let given = if self.required {
            given.await.ok()
        } else {
            tokio::time::timeout(PATIENCE, given).await.ok()?.ok()
        };
        Some(of(given?.as_deref()?))
    }

    async fn decide(&self, ranges: &[IpNet]) -> Result<(), String> {
        let records = self.shared.records.clone();
        let recorded = tokio::task::spawn_blocking(move || recorded(&records));
        let recorded = recorded.await.map_err(|error| error.to_string())?;
        let recorded = recorded.map_err(|error| format!("cannot read the records of pods: {error}"))?;
        let (addresses, ports) = recorded;
        let pool = AddressPool::of_records(ranges, &addresses).map_err(|error| error.to_string())?;
        // Before anybody gets one: what an earlier agent has left must not lead to somebody else.
        let set = self.shared.runtime.set_pod_ranges(ranges, &pool.in_use()).await;
        set.map_err(|error| error.to_string())?;
        let ports = ports.into_iter().filter(|(uid, _)| pool.held_by(uid).is_some()).collect();
        let restored = self.shared.host_ports.restore(self.shared.runtime.as_ref(), ports).await;
        restored.map_err(|error| error.to_string())?;
        self.shared.addresses.decide_own(pool);
        Ok(())
    }
}

/// The addresses of the pods that are not over, and the ports of the node that lead there, by UID.
type Recorded = (Vec<(String, Vec<IpAddr>)>, Vec<(String, Vec<HostPort>)>);

fn recorded(records: &Records) -> std::io::Result<Recorded> {
    let (mut addresses, mut ports) = (Vec::new(), Vec::new());
    for uid in records.uids()? {
        let Some(state) = records.load(&uid, clock::now())?.filter(|state| !state.is_over()) else {
            continue;
        };
        addresses.push((uid.clone(), state.addresses));
        if !state.host_ports.is_empty() {
            ports.push((uid, state.host_ports));
        }
    }
    Ok((addresses, ports))
}

/// The ranges that a Node was given, as it says.
fn given(node: &Node) -> Vec<&str> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let all = spec.pod_cidrs.iter().flatten().map(String::as_str).filter(|range| !range.is_empty());
    let all: Vec<_> = all.collect();
    if all.is_empty() {
        spec.pod_cidr.as_deref().filter(|range| !range.is_empty()).into_iter().collect()
    } else {
        all
    }
}

fn of(node: &Node) -> Vec<IpNet> {
    // The API server takes nothing else.
    given(node).into_iter().filter_map(|range| range.parse().ok()).collect()
}

/// Reads `podCIDR`: one range, or two that are separated by a comma. Empty is none.
pub(crate) fn read(text: &str) -> Result<Vec<IpNet>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let ranges =
        parts.map(|part| part.parse().map_err(|_| format!("{part:?} is no network such as 10.244.1.0/24")));
    let ranges = ranges.collect::<Result<Vec<IpNet>, _>>()?;
    if !ranges.is_empty() {
        AddressPool::new(&ranges).map_err(|error| error.to_string())?;
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configured_range_is_read() {
        let ranges =
            |text: &str| read(text).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(ranges(""), Ok(Vec::new()));
        assert_eq!(ranges("10.244.1.0/24"), Ok(vec!["10.244.1.0/24".to_owned()]));
        assert_eq!(ranges("10.244.1.0/24, fd00::/64").map(|all| all.len()), Ok(2));
        for (text, expected) in [
            ("10.244.1.0", "no network such as"),
            ("10.0.0.0/24,10.0.1.0/24", "one of each family"),
            ("10.0.0.0/32", "has no address for a pod"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_nodes_ranges_are_those_of_its_specification() {
        let node = |spec: serde_json::Value| -> Node {
            serde_json::from_value(serde_json::json!({ "spec": spec })).unwrap()
        };
        let both = serde_json::json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24", "fd00::/64"]});
        assert_eq!(of(&node(both)).len(), 2);
        assert_eq!(of(&node(serde_json::json!({"podCIDR": "10.0.0.0/24"}))).len(), 1);
        assert_eq!(of(&node(serde_json::json!({}))), Vec::new());
        assert_eq!(of(&Node::default()), Vec::new());
    }
}
