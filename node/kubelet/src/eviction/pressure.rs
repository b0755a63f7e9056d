//! Which thresholds are crossed, and for how long: what the node tells of, and what it has to act on. Pure, after
//! `synchronize` of upstream's `pkg/kubelet/eviction/eviction_manager.go`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::signal::{PressureCondition, Resource, condition, resource};
use crate::config::thresholds::{Signal, Threshold};

/// How much is left of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observation {
    /// Bytes or inodes that are free.
    pub(crate) available: u64,
    /// Bytes or inodes that there are in all.
    pub(crate) capacity: u64,
}

/// What was observed at one moment. What cannot be observed, or is not counted, is missing.
pub(crate) type Observations = BTreeMap<Signal, Observation>;

/// Of what the node runs short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Condition `MemoryPressure`.
    pub memory: bool,
    /// Condition `DiskPressure`.
    pub disk: bool,
}

impl Pressure {
    /// The conditions as messages list them: `[DiskPressure]`; `None` without any.
    #[must_use]
    pub fn told(self) -> Option<String> {
        let names: Vec<_> = [(self.memory, "MemoryPressure"), (self.disk, "DiskPressure")]
            .into_iter()
            .filter_map(|(is_set, name)| is_set.then_some(name))
            .collect();
        (!names.is_empty()).then(|| format!("[{}]", names.join(" ")))
    }
}

/// Follows the thresholds of a configuration.
#[derive(Debug)]
pub(crate) struct PressureTracker {
    thresholds: Vec<Threshold>,
    /// How long a condition lasts after it was last seen.
    transition: Duration,
    /// Since when each threshold is crossed, by its index.
    since: BTreeMap<usize, Instant>,
    /// Thresholds whose grace is over and that are not resolved yet.
    met: BTreeSet<usize>,
    seen: BTreeMap<PressureCondition, Instant>,
}

impl PressureTracker {
    pub(crate) fn new(thresholds: Vec<Threshold>, transition: Duration) -> Self {
        Self { thresholds, transition, since: BTreeMap::new(), met: BTreeSet::new(), seen: BTreeMap::new() }
    }

    /// Takes in what was observed; returns what is to be told of, and the thresholds to act on, the first one first.
    pub(crate) fn observe(&mut self, seen: &Observations, now: Instant) -> (Pressure, Vec<Threshold>) {
        let crossed: BTreeSet<usize> = (0..self.thresholds.len())
            .filter(|index| {
                let Some(threshold) = self.thresholds.get(*index) else { return false };
                is_crossed(threshold, seen, false)
                    || (self.met.contains(index) && is_crossed(threshold, seen, true))
            })
            .collect();
        self.since.retain(|index, _| crossed.contains(index));
        for index in &crossed {
            self.since.entry(*index).or_insert(now);
        }
        let signals = crossed.iter().filter_map(|index| self.thresholds.get(*index));
        for condition in signals.filter_map(|threshold| condition(threshold.signal)) {
            self.seen.insert(condition, now);
        }
        let transition = self.transition;
        self.seen.retain(|_, last| now.saturating_duration_since(*last) < transition || *last == now);
        let lasted = |index: &usize| {
            let grace = self.thresholds.get(*index).and_then(|threshold| threshold.soft).unwrap_or_default();
            self.since.get(index).is_some_and(|since| now.saturating_duration_since(*since) >= grace)
        };
        self.met = crossed.into_iter().filter(lasted).collect();
        let mut met: Vec<Threshold> =
            self.met.iter().filter_map(|index| self.thresholds.get(*index).copied()).collect();
        // Memory before all else, be its threshold a soft one.
        met.sort_by_key(|threshold| resource(threshold.signal) != Some(Resource::Memory));
        let pressure = Pressure {
            memory: self.seen.contains_key(&PressureCondition::Memory),
            disk: self.seen.contains_key(&PressureCondition::Disk),
        };
        (pressure, met)
    }

