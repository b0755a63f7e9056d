//! What a pod asks for, and what is left.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use crate::{pods::sidecar, quantity};

/// Amounts by resource name: thousandths of a core for `cpu`, units or bytes for the rest.
pub type Amounts = BTreeMap<String, u64>;

/// Reads quantities. What is none is left out; the API server lets none of those through.
#[must_use]
pub fn amounts(quantities: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    let read = |(name, quantity): (&String, &Quantity)| {
        let amount = if name == "cpu" { quantity::millis(&quantity.0) } else { quantity::units(&quantity.0) };
        Some((name.clone(), amount.ok()?))
    };
    quantities.into_iter().flatten().filter_map(read).collect()
}

/// What the scheduler reserves for a pod: the sum of its containers and sidecars, or what an init container
/// needs at its moment if that is more; what the pod as a whole says goes before; its overhead comes on top.
#[must_use]
pub fn requests(pod: &Pod) -> Amounts {
    total(pod, |resources| resources.requests.as_ref())
}

/// What the limits of a pod's containers come to, by the rule of [`requests`]; of each resource that one of them has a
/// limit of.
#[must_use]
pub fn limits(pod: &Pod) -> Amounts {
    total(pod, |resources| resources.limits.as_ref())
}

/// What all containers of a pod may have together of memory, in bytes; nothing where one of them has no limit
/// and neither has the pod as a whole. The rule is that of [`requests`].
#[must_use]
pub fn memory_limit(pod: &Pod) -> Option<u64> {
    let spec = pod.spec.as_ref()?;
    let is_limited = |resources: &Option<ResourceRequirements>| {
        resources.as_ref().and_then(|r| r.limits.as_ref()).is_some_and(|limits| limits.contains_key("memory"))
    };
    let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    if !is_limited(&spec.resources) && !all.all(|container| is_limited(&container.resources)) {
        return None;
    }
    limits(pod).get("memory").copied().filter(|bytes| *bytes > 0)
}

fn total(
    pod: &Pod,
    select: impl Fn(&ResourceRequirements) -> Option<&BTreeMap<String, Quantity>>,
) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let of = |container: &Container| amounts(container.resources.as_ref().and_then(&select));
    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &of(container));
    }
    // An init container runs beside the sidecars that were started before it.
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let mut moment = of(container);
        if sidecar::is_sidecar(container.restart_policy.as_deref()) {
            add(&mut sidecars, &moment);
            moment.clone_from(&sidecars);
        } else {
            add(&mut moment, &sidecars);
        }
        raise(&mut peak, &moment);
    }
    add(&mut total, &sidecars);
    raise(&mut total, &peak);
    total.extend(amounts(spec.resources.as_ref().and_then(&select)));
    add(&mut total, &amounts(spec.overhead.as_ref()));
    total
}

/// [`requests`], and the pod itself, as one of `pods`.
#[must_use]
pub fn footprint(pod: &Pod) -> Amounts {
    let mut amounts = requests(pod);
    amounts.insert("pods".to_owned(), 1);
    amounts
}

/// Adds up, resource by resource.
pub fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = total.entry(name.clone()).or_default();
        *sum = sum.saturating_add(*amount);
    }
}

fn raise(total: &mut Amounts, least: &Amounts) {
    for (name, amount) in least {
        let present = total.entry(name.clone()).or_default();
        *present = (*present).max(*amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_sidecars_init_containers_and_overhead() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "spec": {
                "containers": [
                    {"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "10Mi"}}},
                    {"name": "b", "resources": {"requests": {"cpu": "200m"}}},
                ],
                "initContainers": [
                    {"name": "i", "resources": {"requests": {"memory": "64Mi"}}},
                    {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "50m"}}},
                    {"name": "j", "resources": {"requests": {"cpu": "1"}}},
                ],
                "overhead": {"cpu": "5m"},
            },
        }))
        .unwrap();
        let expected = [("cpu".to_owned(), 1055), ("memory".to_owned(), 64 << 20)];
        assert_eq!(requests(&pod), Amounts::from(expected));
    }

    #[test]
    fn a_pods_memory_is_limited_where_all_its_containers_is() {
        let pod = |spec: serde_json::Value| -> Pod {
            serde_json::from_value(serde_json::json!({ "spec": spec })).unwrap()
        };
        let limited =
            |memory: &str| serde_json::json!({"name": "c", "resources": {"limits": {"memory": memory}}});
        for (spec, expected) in [
            (serde_json::json!({"containers": [limited("10Mi"), limited("6Mi")]}), Some(16 << 20)),
            (
                serde_json::json!({"containers": [limited("10Mi")], "initContainers": [limited("1Gi")]}),
                Some(1 << 30),
            ),
            (serde_json::json!({"containers": [limited("10Mi"), {"name": "d"}]}), None),
            (
                serde_json::json!({"containers": [{"name": "d"}], "resources": {"limits": {"memory": "5Mi"}}}),
                Some(5 << 20),
            ),
        ] {
            assert_eq!(memory_limit(&pod(spec.clone())), expected, "{spec}");
        }
    }
}
