//! What holds for every pod at every moment, whatever happens to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Pod, PodCondition, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    super::{
        Action, LifecycleLimits, Moment, Now, PodState, ProbeKind, Running, Stage, Step, spec::ContainerKind,
        spec::Spec, step,
    },
    world::name,
};
use crate::pods::{
    reason::EventReason,
    status::{self, StatusContext},
};

/// An attempt that has ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) name: String,
    pub(super) round: u32,
    pub(super) code: i32,
    at: Moment,
}

/// The delay before restarts, by the rule as it is told to users: none before the first one, then 10 s,
/// and twice as long each time; forgotten after a long run.
#[derive(Clone, Copy, Debug)]
struct Delay {
    next: Duration,
    restarted: Moment,
}

/// Remembers what the invariants need to know of the past.
#[derive(Debug, Default)]
pub(super) struct Checks {
    pub(super) ended: Vec<Ended>,
    /// A terminal status that was published.
    terminal: Option<PodStatus>,
    conditions: Vec<PodCondition>,
    restarts: BTreeMap<String, i32>,
    /// The newest attempt of each container that was really started, and its round.
    attempts: BTreeMap<String, (u32, u32)>,
    /// Sidecars that have been started once, by round.
    started: BTreeSet<(String, u32)>,
    /// What the provider was told last of the end of an attempt.
    told: BTreeMap<(String, u32), Moment>,
    /// Attempts whose preStop hook was begun.
    pre_stops: BTreeSet<(String, u32)>,
    /// When each probe of an attempt was run last.
    probed: BTreeMap<(String, u32, ProbeKind), Moment>,
    /// Container ids that were published, by name and restart count.
    ids: BTreeMap<(String, i32), String>,
    start_time: Option<Time>,
    overdue: bool,
    delays: BTreeMap<String, Delay>,
    /// Exits that a restart has answered, and the image then.
    answered: BTreeMap<String, (usize, String)>,
}

impl Checks {
    /// The status as the task would compute it.
    pub(super) fn status(&self, spec: &Spec, state: &PodState, now: Timestamp) -> PodStatus {
        let context = StatusContext { host_ips: &[], runtime: "wasm", previous: &self.conditions };
        status::of(&Pod::default(), &name(), spec, state, context, now)
    }

