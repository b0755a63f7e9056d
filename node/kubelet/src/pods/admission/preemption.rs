//! Which pods make room for a critical one, after upstream's `pkg/kubelet/preemption/preemption.go`. Pure.

use k8s_openapi::api::core::v1::Pod;

use super::{is_critical, qos::QosClass, resources::Amounts};

/// What `status.message` and the Event of a pod say that has made room.
pub(crate) const MESSAGE: &str = "Preempted in order to admit critical pod";

/// So much of a resource is missing for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Name of the resource.
    pub resource: String,
    /// How much more there would have to be.
    pub missing: u64,
}

/// A pod that takes room on the node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occupant<'a> {
    pub(crate) uid: &'a str,
    pub(crate) pod: &'a Pod,
    /// What it takes of the node, `pods` among it.
    pub(crate) footprint: &'a Amounts,
}

impl Occupant<'_> {
    fn has(&self, resource: &str) -> u64 {
        self.footprint.get(resource).copied().unwrap_or(0)
    }
}

/// UIDs of the pods that have to go so that `pod` has what it lacks: of the least QoS class as many as there have to be,
/// and of the others only what these cannot give; in each class the fewest, and of those that give equally much the
/// smallest.
///
/// # Errors
/// What is missing when all have gone that may be told to, in upstream's words.
pub(crate) fn victims(
    pod: &Pod,
    occupants: &[Occupant<'_>],
    shortages: &[Shortage],
) -> Result<Vec<String>, String> {
    let mut preemptable: Vec<_> = occupants.iter().filter(|other| is_preemptable(pod, other.pod)).collect();
    preemptable.sort_by_key(|other| other.uid);
    let unmet = without(shortages, &preemptable);
    if !unmet.is_empty() {
        let listed: String =
            unmet.iter().map(|s| format!("(res: {}, q: {}), ", s.resource, s.missing)).collect();
        return Err(format!("no set of running pods found to reclaim resources: [{listed}]"));
    }
    let of = |class| {
        preemptable.iter().copied().filter(|other| QosClass::of(other.pod) == class).collect::<Vec<_>>()
    };
    let (best_effort, burstable, guaranteed) =
        (of(QosClass::BestEffort), of(QosClass::Burstable), of(QosClass::Guaranteed));
    let both = |one: &[&Occupant<'_>], other: &[&Occupant<'_>]| without(&without(shortages, one), other);
    let from_guaranteed = nearest(&guaranteed, both(&best_effort, &burstable));
    let from_burstable = nearest(&burstable, both(&best_effort, &from_guaranteed));
    let from_best_effort = nearest(&best_effort, both(&from_burstable, &from_guaranteed));
    let all = [from_best_effort, from_burstable, from_guaranteed].concat();
    Ok(all.into_iter().map(|other| other.uid.to_owned()).collect())
}

/// Whether a pod may be told to go for another one.
fn is_preemptable(pod: &Pod, other: &Pod) -> bool {
    if is_critical(pod) && !is_critical(other) {
        return true;
    }
    let priority = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.priority);
    priority(pod).zip(priority(other)).is_some_and(|(own, others)| own > others)
}

/// What is still missing when these pods have gone.
fn without(shortages: &[Shortage], gone: &[&Occupant<'_>]) -> Vec<Shortage> {
    let left = |shortage: &Shortage| {
        let freed = gone.iter().map(|other| other.has(&shortage.resource)).fold(0, u64::saturating_add);
        let missing = shortage.missing.saturating_sub(freed);
        (missing > 0).then(|| Shortage { missing, ..shortage.clone() })
    };
    shortages.iter().filter_map(left).collect()
}

/// Those of one class that have to go, the one first that comes the nearest to what is missing.
fn nearest<'a>(class: &[&'a Occupant<'a>], mut missing: Vec<Shortage>) -> Vec<&'a Occupant<'a>> {
    let (mut left, mut gone) = (class.to_vec(), Vec::new());
    while !missing.is_empty() {
        let by_distance = |(_, one): &(usize, &&Occupant<'_>), (_, other): &(usize, &&Occupant<'_>)| {
            let by_size = |resource: &str| one.has(resource).cmp(&other.has(resource));
            distance(&missing, one)
                .total_cmp(&distance(&missing, other))
                .then_with(|| by_size("memory"))
                .then_with(|| by_size("cpu"))
        };
        let Some((index, _)) = left.iter().enumerate().min_by(by_distance) else { break };
        let next = left.swap_remove(index);
        missing = without(&missing, &[next]);
        gone.push(next);
    }
    gone
}

