//! What was used so far, and how fast it grows: pure, from what was measured and which containers there are.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, EphemeralContainer, Pod, ResourceRequirements};

use super::usage::{ContainerUsage, CpuUsage, PodUsage};
use crate::{
    quantity,
    runtime::{ContainerStats, ContainerTraffic},
};

/// How far apart two looks are of which a rate is made.
const RATE_WINDOW: Duration = Duration::from_secs(8);
/// For how long a container is shown whose worker says nothing of it.
const STALE: Duration = Duration::from_secs(60);
/// What a container has used that has used nothing yet: tools that meet a zero take the container for one that is gone.
const LEAST_CPU: Duration = Duration::from_micros(1);

/// How fast something grows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    from: Option<(Timestamp, Duration)>,
    nano_cores: Option<u64>,
}

impl Rate {
    /// So much was used by then.
    pub(super) fn observe(&mut self, at: Timestamp, used: Duration) -> CpuUsage {
        match self.from {
            Some((since, before)) if used >= before => {
                let passed = Duration::try_from(at.duration_since(since)).unwrap_or_default();
                if passed >= RATE_WINDOW {
                    let nanos = (used - before).as_nanos().saturating_mul(1_000_000_000);
                    self.nano_cores = u64::try_from(nanos / passed.as_nanos()).ok();
                    self.from = Some((at, used));
                }
            }
            _ => self.from = Some((at, used)),
        }
        CpuUsage { used, nano_cores: self.nano_cores }
    }
}

/// The last that was heard of a container.
#[derive(Clone, Debug)]
struct Known {
    stats: ContainerStats,
    cpu: CpuUsage,
    rate: Rate,
}

/// A pod as far as its containers have been seen.
#[derive(Clone, Debug, Default)]
struct Tally {
    /// What containers have used that have ended.
    ended: Duration,
    /// What has gone through their sockets.
    ended_traffic: ContainerTraffic,
    rate: Rate,
}

/// Keeps what was heard of containers.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    containers: HashMap<String, Known>,
    pods: HashMap<String, Tally>,
    /// What containers of pods have used that are gone.
    gone: Duration,
    all: Rate,
}

impl Sampler {
    /// Takes in what providers say now; those that were not asked, or did not answer, are missing.
    pub(super) fn take_in(&mut self, stats: Vec<ContainerStats>) {
        for stats in stats {
            let rate = self.containers.get(&stats.id).map(|known| known.rate);
            let mut rate = rate.unwrap_or_default();
            let cpu = rate.observe(stats.at, stats.cpu.max(LEAST_CPU));
            self.containers.insert(stats.id.clone(), Known { stats, cpu, rate });
        }
    }

