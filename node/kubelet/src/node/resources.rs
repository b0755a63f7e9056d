//! What the node has, and what pods may have of it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::machine::Machine;
use crate::{
    config::{
        KubeletConfiguration,
        thresholds::{self, Signal},
    },
    quantity::{self, from_bytes, from_millis},
};

/// What the scheduler reads: resource name to amount.
pub(super) type Resources = BTreeMap<String, Quantity>;

/// Everything the machine has, and how many pods the node takes.
pub(super) fn capacity(machine: &Machine, config: &KubeletConfiguration) -> Resources {
    BTreeMap::from([
        ("cpu".to_owned(), from_millis(machine.cpus.saturating_mul(1000))),
        ("memory".to_owned(), from_bytes(machine.memory)),
        ("ephemeral-storage".to_owned(), from_bytes(machine.disk.capacity)),
        ("pods".to_owned(), Quantity(pods(machine, config).to_string())),
    ])
}

/// The capacity without what is reserved and without what eviction would fight for.
pub(super) fn allocatable(machine: &Machine, config: &KubeletConfiguration) -> Resources {
    let threshold = |signal, capacity| thresholds::hard(config, signal).map_or(0, |value| value.of(capacity));
    let cpu = machine.cpus.saturating_mul(1000).saturating_sub(reserved(config, "cpu", quantity::millis));
    let disk = machine
        .disk
        .capacity
        .saturating_sub(reserved(config, "ephemeral-storage", quantity::units))
        .saturating_sub(threshold(Signal::NodefsAvailable, machine.disk.capacity));
    BTreeMap::from([
        ("cpu".to_owned(), from_millis(cpu)),
        ("memory".to_owned(), from_bytes(allocatable_memory(machine, config))),
        // Upstream gives this one in bytes.
        ("ephemeral-storage".to_owned(), Quantity(disk.to_string())),
        ("pods".to_owned(), Quantity(pods(machine, config).to_string())),
    ])
}

/// Bytes of memory that pods may have of the machine, as the Node says it in `status.allocatable`.
#[must_use]
pub fn allocatable_memory(machine: &Machine, config: &KubeletConfiguration) -> u64 {
    machine.memory.saturating_sub(reserved_memory(config)).saturating_sub(
        thresholds::hard(config, Signal::MemoryAvailable).map_or(0, |value| value.of(machine.memory)),
    )
}

/// Bytes of memory that `kubeReserved` and `systemReserved` keep from pods.
pub(crate) fn reserved_memory(config: &KubeletConfiguration) -> u64 {
    reserved(config, "memory", quantity::units)
}

/// What `kubeReserved` and `systemReserved` keep of a resource.
fn reserved(
    config: &KubeletConfiguration,
    resource: &str,
    read: fn(&str) -> Result<u64, quantity::QuantityError>,
) -> u64 {
    [&config.kube_reserved, &config.system_reserved]
        .into_iter()
        .filter_map(|reserved| read(reserved.get(resource)?).ok())
        .fold(0, u64::saturating_add)
}

fn pods(machine: &Machine, config: &KubeletConfiguration) -> u64 {
    let most = u64::from(config.max_pods);
    match u64::from(config.pods_per_core) {
        0 => most,
        per_core => most.min(per_core.saturating_mul(machine.cpus)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supply::Disk;

    fn machine() -> Machine {
        Machine {
            cpus: 4,
            memory: 8 << 30,
            disk: Disk {
                capacity: 100 << 30,
                available: 50 << 30,
                free: 50 << 30,
                inodes: 1000,
                inodes_free: 500,
            },
            ..Machine::default()
        }
    }

    fn shown(resources: &Resources) -> Vec<(&str, &str)> {
        resources.iter().map(|(name, amount)| (name.as_str(), amount.0.as_str())).collect()
    }

    #[test]
    fn defaults_keep_the_eviction_thresholds_from_pods() {
        let config = KubeletConfiguration { max_pods: 110, ..KubeletConfiguration::default() };
        assert_eq!(
            shown(&capacity(&machine(), &config)),
            [("cpu", "4"), ("ephemeral-storage", "104857600Ki"), ("memory", "8388608Ki"), ("pods", "110")]
        );
        assert_eq!(
            shown(&allocatable(&machine(), &config)),
            [("cpu", "4"), ("ephemeral-storage", "96636764160"), ("memory", "8286208Ki"), ("pods", "110")]
        );
    }

    #[test]
    fn reservations_are_subtracted_and_never_go_below_zero() {
        let config = KubeletConfiguration {
            kube_reserved: [("cpu".to_owned(), "500m".to_owned()), ("memory".to_owned(), "1Gi".to_owned())]
                .into(),
            system_reserved: [
                ("cpu".to_owned(), "1".to_owned()),
                ("ephemeral-storage".to_owned(), "1Ti".to_owned()),
            ]
            .into(),
            eviction_hard: BTreeMap::new(),
            max_pods: 1000,
            pods_per_core: 10,
            ..KubeletConfiguration::default()
        };
        assert_eq!(
            shown(&allocatable(&machine(), &config)),
            [("cpu", "2500m"), ("ephemeral-storage", "0"), ("memory", "7340032Ki"), ("pods", "40")]
        );
    }
}
