//! Who else has a say in which pods the node takes, besides the kubelet's own rules: whatever the node's operator has put
//! there. What it is made of, this crate does not know.

use std::fmt;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Pod;
use prometheus_client::registry::Registry;

/// Judges pods before the node does anything for them.
#[async_trait]
pub trait PodAdmitter: fmt::Debug + Send + Sync + 'static {
    /// Whether the node takes this pod. It is asked once for each pod that the node has not begun, whatever source it is of,
    /// and again as long as it answers [`Admission::Later`]. Takes as long as it takes.
    async fn admit(&self, pod: &Pod) -> Admission;

    /// Shows what it counts of itself among the node's metrics.
    fn register_metrics(&self, _registry: &mut Registry) {}
}

/// What has come of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is taken.
    Admitted,
    /// It never is; for people, and why.
    Refused(String),
    /// It cannot be told yet; for people, and what is missing. The pod waits.
    Later(String),
}
