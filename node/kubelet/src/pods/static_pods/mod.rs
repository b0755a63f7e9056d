//! Static pods: pods that are described by files on the node, and their mirrors in the API.
//!
//! ```text
//! staticPodPath ─ folder (looks, reads) ─► files (pure: what has settled, what is unique)
//!                                            │  manifest: text ─► Pod, errors with their line        (pure)
//!                                            │  normalize, defaults, references, check               (pure)
//!                                            ▼
//!                                          source ─ Update ─► manager ─► one task per UID
//!                                                               │
//!                          board: static pods and mirrors seen ◄┘◄── mirrors, from the API server's pods
//!                            │
//!                            └─► plan (pure) ─► mirrors ─ POST, DELETE ─► API server
//! ```
//!
//! A static pod runs because its file is there, whether or not there is an API server. Its mirror is a pod
//! object by which the cluster can see it: it carries the status, and whatever is done to it does nothing to
//! the pod. A pod and its mirror share namespace and name and differ in their UIDs; the mirror's annotation
//! `kubernetes.io/config.mirror` says which version of the pod it shows. See
//! [Create static Pods](https://kubernetes.io/docs/tasks/configure-pod-container/static-pod/) and upstream's
//! `pkg/kubelet/config/file.go` and `pkg/kubelet/pod/mirror_client.go`.

mod board;
mod check;
mod defaults;
mod digest;
mod files;
mod folder;
mod manifest;
mod mirrors;
mod normalize;
mod plan;
mod references;
mod source;

use k8s_openapi::api::core::v1::Pod;

pub(super) use self::board::FullName;
pub use self::{board::Board, mirrors::Mirrors, source::FileSource};

/// On a static pod: which version of it this is. On both it and its mirror.
const HASH_ANNOTATION: &str = "kubernetes.io/config.hash";

/// When the node first saw the pod's file.
const SEEN_ANNOTATION: &str = "kubernetes.io/config.seen";

/// On a mirror alone: the hash of the static pod that it shows.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// True for a pod object that only shows a static pod.
pub(super) fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR_ANNOTATION).is_some()
}
