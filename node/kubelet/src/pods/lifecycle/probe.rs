//! Probes: when the next one is due, and what a run of results means.
//!
//! Only thresholds and times are kept here; what a probe does is up to the pod task, which hands each
//! result to [`Probes::record`].

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    backoff::after,
    spec::{Container, Probe},
};

/// The three kinds of probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// Holds back the other two until it has succeeded once.
    Startup,
    /// Decides whether the container takes traffic.
    Readiness,
    /// Restarts the container when it fails.
    Liveness,
}

impl ProbeKind {
    /// All of them, the startup probe first.
    pub const ALL: [Self; 3] = [Self::Startup, Self::Readiness, Self::Liveness];

    /// The name as events spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }

    /// The container's probe of this kind.
    #[must_use]
    pub fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Self::Startup => container.startup.as_ref(),
            Self::Readiness => container.readiness.as_ref(),
            Self::Liveness => container.liveness.as_ref(),
        }
    }
}

/// Results of the probes of one running container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probes {
    startup: Results,
    readiness: Results,
    liveness: Results,
}

/// Results of one probe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Results {
    /// The verdict after enough results of one kind in a row; `None` before.
    verdict: Option<bool>,
    /// The newest result.
    last: bool,
    /// How many times in a row it came.
    run: u32,
    /// When the last one was begun.
    begun: Option<Timestamp>,
    /// One is under way.
    in_flight: bool,
}

/// Whether a probe is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Now.
    Now,
    /// At that time.
    At(Timestamp),
    /// Not before something else has happened.
    No,
}

impl Probes {
    fn results(&self, kind: ProbeKind) -> &Results {
        match kind {
            ProbeKind::Startup => &self.startup,
            ProbeKind::Readiness => &self.readiness,
            ProbeKind::Liveness => &self.liveness,
        }
    }

    fn results_mut(&mut self, kind: ProbeKind) -> &mut Results {
        match kind {
            ProbeKind::Startup => &mut self.startup,
            ProbeKind::Readiness => &mut self.readiness,
            ProbeKind::Liveness => &mut self.liveness,
        }
    }

    /// The startup probe has succeeded, or there is none.
    #[must_use]
    pub fn started(&self, container: &Container) -> bool {
        container.startup.is_none() || self.startup.verdict == Some(true)
    }

    /// The readiness probe says so, or there is none.
    #[must_use]
    pub fn ready(&self, container: &Container) -> bool {
        self.started(container) && (container.readiness.is_none() || self.readiness.verdict == Some(true))
    }

    /// The probe that asks for the container to be restarted.
    #[must_use]
    pub fn failed(&self, container: &Container) -> Option<ProbeKind> {
        [ProbeKind::Startup, ProbeKind::Liveness]
            .into_iter()
            .find(|kind| kind.of(container).is_some() && self.results(*kind).verdict == Some(false))
    }

    /// Whether the probe is to be run. The startup probe runs until it has succeeded, the others after
    /// that; while the container is being stopped only readiness goes on.
    #[must_use]
    pub fn due(
        &self,
        kind: ProbeKind,
        container: &Container,
        started_at: Timestamp,
        stopping: bool,
        now: Timestamp,
    ) -> Due {
        let Some(probe) = kind.of(container) else { return Due::No };
        let results = self.results(kind);
        let waits = match kind {
            ProbeKind::Startup => results.verdict.is_some() || stopping,
            ProbeKind::Readiness => !self.started(container),
            ProbeKind::Liveness => !self.started(container) || results.verdict == Some(false) || stopping,
        };
        if results.in_flight || waits {
            return Due::No;
        }
        let at = match results.begun {
            Some(begun) => after(begun, probe.period),
            None => after(started_at, probe.initial_delay),
        };
        if at <= now { Due::Now } else { Due::At(at) }
    }

    /// Notes that the probe is run.
    pub fn begin(&mut self, kind: ProbeKind, now: Timestamp) {
        let results = self.results_mut(kind);
        results.begun = Some(now);
        results.in_flight = true;
    }

    /// Takes in a result. True when it changed what the probe says of the container.
    pub fn record(&mut self, kind: ProbeKind, container: &Container, success: bool) -> bool {
        let Some(probe) = kind.of(container) else { return false };
        let results = self.results_mut(kind);
        results.in_flight = false;
        results.run = if results.last == success { results.run.saturating_add(1) } else { 1 };
        results.last = success;
        let threshold = if success { probe.success_threshold } else { probe.failure_threshold };
        if results.run < threshold.max(1) || results.verdict == Some(success) {
            return false;
        }
        results.verdict = Some(success);
        true
    }

    /// Notes that a probe could not be carried out, which counts neither way.
    pub fn give_up(&mut self, kind: ProbeKind) {
        self.results_mut(kind).in_flight = false;
    }

