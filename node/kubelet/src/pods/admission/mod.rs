//! Whether the node takes a pod, after upstream's `pkg/kubelet/lifecycle/predicate.go`.
//!
//! The scheduler has asked all of this before. What is left to find is a race, a pod that was bound by
//! hand, or a node that has changed since.

mod affinity;
pub(crate) mod preemption;
mod qos;
pub mod resources;
pub mod sysctls;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, Pod, Taint, Toleration};

use self::sysctls::SysctlAllowlist;
pub use self::{preemption::Shortage, resources::Amounts};
use super::{
    lifecycle::{Verdict, spec::is_static},
    reason::PodReason,
    sidecar,
};
use crate::eviction::Pressure;

/// The label that says which operating system a node has.
const OS_LABEL: &str = "kubernetes.io/os";

/// The node as admission sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeView {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// What pods may have in all; `pods` is how many there may be.
    pub allocatable: Amounts,
    /// Kernel parameters that pods may ask for.
    pub sysctls: SysctlAllowlist,
}

impl NodeView {
    /// True when the node satisfies one of the terms of a selector, as a volume's node affinity has one.
    #[must_use]
    pub fn satisfies(&self, selector: &NodeSelector) -> bool {
        affinity::selects(selector, &self.name, &self.labels)
    }
}

/// Why a pod was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// `status.reason`, and the reason of the Event.
    pub reason: String,
    /// Message of the Event.
    pub message: String,
}

impl Rejection {
    fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into() }
    }

    fn predicate(reason: PodReason, why: &str) -> Self {
        Self::new(reason.as_str(), format!("Predicate {reason} failed: {why}"))
    }

    /// What the status says.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        Verdict::new(&self.reason, &format!("Pod was rejected: {}", self.message))
    }
}

/// Whether the node takes `pod` beside `others`, the pods it has taken and that are not over. `used` is what
/// these request in all, and how many they are, as `pods`. A critical pod is not refused for what it lacks of resources:
/// that is returned, and others have to [make room](preemption::victims).
///
/// # Errors
/// [`Rejection`], with the first reason found.
pub fn admit<'a>(
    pod: &Pod,
    node: &NodeView,
    used: &Amounts,
    others: impl IntoIterator<Item = &'a Pod>,
) -> Result<Vec<Shortage>, Rejection> {
    if let Some(why) = node.sysctls.forbids(pod) {
        return Err(Rejection::new(PodReason::SysctlForbidden.as_str(), why));
    }
    admit_os(pod, node)?;
    let lacking = lacking(pod, node, used);
    if let Some(first) = lacking.first().filter(|_| !is_critical(pod)) {
        return Err(Rejection::new(&format!("OutOf{}", first.resource), first.message()));
    }
    if !affinity::matches(pod, &node.name, &node.labels) {
        return Err(Rejection::predicate(
            PodReason::NodeAffinity,
            "node(s) didn't match Pod's node affinity/selector",
        ));
    }
    let bound = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).filter(|name| !name.is_empty());
    if bound.is_some_and(|name| name != node.name) {
        return Err(Rejection::predicate(
            PodReason::NodeName,
            "node(s) didn't match the requested node name",
        ));
    }
    let ports = host_ports(pod);
    let conflict =
        |other: &Pod| host_ports(other).iter().any(|port| ports.iter().any(|own| own.conflicts(port)));
    if !ports.is_empty() && others.into_iter().any(conflict) {
        let why = "node(s) didn't have free ports for the requested pod ports";
        return Err(Rejection::predicate(PodReason::NodePorts, why));
    }
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let untolerated = |taint: &&Taint| {
        taint.effect == "NoExecute" && !tolerations.iter().any(|toleration| tolerates(toleration, taint))
    };
    if !is_static(pod) && node.taints.iter().any(|taint| untolerated(&taint)) {
        let why = "node(s) had taints that the pod didn't tolerate";
        return Err(Rejection::predicate(PodReason::TaintToleration, why));
    }
    Ok(lacking.iter().map(Lack::shortage).collect())
}

/// Why a critical pod is not taken for which no room can be made.
pub(crate) fn no_room(why: &str) -> Rejection {
    Rejection::new(
        PodReason::UnexpectedAdmissionError.as_str(),
        format!(
            "Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to \
             preempt: {why}"
        ),
    )
}

/// Why a pod does not get the resources that it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResizeRefusal {
    /// The node could not give them if it were empty.
    pub is_infeasible: bool,
    /// Message of the condition.
    pub message: String,
}

/// Whether there is room on the node for the `grown` resources of a pod that runs already, beside what the others have.
///
/// # Errors
/// [`ResizeRefusal`].
pub fn admit_resize(pod: &Pod, node: &NodeView, used: &Amounts, grown: &[&str]) -> Result<(), ResizeRefusal> {
    let wanted = resources::requests(pod);
    for name in grown {
        let requested = wanted.get(*name).copied().unwrap_or(0);
        let Some(capacity) = node.allocatable.get(*name).copied() else { continue };
        if requested > capacity {
            let message = format!(
                "Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}"
            );
            return Err(ResizeRefusal { is_infeasible: true, message });
        }
        let used = used.get(*name).copied().unwrap_or(0);
        if used.saturating_add(requested) > capacity {
            let message = lack(name, requested, used, capacity);
            return Err(ResizeRefusal { is_infeasible: false, message });
        }
    }
    Ok(())
}

fn lack(name: &str, requested: u64, used: u64, capacity: u64) -> String {
    format!(
        "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
    )
}