    /// Whether one of the thresholds is about this.
    pub(crate) fn asks_for(&self, signal: Signal) -> bool {
        self.thresholds.iter().any(|threshold| threshold.signal == signal)
    }

    /// When something changes without a new observation: a grace or a condition is over.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let graces = self.since.iter().filter(|(index, _)| !self.met.contains(index));
        let graces = graces.filter_map(|(index, since)| Some(*since + self.thresholds.get(*index)?.soft?));
        let conditions = self.seen.values().map(|last| *last + self.transition);
        graces.chain(conditions).min()
    }

    /// The least room above any threshold that pods are evicted for: in bytes, of memory or of a disk, and in inodes.
    /// `None` where nothing is observed.
    pub(crate) fn headroom(&self, seen: &Observations) -> (Option<u64>, Option<u64>) {
        let room = |of: Resource| {
            let thresholds = self.thresholds.iter().filter(|t| resource(t.signal) == Some(of));
            let rooms = thresholds.filter_map(|threshold| {
                let observed = seen.get(&threshold.signal)?;
                Some(observed.available.saturating_sub(threshold.value.of(observed.capacity)))
            });
            rooms.min()
        };
        let bytes = [room(Resource::Memory), room(Resource::EphemeralStorage)];
        (bytes.into_iter().flatten().min(), room(Resource::Inodes))
    }
}