    /// What runs of these pods, which are all that there are; and what all containers have used that ever ran.
    pub(super) fn usage(&mut self, pods: &[impl AsRef<Pod>], now: Timestamp) -> (Vec<PodUsage>, CpuUsage) {
        let mut left = std::mem::take(&mut self.containers);
        let mut tallies = std::mem::take(&mut self.pods);
        let mut usages = Vec::new();
        for pod in pods.iter().map(AsRef::as_ref) {
            let Some(uid) = pod.metadata.uid.clone() else { continue };
            let mut containers = Vec::new();
            let (mut used, mut traffic) = (Duration::ZERO, ContainerTraffic::default());
            for (status, started_at) in running(pod) {
                let Some(known) = id(status).and_then(|id| left.remove(id)) else { continue };
                used = used.saturating_add(known.cpu.used);
                traffic = traffic.plus(known.stats.traffic);
                if Duration::try_from(now.duration_since(known.stats.at)).unwrap_or_default() <= STALE {
                    containers.push(container(pod, status, started_at, &known));
                }
                self.containers.insert(known.stats.id.clone(), known);
            }
            let mut tally = tallies.remove(&uid).unwrap_or_default();
            let ended = left.extract_if(|_, known| known.stats.pod_uid == uid);
            for (_, known) in ended {
                tally.ended = tally.ended.saturating_add(known.cpu.used);
                tally.ended_traffic = tally.ended_traffic.plus(known.stats.traffic);
            }
            let traffic = traffic.plus(tally.ended_traffic);
            let cpu = tally.rate.observe(now, tally.ended.saturating_add(used));
            self.pods.insert(uid.clone(), tally);
            if containers.is_empty() {
                continue;
            }
            let status = pod.status.as_ref();
            usages.push(PodUsage {
                namespace: pod.metadata.namespace.clone().unwrap_or_default(),
                name: pod.metadata.name.clone().unwrap_or_default(),
                uid,
                traffic,
                started_at: status.and_then(|status| status.start_time.as_ref()).map(|time| time.0),
                cpu,
                containers,
                volumes_in_memory: 0,
                storage: None,
            });
        }
        let of_gone =
            tallies.values().map(|tally| tally.ended).chain(left.values().map(|known| known.cpu.used));
        self.gone = of_gone.fold(self.gone, Duration::saturating_add);
        let ended = self.pods.values().map(|tally| tally.ended);
        let running = self.containers.values().map(|known| known.cpu.used);
        let all = ended.chain(running).fold(self.gone, Duration::saturating_add);
        usages.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let all = self.all.observe(now, all);
        (usages, all)
    }
}

/// The id of a container without its scheme.
fn id(status: &ContainerStatus) -> Option<&str> {
    let id = status.container_id.as_deref()?;
    Some(id.split_once("://").map_or(id, |(_, id)| id))
}

/// The containers of a pod that run, with when they were started.
fn running(pod: &Pod) -> impl Iterator<Item = (&ContainerStatus, Timestamp)> {
    let status = pod.status.as_ref();
    let lists = status.map(|status| {
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses]
    });
    lists.into_iter().flatten().flatten().flatten().filter_map(|status| {
        let running = status.state.as_ref()?.running.as_ref()?;
        Some((status, running.started_at.as_ref()?.0))
    })
}

fn container(pod: &Pod, status: &ContainerStatus, started_at: Timestamp, known: &Known) -> ContainerUsage {
    let resources = resources(pod, &status.name);
    let amount = |limits: bool, name: &str, read: fn(&str) -> Result<u64, quantity::QuantityError>| {
        let map = resources.and_then(|r| if limits { r.limits.as_ref() } else { r.requests.as_ref() });
        map.and_then(|map| map.get(name)).and_then(|quantity| read(&quantity.0).ok()).unwrap_or(0)
    };
    ContainerUsage {
        name: status.name.clone(),
        id: known.stats.id.clone(),
        image: status.image.clone(),
        started_at,
        at: known.stats.at,
        cpu: known.cpu,
        throttled: known.stats.throttled,
        yields: known.stats.yields,
        memory: known.stats.memory_bytes.max(1),
        files: known.stats.files,
        memory_limit: amount(true, "memory", quantity::units),
        cpu_limit: amount(true, "cpu", quantity::millis),
        cpu_request: amount(false, "cpu", quantity::millis),
    }
}

