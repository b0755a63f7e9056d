//! Probes: when the next one is due, and what a run of results means.
//!
//! Only thresholds and times are kept here; what a probe does is up to the pod task, which hands each
//! result to [`Probes::record`].

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    clock::Moment,
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
    #[serde(skip)]
    tally: Tally,
}

/// What changes with each run of a probe. It is no part of the record: that would be written anew for each
/// probe of each container. An agent that starts anew counts afresh, as a kubelet does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    /// The newest result.
    last: bool,
    /// How many times in a row it came.
    run: u32,
    /// When the last one was begun.
    begun: Option<Moment>,
    /// One is under way.
    in_flight: bool,
}

/// Whether a probe is to be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Now.
    Now,
    /// At that time.
    At(Moment),
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
    /// that; while the container is being stopped only readiness goes on. The container runs `since` then.
    #[must_use]
    pub fn due(
        &self,
        kind: ProbeKind,
        container: &Container,
        since: Moment,
        stopping: bool,
        now: Moment,
    ) -> Due {
        let Some(probe) = kind.of(container) else { return Due::No };
        let results = self.results(kind);
        let waits = match kind {
            ProbeKind::Startup => results.verdict.is_some() || stopping,
            ProbeKind::Readiness => !self.started(container),
            ProbeKind::Liveness => !self.started(container) || results.verdict == Some(false) || stopping,
        };
        if results.tally.in_flight || waits {
            return Due::No;
        }
        let at = match results.tally.begun {
            Some(begun) => begun.after(probe.period),
            None => since.after(probe.initial_delay),
        };
        if at <= now { Due::Now } else { Due::At(at) }
    }

    /// Notes that the probe is run.
    pub fn begin(&mut self, kind: ProbeKind, now: Moment) {
        let tally = &mut self.results_mut(kind).tally;
        tally.begun = Some(now);
        tally.in_flight = true;
    }

    /// Takes in a result. True when it changed what the probe says of the container.
    pub fn record(&mut self, kind: ProbeKind, container: &Container, success: bool) -> bool {
        let Some(probe) = kind.of(container) else { return false };
        let results = self.results_mut(kind);
        let tally = &mut results.tally;
        tally.in_flight = false;
        tally.run = if tally.last == success { tally.run.saturating_add(1) } else { 1 };
        tally.last = success;
        let threshold = if success { probe.success_threshold } else { probe.failure_threshold };
        if tally.run < threshold.max(1) || results.verdict == Some(success) {
            return false;
        }
        results.verdict = Some(success);
        true
    }

    /// Notes that a probe could not be carried out, which counts neither way.
    pub fn give_up(&mut self, kind: ProbeKind) {
        self.results_mut(kind).tally.in_flight = false;
    }

    /// Forgets what is not remembered over a restart of the agent.
    pub(super) fn forget_tallies(&mut self) {
        for kind in ProbeKind::ALL {
            self.results_mut(kind).tally = Tally::default();
        }
    }

    /// Nobody runs the probes that were under way any more. Each goes on in the rhythm that its container's start
    /// gave it, so that an agent that starts anew does not run all of them at once, and makes up for nothing. (A
    /// kubelet draws lots for the same purpose.) One that has not come to a verdict yet is not put off.
    pub(super) fn interrupted(&mut self, container: Option<&Container>, since: Moment, now: Moment) {
        for kind in ProbeKind::ALL {
            let results = self.results_mut(kind);
            results.tally = Tally::default();
            let Some(probe) = container.and_then(|c| kind.of(c)) else { continue };
            let first = since.after(probe.initial_delay);
            if results.verdict.is_some() && first <= now {
                let into_period = now.since(first).as_nanos().checked_rem(probe.period.as_nanos());
                let into_period = u64::try_from(into_period.unwrap_or(0)).unwrap_or(0);
                results.tally.begun = Some(now.before(Duration::from_nanos(into_period)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::lifecycle::spec::{ContainerKind, Restart, RestartPolicy};

    fn at(second: u64) -> Moment {
        Moment::default().after(Duration::from_secs(1_700_000_000 + second))
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
            kind: ContainerKind::Regular,
            resources: Default::default(),
            restarts_for: Default::default(),
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
    fn a_restart_of_the_agent_keeps_the_verdict_and_a_rhythm() {
        let mut container = container();
        container.startup = None;
        // Its container was started at 2, so that it was run at 7, 17, 27, …
        for (back_at, due) in
            [(8, Due::At(at(17))), (17, Due::At(at(27))), (44, Due::At(at(47))), (6, Due::At(at(7)))]
        {
            let mut probes = Probes::default();
            probes.begin(ProbeKind::Liveness, at(7));
            probes.record(ProbeKind::Liveness, &container, true);
            probes.interrupted(Some(&container), at(2), at(back_at));
            let found = probes.due(ProbeKind::Liveness, &container, at(2), false, at(back_at));
            assert_eq!(found, due, "{back_at}");
            let found = probes.due(ProbeKind::Readiness, &container, at(2), false, at(back_at));
            let due = if back_at < 7 { Due::At(at(7)) } else { Due::Now };
            assert_eq!(found, due, "{back_at}: not ready yet, and not put off");
        }
    }

    #[test]
    fn runs_without_another_verdict_are_not_remembered() {
        let mut container = container();
        container.startup = None;
        let mut probes = Probes::default();
        probes.record(ProbeKind::Liveness, &container, true);
        let remembered = serde_json::to_value(&probes).unwrap();
        probes.begin(ProbeKind::Liveness, at(17));
        probes.record(ProbeKind::Liveness, &container, false);
        probes.begin(ProbeKind::Readiness, at(27));
        assert_eq!(serde_json::to_value(&probes).unwrap(), remembered);
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