    /// Nobody runs the probes that were under way any more. What was missed meanwhile is not made up for: each
    /// probe goes on in its old rhythm, so that an agent that starts anew does not run all of them at once. (A
    /// kubelet draws lots for the same purpose, because it has forgotten the rhythm.)
    pub(super) fn interrupted(&mut self, container: Option<&Container>, now: Timestamp) {
        for kind in ProbeKind::ALL {
            let results = self.results_mut(kind);
            results.in_flight = false;
            let period = container.and_then(|c| kind.of(c)).map(|probe| probe.period);
            if let (Some(begun), Some(period)) = (results.begun, period) {
                let away = Duration::try_from(now.duration_since(begun)).unwrap_or(Duration::ZERO);
                let missed = away.as_nanos().checked_div(period.as_nanos()).unwrap_or(0);
                let missed = u32::try_from(missed).unwrap_or(u32::MAX);
                results.begun = Some(after(begun, period.saturating_mul(missed)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::lifecycle::spec::{Kind, Restart, RestartPolicy};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn probe(success_threshold: u32, failure_threshold: u32) -> Probe {
        Probe {
            initial_delay: Duration::from_secs(5),
            period: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            success_threshold,
            failure_threshold,
            grace: None,
        }
    }

    fn container() -> Container {
        Container {
            name: "c".into(),
            image: "i".into(),
            kind: Kind::Regular,
            restart: Restart { rules: vec![], policy: RestartPolicy::Always },
            post_start: false,
            pre_stop: false,
            startup: Some(probe(1, 3)),
            readiness: Some(probe(2, 3)),
            liveness: Some(probe(1, 3)),
        }
    }

    #[test]
    fn startup_holds_back_the_others() {
        let container = container();
        let mut probes = Probes::default();
        assert_eq!(probes.due(ProbeKind::Startup, &container, at(0), false, at(0)), Due::At(at(5)));
        assert_eq!(probes.due(ProbeKind::Startup, &container, at(0), false, at(5)), Due::Now);
        assert_eq!(probes.due(ProbeKind::Readiness, &container, at(0), false, at(9)), Due::No);
        probes.begin(ProbeKind::Startup, at(5));
        assert_eq!(probes.due(ProbeKind::Startup, &container, at(0), false, at(30)), Due::No);
        assert!(probes.record(ProbeKind::Startup, &container, true));
        assert!(probes.started(&container));
        assert_eq!(probes.due(ProbeKind::Startup, &container, at(0), false, at(30)), Due::No);
        assert_eq!(probes.due(ProbeKind::Readiness, &container, at(0), false, at(9)), Due::Now);
        assert_eq!(probes.due(ProbeKind::Liveness, &container, at(0), false, at(9)), Due::Now);
    }

    #[test]
    fn a_probe_that_was_not_carried_out_breaks_no_row() {
        let mut container = container();
        container.startup = None;
        let mut probes = Probes::default();
        probes.begin(ProbeKind::Readiness, at(5));
        assert!(!probes.record(ProbeKind::Readiness, &container, true));
        probes.begin(ProbeKind::Readiness, at(15));
        probes.give_up(ProbeKind::Readiness);
        assert_eq!(probes.due(ProbeKind::Readiness, &container, at(0), false, at(20)), Due::At(at(25)));
        assert!(probes.record(ProbeKind::Readiness, &container, true));
        assert!(probes.ready(&container));
    }

    #[test]
    fn a_restart_of_the_agent_keeps_the_rhythm() {
        let mut container = container();
        container.startup = None;
        // Begun at 7 and due every 10 s: at 17, 27, …
        for (back_at, due) in
            [(8, Due::At(at(17))), (17, Due::At(at(27))), (44, Due::At(at(47))), (6, Due::At(at(17)))]
        {
            let mut probes = Probes::default();
            probes.begin(ProbeKind::Readiness, at(7));
            probes.interrupted(Some(&container), at(back_at));
            assert_eq!(
                probes.due(ProbeKind::Readiness, &container, at(0), false, at(back_at)),
                due,
                "{back_at}"
            );
        }
    }

    #[test]
    fn readiness_needs_its_thresholds_in_a_row() {
        let mut container = container();
        container.startup = None;
        let mut probes = Probes::default();
        let mut seen = Vec::new();
        for success in [true, false, true, true, false, false, true, false, false, false, true, true] {
            probes.record(ProbeKind::Readiness, &container, success);
            seen.push(probes.ready(&container));
        }
        let expected = [false, false, false, true, true, true, true, true, true, false, false, true];
        assert_eq!(seen, expected);
    }

    #[test]
    fn liveness_fails_for_good_and_stops_with_the_container() {
        let mut container = container();
        container.startup = None;
        let mut probes = Probes::default();
        for _ in 0..2 {
            assert!(!probes.record(ProbeKind::Liveness, &container, false));
        }
        assert_eq!(probes.failed(&container), None);
        assert!(probes.record(ProbeKind::Liveness, &container, false));
        assert_eq!(probes.failed(&container), Some(ProbeKind::Liveness));
        assert_eq!(probes.due(ProbeKind::Liveness, &container, at(0), false, at(99)), Due::No);
        assert_eq!(probes.due(ProbeKind::Readiness, &container, at(0), true, at(99)), Due::Now);
    }
}