    /// A container was really started.
    pub(super) fn started<'a>(
        &mut self,
        name: &str,
        attempt: u32,
        round: u32,
        running: impl Iterator<Item = &'a (String, u32)>,
    ) {
        let others: Vec<_> = running.filter(|(other, _)| other == name).collect();
        assert!(others.is_empty(), "{name}#{attempt} begins beside {others:?}");
        let before = self.attempts.insert(name.to_owned(), (attempt, round));
        assert!(before.is_none_or(|(before, _)| before < attempt), "{name}#{attempt} after #{before:?}");
    }

    pub(super) fn ended(&mut self, name: &str, code: i32, at: Moment) {
        let round = self.attempts.get(name).map_or(0, |(_, round)| *round);
        self.ended.push(Ended { name: name.to_owned(), round, code, at });
    }

    /// The next agent knows nothing of the rhythm of probes, and of what was done `unsaved`: that may be done once
    /// more.
    pub(super) fn agent_restarted(&mut self, unsaved: bool) {
        self.probed.clear();
        if unsaved {
            self.told.clear();
            self.pre_stops.clear();
            self.overdue = false;
        }
    }

    /// Nobody can tell any more how long a restart has to wait, and what is left of a grace.
    pub(super) fn forget_times(&mut self) {
        self.delays.clear();
        self.told.clear();
    }

    /// The newest end of a container.
    pub(super) fn last(&self, name: &str) -> Option<&Ended> {
        self.ended.iter().rev().find(|ended| ended.name == name)
    }

    /// A second look at the same moment finds nothing to do, and the next one is in the future.
    pub(super) fn is_settled(
        &self,
        spec: &Spec,
        state: &PodState,
        limits: LifecycleLimits,
        now: Now,
        first: &Step,
    ) {
        assert!(first.wake_at.is_none_or(|at| at > now.steady), "a busy loop: {first:?}");
        let mut again = state.clone();
        let second = step(&name(), spec, &mut again, limits, now);
        assert_eq!(second.actions, [], "asked for once more after {first:?}");
        assert_eq!((second.wake_at, &again), (first.wake_at, state), "not settled after {first:?}");
    }

    /// An action is about to be carried out, when the agent's clocks show `now.0`. `running` are the containers that
    /// really run.
    pub(super) fn action(
        &mut self,
        spec: &Spec,
        state: &PodState,
        limits: LifecycleLimits,
        (clocks, now): (Now, Moment),
        running: &[String],
        action: &Action,
    ) {
        match action {
            Action::Pull { container, image } => {
                assert!(state.ending.is_none(), "{action:?} of a pod that ends");
                self.is_its_turn(spec, state, container);
                self.has_waited(container, image, limits.crash_backoff_max, now);
            }
            Action::Start { container, .. } => {
                assert!(state.ending.is_none(), "{action:?} of a pod that ends");
                assert!(!running.contains(container), "{action:?} while it runs");
                self.is_its_turn(spec, state, container);
            }
            Action::PostStart { container } => {
                assert!(state.ending.is_none(), "{action:?} of a pod that ends");
                let stop = state.containers.get(container).and_then(|r| r.running()).map(|r| &r.stop);
                assert_eq!(stop, Some(&None), "{action:?} of a container that is stopped");
            }
            Action::PreStop { container, within } => {
                let record = state.containers.get(container).unwrap();
                let attempt = record.newest_attempt();
                let stop = record.running().and_then(|running| running.stop.as_ref());
                assert!(stop.is_some(), "{action:?} of a container that is not stopped");
                assert!(!within.is_zero(), "{action:?}");
                assert!(
                    self.pre_stops.insert((container.clone(), attempt)),
                    "{action:?} for the second time"
                );
            }
            Action::Stop { container, attempt, grace } => {
                let deadline = now.after(*grace);
                let before = self.told.insert((container.clone(), *attempt), deadline);
                let least = now.after(Duration::from_secs(2));
                assert!(deadline >= least, "{action:?} leaves less than two seconds");
                assert!(
                    before.is_none_or(|before| deadline <= before.max(least)),
                    "{action:?} is longer than before"
                );
                if state.ending.is_some() {
                    in_order(spec, state, container, clocks.steady, running);
                }
            }
            Action::Resize { container, attempt, .. } => {
                let record = state.containers.get(container).unwrap();
                assert_eq!(record.newest_attempt(), *attempt);
                let stop = record.running().map(|running| &running.stop);
                assert_eq!(stop, Some(&None), "{action:?} of a container that is stopped");
            }
            Action::Probe { container, kind } => {
                let (attempt, running) = up(state, container);
                let goes_on = state.ending.is_none() && running.stop.is_none();
                assert!(goes_on || *kind == ProbeKind::Readiness, "{action:?} of what is stopped");
                let container = spec.container(container).unwrap();
                let started = running.probes.started(container);
                assert_eq!(started, *kind != ProbeKind::Startup, "{action:?} before or after its time");
                let probe = kind.of(container).unwrap();
                let is_due = match self.probed.insert((container.name.clone(), attempt, *kind), now) {
                    Some(before) => before.after(probe.period) <= now,
                    None => running.since.after(probe.initial_delay) <= clocks.steady,
                };
                assert!(is_due, "{action:?} comes too soon");
            }
            Action::Event(note) if note.reason == EventReason::ExceededGracePeriod => {
                assert!(state.ending.is_some() && !state.all_stopped(), "{note:?} of what has ended");
                assert!(!std::mem::replace(&mut self.overdue, true), "{note:?} once more");
            }
            Action::AbortPull { .. } | Action::Event(_) => {}
        }
    }

    /// Init containers before it have succeeded in this round, sidecars before it have been started. An ephemeral
    /// container waits for nobody, and has one turn.
    fn is_its_turn(&self, spec: &Spec, state: &PodState, container: &str) {
        if spec.ephemeral.iter().any(|c| c.name == container) {
            assert!(self.last(container).is_none(), "{container} has ended and runs again");
            return;
        }
        for before in spec.init.iter().take_while(|c| c.name != container) {
            let done = match before.kind {
                ContainerKind::Sidecar => self.started.contains(&(before.name.clone(), state.round)),
                _ => {
                    self.ended.iter().any(|e| e.name == before.name && e.round == state.round && e.code == 0)
                }
            };
            assert!(done, "{container} comes before {} is done", before.name);
        }
        let init = spec.init.iter().any(|c| c.name == container && c.kind == ContainerKind::Init);
        let succeeded = self.last(container).is_some_and(|e| e.round == state.round && e.code == 0);
        assert!(!(init && succeeded), "{container} has succeeded and runs again");
    }

    /// A restart comes no sooner than its delay.
    fn has_waited(&mut self, container: &str, image: &str, maximum: Duration, now: Moment) {
        let count = self.ended.iter().filter(|e| e.name == container).count();
        let Some(finished) = self.last(container).map(|e| e.at) else { return };
        let answered = self.answered.insert(container.to_owned(), (count, image.to_owned()));
        if answered.as_ref().is_some_and(|(before, _)| *before == count) {
            return;
        }
        let new_image = answered.is_some_and(|(_, before)| before != image);
        let delay =
            self.delays.get(container).filter(|d| !new_image && finished <= d.restarted.after(maximum * 2));
        let next = match delay {
            Some(delay) => {
                assert!(
                    finished.after(delay.next) <= now,
                    "{container} is restarted after less than {delay:?}"
                );
                (delay.next * 2).min(maximum)
            }
            None => maximum.min(Duration::from_secs(10)),
        };
        self.delays.insert(container.to_owned(), Delay { next, restarted: now });
    }

    /// What is published after a look, which was `saved` or not.
    pub(super) fn published(&mut self, spec: &Spec, state: &PodState, saved: bool, now: Timestamp) {
        let status = self.status(spec, state, now);
        let phase = status.phase.clone().unwrap();
        let terminal = phase == "Succeeded" || phase == "Failed";
        let runs = state.containers.values().any(|r| matches!(r.stage, Stage::Starting | Stage::Running(_)));
        assert!(!(terminal && runs), "{phase} while something runs");
        for container in spec.all() {
            let running = state.containers.get(&container.name).and_then(|r| r.running());
            let failed = running.filter(|r| r.stop.is_none()).and_then(|r| r.probes.failed(container));
            assert!(!saved || failed.is_none(), "{} goes on although its probe has failed", container.name);
        }
        if let Some(start_time) = &status.start_time {
            let before = self.start_time.get_or_insert_with(|| start_time.clone());
            assert_eq!(start_time, before, "another start of the pod");
        }
        let waits = state.containers.values().any(|r| !r.is_active() && r.stage != Stage::Idle);
        assert!(!(waits && state.ending.is_some()), "something waits in a pod that ends: {state:?}");
        assert_eq!(
            status.reason.is_some(),
            terminal && state.verdict.is_some(),
            "reason of a pod that is {phase}"
        );
        if let Some(before) = &self.terminal {
            assert_eq!(
                (&before.phase, &before.reason),
                (&status.phase, &status.reason),
                "the end has changed"
            );
        }
        let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
        for container in all {
            let before = self.restarts.insert(container.name.clone(), container.restart_count);
            assert!(
                before.is_none_or(|before| before <= container.restart_count),
                "restarts of {}",
                container.name
            );
            if let Some(id) = &container.container_id {
                let before = self.ids.insert((container.name.clone(), container.restart_count), id.clone());
                assert!(
                    before.is_none_or(|before| before == *id),
                    "another id without a restart: {container:?}"
                );
            }
            let shown = container.state.as_ref().unwrap();
            let sidecar_or_regular = spec.container(&container.name).unwrap().kind != ContainerKind::Init;
            if container.ready && sidecar_or_regular {
                assert!(shown.running.is_some() && container.started == Some(true), "{container:?} is ready");
            }
            if container.started == Some(true) {
                self.started.insert((container.name.clone(), state.round));
            }
            if container.ready || shown.running.is_some() {
                assert!(!terminal || !sidecar_or_regular, "{container:?} in a pod that is {phase}");
            }
            assert!(container.restart_count == 0 || container.container_id.is_some(), "{container:?}");
        }
        let before = std::mem::replace(&mut self.conditions, status.conditions.clone().unwrap());
        let condition =
            |kind: &str| self.conditions.iter().find(|c| c.type_ == kind).map(|c| c.status.as_str());
        let ready = condition("Ready") == Some("True");
        assert!(!(ready && (terminal || phase == "Pending")), "ready and {phase}");
        for condition in &self.conditions {
            let since = condition.last_transition_time.as_ref().unwrap().0;
            let unchanged =
                before.iter().find(|c| c.type_ == condition.type_ && c.status == condition.status);
            let expected = unchanged.map_or(now.as_second(), |c| seconds(c.last_transition_time.as_ref()));
            assert_eq!(since.as_second(), expected, "{condition:?} after {before:?}");
        }
        if terminal {
            self.terminal = Some(status);
        }
    }
}

/// The container runs, and is past its postStart hook; the number of the attempt.
fn up<'a>(state: &'a PodState, container: &str) -> (u32, &'a Running) {
    let record = state.containers.get(container).unwrap();
    (record.newest_attempt(), record.up().unwrap_or_else(|| panic!("{container} is not up: {record:?}")))
}

fn seconds(time: Option<&Time>) -> i64 {
    time.unwrap().0.as_second()
}

/// Sidecars are stopped when everything that comes after them has ended, or their grace is over.
fn in_order(spec: &Spec, state: &PodState, container: &str, now: Moment, running: &[String]) {
    if !spec.sidecars().any(|c| c.name == container) {
        return;
    }
    let stop = state.containers.get(container).and_then(|r| r.running()).and_then(|r| r.stop.as_ref());
    let over = stop.is_some_and(|stop| stop.deadline <= now);
    let later = spec.all().skip_while(|c| c.name != container).skip(1).map(|c| &c.name);
    let waits_for: Vec<_> = later.filter(|name| running.contains(name)).collect();
    assert!(over || waits_for.is_empty(), "{container} is stopped before {waits_for:?}");
}
