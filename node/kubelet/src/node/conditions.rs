//! The node's conditions, and what is told about their changes. Texts and order are the kubelet's.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::NodeCondition, apimachinery::pkg::apis::meta::v1::Time};

use crate::eviction::Pressure;

/// What keeps the node from being ready: who says so, and what they say.
pub(super) type Problems = BTreeMap<&'static str, String>;

/// The conditions at `now`. A condition whose status is the same in `before` keeps its time of transition.
pub(super) fn of(
    pressure: Pressure,
    problems: &Problems,
    before: &[NodeCondition],
    now: Timestamp,
) -> Vec<NodeCondition> {
    let memory = if pressure.memory {
        ("True", "KubeletHasInsufficientMemory", "kubelet has insufficient memory available")
    } else {
        ("False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available")
    };
    let disk = if pressure.disk {
        ("True", "KubeletHasDiskPressure", "kubelet has disk pressure")
    } else {
        ("False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure")
    };
    let pid = ("False", "KubeletHasSufficientPID", "kubelet has sufficient PID available");
    let told = told(problems);
    let ready = if problems.is_empty() {
        ("True", "KubeletReady", "kubelet is posting ready status")
    } else {
        ("False", "KubeletNotReady", told.as_str())
    };
    [("MemoryPressure", memory), ("DiskPressure", disk), ("PIDPressure", pid), ("Ready", ready)]
        .map(|(type_, (status, reason, message))| {
            let since = before
                .iter()
                .find(|condition| condition.type_ == type_ && condition.status == status)
                .and_then(|condition| condition.last_transition_time.clone());
            NodeCondition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: since.or(Some(Time(now))),
            }
        })
        .into()
}

/// One problem as it is, several in brackets: `[one, other]`.
fn told(problems: &Problems) -> String {
    let texts: Vec<&str> = problems.values().map(String::as_str).collect();
    match texts.as_slice() {
        [only] => (*only).to_owned(),
        _ => format!("[{}]", texts.join(", ")),
    }
}

/// Reasons of the events that a change of conditions calls for.
pub(super) fn changes(before: &[NodeCondition], after: &[NodeCondition]) -> Vec<&'static str> {
    after
        .iter()
        .filter(|new| before.iter().all(|old| old.type_ != new.type_ || old.status != new.status))
        .filter_map(|condition| match (condition.type_.as_str(), condition.status.as_str()) {
            ("MemoryPressure", "True") => Some("NodeHasInsufficientMemory"),
            ("MemoryPressure", _) => Some("NodeHasSufficientMemory"),
            ("DiskPressure", "True") => Some("NodeHasDiskPressure"),
            ("DiskPressure", _) => Some("NodeHasNoDiskPressure"),
            ("PIDPressure", "True") => Some("NodeHasInsufficientPID"),
            ("PIDPressure", _) => Some("NodeHasSufficientPID"),
            ("Ready", "True") => Some("NodeReady"),
            ("Ready", _) => Some("NodeNotReady"),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn shown(conditions: &[NodeCondition]) -> Vec<(&str, &str, &str, &str)> {
        conditions
            .iter()
            .map(|c| {
                (
                    c.type_.as_str(),
                    c.status.as_str(),
                    c.reason.as_deref().unwrap(),
                    c.message.as_deref().unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn a_healthy_node() {
        assert_eq!(
            shown(&of(Pressure::default(), &Problems::new(), &[], NOW)),
            [
                (
                    "MemoryPressure",
                    "False",
                    "KubeletHasSufficientMemory",
                    "kubelet has sufficient memory available"
                ),
                ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
            ]
        );
    }

    #[test]
    fn an_unhealthy_node_says_why() {
        let mut problems = Problems::from([("runtime", "container runtime is down".to_owned())]);
        let one = of(Pressure { memory: true, disk: true }, &problems, &[], NOW);
        assert_eq!(shown(&one)[3], ("Ready", "False", "KubeletNotReady", "container runtime is down"));
        assert_eq!(shown(&one)[0].2, "KubeletHasInsufficientMemory");
        assert_eq!(shown(&one)[1].2, "KubeletHasDiskPressure");
        problems.insert("shutdown", "node is shutting down".to_owned());
        let two = of(Pressure::default(), &problems, &[], NOW);
        assert_eq!(shown(&two)[3].3, "[container runtime is down, node is shutting down]");
    }

    #[test]
    fn only_a_change_of_status_is_a_transition_and_an_event() {
        let problems = Problems::from([("runtime", "down".to_owned())]);
        let first = of(Pressure::default(), &problems, &[], NOW);
        assert_eq!(
            changes(&[], &first),
            ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeNotReady"]
        );
        let later: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let second = of(Pressure::default(), &Problems::new(), &first, later);
        assert_eq!(changes(&first, &second), ["NodeReady"]);
        assert_eq!(second[3].last_transition_time, Some(Time(later)));
        assert_eq!(second[0].last_transition_time, Some(Time(NOW)));
        assert_eq!(second[0].last_heartbeat_time, Some(Time(later)));
        assert_eq!(changes(&second, &second), Vec::<&str>::new());
    }
}