/// How far a pod is from giving all that is missing: the sum, over the resources, of the squares of the shares that it
/// leaves, so that each resource counts alike.
#[expect(clippy::cast_precision_loss, reason = "it only tells which pod comes nearer")]
fn distance(missing: &[Shortage], pod: &Occupant<'_>) -> f64 {
    let share = |shortage: &Shortage| {
        let left = shortage.missing.saturating_sub(pod.has(&shortage.resource));
        (left as f64 / shortage.missing as f64).powi(2)
    };
    missing.iter().map(share).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pods::admission::resources;

    const CRITICAL: i32 = 2_000_000_000;

    /// A pod of this name and priority, with requests, and limits where it is guaranteed.
    fn pod(name: &str, priority: i32, resources: Value) -> Pod {
        let container = json!({"name": "c", "resources": resources});
        let spec = json!({"priority": priority, "containers": [container]});
        serde_json::from_value(json!({"metadata": {"uid": name}, "spec": spec})).unwrap()
    }

    fn best_effort(name: &str) -> Pod {
        pod(name, 0, json!({}))
    }

    fn burstable(name: &str, cpu: &str, memory: &str) -> Pod {
        pod(name, 0, json!({"requests": {"cpu": cpu, "memory": memory}}))
    }

    fn guaranteed(name: &str, cpu: &str, memory: &str) -> Pod {
        let all = json!({"cpu": cpu, "memory": memory});
        pod(name, 0, json!({"requests": all, "limits": all}))
    }

    fn found(pods: &[Pod], preemptor: &Pod, lacks: &[(&str, u64)]) -> Result<Vec<String>, String> {
        let footprints: Vec<Amounts> = pods.iter().map(resources::footprint).collect();
        let occupants: Vec<_> = pods
            .iter()
            .zip(&footprints)
            .map(|(pod, footprint)| Occupant { uid: pod.metadata.uid.as_deref().unwrap(), pod, footprint })
            .collect();
        let shortages: Vec<_> = lacks
            .iter()
            .map(|(resource, missing)| Shortage { resource: (*resource).to_owned(), missing: *missing })
            .collect();
        victims(preemptor, &occupants, &shortages)
    }

    #[test]
    fn the_fewest_of_the_least_class_go() {
        let pods = [
            best_effort("best-effort"),
            burstable("small", "100m", "10Mi"),
            burstable("middle", "300m", "300Mi"),
            burstable("large", "800m", "100Mi"),
            guaranteed("sure", "1", "1Gi"),
            guaranteed("surer", "2", "2Gi"),
            pod("other-critical", CRITICAL, json!({"requests": {"cpu": "4"}})),
        ];
        let mebibytes = |amount: u64| amount << 20;
        let critical = pod("new", CRITICAL, json!({}));
        /// What is missing of each resource, and who goes.
        type Case<'a> = (&'a [(&'a str, u64)], &'a [&'a str]);
        let table: [Case<'_>; 9] = [
            (&[], &[]),
            (&[("pods", 1)], &["best-effort"]),
            (&[("pods", 2)], &["best-effort", "small"]),
            (&[("cpu", 100)], &["small"]),
            (&[("cpu", 301)], &["large"]),
            (&[("cpu", 900)], &["large", "small"]),
            (&[("cpu", 300), ("memory", mebibytes(300))], &["middle"]),
            // All burstable ones together are not enough: one that is guaranteed gives the rest, and some of the others stay.
            (&[("cpu", 1201)], &["large", "sure"]),
            (&[("cpu", 3300)], &["large", "sure", "surer"]),
        ];
        for (lacks, expected) in table {
            let mut found = found(&pods, &critical, lacks).unwrap();
            found.sort();
            assert_eq!(found, expected, "{lacks:?}");
        }
    }

    #[test]
    fn who_is_more_important_stays() {
        let cpu = json!({"requests": {"cpu": "1"}});
        let lacks: &[(&str, u64)] = &[("cpu", 500)];
        let refusal =
            Err("no set of running pods found to reclaim resources: [(res: cpu, q: 500), ]".to_owned());
        let pods = [pod("critical", CRITICAL, cpu.clone())];
        assert_eq!(found(&pods, &pod("new", CRITICAL, json!({})), lacks), refusal);
        let more = pod("new", CRITICAL + 1, json!({}));
        assert_eq!(found(&pods, &more, lacks), Ok(vec!["critical".to_owned()]));
        let mut own = pod("static", 0, cpu);
        let annotation = ("kubernetes.io/config.source".to_owned(), "file".to_owned());
        own.metadata.annotations = Some([annotation].into());
        assert_eq!(found(&[own.clone()], &pod("new", 0, json!({})), lacks), refusal);
        // A static pod is critical, whatever its priority, and has room made for it.
        let pods = [burstable("a", "1", "1Mi")];
        own.metadata.uid = Some("new".to_owned());
        assert_eq!(found(&pods, &own, lacks), Ok(vec!["a".to_owned()]));
    }
}
