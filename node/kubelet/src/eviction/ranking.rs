//! Who goes first, and what it is told, after upstream's `pkg/kubelet/eviction/helpers.go`. Pure.

use std::{cmp::Reverse, collections::BTreeMap};

use super::{
    candidate::{Candidate, PodDiskUsage, PodMemoryUsage},
    pressure::Observations,
    signal::{Resource, resource},
};
use crate::{
    config::thresholds::{Signal, Threshold},
    quantity::canonical,
};

/// A pod with what it takes of the resource that is short; nothing where nobody can say.
pub(crate) type Ranked = (Candidate, Option<Taken>);

/// What a pod takes of one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Bytes or inodes in all.
    pub(crate) total: u64,
    /// Bytes of its containers, by name.
    pub(crate) containers: BTreeMap<String, u64>,
}

impl Taken {
    pub(crate) fn of_memory(usage: &PodMemoryUsage) -> Self {
        Self { total: usage.total(), containers: usage.containers.clone() }
    }

    /// What a pod takes of a disk, in bytes or in inodes.
    pub(crate) fn of_disk(usage: &PodDiskUsage, of: Resource) -> Self {
        if of == Resource::Inodes {
            return Self { total: usage.total().inodes, containers: BTreeMap::new() };
        }
        let containers = usage.containers.iter().map(|(name, usage)| (name.clone(), usage.bytes));
        Self { total: usage.total().bytes, containers: containers.collect() }
    }
}

/// Sorts pods by who goes first: of whom nobody can say what they take, then who has more than it asked for, then who has
/// the lowest priority, then who is the furthest beyond what it asked for.
pub(crate) fn rank(pods: &mut [Ranked], of: Resource) {
    pods.sort_by_cached_key(|(pod, taken)| {
        let used = taken.as_ref().map_or(0, |taken| taken.total);
        let request = match of {
            Resource::Memory => pod.memory_request,
            Resource::EphemeralStorage => pod.storage_request,
            Resource::Inodes => 0,
        };
        let beyond = i128::from(used) - i128::from(request);
        (taken.is_some(), used <= request, pod.priority, Reverse(beyond), pod.uid.clone())
    });
}

/// What is said of an eviction: a message for people, and annotations of the Event for programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Explanation {
    pub(crate) message: String,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// What a pod is told that is evicted for a threshold.
pub(crate) fn explain(
    (pod, taken): &Ranked,
    of: Resource,
    met: &[Threshold],
    seen: &Observations,
) -> Explanation {
    let name = of.as_str();
    let mut message = format!("The node was low on resource: {name}. ");
    let met = met.iter().find(|threshold| resource(threshold.signal) == Some(of));
    if let Some((threshold, observed)) = met.and_then(|t| Some((t, seen.get(&t.signal)?))) {
        let quantity = canonical(threshold.value.of(observed.capacity), true);
        let counts_bytes = !matches!(threshold.signal, Signal::NodefsInodesFree | Signal::ImagefsInodesFree);
        let available = canonical(observed.available, counts_bytes);
        message.push_str(&format!("Threshold quantity: {quantity}, available: {available}. "));
    }
    let Some(taken) = taken else { return Explanation { message, annotations: BTreeMap::new() } };
    let mut annotations = BTreeMap::new();
    let mut annotate = |key: &str, value: String| annotations.insert(key.to_owned(), value);
    let mut blame = |kind: &str, who: &str, used: &str, request: &str| {
        message.push_str(&format!(
            "{kind} {who} was using {used}, request is {request}, has larger consumption of {name}. "
        ));
    };
    if let Some(request) = pod.memory_request_as_a_whole.as_ref().filter(|_| of == Resource::Memory) {
        let (_, own) = pod.name.split_once('/').unwrap_or(("", &pod.name));
        let used = canonical(taken.total, true);
        blame("Pod", own, &used, &request.text);
        annotate("offending_pod", own.to_owned());
        annotate("offending_pod_usage", used);
    }
    let (mut offenders, mut usages) = (Vec::new(), Vec::new());
    for container in pod.containers.iter().filter(|container| !container.is_ephemeral) {
        let Some(used) = taken.containers.get(&container.name).copied() else { continue };
        let request = match of {
            Resource::Memory => &container.memory_request,
            Resource::EphemeralStorage => &container.storage_request,
            Resource::Inodes => continue,
        };
        if used > request.bytes {
            let used = canonical(used, true);
            blame("Container", &container.name, &used, &request.text);
            offenders.push(container.name.as_str());
            usages.push(used);
        }
    }
    annotate("offending_containers", offenders.join(","));
    annotate("offending_containers_usage", usages.join(","));
    annotate("starved_resource", name.to_owned());
    Explanation { message, annotations }
}

#[cfg(test)]
mod tests;
