//! Which pod and which container a path means, and whether it runs.

use std::sync::Arc;

use http::StatusCode;
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use kubewasm_streams::remote_command::Wanted;
use warp::reply::Response;

use super::{Query, value};
use crate::server::{Pods, reply::text};

/// A pod as a path names it.
#[derive(Clone, Debug)]
pub(super) struct PodPath {
    pub(super) namespace: String,
    pub(super) name: String,
    /// `None` where any pod of the name is meant.
    pub(super) uid: Option<String>,
}

/// The standard streams that a container asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stdio {
    pub(super) stdin: bool,
    pub(super) tty: bool,
}

impl PodPath {
    /// The pod, whatever its UID is.
    pub(super) fn find(&self, pods: &dyn Pods) -> Result<Arc<Pod>, Response> {
        match pods.pod(&self.namespace, &self.name) {
            Some(pod) => Ok(pod),
            None if pods.are_all_known() => Err(text(StatusCode::NOT_FOUND, "pod does not exist")),
            None => {
                let message =
                    "the node has just started and does not know its pods yet; try again in a moment";
                Err(text(StatusCode::SERVICE_UNAVAILABLE, message))
            }
        }
    }

    /// Whether the UID is the pod's; that of its mirror is as good, since the API server knows a static pod by no other.
    pub(super) fn is_of(&self, pod: &Pod, pods: &dyn Pods) -> bool {
        let Some(uid) = &self.uid else { return true };
        pod.metadata.uid.as_ref() == Some(uid) || pods.is_mirror_of(uid, pod)
    }

    /// As upstream names pods in errors.
    pub(super) fn full_name(&self) -> String {
        format!("{}_{}", self.name, self.namespace)
    }

    /// The id by which the runtime knows a container of the pod that runs; `None` where there is none.
    pub(super) fn running(&self, pod: &Pod, container: &str, pods: &dyn Pods) -> Option<String> {
        let status = pod.status.as_ref().filter(|_| self.is_of(pod, pods))?;
        let PodStatus { container_statuses, init_container_statuses, ephemeral_container_statuses, .. } =
            status;
        let all = [container_statuses, init_container_statuses, ephemeral_container_statuses];
        let status = all.into_iter().flatten().flatten().find(|status| status.name == container)?;
        status.state.as_ref()?.running.as_ref()?;
        let id = status.container_id.as_deref()?;
        Some(id.split_once("://").map_or(id, |(_, id)| id).to_owned())
    }
}

/// Whether anything of a pod runs.
pub(super) fn has_running(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let all =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let mut all = all.into_iter().flatten().flatten();
    all.any(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()))
}

/// What a container of the pod asks for, of whichever kind it is.
pub(super) fn stdio(pod: &Pod, container: &str) -> Option<Stdio> {
    let PodSpec { containers, init_containers, ephemeral_containers, .. } = pod.spec.as_ref()?;
    let plain = containers.iter().chain(init_containers.iter().flatten()).map(|c| (&c.name, c.stdin, c.tty));
    let ephemeral = ephemeral_containers.iter().flatten().map(|c| (&c.name, c.stdin, c.tty));
    let (_, stdin, tty) = plain.chain(ephemeral).find(|(name, ..)| *name == container)?;
    Some(Stdio { stdin: stdin.unwrap_or(false), tty: tty.unwrap_or(false) })
}

/// The streams that a query asks for, as upstream's `remotecommand.NewOptions` reads it.
pub(super) fn wanted(query: &Query) -> Result<Wanted, Response> {
    let is_set = |name| value(query, name) == Some("1");
    let (stdin, stdout, tty) = (is_set("input"), is_set("output"), is_set("tty"));
    let stderr = is_set("error") && !tty;
    if stdin || stdout || stderr {
        return Ok(Wanted { stdin, stdout, stderr, tty });
    }
    Err(text(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr"))
}
