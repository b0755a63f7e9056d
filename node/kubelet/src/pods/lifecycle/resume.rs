//! An agent that has started anew takes up a pod where the last one left it.
//!
//! Moments in a record belong to the clock of the agent that wrote it. They are put onto this one's by the wall
//! clock, which may have been set in between; so whatever is waited for is bounded by the longest wait that there
//! can be, and what has been is not in the future.

use std::time::Duration;

use super::{
    LifecycleLimits, backoff,
    clock::{Moment, Now},
    spec::{Container, Spec},
    state::{ContainerRecord, Hook, PodState, Running, Stage},
};
use crate::{
    pods::reason::PodReason,
    runtime::{ContainerState, Presence},
};

impl PodState {
    /// Puts what an agent has remembered that read its clocks as `then` onto the clock of this one.
    pub fn translate(&mut self, then: Now, now: Now) {
        self.map(&|moment| now.translate(then, moment));
    }

    /// A static pod that has ended with its machine runs again with it, as upstream's does: nobody makes another. Its containers
    /// go on counting their restarts.
    pub fn begin_after_shutdown(&mut self) {
        let terminated = PodReason::Terminated.as_str();
        if !self.is_over() || self.verdict.as_ref().is_none_or(|verdict| verdict.reason != terminated) {
            return;
        }
        (self.ending, self.verdict) = (None, None);
        (self.addresses, self.host_ports) = (Vec::new(), Vec::new());
        (self.initialized, self.began) = (false, None);
        self.round += 1;
        self.containers.values_mut().for_each(|record| record.stage = Stage::Idle);
    }

    fn map(&mut self, translate: &impl Fn(Moment) -> Moment) {
        let put = |moment: &mut Moment| *moment = translate(*moment);
        if let Some(began) = &mut self.began {
            put(began);
        }
        if let Some(ending) = &mut self.ending {
            put(&mut ending.since);
        }
        for record in self.containers.values_mut() {
            record.finished.iter_mut().for_each(|finished| put(&mut finished.ended));
            for backoff in [&mut record.crash, &mut record.pull, &mut record.start] {
                backoff.translate(translate);
            }
            match &mut record.stage {
                Stage::Idle | Stage::Pulling | Stage::Pulled | Stage::Starting => {}
                Stage::BackOff { until } => put(until),
                Stage::Held { since, until, .. } => {
                    put(since);
                    put(until);
                }
                Stage::Running(running) => {
                    put(&mut running.since);
                    if let Some(stop) = &mut running.stop {
                        put(&mut stop.deadline);
                        stop.told.as_mut().map(put);
                    }
                }
            }
        }
    }

    /// Takes in what the provider says of a start that nobody waits for any more: its agent was ended before it had an
    /// answer. Of an attempt that is absent, `began` says whether it may have run: its process can be gone, and then it
    /// is not made to run once more under its number.
    pub fn record_inherited_start(
        &mut self,
        spec: &Spec,
        name: &str,
        presence: &Presence,
        began: bool,
        now: Now,
    ) {
        let hook = spec.container(name).is_some_and(|c| c.post_start);
        let record = self.container(name);
        if record.stage != Stage::Starting {
            return;
        }
        match presence {
            Presence::Known(ContainerState::Starting) | Presence::CannotTell => {}
            Presence::Known(ContainerState::Running { started_at }) => record.run(*started_at, hook, now),
            Presence::Known(ContainerState::Exited(exit)) => record.run(exit.started_at, hook, now),
            Presence::Absent if began => {
                record.run(now.wall, hook, now);
                self.record_observation(name, &Presence::Absent, None, now);
            }
            Presence::Absent => {
                record.attempts = record.attempts.saturating_sub(1);
                record.stage = Stage::Idle;
            }
        }
    }

    /// Takes in that an agent has started anew: what was under way when the last one ended is asked of
    /// the provider, by `observe`. For `began`, see [`PodState::record_inherited_start`].
    pub fn resume(
        &mut self,
        spec: &Spec,
        limits: LifecycleLimits,
        observe: impl Fn(&str, u32) -> Presence,
        began: impl Fn(&str, u32) -> bool,
        now: Now,
    ) {
        self.bound(spec, limits, now.steady);
        let names: Vec<String> = self.containers.keys().cloned().collect();
        for name in names {
            let record = self.container(&name);
            let attempt = record.newest_attempt();
            match &mut record.stage {
                Stage::Pulling | Stage::Pulled => record.stage = Stage::Idle,
                Stage::Starting => {
                    let began = began(&name, attempt);
                    self.record_inherited_start(spec, &name, &observe(&name, attempt), began, now);
                }
                Stage::Running(running) => {
                    running.interrupted(spec.container(&name), now.steady);
                    if observe(&name, attempt) == Presence::Absent {
                        self.record_observation(&name, &Presence::Absent, None, now);
                    }
                }
                Stage::Idle | Stage::BackOff { .. } | Stage::Held { .. } => {}
            }
        }
    }

    /// Bounds what has been put onto the clock of this agent.
    fn bound(&mut self, spec: &Spec, limits: LifecycleLimits, now: Moment) {
        // Whatever lies ahead is cut down to now; what is waited for, to its longest wait.
        let grace = spec.deletion.unwrap_or(spec.grace).max(spec.grace).max(longest_probe_grace(spec));
        let mut bounded = self.clone();
        bounded.map(&|moment| moment.min(now));
        for (name, record) in &self.containers {
            let Some(past) = bounded.containers.get_mut(name) else { continue };
            record.bound_waits(past, grace, limits, now);
        }
        *self = bounded;
    }
}

fn longest_probe_grace(spec: &Spec) -> Duration {
    let probes = spec.all().flat_map(|c| [&c.startup, &c.liveness]).flatten();
    probes.filter_map(|probe| probe.grace).max().unwrap_or_default()
}

impl ContainerRecord {
    /// Gives `past`, in which nothing is ahead, the waits of this one again, none longer than it may be.
    fn bound_waits(&self, past: &mut Self, grace: Duration, limits: LifecycleLimits, now: Moment) {
        match (&self.stage, &mut past.stage) {
            (Stage::BackOff { until }, Stage::BackOff { until: bounded }) => {
                *bounded = (*until).min(now.after(limits.crash_backoff_max));
            }
            (Stage::Held { until, .. }, Stage::Held { until: bounded, .. }) => {
                *bounded = (*until).min(now.after(backoff::MAXIMUM));
            }
            (
                Stage::Running(Running { stop: Some(stop), .. }),
                Stage::Running(Running { stop: Some(bounded), .. }),
            ) => bounded.deadline = stop.deadline.min(now.after(grace)),
            _ => {}
        }
    }
}

impl Running {
    /// The agent that ran hooks and probes is gone; what it had under way is run again or given up.
    fn interrupted(&mut self, container: Option<&Container>, now: Moment) {
        if self.post_start == Hook::Running {
            self.post_start = Hook::Due;
        }
        if let Some(stop) = &mut self.stop {
            if stop.pre_stop == Hook::Running {
                stop.pre_stop = Hook::Done;
            }
            stop.told = None;
        }
        self.probes.interrupted(container, self.since, now);
    }
}
