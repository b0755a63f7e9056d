//! What a pod as a whole has and was given, after upstream's `convertToAPIPodLevelResourcesStatus`.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::{
    pods::{
        admission::resources::{self, Amounts},
        lifecycle::PodState,
    },
    quantity,
};

type Quantities = BTreeMap<String, Quantity>;

/// What a pod that says something about itself as a whole holds its containers to; while a resize of it is under way, that is not
/// said.
pub(super) fn of_pod(pod: &Pod, state: &PodState) -> Option<ResourceRequirements> {
    let own = pod.spec.as_ref()?.resources.as_ref()?;
    if state.resize.in_progress.is_some() {
        return pod.status.as_ref().and_then(|status| status.resources.clone());
    }
    let requests = allocated(pod)?;
    Some(ResourceRequirements { requests: Some(requests), limits: own.limits.clone(), claims: None })
}

/// What the node keeps for a pod that says something about itself as a whole.
pub(super) fn allocated(pod: &Pod) -> Option<Quantities> {
    pod.spec.as_ref()?.resources.as_ref()?;
    let requested = resources::requests(pod);
    Some(quantities(&requested))
}

fn quantities(amounts: &Amounts) -> Quantities {
    let quantity = |(name, amount): (&String, &u64)| {
        let write = if name == "cpu" { quantity::from_millis } else { quantity::from_bytes };
        (name.clone(), write(*amount))
    };
    amounts.iter().map(quantity).collect()
}
