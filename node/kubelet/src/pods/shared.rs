//! What all pod tasks share: the provider, the cluster, and where things are kept.

use std::{path::PathBuf, sync::Arc};

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use tokio::sync::watch;

use super::{
    addresses::PodAddresses,
    admission::NodeView,
    api::{Objects, PodApi},
    credentials::{self, PullCredential},
    environment::{NodeFacts, References},
    image_access::ImageAccess,
    index::PodIndex,
    lifecycle::{ContainerKind, LifecycleLimits, Note, Spec},
    probe_metrics::ProbeMetrics,
    reason::EventReason,
    records::Records,
    volumes::Volumes,
};
use crate::{events::Recorder, eviction::EvictionDesk, runtime::Runtime};

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
    /// Addresses of pods.
    pub addresses: PodAddresses,
    /// Addresses and resources of the node.
    pub node: watch::Receiver<NodeFacts>,
    /// Where logs are written.
    pub logs_dir: PathBuf,
    /// The node's own registry credentials, a `config.json` as Docker writes it. It need not exist.
    pub registry_config: Option<PathBuf>,
    /// With what images were pulled; `None` lets every pod use what is here.
    pub image_access: Option<ImageAccess>,
    /// What holds for every pod.
    pub limits: LifecycleLimits,
    /// What came of probes.
    pub probes: ProbeMetrics,
    /// What the node runs short of, and which pods have to go for it.
    pub desk: EvictionDesk,
}

impl Shared {
    /// Credentials for an image: those of the pod's image pull secrets, then the node's own.
    pub(super) async fn credentials(
        &self,
        pod: &Pod,
        image: &str,
        tell: impl Fn(Note),
    ) -> Vec<PullCredential> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let named = pod.spec.as_ref().and_then(|s| s.image_pull_secrets.as_deref()).unwrap_or_default();
        let names: Vec<&str> = named.iter().map(|n| n.name.as_str()).filter(|n| !n.is_empty()).collect();
        let references =
            References { secrets: names.iter().map(|n| (*n).to_owned()).collect(), ..References::default() };
        let mut found = match names.is_empty() {
            true => Objects::default(),
            false => self.api.objects(namespace, &references).await.unwrap_or_default(),
        };
        let secrets: Vec<_> = names.iter().filter_map(|name| found.secrets.remove(*name)).collect();
        if secrets.len() < names.len() {
            let present = |name: &&&str| secrets.iter().any(|s| s.metadata.name.as_deref() == Some(**name));
            let missing: Vec<_> = names.iter().filter(|name| !present(name)).copied().collect();
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            let reason = EventReason::FailedToRetrieveImagePullSecret;
            tell(Note { container: None, warning: true, reason, message });
        }
        let file = match &self.registry_config {
            Some(path) => tokio::fs::read_to_string(path).await.ok(),
            None => None,
        };
        credentials::for_image(image, &secrets, file.as_deref())
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
