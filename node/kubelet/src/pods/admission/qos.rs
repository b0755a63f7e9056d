//! The QoS class of a pod, after upstream's `pkg/apis/core/v1/helper/qos`. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use super::resources::{self, Amounts};

/// How much a pod has said of what it needs; those that have said the least go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum QosClass {
    /// Nothing at all.
    BestEffort,
    /// Something.
    Burstable,
    /// Of each container processor time and memory, and no more than that.
    Guaranteed,
}

impl QosClass {
    /// The class that the API server has written down, or else what it would. What the pod says as a whole goes before what
    /// its containers do.
    pub(crate) fn of(pod: &Pod) -> Self {
        match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
            Some("BestEffort") => return Self::BestEffort,
            Some("Burstable") => return Self::Burstable,
            Some("Guaranteed") => return Self::Guaranteed,
            Some(_) | None => {}
        }
        let Some(spec) = &pod.spec else { return Self::BestEffort };
        let is_stated = |resources: &&ResourceRequirements| {
            !computing(resources.requests.as_ref()).is_empty()
                || !computing(resources.limits.as_ref()).is_empty()
        };
        let whole = spec.resources.as_ref().filter(is_stated);
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let parts: Vec<Option<&ResourceRequirements>> = match whole {
            Some(whole) => vec![Some(whole)],
            None => containers.map(|container| container.resources.as_ref()).collect(),
        };
        if !parts.iter().flatten().any(is_stated) {
            return Self::BestEffort;
        }
        let is_guaranteed = |part: &Option<&ResourceRequirements>| {
            part.is_some_and(|part| {
                let limits = computing(part.limits.as_ref());
                // The API server fills in requests that are left out; a file is read without it.
                let requests = computing(part.requests.as_ref());
                limits.len() == 2 && requests.iter().all(|(name, amount)| limits.get(name) == Some(amount))
            })
        };
        if parts.iter().all(is_guaranteed) { Self::Guaranteed } else { Self::Burstable }
    }
}

/// What is said of processor time and memory, and is not nothing.
fn computing(quantities: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    let mut amounts = resources::amounts(quantities);
    amounts.retain(|name, amount| matches!(name.as_str(), "cpu" | "memory") && *amount > 0);
    amounts
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_class_is_what_the_api_server_says_or_would_say() {
        let both = |cpu: &str, memory: &str| json!({"cpu": cpu, "memory": memory});
        let limited = |limits: Value| json!({"name": "c", "resources": {"limits": limits}});
        let whole = json!({"requests": both("1", "1Mi"), "limits": both("1", "1Mi")});
        let lower =
            json!({"name": "c", "resources": {"requests": {"cpu": "1m"}, "limits": both("1", "1Mi")}});
        let stored = json!({"name": "c", "resources": {"requests": {"ephemeral-storage": "1Mi"}}});
        for (spec, expected) in [
            (json!({"containers": [{"name": "c"}]}), QosClass::BestEffort),
            (json!({"containers": [stored]}), QosClass::BestEffort),
            (json!({"containers": [limited(both("0", "0"))]}), QosClass::BestEffort),
            (json!({"containers": [limited(json!({"cpu": "1"}))]}), QosClass::Burstable),
            (json!({"containers": [lower]}), QosClass::Burstable),
            (json!({"containers": [limited(both("1", "1Mi"))]}), QosClass::Guaranteed),
            (json!({"containers": [limited(both("1", "1Mi")), {"name": "d"}]}), QosClass::Burstable),
            (
                json!({"containers": [limited(both("1", "1Mi"))], "initContainers": [{"name": "i"}]}),
                QosClass::Burstable,
            ),
            (json!({"containers": [{"name": "c"}], "resources": whole}), QosClass::Guaranteed),
        ] {
            let mut pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
            assert_eq!(QosClass::of(&pod), expected, "{spec}");
            pod.status.get_or_insert_default().qos_class = Some("Guaranteed".to_owned());
            assert_eq!(QosClass::of(&pod), QosClass::Guaranteed, "it is written down");
        }
    }
}
