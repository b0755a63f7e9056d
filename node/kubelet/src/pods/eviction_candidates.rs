//! The pods of this node as eviction sees them: what they ask for of memory and of the disk, and where they write.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Container, ContainerStatus, Pod, PodStatus, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use super::{
    admission::{is_critical, resources},
    index::PodIndex,
    records::Records,
    status::is_terminal,
};
use crate::{
    eviction::{Candidate, CandidateSource, ContainerClaims, StatedAmount},
    logs, quantity,
};

const STORAGE: &str = "ephemeral-storage";
const MEMORY: &str = "memory";

/// Grace of a pod that says nothing; the API server's default.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);

/// The pods of this node that may be told to go.
#[derive(Clone, Debug)]
pub struct EvictionCandidates {
    /// Which pods there are.
    pub index: PodIndex,
    /// Where they write.
    pub records: Records,
    /// Where their logs are.
    pub logs_dir: PathBuf,
}

impl CandidateSource for EvictionCandidates {
    fn candidates(&self) -> Vec<Candidate> {
        let pods = self.index.pods();
        pods.iter().filter(|pod| !is_terminal(pod.status.as_ref())).map(|pod| self.candidate(pod)).collect()
    }

    fn limited(&self) -> Vec<Candidate> {
        let may_be = |pod: &&Arc<Pod>| {
            let mut containers = containers(pod).into_iter();
            containers.any(|(_, resources, _)| stated(resources, STORAGE, |r| r.limits.as_ref()).is_some())
                && !is_terminal(pod.status.as_ref())
        };
        self.index.pods().iter().filter(may_be).map(|pod| self.candidate(pod)).collect()
    }

    fn wanted_images(&self) -> Option<BTreeSet<String>> {
        if !self.index.are_all_known() {
            return None;
        }
        let pods = self.index.pods();
        let pods = pods.iter().filter(|pod| !is_terminal(pod.status.as_ref()));
        Some(pods.flat_map(|pod| images(pod)).filter(|image| !image.is_empty()).collect())
    }

    fn remove_dead_files(&self) {
        for pod in self.index.pods() {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            for status in pod.status.iter().flat_map(statuses) {
                // The attempts before the newest one have a successor.
                let Ok(newest) = u32::try_from(status.restart_count) else { continue };
                self.remove_attempts(&pod, uid, &status.name, newest);
            }
        }
    }
}

impl EvictionCandidates {
    fn candidate(&self, pod: &Pod) -> Candidate {
        let meta = &pod.metadata;
        let uid = meta.uid.as_deref().unwrap_or_default();
        let (namespace, name) =
            (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
        let spec = pod.spec.as_ref();
        let seconds = spec.and_then(|s| s.termination_grace_period_seconds);
        let logs = logs::pod_dir(&self.logs_dir, namespace, name, uid);
        let claims =
            |(name, resources, is_ephemeral): (&str, Option<&ResourceRequirements>, bool)| ContainerClaims {
                is_ephemeral,
                storage_request: stated(resources, STORAGE, |r| r.requests.as_ref()).unwrap_or_default(),
                storage_limit: stated(resources, STORAGE, |r| r.limits.as_ref()),
                memory_request: stated(resources, MEMORY, |r| r.requests.as_ref()).unwrap_or_default(),
                written: self.records.container_dir(uid, name),
                logs: logs.join(name),
                name: name.to_owned(),
            };
        let containers: Vec<ContainerClaims> = containers(pod).into_iter().map(claims).collect();
        let limits = containers.iter().filter_map(|container| container.storage_limit.as_ref());
        let is_limited = limits.clone().next().is_some();
        let binary = limits.clone().next().is_none_or(|limit| quantity::is_binary(&limit.text));
        let limit = resources::limits(pod).get(STORAGE).copied().filter(|_| is_limited);
        let requests = resources::requests(pod);
        let requested = |name: &str| requests.get(name).copied().unwrap_or(0);
        Candidate {
            uid: uid.to_owned(),
            name: format!("{namespace}/{name}"),
            priority: spec.and_then(|s| s.priority).unwrap_or(0),
            critical: is_critical(pod),
            grace: seconds.and_then(|s| u64::try_from(s).ok()).map_or(DEFAULT_GRACE, Duration::from_secs),
            runs: pod.status.iter().flat_map(statuses).any(is_running),
            storage_request: requested(STORAGE),
            storage_limit: limit
                .map(|bytes| StatedAmount { bytes, text: quantity::canonical(bytes, binary) }),
            memory_request: requested(MEMORY),
            memory_request_as_a_whole: stated(spec.and_then(|s| s.resources.as_ref()), MEMORY, |r| {
                r.requests.as_ref()
            }),
            containers,
            volumes: vec![self.records.dir(uid).join("volumes")],
        }
    }

    fn remove_attempts(&self, pod: &Pod, uid: &str, container: &str, newest: u32) {
        for (_, attempt) in numbered(&self.records.container_dir(uid, container)).filter(|(_, n)| *n < newest)
        {
            if let Err(error) = self.records.remove_attempt(uid, container, attempt) {
                tracing::debug!(pod = uid, container, attempt, %error, "files of an ended container stay");
            }
        }
        let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
        let (namespace, name) =
            (namespace.as_deref().unwrap_or_default(), name.as_deref().unwrap_or_default());
        let dir = logs::pod_dir(&self.logs_dir, namespace, name, uid).join(container);
        for (path, _) in numbered(&dir).filter(|(_, attempt)| *attempt < newest) {
            if let Err(error) = fs::remove_file(&path) {
                tracing::debug!(log = %path.display(), %error, "a log of an ended container stays");
            }
        }
    }
}

/// What a directory has that belongs to an attempt, with its number: `3`, `3.end`, `3.log`.
fn numbered(dir: &Path) -> impl Iterator<Item = (PathBuf, u32)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let name = entry.file_name();
        let number = name.to_str()?.split('.').next()?.parse().ok()?;
        Some((entry.path(), number))
    })
}