/// Whether less is left than a threshold wants; once it was met, its minimum to reclaim comes on top.
pub(crate) fn is_crossed(threshold: &Threshold, seen: &Observations, once_met: bool) -> bool {
    let Some(Observation { available, capacity }) = seen.get(&threshold.signal).copied() else {
        return false;
    };
    let reclaim = threshold.minimum_reclaim.filter(|_| once_met).map_or(0, |value| value.of(capacity));
    available < threshold.value.of(capacity).saturating_add(reclaim)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::thresholds::ThresholdValue;

    const TRANSITION: Duration = Duration::from_secs(300);

    fn hard(signal: Signal, percent: u32) -> Threshold {
        let value = ThresholdValue::Share(percent * 100);
        Threshold { signal, value, soft: None, minimum_reclaim: None }
    }

    fn left(percent: u64) -> Observations {
        Observations::from([(Signal::NodefsAvailable, Observation { available: percent, capacity: 100 })])
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn pressure_is_less_than_the_threshold_and_is_told_of_for_a_while() {
        let threshold = hard(Signal::NodefsAvailable, 10);
        let mut tracker = PressureTracker::new(vec![threshold], TRANSITION);
        let start = Instant::now();
        let disk = Pressure { disk: true, memory: false };
        for (second, available, expected, due) in [
            (0, 10, Pressure::default(), 0),
            (1, 9, disk, 1),
            (2, 50, disk, 0),
            (300, 50, disk, 0),
            (301, 50, Pressure::default(), 0),
        ] {
            let (pressure, met) = tracker.observe(&left(available), after(start, second));
            assert_eq!((pressure, met.len()), (expected, due), "{second}");
        }
    }

    #[test]
    fn a_soft_threshold_is_told_of_at_once_and_acted_on_after_its_grace() {
        let grace = Duration::from_secs(60);
        let threshold = Threshold { soft: Some(grace), ..hard(Signal::NodefsAvailable, 10) };
        let mut tracker = PressureTracker::new(vec![threshold], TRANSITION);
        let start = Instant::now();
        let due = |tracker: &mut PressureTracker, second, available| {
            let (pressure, met) = tracker.observe(&left(available), after(start, second));
            (pressure.disk, met.len())
        };
        assert_eq!(due(&mut tracker, 0, 5), (true, 0));
        assert_eq!(tracker.deadline(), Some(after(start, 60)));
        assert_eq!(due(&mut tracker, 59, 5), (true, 0));
        assert_eq!(due(&mut tracker, 59, 20), (true, 0), "the grace begins anew");
        assert_eq!(due(&mut tracker, 61, 5), (true, 0));
        assert_eq!(due(&mut tracker, 121, 5), (true, 1));
    }

    #[test]
    fn reclaiming_ends_with_the_minimum_on_top() {
        let minimum_reclaim = Some(ThresholdValue::Share(500));
        let threshold = Threshold { minimum_reclaim, ..hard(Signal::NodefsAvailable, 10) };
        let mut tracker = PressureTracker::new(vec![threshold], TRANSITION);
        let now = Instant::now();
        for (available, due) in [(12, 0), (9, 1), (12, 1), (15, 0), (12, 0)] {
            assert_eq!(tracker.observe(&left(available), now).1.len(), due, "{available}");
        }
    }

    #[test]
    fn memory_goes_before_the_disk_and_each_has_its_condition() {
        let soft = Threshold { soft: Some(Duration::ZERO), ..hard(Signal::MemoryAvailable, 20) };
        let mut tracker = PressureTracker::new(vec![hard(Signal::NodefsAvailable, 10), soft], TRANSITION);
        let mut seen = left(5);
        seen.insert(Signal::MemoryAvailable, Observation { available: 15, capacity: 100 });
        let (pressure, met) = tracker.observe(&seen, Instant::now());
        assert_eq!(pressure, Pressure { memory: true, disk: true });
        let signals: Vec<_> = met.iter().map(|threshold| threshold.signal).collect();
        assert_eq!(signals, [Signal::MemoryAvailable, Signal::NodefsAvailable]);
        assert_eq!(pressure.told().as_deref(), Some("[MemoryPressure DiskPressure]"));
    }

    #[test]
    fn what_is_not_observed_is_no_pressure() {
        let mut tracker = PressureTracker::new(vec![hard(Signal::ImagefsInodesFree, 5)], TRANSITION);
        assert_eq!(tracker.observe(&left(0), Instant::now()), (Pressure::default(), Vec::new()));
        assert_eq!(tracker.headroom(&left(0)), (None, None));
    }

    #[test]
    fn the_room_is_that_above_the_nearest_threshold() {
        let thresholds = vec![hard(Signal::NodefsAvailable, 10), hard(Signal::ImagefsAvailable, 15)];
        let tracker = PressureTracker::new(thresholds, TRANSITION);
        let mut seen = left(40);
        assert_eq!(tracker.headroom(&seen), (Some(30), None));
        seen.insert(Signal::ImagefsAvailable, Observation { available: 16, capacity: 100 });
        assert_eq!(tracker.headroom(&seen), (Some(1), None));
        let tracker = PressureTracker::new(vec![hard(Signal::MemoryAvailable, 10)], TRANSITION);
        seen.insert(Signal::MemoryAvailable, Observation { available: 17, capacity: 100 });
        assert_eq!(tracker.headroom(&seen), (Some(7), None));
    }

    proptest! {
        /// Whatever is seen: what is acted on is told of, and pressure that was told of lasts its time.
        #[test]
        fn what_is_acted_on_is_told_of(steps in prop::collection::vec((0..100_u64, 0..400_u64), 1..60)) {
            let soft = Threshold { soft: Some(Duration::from_secs(30)), ..hard(Signal::NodefsAvailable, 20) };
            let mut tracker = PressureTracker::new(vec![hard(Signal::NodefsAvailable, 10), soft], TRANSITION);
            let mut now = Instant::now();
            let mut told_until = now;
            for (available, seconds) in steps {
                now = after(now, seconds);
                let (pressure, met) = tracker.observe(&left(available), now);
                prop_assert!(met.is_empty() || pressure.disk);
                if available < 20 {
                    told_until = now + TRANSITION;
                }
                prop_assert_eq!(pressure.disk, available < 20 || now < told_until);
                prop_assert_eq!(met.iter().any(|t| t.soft.is_none()), available < 10);
            }
        }
    }
}
