//! Who goes first, and what it is told, after upstream's `pkg/kubelet/eviction/helpers.go`. Pure.

use std::cmp::Reverse;

use super::{
    candidate::{Candidate, PodUsage},
    pressure::Observations,
    signal::{Resource, resource},
};
use crate::{
    config::thresholds::{Signal, Threshold},
    quantity::canonical,
};

/// A pod with what it takes; nothing where that could not be measured in time.
pub(crate) type Measured = (Candidate, Option<PodUsage>);

/// Sorts pods by who goes first: who could not be measured, then who has more than it asked for, then who has the lowest priority, then who is the
/// furthest beyond what it asked for.
pub(crate) fn rank(pods: &mut [Measured], of: Resource) {
    pods.sort_by_cached_key(|(pod, usage)| {
        let total = usage.as_ref().map(PodUsage::total);
        let (used, request) = match of {
            Resource::EphemeralStorage => (total.map_or(0, |total| total.bytes), pod.request),
            Resource::Inodes => (total.map_or(0, |total| total.inodes), 0),
        };
        let beyond = i128::from(used) - i128::from(request);
        (total.is_some(), used <= request, pod.priority, Reverse(beyond), pod.uid.clone())
    });
}

/// What a pod is told that is evicted for a threshold.
pub(crate) fn message(
    (pod, usage): &Measured,
    of: Resource,
    met: &[Threshold],
    seen: &Observations,
) -> String {
    let name = of.as_str();
    let mut message = format!("The node was low on resource: {name}. ");
    let met = met.iter().find(|threshold| resource(threshold.signal) == Some(of));
    if let Some((threshold, observed)) = met.and_then(|t| Some((t, seen.get(&t.signal)?))) {
        let quantity = canonical(threshold.value.of(observed.capacity), true);
        let counts_bytes = !matches!(threshold.signal, Signal::NodefsInodesFree | Signal::ImagefsInodesFree);
        let available = canonical(observed.available, counts_bytes);
        message.push_str(&format!("Threshold quantity: {quantity}, available: {available}. "));
    }
    if of != Resource::EphemeralStorage {
        return message;
    }
    for container in &pod.containers {
        let used = usage.as_ref().and_then(|usage| usage.containers.get(&container.name));
        let used = used.map_or(0, |usage| usage.bytes);
        if used > container.request {
            message.push_str(&format!(
                "Container {} was using {}, request is {}, has larger consumption of {name}. ",
                container.name,
                canonical(used, true),
                container.request_text
            ));
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::thresholds::ThresholdValue,
        eviction::{
            candidate::{ContainerStorage, DiskUsage},
            pressure::Observation,
        },
    };

    fn pod(uid: &str, priority: i32, request: u64, bytes: u64, inodes: u64) -> Measured {
        let candidate = Candidate { uid: uid.to_owned(), priority, request, ..Candidate::default() };
        (candidate, Some(PodUsage { volumes: DiskUsage { bytes, inodes }, ..PodUsage::default() }))
    }

    fn ranked(mut pods: Vec<Measured>, of: Resource) -> Vec<String> {
        rank(&mut pods, of);
        pods.into_iter().map(|(pod, _)| pod.uid).collect()
    }

    #[test]
    fn those_beyond_their_requests_go_first_then_by_priority_then_by_how_far() {
        let unmeasured =
            (Candidate { uid: "unmeasured".to_owned(), priority: 99, ..Candidate::default() }, None);
        let pods = vec![
            unmeasured,
            pod("within", -5, 100, 100, 1),
            pod("within-much", 0, 1000, 900, 1),
            pod("important", 10, 0, 5000, 1),
            pod("little", 0, 0, 10, 1),
            pod("much", 0, 50, 1000, 1),
        ];
        let expected = ["unmeasured", "much", "little", "important", "within", "within-much"];
        assert_eq!(ranked(pods, Resource::EphemeralStorage), expected);
    }

    #[test]
    fn for_inodes_their_number_counts() {
        let pods = vec![pod("large", 0, 0, 1 << 30, 10), pod("many", 0, 1 << 40, 1, 10_000)];
        assert_eq!(ranked(pods, Resource::Inodes), ["many", "large"]);
    }

    #[test]
    fn a_pod_is_told_the_threshold_and_its_containers_shares() {
        let container = |name: &str, request, request_text: &str| ContainerStorage {
            name: name.to_owned(),
            request,
            request_text: request_text.to_owned(),
            ..ContainerStorage::default()
        };
        let candidate = Candidate {
            containers: vec![container("a", 0, "0"), container("b", 1 << 20, "1Mi"), container("c", 0, "0")],
            ..Candidate::default()
        };
        let disk = |bytes| DiskUsage { bytes, inodes: 3 };
        let usage = PodUsage {
            containers: [("a".to_owned(), disk(40 << 20)), ("b".to_owned(), disk(1 << 20))].into(),
            volumes: disk(0),
        };
        let threshold = |signal| Threshold {
            signal,
            value: ThresholdValue::Share(1000),
            soft: None,
            minimum_reclaim: None,
        };
        let seen = Observations::from([
            (Signal::NodefsAvailable, Observation { available: 1 << 20, capacity: 50 << 20 }),
            (Signal::NodefsInodesFree, Observation { available: 12_000, capacity: 1_000_000 }),
        ]);
        let met = [threshold(Signal::NodefsAvailable), threshold(Signal::NodefsInodesFree)];
        let measured = (candidate, Some(usage));
        assert_eq!(
            message(&measured, Resource::EphemeralStorage, &met, &seen),
            "The node was low on resource: ephemeral-storage. Threshold quantity: 5Mi, available: 1Mi. Container a was \
             using 40Mi, request is 0, has larger consumption of ephemeral-storage. "
        );
        assert_eq!(
            message(&measured, Resource::Inodes, &met, &seen),
            "The node was low on resource: inodes. Threshold quantity: 100000, available: 12k. "
        );
    }
}
