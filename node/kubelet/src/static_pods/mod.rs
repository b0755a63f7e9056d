//! Static pods: pods that are described by files on the node, or by a URL, and their mirrors in the API.
//!
//! ```text
//! staticPodPath ─ folder (looks, reads) ─► files (pure: what has settled, what is unique)
//!                                            │  manifest: text ─► Pod, errors with their line        (pure)
//!                                            │  normalize, defaults, references, check               (pure)
//!                                            ▼
//! staticPodURL ── url (asks) ──────────► the same, all or none
//!                                          source ─ Update ─► manager ─► one task per UID
//!                                                               │
//!                    pods::board: static pods and mirrors seen ◄┘◄── mirrors, from the API server's pods
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
mod told;
mod url;

pub(crate) use self::url::check_url;
pub use self::{mirrors::Mirrors, source::FileSource, url::UrlSource};

/// When the node first saw what describes the pod.
const SEEN_ANNOTATION: &str = "kubernetes.io/config.seen";
