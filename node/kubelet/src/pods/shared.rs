//! What all pod tasks share: the provider, the cluster, and where things are kept.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use tokio::sync::watch;

use super::{
    addresses::PodAddresses,
    admission::NodeView,
    api::PodApi,
    credentials::PodCredentials,
    environment::{NodeFacts, References},
    host_ports::HostPorts,
    image_access::ImageAccess,
    index::PodIndex,
    lifecycle::{ContainerKind, LifecycleLimits, Note, Spec},
    log_files::LogLinks,
    probe_metrics::ProbeMetrics,
    pull::PullLimit,
    reason::EventReason,
    records::Records,
    volumes::Volumes,
};
use crate::{
    admitter::PodAdmitter, events::Recorder, eviction::EvictionDesk, node_metrics::NodeMetrics,
    oom_events::OomEvents, policies::Policies, registry_auth::NodeCredentials, runtime::Runtime,
    traces::Tracer,
};

/// What all pod tasks share.
#[derive(Debug)]
pub struct Shared {
    /// Runs the containers.
    pub runtime: Arc<dyn Runtime>,
    /// The cluster.
    pub api: Arc<dyn PodApi>,
    /// Tells people.
    pub recorder: Recorder,
    /// Remembers pods.
    pub records: Records,
    /// Volumes of pods.
    pub volumes: Arc<Volumes>,
    /// Where the newest statuses are looked up.
    pub index: PodIndex,
    /// The node as admission sees it; `None` takes every pod.
    pub admission: Option<watch::Receiver<NodeView>>,
    /// Who else is asked about each pod; `None` lets every pod in.
    pub admitter: Option<Arc<dyn PodAdmitter>>,
    /// Addresses of pods.
    pub addresses: PodAddresses,
    /// Ports of the node that lead to pods.
    pub host_ports: HostPorts,
    /// What is allowed of the traffic of pods that have addresses of their own.
    pub policies: Policies,
    /// Addresses and resources of the node.
    pub node: watch::Receiver<NodeFacts>,
    /// Where logs are written.
    pub logs_dir: PathBuf,
    /// The links to them that log collectors go by.
    pub log_links: LogLinks,
    /// The node's own registry credentials.
    pub node_credentials: NodeCredentials,
    /// With what images were pulled; `None` lets every pod use what is here.
    pub image_access: Option<ImageAccess>,
    /// What holds for every pod.
    pub limits: LifecycleLimits,
    /// What came of probes.
    pub probes: ProbeMetrics,
    /// What is counted of the work for pods.
    pub metrics: NodeMetrics,
    /// How often containers have ended by their memory limit.
    pub oom_events: OomEvents,
    /// How often registries are asked for images.
    pub pull_limit: PullLimit,
    /// Records where the time of starts goes.
    pub tracer: Tracer,
    /// What the node runs short of, and which pods have to go for it.
    pub desk: EvictionDesk,
}

impl Shared {
    /// The pod's own credentials for an image: what its image pull secrets hold. Of those that cannot be read now it
    /// tells, and goes on without them, as upstream does.
    pub(super) async fn credentials(&self, pod: &Pod, image: &str, tell: impl Fn(Note)) -> PodCredentials {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let named = pod.spec.as_ref().and_then(|s| s.image_pull_secrets.as_deref()).unwrap_or_default();
        let names: Vec<&str> = named.iter().map(|n| n.name.as_str()).filter(|n| !n.is_empty()).collect();
        let found = join_all(names.iter().map(async |name| {
            let secrets = BTreeSet::from([(*name).to_owned()]);
            let references = References { secrets, ..References::default() };
            // One that cannot be read is no reason to be without the others.
            let mut found = self.api.objects(namespace, &references).await.unwrap_or_default();
            found.secrets.remove(*name).ok_or(*name)
        }));
        let (mut secrets, mut missing) = (Vec::new(), Vec::new());
        for found in found.await {
            match found {
                Ok(secret) => secrets.push(secret),
                Err(name) => missing.push(name),
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            let reason = EventReason::FailedToRetrieveImagePullSecret;
            tell(Note { container: None, warning: true, reason, message });
        }
        PodCredentials::for_image(image, &secrets)
    }
}

/// Records an event about the pod, or about one of its containers.
pub(super) fn tell(recorder: &Recorder, pod: &ObjectReference, spec: &Spec, note: &Note) {
    let mut about = pod.clone();
    if let Some(container) = &note.container {
        let list = match spec.container(container).map(|c| c.kind) {
            Some(ContainerKind::Init | ContainerKind::Sidecar) => "initContainers",
            Some(ContainerKind::Ephemeral) => "ephemeralContainers",
            Some(ContainerKind::Regular) | None => "containers",
        };
        about.field_path = Some(format!("spec.{list}{{{container}}}"));
    }
    if note.warning {
        recorder.warning(&about, note.reason.as_str(), note.message.clone());
    } else {
        recorder.normal(&about, note.reason.as_str(), note.message.clone());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::sync::mpsc;

    use super::*;

    /// `kubectl describe` and `kubectl events --for` go by it.
    #[tokio::test]
    async fn an_event_names_the_part_of_the_pod_that_it_is_about() {
        let pod = json!({"spec": {
            "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "c"}],
            "ephemeralContainers": [{"name": "e"}],
        }});
        let spec = Spec::of(&serde_json::from_value(pod).unwrap());
        let (sink, mut events) = mpsc::channel(8);
        let recorder = Recorder::local(sink);
        for (container, expected) in [
            (None, None),
            (Some("c"), Some("spec.containers{c}")),
            (Some("i"), Some("spec.initContainers{i}")),
            (Some("s"), Some("spec.initContainers{s}")),
            (Some("e"), Some("spec.ephemeralContainers{e}")),
        ] {
            let container = container.map(str::to_owned);
            let note =
                Note { container, warning: false, reason: EventReason::Started, message: "x".to_owned() };
            tell(&recorder, &ObjectReference::default(), &spec, &note);
            assert_eq!(events.recv().await.unwrap().about.field_path.as_deref(), expected);
        }
    }
}
