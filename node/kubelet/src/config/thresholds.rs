//! Eviction thresholds, as `evictionHard`, `evictionSoft` and their kin of a KubeletConfiguration give them, after
//! upstream's `pkg/kubelet/eviction/helpers.go`.

use std::{collections::BTreeMap, time::Duration};

use super::file::KubeletConfiguration;
use crate::{duration, quantity};

/// What is observed and compared with thresholds. Upstream's signals, in upstream's order of eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Signal {
    /// Memory that the machine has left.
    MemoryAvailable,
    /// Memory that is left of what is not reserved when all pods have what they take.
    AllocatableMemoryAvailable,
    /// Bytes free on the file system of the root directory.
    NodefsAvailable,
    /// Inodes free there.
    NodefsInodesFree,
    /// Bytes free on the file system of the images.
    ImagefsAvailable,
    /// Inodes free there.
    ImagefsInodesFree,
    /// Bytes free where containers write. That is the root directory, so that nodefs speaks for it.
    ContainerfsAvailable,
    /// Inodes free there.
    ContainerfsInodesFree,
    /// Process ids. Guests have none, so that they are not observed here.
    PidAvailable,
}

impl Signal {
    const ALL: [Self; 9] = [
        Self::MemoryAvailable,
        Self::AllocatableMemoryAvailable,
        Self::NodefsAvailable,
        Self::NodefsInodesFree,
        Self::ImagefsAvailable,
        Self::ImagefsInodesFree,
        Self::ContainerfsAvailable,
        Self::ContainerfsInodesFree,
        Self::PidAvailable,
    ];

    /// As the configuration spells it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::MemoryAvailable => "memory.available",
            Self::AllocatableMemoryAvailable => "allocatableMemory.available",
            Self::NodefsAvailable => "nodefs.available",
            Self::NodefsInodesFree => "nodefs.inodesFree",
            Self::ImagefsAvailable => "imagefs.available",
            Self::ImagefsInodesFree => "imagefs.inodesFree",
            Self::ContainerfsAvailable => "containerfs.available",
            Self::ContainerfsInodesFree => "containerfs.inodesFree",
            Self::PidAvailable => "pid.available",
        }
    }

    fn named(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.as_str() == text)
    }
}

/// How much: so many bytes or inodes, or a share of all there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThresholdValue {
    /// Bytes or inodes.
    Quantity(u64),
    /// Hundredths of a percent of the capacity.
    Share(u32),
}

impl ThresholdValue {
    /// In bytes or inodes, of a capacity in the same.
    pub(crate) fn of(self, capacity: u64) -> u64 {
        match self {
            Self::Quantity(amount) => amount,
            Self::Share(hundredths) => {
                let share = u128::from(capacity) * u128::from(hundredths) / 10_000;
                u64::try_from(share).unwrap_or(u64::MAX)
            }
        }
    }
}

/// The node runs short when less than `value` is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Threshold {
    /// What is compared.
    pub(crate) signal: Signal,
    /// With what.
    pub(crate) value: ThresholdValue,
    /// How long it must have been so before a pod is evicted; `None` for hard thresholds, which leave pods no grace.
    pub(crate) soft: Option<Duration>,
    /// How much more than `value` there must be before it is over.
    pub(crate) minimum_reclaim: Option<ThresholdValue>,
}

/// Word of `enforceNodeAllocatable` by which what pods take together is held to what there is for them.
const PODS: &str = "pods";

