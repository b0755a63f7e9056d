//! What a pod was given of the node's memory and processors, which is what it asked for when the node took it, until the node
//! has agreed to a resize. After upstream's `pkg/kubelet/allocation`.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use serde::{Deserialize, Serialize};

use super::admission::resources::amounts;

/// The resources of a pod and of its containers, by their names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Allocation {
    /// Of the pod as a whole, if it says anything about that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ResourceRequirements>,
    /// Of init containers, sidecars and regular containers.
    pub containers: BTreeMap<String, ResourceRequirements>,
}

impl Allocation {
    /// What the pod asks for.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let Some(spec) = &pod.spec else { return Self::default() };
        let all = spec.init_containers.iter().flatten().chain(&spec.containers);
        let containers = all.map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default())).collect();
        Self { pod: spec.resources.clone(), containers }
    }

    /// Amounts are the same, however they are written.
    #[must_use]
    pub fn agrees_with(&self, other: &Self) -> bool {
        let of_pod = |allocation: &Self| allocation.pod.clone().unwrap_or_default();
        let same = |(name, resources): (&String, &ResourceRequirements)| {
            other.containers.get(name).is_some_and(|others| agree(resources, others))
        };
        agree(&of_pod(self), &of_pod(other))
            && self.containers.len() == other.containers.len()
            && self.containers.iter().all(same)
    }

    /// The pod as it is to run: with these resources in the place of those that it asks for. The same pod where they agree.
    #[must_use]
    pub fn applied_to(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        if self.agrees_with(&Self::of(pod)) {
            return Arc::clone(pod);
        }
        let mut pod = Pod::clone(pod);
        let Some(spec) = &mut pod.spec else { return Arc::new(pod) };
        spec.resources.clone_from(&self.pod);
        let set = |container: &mut Container| {
            if let Some(resources) = self.containers.get(&container.name) {
                container.resources = Some(resources.clone());
            }
        };
        spec.init_containers.iter_mut().flatten().for_each(set);
        spec.containers.iter_mut().for_each(set);
        Arc::new(pod)
    }
}

fn agree(one: &ResourceRequirements, other: &ResourceRequirements) -> bool {
    let same = |one: &Option<BTreeMap<String, Quantity>>, other: &Option<BTreeMap<String, Quantity>>| {
        amounts(one.as_ref()) == amounts(other.as_ref())
    };
    same(&one.requests, &other.requests) && same(&one.limits, &other.limits)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(cpu: &str) -> Arc<Pod> {
        let pod = json!({
            "metadata": {"generation": 2},
            "spec": {
                "resources": {"limits": {"memory": "1Gi"}},
                "initContainers": [{"name": "i"}],
                "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}, {"name": "d"}],
            },
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn a_pod_runs_with_what_it_was_given() {
        let given = Allocation::of(&pod("1"));
        let wanted = pod("2");
        let runs = given.applied_to(&wanted);
        assert_eq!(Allocation::of(&runs), Allocation::of(&pod("1")));
        assert_eq!(runs.metadata, wanted.metadata);
        assert!(Allocation::of(&wanted) != given);
    }

    #[test]
    fn amounts_that_are_written_in_another_way_are_the_same() {
        let given = Allocation::of(&pod("1"));
        let wanted = pod("1000m");
        assert!(Arc::ptr_eq(&given.applied_to(&wanted), &wanted));
        assert!(!given.agrees_with(&Allocation::of(&pod("1001m"))));
        assert!(!given.agrees_with(&Allocation::default()));
    }

    #[test]
    fn it_is_remembered_as_it_was() {
        let given = Allocation::of(&pod("1"));
        let text = serde_json::to_string(&given).unwrap();
        assert_eq!(serde_json::from_str::<Allocation>(&text).unwrap(), given);
    }
}
