//! A pod that is to run: what to start next, what to start again, and when it is done.

use super::{
    LifecycleLimits, PodName,
    action::{Action, Step},
    backoff::BackoffRecord,
    clock::Moment,
    probe::ProbeKind,
    resize,
    spec::{AfterExit, Container, ContainerKind, RestartPolicy, Spec},
    state::{ContainerRecord, EndingCause, Hook, PodState, Running, Stage},
    stop,
};
use crate::pods::{
    container_resources::ContainerResources,
    reason::{EventReason, WaitingReason},
};

/// How long a failed pull is shown as such before it is shown as a back-off.
const ERROR_SHOWN: std::time::Duration = std::time::Duration::from_secs(2);

struct Run<'a> {
    pod: &'a PodName,
    spec: &'a Spec,
    state: &'a mut PodState,
    limits: LifecycleLimits,
    now: Moment,
    step: &'a mut Step,
}

/// What a container says about those that come after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ContainerTurn {
    /// The next one may go on.
    Next,
    /// It is being worked on; the next one waits.
    Busy,
}

pub(super) fn run(
    pod: &PodName,
    spec: &Spec,
    state: &mut PodState,
    limits: LifecycleLimits,
    now: Moment,
    step: &mut Step,
) {
    Run { pod, spec, state, limits, now, step }.run();
}

/// How the pod has come to an end by itself, if it has: nothing of it is going to be started again.
pub(super) fn conclusion(spec: &Spec, state: &PodState) -> Option<EndingCause> {
    if restarts_all(spec, state) {
        return None;
    }
    let stays = |container: &Container| {
        let record = state.containers.get(&container.name).filter(|r| r.stage == Stage::Idle)?;
        record.ended(state.round).filter(|f| container.after(f) == AfterExit::Stay)
    };
    let failed =
        |c: &Container| c.kind == ContainerKind::Init && stays(c).is_some_and(|f| f.exit.exit_code != 0);
    if spec.init.iter().any(failed) {
        return Some(EndingCause::InitFailed);
    }
    spec.containers.iter().all(|c| stays(c).is_some()).then_some(EndingCause::Completed)
}

/// A container has ended in a way by which the whole pod is started again, in place. True until all of
/// its containers have been stopped.
#[must_use]
pub fn restarts_all(spec: &Spec, state: &PodState) -> bool {
    spec.all().any(|container| {
        let ended = state.containers.get(&container.name).and_then(|r| r.ended(state.round));
        ended.is_some_and(|f| container.after(f) == AfterExit::RestartAll)
    })
}