/// What a container of a pod asks for.
fn resources<'a>(pod: &'a Pod, name: &str) -> Option<&'a ResourceRequirements> {
    let spec = pod.spec.as_ref()?;
    let of_plain = |container: &'a Container| (container.name.as_str(), container.resources.as_ref());
    let of_ephemeral =
        |container: &'a EphemeralContainer| (container.name.as_str(), container.resources.as_ref());
    let plain = spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(of_plain);
    let mut all = plain.chain(spec.ephemeral_containers.iter().flatten().map(of_ephemeral));
    all.find(|(own, _)| *own == name)?.1
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::SignedDuration;
    use serde_json::json;

    use super::*;
    use crate::runtime::ContainerFileIo;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn stats(id: &str, second: i64, cpu: Duration) -> ContainerStats {
        ContainerStats {
            id: id.to_owned(),
            pod_uid: "u".to_owned(),
            at: at(second),
            cpu,
            throttled: Duration::ZERO,
            yields: 0,
            memory_bytes: 100,
            traffic: ContainerTraffic { received_bytes: 10, sent_bytes: 1, has_uncounted: false },
            files: ContainerFileIo::default(),
        }
    }

    fn pod(ids: &[&str]) -> Arc<Pod> {
        let statuses = ids.iter().map(|id| {
            json!({"name": id, "containerID": format!("wasmtime://{id}"), "image": "i", "imageID": "", "ready": true,
                "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}})
        });
        let containers = ids
            .iter()
            .map(|id| json!({"name": id, "resources": {"limits": {"cpu": "250m", "memory": "1Ki"}}}));
        let pod = json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": containers.collect::<Vec<_>>()},
            "status": {"containerStatuses": statuses.collect::<Vec<_>>()},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn a_rate_takes_two_looks_that_are_apart() {
        let mut rate = Rate::default();
        let mut look = |second, millis| rate.observe(at(second), Duration::from_millis(millis)).nano_cores;
        assert_eq!(look(0, 0), None);
        assert_eq!(look(2, 1000), None, "too soon");
        assert_eq!(look(10, 5000), Some(500_000_000));
        assert_eq!(look(11, 5000), Some(500_000_000), "the last one that is known");
        assert_eq!(look(20, 5000), Some(0));
        assert_eq!(look(30, 4000), Some(0), "another process counts from nothing");
        assert_eq!(look(40, 14_000), Some(1_000_000_000));
    }

    #[test]
    fn a_pod_keeps_what_containers_used_that_have_ended() {
        let mut sampler = Sampler::default();
        sampler.take_in(vec![stats("a", 0, Duration::from_secs(3)), stats("b", 0, Duration::ZERO)]);
        let (pods, all) = sampler.usage(&[pod(&["a", "b"])], at(0));
        assert_eq!((pods.len(), pods[0].containers.len()), (1, 2));
        let container = &pods[0].containers[0];
        assert_eq!((container.name.as_str(), container.cpu_limit, container.memory_limit), ("a", 250, 1024));
        assert_eq!(pods[0].containers[1].cpu.used, LEAST_CPU, "never nothing");
        assert_eq!((pods[0].cpu.used, all.used), (Duration::from_secs(3) + LEAST_CPU, pods[0].cpu.used));

        sampler.take_in(vec![stats("c", 10, Duration::from_secs(1)), stats("b", 10, Duration::from_secs(1))]);
        let (pods, all) = sampler.usage(&[pod(&["c", "b"])], at(10));
        assert_eq!((pods[0].cpu.used, pods[0].memory()), (Duration::from_secs(5), 200));
        let traffic = ContainerTraffic { received_bytes: 30, sent_bytes: 3, has_uncounted: false };
        assert_eq!(pods[0].traffic, traffic, "one has ended, and two run");
        assert_eq!(all.used, Duration::from_secs(5));
        let none: [Arc<Pod>; 0] = [];
        let (pods, all) = sampler.usage(&none, at(20));
        assert!(pods.is_empty());
        assert_eq!(all.used, Duration::from_secs(5), "what is gone has been used");
        assert!(sampler.containers.is_empty() && sampler.pods.is_empty());
    }

    /// A worker that cannot be asked for a moment says nothing, and later too much has happened meanwhile.
    #[test]
    fn what_is_not_heard_of_for_long_is_not_shown() {
        let mut sampler = Sampler::default();
        sampler.take_in(vec![stats("a", 0, Duration::from_secs(3))]);
        let later = at(0) + SignedDuration::from_secs(60);
        assert_eq!(sampler.usage(&[pod(&["a"])], later).0.len(), 1);
        assert_eq!(sampler.usage(&[pod(&["a"])], later + SignedDuration::from_secs(1)).0.len(), 0);
        assert_eq!(sampler.usage(&[pod(&["a"])], later).1.used, Duration::from_secs(3));
    }
}