/// Whether a node under `pressure` takes `pod`, after `Admit` of upstream's `pkg/kubelet/eviction/eviction_manager.go`.
///
/// # Errors
/// [`Rejection`].
pub fn admit_under(pod: &Pod, pressure: Pressure) -> Result<(), Rejection> {
    let Some(told) = pressure.told().filter(|_| !is_critical(pod)) else { return Ok(()) };
    // Memory runs short for those alone who ask for none of it.
    if !pressure.disk && (!is_best_effort(pod) || tolerates_taint(pod, MEMORY_PRESSURE)) {
        return Ok(());
    }
    Err(Rejection::new(PodReason::Evicted.as_str(), format!("The node had condition: {told}. ")))
}

/// Why a node takes no pod whose machine is about to go down.
#[must_use]
pub fn node_shuts_down() -> Rejection {
    Rejection::new(PodReason::NodeShutdown.as_str(), "Pod was rejected as the node is shutting down.")
}

/// The taint of a node whose memory runs short.
const MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";

/// Priority of `system-cluster-critical`, and the least that only the cluster's own pods may have.
const SYSTEM_CRITICAL: i32 = 2_000_000_000;

/// The node's own matter: static, or of a system priority. Taken under pressure, and never evicted.
#[must_use]
pub fn is_critical(pod: &Pod) -> bool {
    let priority = pod.spec.as_ref().and_then(|s| s.priority);
    is_static(pod) || priority.is_some_and(|priority| priority >= SYSTEM_CRITICAL)
}

/// No container asks for processor time or memory, or has a limit of them.
fn is_best_effort(pod: &Pod) -> bool {
    let asked = [resources::requests(pod), resources::limits(pod)];
    !asked.iter().any(|amounts| {
        ["cpu", "memory"].iter().any(|name| amounts.get(*name).is_some_and(|amount| *amount > 0))
    })
}

fn tolerates_taint(pod: &Pod, key: &str) -> bool {
    let taint = Taint { key: key.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    tolerations.iter().any(|toleration| tolerates(toleration, &taint))
}

fn admit_os(pod: &Pod, node: &NodeView) -> Result<(), Rejection> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    let os = node.labels.get(OS_LABEL).map_or("linux", String::as_str);
    let selected = spec.node_selector.as_ref().and_then(|s| s.get(OS_LABEL));
    if selected.is_some_and(|wanted| wanted != os) {
        return Err(Rejection::new(
            PodReason::PodOSSelectorNodeLabelDoesNotMatch.as_str(),
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        ));
    }
    if spec.os.as_ref().is_some_and(|wanted| wanted.name != os) {
        return Err(Rejection::new(
            PodReason::PodOSNotSupported.as_str(),
            "Failed to admit pod as the OS field doesn't match node OS",
        ));
    }
    Ok(())
}

/// A resource of which a pod asks for more than is left.
struct Lack<'a> {
    resource: &'a str,
    requested: u64,
    used: u64,
    capacity: u64,
}

impl Lack<'_> {
    fn message(&self) -> String {
        lack(self.resource, self.requested, self.used, self.capacity)
    }

    fn shortage(&self) -> Shortage {
        let missing = self.used.saturating_add(self.requested).saturating_sub(self.capacity);
        Shortage { resource: self.resource.to_owned(), missing }
    }
}

/// What there is not enough of for a pod.
fn lacking<'a>(pod: &Pod, node: &'a NodeView, used: &Amounts) -> Vec<Lack<'a>> {
    let wanted = resources::footprint(pod);
    // A resource that the node says nothing about is the business of whoever invented it.
    let mut lacking: Vec<_> = node
        .allocatable
        .iter()
        .filter_map(|(name, capacity)| {
            let requested = wanted.get(name).copied().filter(|requested| *requested > 0)?;
            let used = used.get(name).copied().unwrap_or(0);
            (used.saturating_add(requested) > *capacity).then_some(Lack {
                resource: name,
                requested,
                used,
                capacity: *capacity,
            })
        })
        .collect();
    // The number of pods first, then by name, as upstream reports them.
    lacking.sort_by_key(|lack| (lack.resource != "pods", lack.resource));
    lacking
}

#[derive(Debug, PartialEq, Eq)]
struct HostPort<'a> {
    ip: &'a str,
    protocol: &'a str,
    port: i32,
}

impl HostPort<'_> {
    fn conflicts(&self, other: &HostPort<'_>) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(self.ip) || any(other.ip) || self.ip == other.ip)
    }
}

/// The ports of a pod's containers, and of its sidecars, as upstream's `GetHostPorts` has them.
fn host_ports(pod: &Pod) -> Vec<HostPort<'_>> {
    let containers = pod.spec.iter().flat_map(sidecar::staying);
    containers
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|port| {
            Some(HostPort {
                ip: port.host_ip.as_deref().unwrap_or_default(),
                protocol: port.protocol.as_deref().unwrap_or("TCP"),
                port: port.host_port.filter(|p| *p > 0)?,
            })
        })
        .collect()
}

/// Whether a toleration covers a taint.
#[must_use]
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |text: &Option<String>| text.as_deref().filter(|t| !t.is_empty()).map(str::to_owned);
    let effect = set(&toleration.effect).is_none_or(|effect| effect == taint.effect);
    let key = set(&toleration.key);
    let exists = toleration.operator.as_deref() == Some("Exists");
    let value = exists
        || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
    effect && value && key.map_or(exists, |key| key == taint.key)
}

#[cfg(test)]
mod tests;