impl Run<'_> {
    fn run(&mut self) {
        if restarts_all(self.spec, self.state) && !self.begin_next_round() {
            return;
        }
        for container in self.spec.all() {
            self.watch_over(container);
        }
        // They wait for nobody, so that one can be looked into that does not get past its init containers.
        for container in &self.spec.ephemeral {
            self.bring_up(container);
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
            if self.bring_up(container) == ContainerTurn::Busy {
                break;
            }
        }
    }

    /// Init containers in order, up to the first that is not done. What comes before one that has begun
    /// was done once; a sidecar among these is kept running, and holds up nobody a second time.
    fn initialize(&mut self) {
        let newest = self.spec.init.iter().rposition(|c| self.has_begun(c)).unwrap_or(0);
        for (index, container) in self.spec.init.iter().enumerate() {
            let passed = index < newest;
            if container.kind == ContainerKind::Sidecar || !(passed || self.init_succeeded(container)) {
                self.bring_up(container);
            }
            let done = match container.kind {
                ContainerKind::Sidecar => self.is_started(container),
                ContainerKind::Init | ContainerKind::Regular | ContainerKind::Ephemeral => {
                    self.init_succeeded(container)
                }
            };
            if !(passed || done) {
                return;
            }
        }
        self.state.initialized = true;
    }

    /// It has run, or its turn has come, in this round.
    fn has_begun(&self, container: &Container) -> bool {
        let record = self.state.containers.get(&container.name);
        record.is_some_and(|r| r.stage != Stage::Idle || r.ended(self.state.round).is_some())
    }

    fn init_succeeded(&self, container: &Container) -> bool {
        let round = self.state.round;
        let record = self.state.containers.get(&container.name);
        record.and_then(|r| r.ended(round)).is_some_and(|f| f.exit.exit_code == 0)
    }

    fn is_started(&self, container: &Container) -> bool {
        let record = self.state.containers.get(&container.name);
        record.and_then(|r| r.up()).is_some_and(|r| r.probes.started(container))
    }

    /// Takes a container the next step towards running.
    fn bring_up(&mut self, container: &Container) -> ContainerTurn {
        let now = self.now;
        let round = self.state.round;
        let record = self.state.container(&container.name);
        let is_another = is_another(record, container);
        match &mut record.stage {
            Stage::Idle => {
                if record.ended(round).is_some_and(|f| container.after(f) == AfterExit::Stay) {
                    return ContainerTurn::Next;
                }
                let Some(ended) = record.finished.last().map(|f| f.ended) else {
                    return self.pull(container);
                };
                if is_another {
                    record.crash = BackoffRecord::default();
                }
                let maximum = self.limits.crash_backoff_max;
                match record.crash.blocked_until(ended, maximum).filter(|until| *until > now) {
                    Some(until) => {
                        record.stage = Stage::BackOff { until };
                        self.step.wake(until);
                        let message = format!(
                            "Back-off restarting failed container {} in pod {}",
                            container.name, self.pod
                        );
                        self.step.warning(Some(&container.name), EventReason::BackOff, message);
                        ContainerTurn::Next
                    }
                    None => {
                        record.crash.next(ended, now, maximum);
                        self.pull(container)
                    }
                }
            }
            Stage::BackOff { until } => {
                if is_another {
                    record.crash = BackoffRecord::default();
                } else if *until > now {
                    self.step.wake(*until);
                    return ContainerTurn::Next;
                }
                let ended = record.finished.last().map_or(now, |f| f.ended);
                record.crash.next(ended, now, self.limits.crash_backoff_max);
                self.pull(container)
            }
            Stage::Held { since, until, image } => {
                if *until <= now || record.spec_image != container.image {
                    return self.pull(container);
                }
                self.step.wake(*until);
                let shown_until = since.after(ERROR_SHOWN);
                let trouble =
                    record.trouble.as_mut().filter(|t| *image && t.reason != WaitingReason::ImagePullBackOff);
                if let Some(trouble) = trouble {
                    if shown_until > now {
                        self.step.wake(shown_until);
                    } else {
                        let message = format!("Back-off pulling image \"{}\"", container.image);
                        trouble.message = format!("{message}: {}: {}", trouble.reason, trouble.message);
                        trouble.reason = WaitingReason::ImagePullBackOff;
                        self.step.event(Some(&container.name), EventReason::BackOff, message);
                        self.step.warning(
                            Some(&container.name),
                            EventReason::Failed,
                            "Error: ImagePullBackOff",
                        );
                    }
                }
                ContainerTurn::Next
            }
            Stage::Pulling | Stage::Starting => ContainerTurn::Busy,
            Stage::Pulled if record.spec_image != container.image => self.pull(container),
            Stage::Pulled => {
                let attempt = record.attempts;
                record.given = Some(container.resources.clone());
                record.attempts += 1;
                record.stage = Stage::Starting;
                self.step.push(Action::Start { container: container.name.clone(), attempt });
                ContainerTurn::Busy
            }
            Stage::Running(running) => match running.post_start {
                Hook::Due if running.stop.is_none() => {
                    running.post_start = Hook::Running;
                    self.step.push(Action::PostStart { container: container.name.clone() });
                    ContainerTurn::Busy
                }
                Hook::Due | Hook::Running | Hook::Failed => ContainerTurn::Busy,
                Hook::Done => ContainerTurn::Next,
            },
        }
    }

    fn pull(&mut self, container: &Container) -> ContainerTurn {
        let record = self.state.container(&container.name);
        if record.spec_image != container.image {
            record.pull = BackoffRecord::default();
            record.start = BackoffRecord::default();
            container.image.clone_into(&mut record.spec_image);
        }
        record.stage = Stage::Pulling;
        self.step.push(Action::Pull { container: container.name.clone(), image: container.image.clone() });
        ContainerTurn::Busy
    }

    /// Stops a running container whose image has changed, or whose probe or postStart hook has failed;
    /// goes on with a stop that is under way.
    fn watch_over(&mut self, container: &Container) {
        let now = self.now;
        let Some(record) = self.state.containers.get_mut(&container.name) else { return };
        let attempt = record.newest_attempt();
        let changed = [
            (record.spec_image != container.image).then_some(StopReason::ImageChanged),
            resize::asks_for_restart(container, record).then_some(StopReason::Resized),
        ];
        let Stage::Running(running) = &mut record.stage else { return };
        if running.stop.is_none() {
            let changed = changed.into_iter().flatten().next();
            let Some(reason) = StopReason::of(container, running, changed) else { return };
            let own = match reason {
                StopReason::ProbeFailed(kind) => kind.of(container).and_then(|p| p.grace),
                StopReason::ImageChanged | StopReason::Resized | StopReason::PostStartFailed => None,
            };
            if let Some(message) = reason.message(container) {
                self.step.event(Some(&container.name), EventReason::Killing, message);
            }
            let deadline = now.after(own.unwrap_or(self.spec.grace));
            running.stop(deadline, container.pre_stop, reason.starts_again(container));
        }
        stop::advance(container, attempt, running, true, now, self.step);
    }

    /// Stops everything but ephemeral containers, without hooks and with the least grace, as upstream does; once
    /// all is stopped, the pod begins anew and this returns true.
    fn begin_next_round(&mut self) -> bool {
        let now = self.now;
        for container in self.spec.all() {
            let Some(record) = self.state.containers.get_mut(&container.name) else { continue };
            let attempt = record.newest_attempt();
            match &mut record.stage {
                Stage::Running(running) => {
                    if running.stop.is_none() {
                        let message = format!("Stopping container {}", container.name);
                        self.step.event(Some(&container.name), EventReason::Killing, message);
                    }
                    running.stop_for_all(now);
                    stop::advance(container, attempt, running, true, now, self.step);
                }
                Stage::Pulling => {
                    record.stage = Stage::Idle;
                    self.step.push(Action::AbortPull { container: container.name.clone() });
                }
                Stage::Idle
                | Stage::BackOff { .. }
                | Stage::Pulled
                | Stage::Starting
                | Stage::Held { .. } => {}
            }
        }
        let is_active =
            |c: &Container| self.state.containers.get(&c.name).is_some_and(ContainerRecord::is_active);
        if self.spec.all().any(is_active) {
            return false;
        }
        self.state.round += 1;
        self.state.initialized = false;
        let round = self.state.round;
        for (name, record) in &mut self.state.containers {
            if self.spec.ephemeral.iter().any(|container| container.name == *name) {
                // The one run that it has had is its run of this round, too.
                record.finished.iter_mut().for_each(|finished| finished.round = round);
            } else {
                record.stage = Stage::Idle;
            }
        }
        true
    }
}

