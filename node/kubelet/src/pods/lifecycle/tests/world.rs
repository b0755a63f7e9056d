//! A pretend node: it carries out the actions of `step` after a script, in virtual time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::{
    super::{
        Action, LifecycleLimits, Moment, Now, PodName, PodState, PodTurn, ProbeKind, Stage, Trouble, Verdict,
        spec::Spec,
    },
    checks::Checks,
    script::{Deed, Run, Script},
};
use crate::{
    pods::reason::WaitingReason,
    runtime::{ContainerState, Exit, ExitReason, Image, Presence},
};

/// Seconds that an eviction leaves a pod here.
pub(super) const EVICTED: u64 = 5;

/// What is going to happen, as long as the agent that asked for it is there.
#[derive(Clone, Debug)]
enum Happening {
    Pulled { name: String, failure: Option<&'static str> },
    Started { name: String, attempt: u32, failure: Option<&'static str> },
    PostStarted { name: String, attempt: u32, success: bool },
    PreStopped { name: String, attempt: u32 },
    Probed { name: String, attempt: u32, kind: ProbeKind },
    Done(Deed),
}

/// When and how a running container is going to end, as things are.
#[derive(Clone, Copy, Debug)]
struct Fate {
    at: Moment,
    code: i32,
    reason: ExitReason,
}

/// A pod on a node that keeps to its scripts. Its time is that of the next thing to happen; the clocks that the agent
/// and the provider read may show another one.
pub(super) struct World {
    pub(super) spec: Spec,
    pub(super) state: PodState,
    pub(super) limits: LifecycleLimits,
    pub(super) now: Moment,
    pub(super) checks: Checks,
    scripts: BTreeMap<String, Script>,
    /// What is on disk, and what the clocks of the agent showed that wrote it.
    saved: (PodState, Now),
    /// How many saves are going to fail.
    failing: u32,
    /// Something was done that could not be saved.
    unsaved_deeds: bool,
    /// What the agent has seen the end of, and the provider keeps until that is on disk.
    ended: Vec<(String, u32)>,
    /// By how much the wall clock was set forward, and by how much it had been when the agent started.
    wall_ahead: SignedDuration,
    agent_ahead: SignedDuration,
    agenda: BTreeMap<(Moment, u64), Happening>,
    order: u64,
    /// What the provider knows.
    provider: BTreeMap<(String, u32), ContainerState>,
    /// What has ever run.
    begun: BTreeSet<(String, u32)>,
    /// Since when.
    since: BTreeMap<(String, u32), Moment>,
    /// The end of what runs.
    fates: BTreeMap<(String, u32), Fate>,
    pulls: BTreeMap<String, usize>,
    starts: BTreeMap<String, usize>,
    /// The agent is torn off at its next action, and away for so long.
    tear: Option<Duration>,
    wake_at: Option<Moment>,
    log: Vec<String>,
}

pub(super) fn epoch() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

/// The beginning, on both clocks.
pub(super) fn beginning() -> Now {
    Now { steady: Moment::new(epoch()), wall: epoch() }
}

fn ahead(moment: Moment, by: SignedDuration) -> Moment {
    if by.is_negative() { moment.before(by.unsigned_abs()) } else { moment.after(by.unsigned_abs()) }
}

pub(super) fn name() -> PodName {
    PodName { name: "p".to_owned(), namespace: "ns".to_owned(), uid: "u".to_owned() }
}

fn pick<T: Clone>(list: &[T], index: usize) -> Option<T> {
    list.get(index).or(list.last()).cloned()
}

/// Counts one more of a container's, from 0.
fn next(counts: &mut BTreeMap<String, usize>, name: &str) -> usize {
    let count = counts.entry(name.to_owned()).or_default();
    *count += 1;
    *count - 1
}

impl World {
    pub(super) fn new(spec: Spec) -> Self {
        Self {
            checks: Checks::default(),
            spec,
            state: PodState::default(),
            limits: LifecycleLimits::default(),
            now: beginning().steady,
            scripts: BTreeMap::new(),
            saved: (PodState::default(), beginning()),
            failing: 0,
            unsaved_deeds: false,
            ended: Vec::new(),
            wall_ahead: SignedDuration::ZERO,
            agent_ahead: SignedDuration::ZERO,
            agenda: BTreeMap::new(),
            order: 0,
            provider: BTreeMap::new(),
            begun: BTreeSet::new(),
            since: BTreeMap::new(),
            fates: BTreeMap::new(),
            pulls: BTreeMap::new(),
            starts: BTreeMap::new(),
            tear: None,
            wake_at: None,
            log: Vec::new(),
        }
    }

    #[must_use]
    pub(super) fn with(mut self, name: &str, script: Script) -> Self {
        self.scripts.insert(name.to_owned(), script);
        self
    }

    /// The container's attempts go like this, one after another.
    #[must_use]
    pub(super) fn runs(self, name: &str, runs: &[Run]) -> Self {
        self.with(name, Script { runs: runs.to_vec(), ..Script::default() })
    }

    #[must_use]
    pub(super) fn at(mut self, seconds: u64, deed: Deed) -> Self {
        self.plan(Duration::from_secs(seconds), deed);
        self
    }

    /// Does it so long after now.
    pub(super) fn plan(&mut self, delay: Duration, deed: Deed) {
        self.later(delay, Happening::Done(deed));
    }

    /// The agent is not torn off any more, and can save.
    pub(super) fn calm(&mut self) {
        (self.tear, self.failing) = (None, 0);
    }

    /// So many saves fail from now on.
    pub(super) fn fail_saves(mut self, count: u32) -> Self {
        self.failing = count;
        self
    }

    /// What the agent reads on its clocks.
    pub(super) fn clocks(&self) -> Now {
        let elapsed = SignedDuration::try_from(self.now.since(beginning().steady)).unwrap();
        let wall = epoch() + elapsed + self.wall_ahead;
        Now { steady: ahead(self.now, self.agent_ahead), wall }
    }

    /// Somebody sets the wall clock forward by so many seconds, or back, and the agent will not get to read it.
    pub(super) fn set_clock(&mut self, seconds: i64) {
        self.checks.forget_times();
        self.wall_ahead += SignedDuration::from_secs(seconds);
    }

    /// What the agent remembers is what is on disk.
    pub(super) fn is_saved(&self) -> bool {
        self.state.durable() == self.saved.0
    }

    /// What was done and what happened, each with the seconds since the beginning.
    pub(super) fn log(&self) -> Vec<&str> {
        self.log.iter().map(String::as_str).collect()
    }

    /// The lines of the log that say something of this.
    pub(super) fn told(&self, what: &str) -> Vec<&str> {
        self.log.iter().map(String::as_str).filter(|line| line.contains(what)).collect()
    }

    pub(super) fn seconds(&self) -> i64 {
        i64::try_from(self.now.since(beginning().steady).as_secs()).unwrap()
    }

    /// The pod's phase as it would be published now.
    pub(super) fn phase(&self) -> String {
        self.checks.status(&self.spec, &self.state, self.clocks().wall).phase.unwrap()
    }

    fn note(&mut self, what: impl std::fmt::Display) {
        let seconds = self.seconds();
        self.log.push(format!("{seconds} {what}"));
    }

    fn later(&mut self, delay: Duration, what: Happening) {
        self.order += 1;
        self.agenda.insert((self.now.after(delay), self.order), what);
    }

    /// Runs for so many seconds more, or until nothing is going to happen any more.
    #[must_use]
    pub(super) fn run(mut self, seconds: u64) -> Self {
        self.go_on(Duration::from_secs(seconds));
        self
    }

    pub(super) fn go_on(&mut self, time: Duration) {
        let end = self.now.after(time);
        for _ in 0..20_000 {
            self.look();
            let next = [self.next_happening(), self.wake_at].into_iter().flatten().min();
            match next {
                Some(next) if next <= end => self.now = next,
                Some(_) => {
                    self.now = end;
                    return;
                }
                None => return,
            }
            self.let_happen();
        }
        panic!("no end to it: {:#?}", self.log.iter().rev().take(30).rev().collect::<Vec<_>>());
    }

    fn next_happening(&self) -> Option<Moment> {
        let agenda = self.agenda.keys().next().map(|(at, _)| *at);
        let fate = self.fates.values().map(|fate| fate.at).min();
        [agenda, fate].into_iter().flatten().min()
    }

    /// One look of the agent: what the pod task does in one turn of its loop.
    fn look(&mut self) {
        let now = self.clocks();
        let names: Vec<String> = self.state.containers.keys().cloned().collect();
        for name in names {
            let record = self.state.container(&name);
            if record.running().is_none() {
                continue;
            }
            let key = (name.clone(), record.newest_attempt());
            let presence = self.presence(&key);
            self.state.record_observation(&name, &presence, None, now);
            if self.state.container(&name).running().is_none() {
                self.ended.push(key);
            }
        }
        let turn = PodTurn::of(&name(), &self.spec, &self.state, self.limits, now);
        let saved = self.save(turn.record());
        let step = if saved { turn.saved(&mut self.state) } else { turn.unsaved(&mut self.state) };
        if saved {
            self.checks.is_settled(&self.spec, &self.state, self.limits, now, &step);
            self.unsaved_deeds = false;
        }
        if !self.state.is_over() || self.state.is_settled(saved) {
            self.checks.published(&self.spec, &self.state, saved, now.wall);
            // The API server remembers it, too.
            let start_time = self.state.start_time;
            self.spec.start_time = self.spec.start_time.or(start_time);
        }
        if let Some(away) = self.tear.take_if(|_| !step.actions.is_empty()) {
            self.restart(away, false);
            return self.look();
        }
        if saved {
            for key in std::mem::take(&mut self.ended) {
                self.provider.remove(&key);
            }
        }
        let retry = (!saved).then(|| now.steady.after(Duration::from_secs(1)));
        let wake_at = step.wake_at.into_iter().chain(retry).min();
        self.wake_at = wake_at.map(|at| ahead(at, -self.agent_ahead));
        self.unsaved_deeds |= !saved && !step.actions.is_empty();
        let running: Vec<String> = self.fates.keys().map(|(name, _)| name.clone()).collect();
        for action in step.actions {
            self.checks.action(&self.spec, &self.state, self.limits, (now, self.now), &running, &action);
            self.act(action);
        }
    }

    /// True when it is on disk.
    fn save(&mut self, state: PodState) -> bool {
        if state == self.saved.0 {
            return true;
        }
        if self.failing > 0 {
            self.failing -= 1;
            return false;
        }
        self.saved = (state, self.clocks());
        true
    }

    fn presence(&self, attempt: &(String, u32)) -> Presence {
        self.provider.get(attempt).cloned().map_or(Presence::Absent, Presence::Known)
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Event(note) => {
                let kind = if note.warning { "Warning" } else { "Normal" };
                let about = note.container.map(|c| format!(" {c}")).unwrap_or_default();
                self.note(format_args!("{kind} {}{about}: {}", note.reason, note.message));
            }
            Action::Pull { container, image } => {
                self.note(format_args!("pull {image}"));
                let count = next(&mut self.pulls, &container);
                let plan = self.scripts.get(&container).and_then(|script| pick(&script.pulls, count));
                let (delay, failure) = plan.unwrap_or_default();
                self.later(delay, Happening::Pulled { name: container, failure });
            }
            Action::AbortPull { container } => {
                self.note(format_args!("abort pull {container}"));
                self.agenda
                    .retain(|_, what| !matches!(what, Happening::Pulled { name, .. } if *name == container));
            }
            Action::Start { container, attempt } => {
                self.note(format_args!("start {container}#{attempt}"));
                let count = next(&mut self.starts, &container);
                let plan = self.scripts.get(&container).and_then(|script| pick(&script.starts, count));
                let (delay, failure) = plan.unwrap_or_default();
                self.later(delay, Happening::Started { name: container, attempt, failure });
            }
            Action::PostStart { container } => {
                let attempt = self.state.container(&container).newest_attempt();
                self.note(format_args!("postStart {container}#{attempt}"));
                if let Some((delay, success)) = self.plan_of(&container, attempt).post_start {
                    self.later(delay, Happening::PostStarted { name: container, attempt, success });
                }
            }
            Action::PreStop { container, within } => {
                let attempt = self.state.container(&container).newest_attempt();
                self.note(format_args!("preStop {container}#{attempt} within {}s", within.as_secs()));
                if let Some((delay, _)) = self.plan_of(&container, attempt).pre_stop {
                    self.later(delay, Happening::PreStopped { name: container, attempt });
                }
            }
            Action::Resize { container, attempt, wanted } => {
                self.note(format_args!("resize {container}#{attempt}"));
                let now = self.clocks();
                assert_eq!(self.state.record_resized(&container, attempt, wanted, Ok(()), now), None);
            }
            Action::Probe { container, kind } => {
                let attempt = self.state.container(&container).newest_attempt();
                self.later(Duration::from_millis(10), Happening::Probed { name: container, attempt, kind });
            }
            Action::Stop { container, attempt, grace } => {
                self.note(format_args!("stop {container}#{attempt} within {}s", grace.as_secs()));
                let plan = self.plan_of(&container, attempt);
                let killed = Fate { at: self.now.after(grace), code: 137, reason: ExitReason::Stopped };
                let obeyed =
                    plan.obeys.map(|(delay, code)| Fate { at: self.now.after(delay), code, ..killed });
                if let Some(fate) = self.fates.get_mut(&(container, attempt)) {
                    for other in obeyed.into_iter().chain([killed]) {
                        if other.at < fate.at {
                            *fate = other;
                        }
                    }
                }
            }
        }
    }

    fn plan_of(&self, name: &str, attempt: u32) -> Run {
        let runs = self.scripts.get(name).map(|s| s.runs.as_slice()).unwrap_or_default();
        pick(runs, attempt as usize).unwrap_or_default()
    }

    /// Lets everything happen that is due.
    fn let_happen(&mut self) {
        let due: Vec<_> =
            self.fates.iter().filter(|(_, f)| f.at <= self.now).map(|(k, f)| (k.clone(), *f)).collect();
        for (key, fate) in due {
            self.exit(&key, fate);
        }
        while let Some(entry) = self.agenda.first_entry()
            && entry.key().0 <= self.now
        {
            let what = entry.remove();
            self.happen(what);
        }
    }

    fn exit(&mut self, key: &(String, u32), fate: Fate) {
        self.note(format_args!("{}#{} exits {}", key.0, key.1, fate.code));
        self.fates.remove(key);
        let Some(ContainerState::Running { started_at }) = self.provider.get(key) else {
            panic!("{key:?} does not run")
        };
        let exit = Exit {
            started_at: *started_at,
            finished_at: self.clocks().wall,
            exit_code: fate.code,
            reason: fate.reason,
            message: String::new(),
        };
        self.checks.ended(&key.0, exit.exit_code, self.now);
        self.provider.insert(key.clone(), ContainerState::Exited(exit));
    }

    fn begin(&mut self, name: &str, attempt: u32) {
        let key = (name.to_owned(), attempt);
        self.note(format_args!("{name}#{attempt} runs"));
        self.checks.started(name, attempt, self.state.round, self.fates.keys());
        let (at, code) = match self.plan_of(name, attempt).exit {
            Some((delay, code)) => (self.now.after(delay), code),
            None => (Moment::new(Timestamp::MAX), 0),
        };
        self.fates.insert(key.clone(), Fate { at, code, reason: ExitReason::Exited });
        self.begun.insert(key.clone());
        self.since.insert(key.clone(), self.now);
        self.provider.insert(key, ContainerState::Running { started_at: self.clocks().wall });
    }

    fn happen(&mut self, what: Happening) {
        let now = self.clocks();
        let trouble =
            |reason: &str| Trouble { reason: WaitingReason::named(reason), message: "why".to_owned() };
        match what {
            Happening::Pulled { name, failure } => {
                let image = self.state.container(&name).spec_image.clone();
                let image = Image { id: format!("{image}@sha256:0"), reference: image, ..Image::default() };
                self.state.record_pull(&name, failure.map_or(Ok(image), |reason| Err(trouble(reason))), now);
            }
            Happening::Started { name, attempt, failure } => {
                if failure.is_none() {
                    self.begin(&name, attempt);
                }
                let result = failure.map_or(Ok(now.wall), |reason| Err(trouble(reason)));
                self.state.record_start(&self.spec, &name, result, now);
            }
            Happening::PostStarted { name, attempt, success } => {
                let result = if success { Ok(()) } else { Err(trouble("PostStartHookError")) };
                self.state.record_post_start(&name, attempt, result);
            }
            Happening::PreStopped { name, attempt } => self.state.record_pre_stop(&name, attempt),
            Happening::Probed { name, attempt, kind } => {
                let plan = self.plan_of(&name, attempt);
                let since = self.since.get(&(name.clone(), attempt));
                let since = since.map_or(Duration::ZERO, |since| self.now.since(*since));
                let success = plan.healthy.0 <= since && since < plan.healthy.1;
                self.state.record_probe(&self.spec, &name, attempt, kind, success);
            }
            Happening::Done(deed) => self.deed(deed),
        }
    }

    fn deed(&mut self, deed: Deed) {
        match deed {
            Deed::Delete(grace) => {
                self.note(format_args!("deletion within {}s", grace.as_secs()));
                let before = self.spec.deletion.unwrap_or(Duration::MAX);
                self.spec.deletion = Some(grace.min(before));
            }
            Deed::Vanish => {
                self.note("the object is gone");
                self.state.record_vanished(self.clocks());
            }
            Deed::Verdict => {
                let verdict =
                    Verdict { grace: Some(Duration::from_secs(EVICTED)), ..Verdict::new("Evicted", "why") };
                self.state.record_verdict(verdict, self.clocks());
            }
            Deed::Image(name) => {
                let container = super::find(&mut self.spec, &name);
                container.image.push('+');
            }
            Deed::Attach(container) => self.spec.ephemeral.push(*container),
            Deed::Deadline(deadline) => self.spec.active_deadline = Some(deadline),
            Deed::Restart { away, starts_happen } => self.restart(away, starts_happen),
            Deed::Tear { away } => self.tear = Some(away),
            Deed::Lose => {
                self.note("containers are lost");
                let now = self.now;
                let fates = std::mem::take(&mut self.fates);
                self.provider.retain(|key, _| !fates.contains_key(key));
                for (name, _) in fates.keys() {
                    self.checks.ended(name, 137, now);
                }
            }
            Deed::Nudge => {}
            Deed::FailSaves(count) => {
                self.note(format_args!("{count} saves fail"));
                self.failing = count;
            }
            Deed::SetClock(seconds) => {
                // What came before it was seen before it.
                self.look();
                self.wall_ahead += SignedDuration::from_secs(seconds);
                // An agent that notices it writes what its clocks show now.
                self.saved.1 = self.clocks();
            }
        }
    }

    /// The agent goes and comes back: what it had under way is lost, and its memory is what is on disk.
    /// Containers go on, and so do those who change the pod.
    fn restart(&mut self, away: Duration, starts_happen: bool) {
        self.note(format_args!("the agent is away for {}s", away.as_secs()));
        let agenda = std::mem::take(&mut self.agenda);
        for (key, what) in agenda {
            match what {
                Happening::Done(_) => {
                    self.agenda.insert(key, what);
                }
                Happening::Started { name, attempt, failure: None } if starts_happen => {
                    self.begin(&name, attempt)
                }
                _ => {}
            }
        }
        let back = self.now.after(away);
        let (saved, then) = self.saved.clone();
        let json = serde_json::to_string(&saved).unwrap();
        while let Some(next) = self.next_happening().filter(|next| *next <= back) {
            self.now = next.max(self.now);
            if let Some(entry) = self.agenda.first_entry()
                && entry.key().0 <= self.now
                && let Happening::Done(Deed::Restart { .. } | Deed::Tear { .. } | Deed::SetClock(_)) =
                    entry.get()
            {
                // It is away already. (Of what the wall clock does meanwhile it can tell nothing.)
                entry.remove();
            }
            self.let_happen();
        }
        self.now = back;
        self.agent_ahead = self.wall_ahead;
        self.ended.clear();
        self.checks.agent_restarted(std::mem::take(&mut self.unsaved_deeds));
        let now = self.clocks();
        // An object that has gone meanwhile is missed from the first list, a verdict is given again.
        let (vanished, verdict) = (self.state.ending.clone(), self.state.verdict.clone());
        self.state = serde_json::from_str(&json).unwrap();
        assert_eq!(self.state, saved, "not the same from disk");
        self.state.translate(then, now);
        self.state.resume(
            &self.spec,
            self.limits,
            |name, attempt| {
                let known = self.provider.get(&(name.to_owned(), attempt)).cloned();
                known.map_or(Presence::Absent, Presence::Known)
            },
            |name, attempt| self.begun.contains(&(name.to_owned(), attempt)),
            now,
        );
        if vanished.is_some_and(|e| e.cause == super::super::EndingCause::Vanished) {
            self.state.record_vanished(now);
        }
        if let Some(verdict) = verdict {
            self.state.record_verdict(verdict, now);
        }
        for (name, record) in &self.state.containers {
            let runs = self.fates.keys().any(|(other, _)| other == name);
            assert!(!runs || matches!(record.stage, Stage::Running(_)), "{name} runs and is not known to");
        }
    }
}