/// All thresholds that a configuration has, the hard ones first, in the order of signals. Where `enforceNodeAllocatable`
/// has `pods`, the hard one of `memory.available` is one of `allocatableMemory.available`, too, as upstream has it.
///
/// # Errors
/// What is wrong, with the path of the field.
pub(crate) fn thresholds(config: &KubeletConfiguration) -> Result<Vec<Threshold>, String> {
    let hard = values("evictionHard", &config.eviction_hard, Zero::Refused)?;
    let soft = values("evictionSoft", &config.eviction_soft, Zero::Refused)?;
    let reclaims = values("evictionMinimumReclaim", &config.eviction_minimum_reclaim, Zero::Fine)?;
    let graces = graces(&config.eviction_soft_grace_period)?;
    let enforces_pods = config.enforce_node_allocatable.iter().any(|word| word == PODS);
    let of_memory = hard.get(&Signal::MemoryAvailable).copied().filter(|_| enforces_pods);
    let threshold = |(signal, value): (Signal, ThresholdValue), soft| Threshold {
        signal,
        value,
        soft,
        minimum_reclaim: reclaims.get(&signal).copied(),
    };
    let mut all: Vec<Threshold> = hard.into_iter().map(|entry| threshold(entry, None)).collect();
    if let Some(value) = of_memory {
        let copy = Threshold {
            signal: Signal::AllocatableMemoryAvailable,
            ..threshold((Signal::MemoryAvailable, value), None)
        };
        let at = all.partition_point(|threshold| threshold.signal <= copy.signal);
        all.insert(at, copy);
    }
    for entry in soft {
        let signal = entry.0.as_str();
        let grace = graces.get(&entry.0).ok_or_else(|| {
            format!(
                "evictionSoft.{signal} has no grace period; set evictionSoftGracePeriod.{signal}, for example to \"1m30s\""
            )
        })?;
        all.push(threshold(entry, Some(*grace)));
    }
    Ok(all)
}

/// The hard threshold of a signal, if the configuration has one.
pub(crate) fn hard(config: &KubeletConfiguration, signal: Signal) -> Option<ThresholdValue> {
    value(config.eviction_hard.get(signal.as_str())?).ok().flatten()
}

#[derive(PartialEq)]
enum Zero {
    Fine,
    Refused,
}

fn values(
    field: &str,
    map: &BTreeMap<String, String>,
    zero: Zero,
) -> Result<BTreeMap<Signal, ThresholdValue>, String> {
    let mut read = BTreeMap::new();
    for (name, text) in map {
        let signal = signal(field, name)?;
        match value(text).map_err(|message| format!("{field}.{name}: {message}"))? {
            Some(ThresholdValue::Quantity(0)) if zero == Zero::Refused => {
                return Err(format!("{field}.{name} must be above zero; \"0%\" switches it off"));
            }
            Some(value) => {
                read.insert(signal, value);
            }
            None => {}
        }
    }
    Ok(read)
}

fn graces(map: &BTreeMap<String, String>) -> Result<BTreeMap<Signal, Duration>, String> {
    const FIELD: &str = "evictionSoftGracePeriod";
    let read = |(name, text): (&String, &String)| {
        let grace = duration::parse(text).map_err(|message| format!("{FIELD}.{name}: {message}"))?;
        Ok((signal(FIELD, name)?, grace))
    };
    map.iter().map(read).collect()
}

fn signal(field: &str, name: &str) -> Result<Signal, String> {
    Signal::named(name).ok_or_else(|| {
        let all: Vec<_> = Signal::ALL.into_iter().map(Signal::as_str).collect();
        format!("{field}.{name}: there is no such signal; there are {}", all.join(", "))
    })
}

