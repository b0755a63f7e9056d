//! A pod's status, computed from its specification and what is remembered of it.
//!
//! [`of`] is the only place where a `PodStatus` comes from. The previous status is an input for one
//! thing only: the moment at which each condition last changed.

mod conditions;
mod containers;
mod phase;
mod readiness;
mod resources;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{HostIP, Pod, PodCondition, PodIP, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

pub use self::phase::{Phase, is_terminal};
use super::lifecycle::{PodName, PodState, Spec};

/// What a status says besides the pod itself.
#[derive(Clone, Copy, Debug)]
pub struct StatusContext<'a> {
    /// Addresses of the node.
    pub host_ips: &'a [IpAddr],
    /// The scheme of container ids, the part of the runtime's version before `://`.
    pub runtime: &'a str,
    /// Conditions of the last status that was computed, or else of the one the API has.
    pub previous: &'a [PodCondition],
}

/// The status of the pod now.
#[must_use]
pub fn of(
    pod: &Pod,
    name: &PodName,
    spec: &Spec,
    state: &PodState,
    context: StatusContext<'_>,
    now: Timestamp,
) -> PodStatus {
    let phase = phase::of(spec, state);
    let statuses =
        containers::Statuses { pod: name, uid: &name.uid, spec, state, phase, runtime: context.runtime };
    let mut container_statuses: Vec<_> = spec.containers.iter().map(|c| statuses.of(pod, c)).collect();
    container_statuses.sort_by(|a, b| a.name.cmp(&b.name));
    let init_container_statuses: Vec<_> = spec.init.iter().map(|c| statuses.of(pod, c)).collect();
    let ephemeral_container_statuses: Vec<_> = spec.ephemeral.iter().map(|c| statuses.of(pod, c)).collect();
    let conditions = conditions::of(pod, spec, state, phase, context.previous, now);
    // The reason belongs to the phase, which becomes terminal only when nothing runs any more.
    let verdict = state.verdict.as_ref().filter(|_| phase.is_terminal());
    let has_ips = !state.addresses.is_empty();
    PodStatus {
        phase: Some(phase.to_string()),
        reason: verdict.map(|v| v.reason.clone()),
        message: verdict.map(|v| v.message.clone()),
        conditions: Some(conditions),
        container_statuses: Some(container_statuses),
        init_container_statuses: (!init_container_statuses.is_empty()).then_some(init_container_statuses),
        ephemeral_container_statuses: (!ephemeral_container_statuses.is_empty())
            .then_some(ephemeral_container_statuses),
        host_ip: context.host_ips.first().map(ToString::to_string),
        host_ips: Some(context.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        pod_ip: state.addresses.first().map(ToString::to_string),
        pod_ips: has_ips.then(|| state.addresses.iter().map(|ip| PodIP { ip: ip.to_string() }).collect()),
        start_time: state.start_time.map(seconds),
        observed_generation: pod.metadata.generation,
        resources: resources::of_pod(pod, state),
        allocated_resources: resources::allocated(pod),
        qos_class: pod.status.as_ref().and_then(|s| s.qos_class.clone()),
        ..PodStatus::default()
    }
}

/// The API's timestamps have a precision of one second.
fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}
