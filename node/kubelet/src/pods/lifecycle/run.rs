//! A pod that is to run: what to start next, what to start again, and when it is done.

use jiff::Timestamp;

use super::{
    Limits, PodName,
    action::{Action, Step},
    backoff::{Backoff, after},
    probe::ProbeKind,
    spec::{AfterExit, Container, Kind, Spec},
    state::{EndingCause, Hook, Stage, State},
    stop,
};

/// How long a failed pull is shown as such before it is shown as a back-off.
const ERROR_SHOWN: std::time::Duration = std::time::Duration::from_secs(2);

struct Run<'a> {
    pod: &'a PodName,
    spec: &'a Spec,
    state: &'a mut State,
    limits: Limits,
    now: Timestamp,
    step: &'a mut Step,
}

/// What a container says about those that come after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The next one may go on.
    Next,
    /// It is being worked on; the next one waits.
    Busy,
}

pub(super) fn run(
    pod: &PodName,
    spec: &Spec,
    state: &mut State,
    limits: Limits,
    now: Timestamp,
    step: &mut Step,
) {
    Run { pod, spec, state, limits, now, step }.run();
}

impl Run<'_> {
    fn run(&mut self) {
        if self.restart_all_is_asked_for() && !self.begin_next_round() {
            return;
        }
        for container in self.spec.all() {
            self.watch_over(container);
        }
        if !self.state.initialized {
            self.initialize();
            if !self.state.initialized {
                return;
            }
        } else {
            // A sidecar that was started once is kept running beside everything else.
            for container in self.spec.sidecars() {
                self.bring_up(container);
            }
        }
        for container in &self.spec.containers {
            if self.bring_up(container) == Turn::Busy {
                break;
            }
        }
        if self.is_complete() {
            self.state.end(EndingCause::Completed, self.now);
        }
    }

    /// Init containers in order, up to the first that is not done.
    fn initialize(&mut self) {
        for (index, container) in self.spec.init.iter().enumerate() {
            let done = match container.kind {
                Kind::Sidecar => {
                    self.bring_up(container);
                    self.is_started(container)
                }
                _ => self.init_succeeded(container) || self.bring_up_init(container),
            };
            if !done {
                // Those before it are kept going meanwhile.
                for earlier in self.spec.init.iter().take(index).filter(|c| c.kind == Kind::Sidecar) {
                    self.bring_up(earlier);
                }
                return;
            }
        }
        self.state.initialized = true;
    }

    fn init_succeeded(&self, container: &Container) -> bool {
        let round = self.state.round;
        let record = self.state.containers.get(&container.name);
        record.and_then(|r| r.ended(round)).is_some_and(|f| f.exit.exit_code == 0)
    }

    /// True when nothing is left to do for it, which is never: it has to succeed first.
    fn bring_up_init(&mut self, container: &Container) -> bool {
        let round = self.state.round;
        let ended = self.state.container(&container.name).ended(round).map(|f| f.exit.exit_code);
        if let Some(code) = ended
            && container.restart.after(code) == AfterExit::Stay
        {
            self.state.end(EndingCause::InitFailed, self.now);
            return false;
        }
        self.bring_up(container);
        false
    }

    fn is_started(&self, container: &Container) -> bool {
        let running = self.state.containers.get(&container.name).and_then(|r| r.running());
        running.is_some_and(|r| r.post_start == Hook::Done && r.probes.started(container))
    }

    /// Takes a container the next step towards running.
    fn bring_up(&mut self, container: &Container) -> Turn {
        let now = self.now;
        let round = self.state.round;
        let record = self.state.container(&container.name);
        match &mut record.stage {
            Stage::Idle => {
                let Some((code, finished_at, this_round)) =
                    record.finished.last().map(|f| (f.exit.exit_code, f.exit.finished_at, f.round == round))
                else {
                    return self.pull(container);
                };
                if record.spec_image != container.image {
                    // A delay belongs to a container with an image; another image starts afresh.
                    record.crash = Backoff::default();
                } else if this_round && !wants_restart(container, code) {
                    return Turn::Next;
                }
                let maximum = self.limits.crash_backoff_max;
                match record.crash.blocked_until(finished_at, maximum).filter(|until| *until > now) {
                    Some(until) => {
                        record.stage = Stage::BackOff { until };
                        self.step.wake(until);
                        let message =
                            format!("Back-off restarting failed container {} in pod {}", container.name, self.pod);
                        self.step.warning(Some(&container.name), "BackOff", message);
                        Turn::Next
                    }
                    None => {
                        record.crash.next(finished_at, now, maximum);
                        self.pull(container)
                    }
                }
            }
            Stage::BackOff { until } => {
                if record.spec_image != container.image {
                    record.crash = Backoff::default();
                } else if *until > now {
                    self.step.wake(*until);
                    return Turn::Next;
                }
                let finished_at = record.finished.last().map_or(now, |f| f.exit.finished_at);
                record.crash.next(finished_at, now, self.limits.crash_backoff_max);
                self.pull(container)
            }
            Stage::Held { since, until, image } => {
                if *until <= now || record.spec_image != container.image {
                    return self.pull(container);
                }
                self.step.wake(*until);
                let shown_until = after(*since, ERROR_SHOWN);
                let trouble = record.trouble.as_mut().filter(|t| *image && t.reason != "ImagePullBackOff");
                if let Some(trouble) = trouble {
                    if shown_until > now {
                        self.step.wake(shown_until);
                    } else {
                        let message = format!("Back-off pulling image \"{}\"", container.image);
                        trouble.message = format!("{message}: {}: {}", trouble.reason, trouble.message);
                        "ImagePullBackOff".clone_into(&mut trouble.reason);
                        self.step.event(Some(&container.name), "BackOff", message);
                        self.step.warning(Some(&container.name), "Failed", "Error: ImagePullBackOff");
                    }
                }
                Turn::Next
            }
            Stage::Pulling | Stage::Starting => Turn::Busy,
            Stage::Pulled => {
                let attempt = record.attempts;
                record.attempts += 1;
                record.stage = Stage::Starting;
                self.step.push(Action::Start { container: container.name.clone(), attempt });
                Turn::Busy
            }
            Stage::Running(running) => match running.post_start {
                Hook::Due => {
                    running.post_start = Hook::Running;
                    self.step.push(Action::PostStart { container: container.name.clone() });
                    Turn::Busy
                }
                Hook::Running => Turn::Busy,
                Hook::Done => Turn::Next,
            },
        }
    }

    fn pull(&mut self, container: &Container) -> Turn {
        let record = self.state.container(&container.name);
        if record.spec_image != container.image {
            record.pull = Backoff::default();
            record.start = Backoff::default();
            container.image.clone_into(&mut record.spec_image);
        }
        record.stage = Stage::Pulling;
        self.step.push(Action::Pull { container: container.name.clone(), image: container.image.clone() });
        Turn::Busy
    }

    /// Stops a running container whose image has changed or whose probe has failed; goes on with a stop
    /// that is under way.
    fn watch_over(&mut self, container: &Container) {
        let now = self.now;
        let Some(record) = self.state.containers.get_mut(&container.name) else { return };
        let image_changed = record.spec_image != container.image;
        let Stage::Running(running) = &mut record.stage else { return };
        if running.stop.is_none() {
            let failed = running.probes.failed(container);
            let (grace, message) = match failed {
                Some(kind) => {
                    let own = kind.of(container).and_then(|p| p.grace);
                    let name = match kind {
                        ProbeKind::Startup => "startup",
                        ProbeKind::Readiness | ProbeKind::Liveness => "liveness",
                    };
                    let message = format!("Container {} failed {name} probe, will be restarted", container.name);
                    (own.unwrap_or(self.spec.grace), message)
                }
                None if image_changed => {
                    (self.spec.grace, format!("Container {} definition changed, will be restarted", container.name))
                }
                None => return,
            };
            self.step.event(Some(&container.name), "Killing", message);
            running.stop(after(now, grace), container.pre_stop);
        }
        let attempt = record.attempts.saturating_sub(1);
        if let Stage::Running(running) = &mut record.stage {
            stop::advance(container, attempt, running, true, now, self.step);
        }
    }

    /// Every regular container has ended and none of them is started again.
    fn is_complete(&self) -> bool {
        let round = self.state.round;
        self.spec.containers.iter().all(|container| {
            self.state.containers.get(&container.name).is_some_and(|record| {
                record.spec_image == container.image
                    && record.stage == Stage::Idle
                    && record
                        .ended(round)
                        .is_some_and(|f| container.restart.after(f.exit.exit_code) == AfterExit::Stay)
            })
        })
    }

    fn restart_all_is_asked_for(&self) -> bool {
        let round = self.state.round;
        self.spec.all().any(|container| {
            self.state
                .containers
                .get(&container.name)
                .and_then(|r| r.ended(round))
                .is_some_and(|f| container.restart.after(f.exit.exit_code) == AfterExit::RestartAll)
        })
    }

    /// Stops everything; once all is stopped, the pod begins anew and this returns true.
    fn begin_next_round(&mut self) -> bool {
        let (now, grace) = (self.now, self.spec.grace);
        for container in self.spec.all() {
            let Some(record) = self.state.containers.get_mut(&container.name) else { continue };
            let attempt = record.attempts.saturating_sub(1);
            match &mut record.stage {
                Stage::Running(running) => {
                    if running.stop.is_none() {
                        running.stop(after(now, grace), container.pre_stop);
                    }
                    stop::advance(container, attempt, running, true, now, self.step);
                }
                Stage::Pulling => {
                    record.stage = Stage::Idle;
                    self.step.push(Action::AbortPull { container: container.name.clone() });
                }
                Stage::Idle | Stage::BackOff { .. } | Stage::Pulled | Stage::Starting | Stage::Held { .. } => {}
            }
        }
        if !self.state.all_stopped() {
            return false;
        }
        for record in self.state.containers.values_mut() {
            record.stage = Stage::Idle;
        }
        self.state.round += 1;
        self.state.initialized = false;
        true
    }
}

/// A sidecar is started again whatever happens; the others by their rules and policies.
fn wants_restart(container: &Container, exit_code: i32) -> bool {
    container.kind == Kind::Sidecar || container.restart.after(exit_code) != AfterExit::Stay
}
