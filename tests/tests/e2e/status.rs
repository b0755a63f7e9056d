//! What a pod's status and Events say, read by the name of a container or condition.

use k8s_openapi::api::core::v1::{
    ContainerStateTerminated, ContainerStateWaiting, ContainerStatus, Event, Pod, PodCondition,
};

/// Status of the container, init container or sidecar of that name.
pub(crate) fn of<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let all =
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    all.into_iter().find(|each| each.name == name)
}

/// Whether it runs.
pub(crate) fn runs(pod: &Pod, name: &str) -> bool {
    of(pod, name).and_then(|each| each.state.as_ref()).is_some_and(|state| state.running.is_some())
}

/// How often it was restarted.
pub(crate) fn restarts(pod: &Pod, name: &str) -> i32 {
    of(pod, name).map_or(0, |each| each.restart_count)
}

/// How it ended, if it has and is not to be started again.
pub(crate) fn end<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStateTerminated> {
    of(pod, name)?.state.as_ref()?.terminated.as_ref()
}

/// How the run before the present one ended.
pub(crate) fn last_end<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStateTerminated> {
    of(pod, name)?.last_state.as_ref()?.terminated.as_ref()
}

/// What it waits for.
pub(crate) fn waiting<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStateWaiting> {
    of(pod, name)?.state.as_ref()?.waiting.as_ref()
}

/// The reason for which it waits; empty when it does not.
pub(crate) fn waiting_reason<'a>(pod: &'a Pod, name: &str) -> &'a str {
    waiting(pod, name).and_then(|state| state.reason.as_deref()).unwrap_or_default()
}

/// Status, reason and message of a condition, each empty where there is none.
pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> (&'a str, &'a str, &'a str) {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let found: Option<&PodCondition> = conditions.into_iter().find(|each| each.type_ == kind);
    let text = |text: &'a Option<String>| text.as_deref().unwrap_or_default();
    found.map_or(("", "", ""), |each| (&each.status, text(&each.reason), text(&each.message)))
}

/// Whether an Event has that reason, and a message with that part.
pub(crate) fn says(event: &Event, reason: &str, part: &str) -> bool {
    event.reason.as_deref() == Some(reason)
        && event.message.as_deref().is_some_and(|message| message.contains(part))
}
