//! The static pods that run, beside what the API server shows of them.
//!
//! The manager keeps the board, because it alone knows which pod of a name has its turn;
//! [`crate::static_pods`] reads it, and creates and deletes mirrors.

use std::{collections::BTreeMap, fmt, sync::Arc};

use k8s_openapi::api::core::v1::Pod;

/// On a static pod: which version of it this is. On both it and its mirror.
pub(crate) const HASH_ANNOTATION: &str = "kubernetes.io/config.hash";

/// On a mirror alone: the hash of the static pod that it shows.
pub(crate) const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// An annotation of a pod.
pub(crate) fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// True for a pod object that only shows a static pod.
pub(super) fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR_ANNOTATION).is_some()
}

/// Namespace and name of a pod: what a static pod and its mirror have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FullName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl FullName {
    pub(crate) fn of(pod: &Pod) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self { namespace: text(&pod.metadata.namespace), name: text(&pod.metadata.name) }
    }
}

impl fmt::Display for FullName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Static pods and mirrors, by name.
#[derive(Debug, Default)]
pub struct Board {
    pub(crate) pods: BTreeMap<FullName, StaticPod>,
    pub(crate) mirrors: BTreeMap<FullName, Arc<Pod>>,
    /// The API server has told of all it has: a mirror that is not here does not exist.
    pub(crate) mirrors_known: bool,
    /// All sources have told of all they have: what is not here does not exist.
    pub(crate) complete: bool,
}

/// The static pod that runs under its name; a newer version of it waits until this one has ended.
#[derive(Clone, Debug)]
pub(crate) struct StaticPod {
    pub(crate) pod: Arc<Pod>,
    /// Its file is gone or has changed, and it is being stopped.
    pub(crate) ending: bool,
}

impl Board {
    /// A static pod runs, or its description has changed.
    pub(crate) fn put_pod(&mut self, pod: Arc<Pod>) {
        self.pods.insert(FullName::of(&pod), StaticPod { pod, ending: false });
    }

    /// The static pod is being stopped.
    pub(crate) fn end_pod(&mut self, pod: &Pod) {
        if let Some(here) = self.pods.get_mut(&FullName::of(pod))
            && here.pod.metadata.uid == pod.metadata.uid
        {
            here.ending = true;
        }
    }

    /// Nothing is left of the static pod.
    pub(crate) fn remove_pod(&mut self, pod: &Pod) {
        let name = FullName::of(pod);
        if self.pods.get(&name).is_some_and(|here| here.pod.metadata.uid == pod.metadata.uid) {
            self.pods.remove(&name);
        }
    }

    /// The API server shows this mirror.
    pub(crate) fn put_mirror(&mut self, mirror: Arc<Pod>) {
        self.mirrors.insert(FullName::of(&mirror), mirror);
    }

    /// The API server does not show these mirrors any more; returns the static pods that they were of.
    pub(crate) fn retain_mirrors(&mut self, keep: impl Fn(&str) -> bool) -> Vec<Arc<Pod>> {
        let mut lost = Vec::new();
        self.mirrors.retain(|name, mirror| {
            let keep = mirror.metadata.uid.as_deref().is_some_and(&keep);
            if !keep {
                lost.extend(self.pods.get(name).map(|here| Arc::clone(&here.pod)));
            }
            keep
        });
        lost
    }

    /// The API server has told of all it has.
    pub(crate) fn set_mirrors_known(&mut self) {
        self.mirrors_known = true;
    }

    /// All sources have told of all they have.
    pub(crate) fn set_complete(&mut self) {
        (self.mirrors_known, self.complete) = (true, true);
    }

    /// The mirror of this version of the static pod.
    pub(crate) fn mirror_of(&self, pod: &Pod) -> Option<Arc<Pod>> {
        self.mirrors.get(&FullName::of(pod)).filter(|mirror| shows(mirror, pod)).cloned()
    }

    /// The static pod of this name.
    pub(crate) fn pod_of(&self, mirror: &Pod) -> Option<Arc<Pod>> {
        self.pods.get(&FullName::of(mirror)).map(|here| Arc::clone(&here.pod))
    }
}

/// The mirror is of this version of the pod; of pods of one name, the hash tells them apart.
pub(crate) fn shows(mirror: &Pod, pod: &Pod) -> bool {
    let hash = annotation(pod, HASH_ANNOTATION);
    hash.is_some() && annotation(mirror, MIRROR_ANNOTATION) == hash
}
