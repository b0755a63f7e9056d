//! A pretend node: it carries out the actions of `step` after a script, in virtual time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    super::{
        Action, Limits, PodName, ProbeKind, Stage, State, Trouble, Verdict, backoff::after, spec::Spec, step,
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
    at: Timestamp,
    code: i32,
    reason: ExitReason,
}

/// A pod on a node that keeps to its scripts. Its time is that of the next thing to happen.
pub(super) struct World {
    pub(super) spec: Spec,
    pub(super) state: State,
    pub(super) limits: Limits,
    pub(super) now: Timestamp,
    pub(super) checks: Checks,
    scripts: BTreeMap<String, Script>,
    /// What is on disk.
    saved: State,
    agenda: BTreeMap<(Timestamp, u64), Happening>,
    order: u64,
    /// What the provider knows.
    provider: BTreeMap<(String, u32), ContainerState>,
    /// What has ever run.
    begun: BTreeSet<(String, u32)>,
    /// The end of what runs.
    fates: BTreeMap<(String, u32), Fate>,
    pulls: BTreeMap<String, usize>,
    starts: BTreeMap<String, usize>,
    /// The agent is torn off at its next action, and away for so long.
    tear: Option<Duration>,
    wake_at: Option<Timestamp>,
    log: Vec<String>,
}