/// The containers of a pod: their names, what they ask for, and whether they are ephemeral.
fn containers(pod: &Pod) -> Vec<(&str, Option<&ResourceRequirements>, bool)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let containers = containers.map(|c: &Container| (c.name.as_str(), c.resources.as_ref(), false));
    let ephemeral =
        spec.ephemeral_containers.iter().flatten().map(|c| (c.name.as_str(), c.resources.as_ref(), true));
    containers.chain(ephemeral).collect()
}

fn images(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let containers = containers.filter_map(|c| c.image.clone());
    let ephemeral = spec.ephemeral_containers.iter().flatten().filter_map(|c| c.image.clone());
    let volumes = spec.volumes.iter().flatten();
    let volumes = volumes.filter_map(|volume| volume.image.as_ref()?.reference.clone());
    containers.chain(ephemeral).chain(volumes).collect()
}

fn statuses(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten())
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

/// What is asked for, or allowed, of a resource.
fn stated(
    resources: Option<&ResourceRequirements>,
    name: &str,
    select: impl Fn(&ResourceRequirements) -> Option<&BTreeMap<String, Quantity>>,
) -> Option<StatedAmount> {
    let text = &select(resources?)?.get(name)?.0;
    let bytes = quantity::units(text).ok()?;
    Some(StatedAmount { bytes, text: quantity::canonical(bytes, quantity::is_binary(text)) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(root: &Path, pod: serde_json::Value) -> EvictionCandidates {
        let index = PodIndex::default();
        index.set_all_known();
        index.put("u", Arc::new(serde_json::from_value(pod).unwrap()));
        EvictionCandidates { index, records: Records::open(root).unwrap(), logs_dir: root.join("logs") }
    }

    #[test]
    fn a_pod_is_what_its_containers_ask_for() {
        let root = tempfile::tempdir().unwrap();
        let resources = |request: &str, limit: &str| {
            json!({
                "requests": {"ephemeral-storage": request, "memory": "1536Ki"},
                "limits": {"ephemeral-storage": limit},
            })
        };
        let claims = claims(
            root.path(),
            json!({
                "metadata": {"namespace": "ns", "name": "p", "uid": "u"},
                "spec": {
                    "priority": 7,
                    "resources": {"requests": {"memory": "8Mi"}},
                    "terminationGracePeriodSeconds": 5,
                    "containers": [
                        {"name": "a", "image": "r.io/a", "resources": resources("1Mi", "2048Ki")},
                        {"name": "b", "image": "r.io/b", "resources": resources("0", "1Mi")},
                        {"name": "c"},
                    ],
                    "initContainers": [{"name": "i", "image": "r.io/i"}],
                    "ephemeralContainers": [{"name": "e", "image": "r.io/e"}],
                    "volumes": [{"name": "v", "image": {"reference": "r.io/v"}}],
                },
                "status": {"containerStatuses": [{
                    "name": "a", "restartCount": 0, "image": "", "imageID": "", "ready": true, "state": {"running": {}},
                }]},
            }),
        );
        let pod = claims.candidates().pop().unwrap();
        assert_eq!(
            (pod.name.as_str(), pod.priority, pod.grace.as_secs(), pod.storage_request),
            ("ns/p", 7, 5, 1 << 20)
        );
        assert_eq!((pod.memory_request, pod.runs), (8 << 20, true));
        let whole = pod.memory_request_as_a_whole.as_ref().unwrap();
        assert_eq!((whole.bytes, whole.text.as_str()), (8 << 20, "8Mi"));
        assert_eq!(pod.storage_limit, Some(StatedAmount { bytes: 3 << 20, text: "3Mi".to_owned() }));
        let containers: Vec<_> = pod
            .containers
            .iter()
            .map(|c| {
                let limit = c.storage_limit.as_ref().map(|l| l.text.as_str());
                (c.name.as_str(), c.storage_request.text.as_str(), limit, c.memory_request.text.as_str())
            })
            .collect();
        assert_eq!(
            containers,
            [
                ("a", "1Mi", Some("2Mi"), "1536Ki"),
                ("b", "0", Some("1Mi"), "1536Ki"),
                ("c", "0", None, "0"),
                ("i", "0", None, "0"),
                ("e", "0", None, "0"),
            ]
        );
        assert!(pod.is_limited() && !pod.critical);
        assert_eq!(claims.limited().len(), 1);
        let wanted: Vec<String> = claims.wanted_images().unwrap().into_iter().collect();
        assert_eq!(wanted, ["r.io/a", "r.io/b", "r.io/e", "r.io/i", "r.io/v"]);
        let ephemeral = pod.containers.iter().filter(|c| c.is_ephemeral).map(|c| c.name.as_str());
        assert_eq!(ephemeral.collect::<Vec<_>>(), ["e"]);
    }

    #[test]
    fn pods_that_are_over_want_nothing_and_keep_their_last_logs() {
        let root = tempfile::tempdir().unwrap();
        let claims = claims(
            root.path(),
            json!({
                "metadata": {"namespace": "ns", "name": "p", "uid": "u"},
                "spec": {"containers": [{"name": "a", "image": "r.io/a"}]},
                "status": {
                    "phase": "Succeeded",
                    "containerStatuses": [
                        {"name": "a", "restartCount": 2, "image": "", "imageID": "", "ready": false},
                    ],
                },
            }),
        );
        assert!(claims.candidates().is_empty() && claims.wanted_images().unwrap().is_empty());
        let (written, logs) = (claims.records.container_dir("u", "a"), root.path().join("logs/ns_p_u/a"));
        for attempt in 0..=2 {
            fs::create_dir_all(written.join(attempt.to_string())).unwrap();
            fs::create_dir_all(&logs).unwrap();
            fs::write(logs.join(format!("{attempt}.log")), "x").unwrap();
            fs::write(logs.join(format!("{attempt}.log.20260101-000000")), "x").unwrap();
        }
        claims.remove_dead_files();
        let names = |dir: &Path| {
            let mut names: Vec<_> =
                fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&written), ["2"]);
        assert_eq!(names(&logs), ["2.log", "2.log.20260101-000000"]);
    }

    #[test]
    fn system_priorities_and_static_pods_are_critical() {
        let root = tempfile::tempdir().unwrap();
        let pod = json!({"metadata": {"uid": "u"}, "spec": {"priority": 2_000_000_000, "containers": []}});
        assert!(claims(root.path(), pod).candidates().pop().unwrap().critical);
        let config = json!({"kubernetes.io/config.source": "file"});
        let pod = json!({"metadata": {"uid": "u", "annotations": config}, "spec": {"containers": []}});
        assert!(claims(root.path(), pod).candidates().pop().unwrap().critical);
    }
}
