//! What the node has, what pods may have of it, and whether it runs short.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::machine::Machine;
use crate::config::{
    KubeletConfiguration,
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
    let cpu = machine.cpus.saturating_mul(1000).saturating_sub(reserved(config, "cpu", quantity::millis));
    let disk = machine
        .disk
        .capacity
        .saturating_sub(reserved(config, "ephemeral-storage", quantity::units))
        .saturating_sub(threshold(config, "nodefs.available", machine.disk.capacity).unwrap_or(0));
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
    machine
        .memory
        .saturating_sub(reserved(config, "memory", quantity::units))
        .saturating_sub(threshold(config, "memory.available", machine.memory).unwrap_or(0))
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

/// Of which resources the machine runs short, by the thresholds of `evictionHard`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pressure {
    pub(super) memory: bool,
    pub(super) disk: bool,
}

pub(super) fn pressure(machine: &Machine, config: &KubeletConfiguration) -> Pressure {
    let below = |signal: &str, available: u64, capacity: u64| {
        // Zero capacity is a machine that could not be read, or a file system that does not count.
        capacity > 0 && threshold(config, signal, capacity).is_some_and(|threshold| available < threshold)
    };
    let disk = &machine.disk;
    Pressure {
        memory: below("memory.available", machine.memory_available, machine.memory),
        disk: below("nodefs.available", disk.available, disk.capacity)
            || below("nodefs.inodesFree", disk.inodes_free, disk.inodes),
    }
}

fn pods(machine: &Machine, config: &KubeletConfiguration) -> u64 {
    let most = u64::from(config.max_pods);
    match u64::from(config.pods_per_core) {
        0 => most,
        per_core => most.min(per_core.saturating_mul(machine.cpus)),
    }
}

/// A threshold in units of what it is measured against: a quantity, or a percentage of the capacity.
fn threshold(config: &KubeletConfiguration, signal: &str, capacity: u64) -> Option<u64> {
    let text = config.eviction_hard.get(signal)?;
    match text.strip_suffix('%') {
        None => quantity::units(text).ok(),
        Some(percent) => {
            // In hundredths of a percent, so that whole numbers do; finer was never meant.
            let hundredths = quantity::units(&format!("{percent}e2")).ok()?;
            let share = u128::from(capacity) * u128::from(hundredths) / 10_000;
            u64::try_from(share).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::machine::Disk, *};

    fn machine() -> Machine {
        Machine {
            cpus: 4,
            memory: 8 << 30,
            memory_available: 4 << 30,
            disk: Disk { capacity: 100 << 30, available: 50 << 30, inodes: 1000, inodes_free: 500 },
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

    #[test]
    fn pressure_is_less_than_the_threshold() {
        let config = KubeletConfiguration::default();
        let with = |change: fn(&mut Machine)| {
            let mut machine = machine();
            change(&mut machine);
            pressure(&machine, &config)
        };
        let none = Pressure::default();
        assert_eq!(with(|_| ()), none);
        assert_eq!(with(|m| m.memory_available = 99 << 20), Pressure { memory: true, ..none });
        assert_eq!(with(|m| m.disk.available = 9 << 30), Pressure { disk: true, ..none });
        assert_eq!(with(|m| m.disk.available = 10 << 30), none);
        assert_eq!(with(|m| m.disk.inodes_free = 49), Pressure { disk: true, ..none });
        assert_eq!(with(|m| (m.disk.inodes, m.disk.inodes_free) = (0, 0)), none);
        assert_eq!(pressure(&Machine::default(), &config), none, "a machine that could not be read");
    }
}
