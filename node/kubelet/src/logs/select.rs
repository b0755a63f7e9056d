//! Which attempt of a container a reader of logs means.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, PodStatus};

/// One attempt of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// Its `restartCount`, by which its log file is named.
    pub attempt: u32,
    /// Its id with the scheme, as in the status.
    pub container_id: String,
}

/// Finds the attempt whose log is meant: with `previous` the one that ended before the present one;
/// otherwise the present one, or the last that ran where none runs.
///
/// The order of the cases and the texts are those of the kubelet's `validateContainerLogStatus`.
///
/// # Errors
/// The text that `kubectl logs` shows when there is no such attempt.
pub fn select(status: &PodStatus, pod: &str, container: &str, previous: bool) -> Result<Selected, String> {
    let container_is = |what: &str| format!("container {container:?} in pod {pod:?} is {what}");
    let Some(status) = container_status(status, container) else {
        return Err(container_is("not available"));
    };
    let state = status.state.clone().unwrap_or_default();
    let last = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let last_id = last.and_then(id_of);

    let container_id = if previous {
        last_id
            .ok_or_else(|| format!("previous terminated container {container:?} in pod {pod:?} not found"))?
    } else if state.running.is_some() {
        status.container_id.clone().unwrap_or_default()
    } else if let Some(terminated) = &state.terminated {
        id_of(terminated).or(last_id).ok_or_else(|| container_is("terminated"))?
    } else if last.is_some() {
        last_id.ok_or_else(|| container_is("terminated"))?
    } else if let Some(waiting) = &state.waiting {
        let why = match waiting.reason.as_deref().unwrap_or_default() {
            "ErrImagePull" => "image can't be pulled",
            "ImagePullBackOff" => "trying and failing to pull image",
            reason => reason,
        };
        return Err(container_is(&format!("waiting to start: {why}")));
    } else {
        return Err(container_is("waiting to start - no logs yet"));
    };

    // The status counts the attempt whose id it shows; any other that it still knows is the one before.
    let count = u32::try_from(status.restart_count).unwrap_or_default();
    let is_present = status.container_id.as_deref() == Some(container_id.as_str());
    Ok(Selected { attempt: if is_present { count } else { count.saturating_sub(1) }, container_id })
}

/// Whether this very attempt still runs, by the pod's present status.
#[must_use]
pub fn is_running(status: &PodStatus, container: &str, container_id: &str) -> bool {
    container_status(status, container).is_some_and(|status| {
        status.container_id.as_deref() == Some(container_id)
            && status.state.as_ref().is_some_and(|state| state.running.is_some())
    })
}

fn container_status<'a>(status: &'a PodStatus, container: &str) -> Option<&'a ContainerStatus> {
    [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses]
        .into_iter()
        .flatten()
        .flatten()
        .find(|status| status.name == container)
}

fn id_of(terminated: &ContainerStateTerminated) -> Option<String> {
    terminated.container_id.clone().filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod_status(status: Value) -> PodStatus {
        let mut status = status;
        for (field, value) in
            [("name", json!("c")), ("ready", json!(false)), ("image", json!("")), ("imageID", json!(""))]
        {
            status[field] = value;
        }
        serde_json::from_value(json!({ "containerStatuses": [status] })).unwrap()
    }

    #[test]
    fn finds_the_attempt() {
        let ended = |id: &str| json!({ "terminated": { "exitCode": 1, "containerID": id } });
        let table = [
            // (state, lastState, restartCount, containerID, previous) → attempt
            (json!({ "running": {} }), json!(null), 0, "x://0", false, 0),
            (json!({ "running": {} }), ended("x://1"), 2, "x://2", false, 2),
            (json!({ "running": {} }), ended("x://1"), 2, "x://2", true, 1),
            (ended("x://3"), json!(null), 3, "x://3", false, 3),
            (json!({ "terminated": { "exitCode": 1 } }), ended("x://3"), 3, "x://3", false, 3),
            // A crash loop shows the run that crashed, with and without --previous.
            (json!({ "waiting": { "reason": "CrashLoopBackOff" } }), ended("x://4"), 4, "x://4", false, 4),
            (json!({ "waiting": { "reason": "CrashLoopBackOff" } }), ended("x://4"), 4, "x://4", true, 4),
        ];
        for (state, last_state, restart_count, id, previous, attempt) in table {
            let status = pod_status(
                json!({ "state": state, "lastState": last_state, "restartCount": restart_count, "containerID": id }),
            );
            let selected = select(&status, "p", "c", previous).unwrap_or_else(|err| panic!("{state}: {err}"));
            assert_eq!(selected.attempt, attempt, "{state} {last_state} {previous}");
        }
    }

    #[test]
    fn says_why_there_is_nothing_to_read() {
        let waiting =
            |reason: &str| json!({ "state": { "waiting": { "reason": reason } }, "restartCount": 0 });
        let table = [
            (
                waiting("ErrImagePull"),
                false,
                r#"container "c" in pod "p" is waiting to start: image can't be pulled"#,
            ),
            (
                waiting("ImagePullBackOff"),
                false,
                r#"container "c" in pod "p" is waiting to start: trying and failing to pull image"#,
            ),
            (
                waiting("ContainerCreating"),
                false,
                r#"container "c" in pod "p" is waiting to start: ContainerCreating"#,
            ),
            (
                json!({ "restartCount": 0 }),
                false,
                r#"container "c" in pod "p" is waiting to start - no logs yet"#,
            ),
            (
                json!({ "state": { "terminated": { "exitCode": 1 } }, "restartCount": 0 }),
                false,
                r#"container "c" in pod "p" is terminated"#,
            ),
            (
                json!({ "state": { "running": {} }, "containerID": "x://0", "restartCount": 0 }),
                true,
                r#"previous terminated container "c" in pod "p" not found"#,
            ),
        ];
        for (status, previous, expected) in table {
            assert_eq!(select(&pod_status(status), "p", "c", previous).unwrap_err(), expected);
        }
        assert_eq!(
            select(&PodStatus::default(), "p", "c", false).unwrap_err(),
            r#"container "c" in pod "p" is not available"#
        );
    }

    #[test]
    fn an_attempt_stops_running_when_another_takes_its_place() {
        let status =
            pod_status(json!({ "state": { "running": {} }, "restartCount": 1, "containerID": "x://1" }));
        assert!(is_running(&status, "c", "x://1"));
        assert!(!is_running(&status, "c", "x://0"));
        assert!(!is_running(&status, "d", "x://1"));
    }
}