/// Reads a quantity or a percentage; `0%` and `100%` are how upstream's users switch a threshold off.
fn value(text: &str) -> Result<Option<ThresholdValue>, String> {
    let refusal =
        || format!("{text:?} is neither a quantity such as \"100Mi\" nor a percentage such as \"10%\"");
    let Some(percent) = text.strip_suffix('%') else {
        return quantity::units(text)
            .map(|amount| Some(ThresholdValue::Quantity(amount)))
            .map_err(|_| refusal());
    };
    // In hundredths of a percent, so that whole numbers do; finer was never meant.
    let digits = percent.chars().all(|c| c.is_ascii_digit() || c == '.');
    let hundredths = quantity::units(&format!("{percent}e2")).ok().filter(|_| digits);
    match hundredths.and_then(|hundredths| u32::try_from(hundredths).ok()) {
        Some(0 | 10_000) => Ok(None),
        Some(hundredths @ ..10_000) => Ok(Some(ThresholdValue::Share(hundredths))),
        Some(_) | None => Err(refusal()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn defaults_are_upstreams() {
        let all = thresholds(&KubeletConfiguration::default()).unwrap();
        let shown: Vec<_> = all.iter().map(|t| (t.signal.as_str(), t.value.of(1000), t.soft)).collect();
        assert_eq!(
            shown,
            [
                ("memory.available", 100 << 20, None),
                ("allocatableMemory.available", 100 << 20, None),
                ("nodefs.available", 100, None),
                ("nodefs.inodesFree", 50, None),
                ("imagefs.available", 150, None),
                ("imagefs.inodesFree", 50, None),
            ]
        );
    }

    #[test]
    fn soft_ones_have_their_grace_and_all_their_minimum() {
        let config = KubeletConfiguration {
            eviction_hard: map(&[("nodefs.available", "1Gi"), ("imagefs.available", "0%")]),
            eviction_soft: map(&[("nodefs.available", "12.5%")]),
            eviction_soft_grace_period: map(&[("nodefs.available", "1m30s")]),
            eviction_minimum_reclaim: map(&[("nodefs.available", "5%"), ("imagefs.available", "0")]),
            ..KubeletConfiguration::default()
        };
        let minimum_reclaim = Some(ThresholdValue::Share(500));
        let signal = Signal::NodefsAvailable;
        assert_eq!(
            thresholds(&config).unwrap(),
            [
                Threshold { signal, value: ThresholdValue::Quantity(1 << 30), soft: None, minimum_reclaim },
                Threshold {
                    signal,
                    value: ThresholdValue::Share(1250),
                    soft: Some(Duration::from_secs(90)),
                    minimum_reclaim
                },
            ]
        );
        assert_eq!(hard(&config, Signal::NodefsAvailable), Some(ThresholdValue::Quantity(1 << 30)));
        assert_eq!(hard(&config, Signal::ImagefsAvailable), None, "it is switched off");
    }

    /// What holds for the machine's memory holds for what pods may have of it, unless nobody enforces that.
    #[test]
    fn memory_of_pods_has_the_threshold_of_memory() {
        let of = |words: &[&str], hard: &[(&str, &str)]| {
            let config = KubeletConfiguration {
                enforce_node_allocatable: words.iter().map(|word| (*word).to_owned()).collect(),
                eviction_hard: map(hard),
                eviction_minimum_reclaim: map(&[("memory.available", "7")]),
                ..KubeletConfiguration::default()
            };
            let shown = |t: Threshold| {
                (t.signal.as_str(), t.value.of(1000), t.minimum_reclaim.map_or(0, |value| value.of(1000)))
            };
            thresholds(&config).unwrap().into_iter().map(shown).collect::<Vec<_>>()
        };
        let (memory, pods) = ("memory.available", "allocatableMemory.available");
        assert_eq!(of(&["pods"], &[(memory, "50")]), [(memory, 50, 7), (pods, 50, 7)]);
        assert_eq!(of(&["none"], &[(memory, "50")]), [(memory, 50, 7)]);
        assert_eq!(of(&["none"], &[(pods, "10%")]), [(pods, 100, 0)]);
        assert_eq!(
            of(&["pods"], &[(memory, "50"), (pods, "10%")]),
            [(memory, 50, 7), (pods, 100, 0), (pods, 50, 7)]
        );
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        type Change = fn(&mut KubeletConfiguration);
        let table: [(Change, &str); 7] = [
            (
                |c| c.eviction_hard = map(&[("disk.available", "1Gi")]),
                "evictionHard.disk.available: there is no such",
            ),
            (
                |c| c.eviction_hard = map(&[("nodefs.available", "110%")]),
                "evictionHard.nodefs.available: \"110%\"",
            ),
            (
                |c| c.eviction_hard = map(&[("nodefs.available", "0")]),
                "evictionHard.nodefs.available must be above",
            ),
            (
                |c| c.eviction_soft = map(&[("nodefs.available", "1Gi")]),
                "set evictionSoftGracePeriod.nodefs.available",
            ),
            (
                |c| c.eviction_soft_grace_period = map(&[("x", "1m")]),
                "evictionSoftGracePeriod.x: there is no such",
            ),
            (
                |c| c.eviction_soft_grace_period = map(&[("nodefs.available", "1")]),
                "evictionSoftGracePeriod.nodefs",
            ),
            (
                |c| c.eviction_minimum_reclaim = map(&[("nodefs.available", "-1")]),
                "evictionMinimumReclaim.nodefs",
            ),
        ];
        for (change, expected) in table {
            let mut config = KubeletConfiguration::default();
            change(&mut config);
            let message = thresholds(&config).unwrap_err();
            assert!(message.contains(expected), "{expected}: {message}");
        }
    }
}