/// A delay belongs to a container with an image and its resources; with others it starts afresh.
fn is_another(record: &ContainerRecord, container: &Container) -> bool {
    let resources = &container.resources;
    let has_same = |given: &ContainerResources| given.has_cpu_of(resources) && given.has_memory_of(resources);
    record.spec_image != container.image || record.given.as_ref().is_some_and(|given| !has_same(given))
}

/// Why a running container is stopped while its pod goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StopReason {
    ImageChanged,
    Resized,
    ProbeFailed(ProbeKind),
    PostStartFailed,
}

impl StopReason {
    /// An init container that runs already is left alone by what changes of its specification.
    fn of(container: &Container, running: &Running, changed: Option<Self>) -> Option<Self> {
        if running.post_start == Hook::Failed {
            return Some(Self::PostStartFailed);
        }
        if container.kind != ContainerKind::Init && changed.is_some() {
            return changed;
        }
        running.probes.failed(container).map(Self::ProbeFailed)
    }

    /// The text of the event, in upstream's words. Who ran a hook has told of its failure already.
    fn message(self, container: &Container) -> Option<String> {
        let what = match self {
            Self::PostStartFailed => return None,
            Self::Resized => return Some(format!("Container {} resize requires restart", container.name)),
            Self::ImageChanged => "definition changed",
            Self::ProbeFailed(ProbeKind::Startup) => "failed startup probe",
            Self::ProbeFailed(ProbeKind::Readiness | ProbeKind::Liveness) => "failed liveness probe",
        };
        Some(match container.kind {
            ContainerKind::Regular if self.starts_again(container) => {
                format!("Container {} {what}, will be restarted", container.name)
            }
            ContainerKind::Regular | ContainerKind::Ephemeral => {
                format!("Container {} {what}", container.name)
            }
            ContainerKind::Init | ContainerKind::Sidecar => {
                format!("Init container {} {what}", container.name)
            }
        })
    }

    /// Whether it is started again whatever its exit code. Rules about exit codes have no say: it did not
    /// exit by itself.
    fn starts_again(self, container: &Container) -> bool {
        match self {
            Self::ImageChanged | Self::Resized => true,
            Self::ProbeFailed(_) => container.restart.policy != RestartPolicy::Never,
            Self::PostStartFailed => false,
        }
    }
}