pub(super) fn epoch() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
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
            state: State::default(),
            limits: Limits::default(),
            now: epoch(),
            scripts: BTreeMap::new(),
            saved: State::default(),
            agenda: BTreeMap::new(),
            order: 0,
            provider: BTreeMap::new(),
            begun: BTreeSet::new(),
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

    /// The agent is not torn off any more.
    pub(super) fn calm(&mut self) {
        self.tear = None;
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
        self.now.as_second() - epoch().as_second()
    }

    /// The pod's phase as it would be published now.
    pub(super) fn phase(&self) -> String {
        self.checks.status(&self.spec, &self.state, self.now).phase.unwrap()
    }

    fn note(&mut self, what: impl std::fmt::Display) {
        let seconds = self.seconds();
        self.log.push(format!("{seconds} {what}"));
    }

    fn later(&mut self, delay: Duration, what: Happening) {
        self.order += 1;
        self.agenda.insert((after(self.now, delay), self.order), what);
    }

    /// Runs for so many seconds more, or until nothing is going to happen any more.
    #[must_use]
    pub(super) fn run(mut self, seconds: u64) -> Self {
        self.go_on(Duration::from_secs(seconds));
        self
    }

    pub(super) fn go_on(&mut self, time: Duration) {
        let end = after(self.now, time);
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

    fn next_happening(&self) -> Option<Timestamp> {
        let agenda = self.agenda.keys().next().map(|(at, _)| *at);
        let fate = self.fates.values().map(|fate| fate.at).min();
        [agenda, fate].into_iter().flatten().min()
    }

    /// One look of the agent: what the pod task does in one turn of its loop.
    fn look(&mut self) {
        let mut ended = Vec::new();
        let names: Vec<String> = self.state.containers.keys().cloned().collect();
        for name in names {
            let record = self.state.container(&name);
            if record.running().is_none() {
                continue;
            }
            let key = (name.clone(), record.newest_attempt());
            let presence = self.presence(&key);
            self.state.record_observation(&name, &presence, None, self.now);
            if self.state.container(&name).running().is_none() {
                ended.push(key);
            }
        }
        let step = step(&name(), &self.spec, &mut self.state, self.limits, self.now);
        self.checks.is_settled(&self.spec, &self.state, self.limits, self.now, &step);
        self.saved = self.state.clone();
        self.checks.published(&self.spec, &self.state, self.now);
        if let Some(away) = self.tear.take_if(|_| !step.actions.is_empty()) {
            self.restart(away, false);
            return self.look();
        }
        for key in ended {
            self.provider.remove(&key);
        }
        self.wake_at = step.wake_at;
        let running: Vec<String> = self.fates.keys().map(|(name, _)| name.clone()).collect();
        for action in step.actions {
            self.checks.action(&self.spec, &self.state, self.limits, self.now, &running, &action);
            self.act(action);
        }
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
            Action::Probe { container, kind } => {
                let attempt = self.state.container(&container).newest_attempt();
                self.later(Duration::from_millis(10), Happening::Probed { name: container, attempt, kind });
            }
            Action::Stop { container, attempt, grace } => {
                self.note(format_args!("stop {container}#{attempt} within {}s", grace.as_secs()));
                let plan = self.plan_of(&container, attempt);
                let killed = Fate { at: after(self.now, grace), code: 137, reason: ExitReason::Stopped };
                let obeyed =
                    plan.obeys.map(|(delay, code)| Fate { at: after(self.now, delay), code, ..killed });
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
            finished_at: fate.at,
            exit_code: fate.code,
            reason: fate.reason,
            message: String::new(),
        };
        self.checks.exited(&key.0, &exit);
        self.provider.insert(key.clone(), ContainerState::Exited(exit));
    }

    fn begin(&mut self, name: &str, attempt: u32) {
        let key = (name.to_owned(), attempt);
        self.note(format_args!("{name}#{attempt} runs"));
        self.checks.started(name, attempt, self.state.round, self.fates.keys());
        let (at, code) = match self.plan_of(name, attempt).exit {
            Some((delay, code)) => (after(self.now, delay), code),
            None => (Timestamp::MAX, 0),
        };
        self.fates.insert(key.clone(), Fate { at, code, reason: ExitReason::Exited });
        self.begun.insert(key.clone());
        self.provider.insert(key, ContainerState::Running { started_at: self.now });
    }

    fn happen(&mut self, what: Happening) {
        let trouble =
            |reason: &str| Trouble { reason: WaitingReason::named(reason), message: "why".to_owned() };
        match what {
            Happening::Pulled { name, failure } => {
                let image = self.state.container(&name).spec_image.clone();
                let image = Image { id: format!("{image}@sha256:0"), reference: image, ..Image::default() };
                self.state.record_pull(
                    &name,
                    failure.map_or(Ok(image), |reason| Err(trouble(reason))),
                    self.now,
                );
            }
            Happening::Started { name, attempt, failure } => {
                if failure.is_none() {
                    self.begin(&name, attempt);
                }
                let result = failure.map_or(Ok(self.now), |reason| Err(trouble(reason)));
                self.state.record_start(&self.spec, &name, result, self.now);
            }
            Happening::PostStarted { name, attempt, success } => {
                let result = if success { Ok(()) } else { Err(trouble("PostStartHookError")) };
                self.state.record_post_start(&name, attempt, result);
            }
            Happening::PreStopped { name, attempt } => self.state.record_pre_stop(&name, attempt),
            Happening::Probed { name, attempt, kind } => {
                let plan = self.plan_of(&name, attempt);
                let since = match self.provider.get(&(name.clone(), attempt)) {
                    None | Some(ContainerState::Starting) => Duration::ZERO,
                    Some(
                        ContainerState::Running { started_at }
                        | ContainerState::Exited(Exit { started_at, .. }),
                    ) => Duration::try_from(self.now.duration_since(*started_at)).unwrap_or_default(),
                };
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
                self.state.record_vanished(self.now);
            }
            Deed::Verdict => {
                let verdict =
                    Verdict { grace: Some(Duration::from_secs(EVICTED)), ..Verdict::new("Evicted", "why") };
                self.state.record_verdict(verdict, self.now);
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
                    self.checks.lost(name, now);
                }
            }
            Deed::Nudge => {}
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
        let back = after(self.now, away);
        let json = serde_json::to_string(&self.saved).unwrap();
        while let Some(next) = self.next_happening().filter(|next| *next <= back) {
            self.now = next.max(self.now);
            if let Some(entry) = self.agenda.first_entry()
                && entry.key().0 <= self.now
                && let Happening::Done(Deed::Restart { .. } | Deed::Tear { .. }) = entry.get()
            {
                // It is away already.
                entry.remove();
            }
            self.let_happen();
        }
        self.now = back;
        // An object that has gone meanwhile is missed from the first list, a verdict is given again.
        let (vanished, verdict) = (self.state.ending.clone(), self.state.verdict.clone());
        self.state = serde_json::from_str(&json).unwrap();
        assert_eq!(self.state, self.saved, "not the same from disk");
        self.state.resume(
            &self.spec,
            |name, attempt| {
                let known = self.provider.get(&(name.to_owned(), attempt)).cloned();
                known.map_or(Presence::Absent, Presence::Known)
            },
            |name, attempt| self.begun.contains(&(name.to_owned(), attempt)),
            back,
        );
        if vanished.is_some_and(|e| e.cause == super::super::EndingCause::Vanished) {
            self.state.record_vanished(back);
        }
        if let Some(verdict) = verdict {
            self.state.record_verdict(verdict, back);
        }
        for (name, record) in &self.state.containers {
            let runs = self.fates.keys().any(|(other, _)| other == name);
            assert!(!runs || matches!(record.stage, Stage::Running(_)), "{name} runs and is not known to");
        }
    }
}
