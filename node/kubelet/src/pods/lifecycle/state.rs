//! What is remembered of a pod: the states its containers go through, and what they leave behind.
//!
//! A [`PodState`] is written to disk after every change of what [`PodState::durable`] keeps of it, so a restarted agent
//! goes on where it was ([`resume`](super::resume)). It is changed in two places only: by [`step`](super::step),
//! which decides, and by the `record_*` methods here, which take in what happened.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    backoff::BackoffRecord,
    clock::{Moment, Now},
    probe::{ProbeKind, Probes},
    resize::{ResizeState, ResizeTry},
    spec::Spec,
};
use crate::{
    pods::{allocation::Allocation, container_resources::ContainerResources, reason::WaitingReason},
    runtime::{ContainerState, Exit, ExitReason, HostPort, Image, Presence},
};

/// All that is remembered of one pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodState {
    /// When this node first took notice of the pod; never changes.
    pub start_time: Option<Timestamp>,
    /// The same for timers.
    #[serde(default)]
    pub began: Option<Moment>,
    /// Addresses of the pod, the primary first; empty as long as it has none. Decided when the node takes the pod,
    /// and kept while it runs.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Ports of the node that lead to those addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<HostPort>,
    /// Every init container has done its part once; they do not run again.
    pub initialized: bool,
    /// Counts the in-place restarts of the whole pod. Exits of earlier rounds say nothing about init
    /// containers or phase.
    pub round: u32,
    /// Set when the pod is on its way out; never unset. Nothing is started any more.
    pub ending: Option<Ending>,
    /// Whoever else has a say in it has let it in.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_admitted: bool,
    /// They cannot tell yet, and why.
    #[serde(skip)]
    pub admission_waits_for: Option<String>,
    /// Phase `Failed` for a reason of the pod rather than of a container; never unset.
    pub verdict: Option<Verdict>,
    /// What the pod was given; nothing as long as the node has not taken it, and in records of agents that gave nothing
    /// else than was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation: Option<Allocation>,
    /// Where its resize is.
    #[serde(default)]
    pub resize: ResizeState,
    /// The node has agreed to a resize, and people have not been told so.
    #[serde(skip)]
    pub resize_begins: bool,
    /// What is remembered of each container that the lifecycle has come to.
    pub containers: BTreeMap<String, ContainerRecord>,
}

/// The pod is on its way out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    /// Why.
    pub cause: EndingCause,
    /// Since when.
    pub since: Moment,
    /// It takes far longer than it may, and that has been told.
    #[serde(default)]
    pub overdue: bool,
}

/// Why a pod is on its way out. A deletion overtakes every other cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum EndingCause {
    /// Its regular containers have ended for good; sidecars are stopped. Next: the terminal phase.
    Completed,
    /// An init container failed for good. Next: phase Failed.
    InitFailed,
    /// The node gave a [`Verdict`]: a deadline, a rejection, an eviction. Next: phase Failed.
    Verdict,
    /// It has a deletion timestamp. Next: the terminal phase, then the final DELETE.
    Deleted,
    /// Its object is gone (force deletion, or deleted while the node could not see it). Next: nothing;
    /// there is nobody left to tell.
    Vanished,
}

/// A failure of the pod as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// `status.reason`.
    pub reason: String,
    /// `status.message`.
    pub message: String,
    /// What it leaves the pod of its grace; `None` is all of it.
    #[serde(default)]
    pub grace: Option<Duration>,
    /// The node had to end it, whatever the pod did: condition `DisruptionTarget`.
    #[serde(default)]
    pub disrupts: bool,
}

impl Verdict {
    /// A verdict that leaves the pod all of its grace.
    #[must_use]
    pub fn new(reason: &str, message: &str) -> Self {
        Self { reason: reason.to_owned(), message: message.to_owned(), grace: None, disrupts: false }
    }
}

/// What is remembered of one container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Where it is now.
    pub stage: Stage,
    /// What the newest attempt was given of memory and processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<ContainerResources>,
    /// Attempts that were started so far; the newest has number `attempts - 1`.
    pub attempts: u32,
    /// `image` of the spec when the newest attempt began.
    pub spec_image: String,
    /// The image as the store resolved it, for the newest attempt.
    pub image: Option<Image>,
    /// The two newest attempts that have ended, newest last.
    pub finished: Vec<Finished>,
    /// Delay between restarts.
    pub crash: BackoffRecord,
    /// Delay between tries to get the image.
    pub pull: BackoffRecord,
    /// Delay between tries to start.
    pub start: BackoffRecord,
    /// Why the last try to get the container going failed, until one succeeds.
    pub trouble: Option<Trouble>,
}

/// An attempt that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    /// Its number, from 0.
    pub attempt: u32,
    /// [`PodState::round`] at that time.
    pub round: u32,
    /// Image reference and id of that attempt.
    pub image: Option<(String, String)>,
    /// How it ended.
    pub exit: Exit,
    /// When, for timers.
    #[serde(default)]
    pub ended: Moment,
    /// What the termination message says; `exit.message` where the guest left none.
    pub message: String,
    /// It was stopped in order to be started again, so its exit code decides nothing ([`Stop::again`]).
    pub again: bool,
    /// It was stopped in order that the whole pod be started again ([`Stop::for_all`]).
    #[serde(default)]
    pub for_all: bool,
}

/// Why a container is not running yet: becomes `state.waiting`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// Waiting reason.
    pub reason: WaitingReason,
    /// Waiting message.
    pub message: String,
}

/// Where a container is. The names of the next states are part of each variant's description.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Stage {
    /// Nothing is going on. It has never run, or it has ended ([`ContainerRecord::finished`] tells).
    /// Next: [`Stage::Pulling`] when it is its turn, [`Stage::BackOff`] when it ended too often.
    #[default]
    Idle,
    /// It has ended and waits for its turn to be started again. Next: [`Stage::Pulling`].
    BackOff {
        /// When the wait is over.
        until: Moment,
    },
    /// The image is looked up or fetched. Next: [`Stage::Pulled`], [`Stage::Held`].
    Pulling,
    /// The image is there. Next: [`Stage::Starting`].
    Pulled,
    /// It is being created and started. Next: [`Stage::Running`], [`Stage::Held`], [`Stage::Idle`] when
    /// it ended at once.
    Starting,
    /// The last try to get it going failed. Next: [`Stage::Pulling`].
    Held {
        /// Since when; the reason shown changes from the error to the back-off after a while.
        since: Moment,
        /// When the next try is due.
        until: Moment,
        /// The image is what is missing, so that the reason turns into `ImagePullBackOff`.
        image: bool,
    },
    /// Its guest runs. Next: [`Stage::Idle`].
    Running(Running),
}

/// A running container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// When it was started.
    pub started_at: Timestamp,
    /// The same for timers.
    #[serde(default)]
    pub since: Moment,
    /// postStart hook.
    pub post_start: Hook,
    /// Set when it is being stopped.
    pub stop: Option<Stop>,
    /// Results of its probes.
    pub probes: Probes,
    /// New limits that it is being given.
    #[serde(skip)]
    pub resize: Option<ResizeTry>,
}

/// Where a hook is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hook {
    /// To be run. Next: [`Hook::Running`].
    Due,
    /// Runs. Next: [`Hook::Done`].
    Running,
    /// There is none, or nothing has to wait for it any more.
    Done,
    /// A postStart hook has failed: its container never counts as running, and is stopped.
    Failed,
}

/// A container is being stopped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stop {
    /// When its grace is over.
    pub deadline: Moment,
    /// preStop hook.
    pub pre_stop: Hook,
    /// The deadline that the provider was told, once it was told to stop it.
    pub told: Option<Moment>,
    /// It is started again whatever its exit code will be: its image has changed, or a probe failed
    /// where the restart policy is not `Never`.
    pub again: bool,
    /// The whole pod is to be started again, by the rule of a container.
    #[serde(default)]
    pub for_all: bool,
}

impl ContainerRecord {
    /// Something of this container runs or may be about to.
    #[must_use]
    pub fn is_active(&self) -> bool {
        matches!(self.stage, Stage::Starting | Stage::Running(_))
    }

    /// The running container, if it runs.
    #[must_use]
    pub fn running(&self) -> Option<&Running> {
        match &self.stage {
            Stage::Running(running) => Some(running),
            _ => None,
        }
    }

    /// The running container, once its postStart hook is done: before that nobody is told that it runs.
    #[must_use]
    pub fn up(&self) -> Option<&Running> {
        self.running().filter(|running| running.post_start == Hook::Done)
    }

    /// Number of the newest attempt that has run, which is what its restart count says.
    #[must_use]
    pub fn newest_run(&self) -> Option<u32> {
        let starting = u32::from(self.stage == Stage::Starting);
        self.attempts.checked_sub(1 + starting)
    }

    /// How it ended last in this round, when nothing has been started since.
    #[must_use]
    pub fn ended(&self, round: u32) -> Option<&Finished> {
        if self.is_active() {
            return None;
        }
        self.finished.last().filter(|f| f.round == round)
    }

    /// Number of the newest attempt, which may be one that is only being started.
    #[must_use]
    pub fn newest_attempt(&self) -> u32 {
        self.attempts.saturating_sub(1)
    }

    pub(super) fn finish(&mut self, round: u32, exit: Exit, message: Option<String>, now: Now) {
        let message = message.unwrap_or_else(|| exit.message.clone());
        let image = self.image.as_ref().map(|i| (i.reference.clone(), i.id.clone()));
        let stop = self.running().and_then(|running| running.stop.as_ref());
        let (again, for_all) = stop.map_or((false, false), |stop| (stop.again, stop.for_all));
        let attempt = self.newest_attempt();
        // Not before it began, whatever has become of the wall clock since.
        let since = self.running().map_or(Moment::default(), |running| running.since);
        let ended = now.moment_of(exit.finished_at).max(since);
        self.finished.push(Finished { attempt, round, image, exit, ended, message, again, for_all });
        let surplus = self.finished.len().saturating_sub(2);
        self.finished.drain(..surplus);
        self.stage = Stage::Idle;
    }
}

impl PodState {
    /// The part that is remembered over a restart of the agent: all but the bookkeeping of probes and what is asked of
    /// the provider any number of times.
    #[must_use]
    pub fn durable(&self) -> Self {
        let mut state = self.clone();
        for record in state.containers.values_mut() {
            if let Stage::Running(running) = &mut record.stage {
                running.probes.forget_tallies();
                running.resize = None;
            }
        }
        state.resize_begins = false;
        state.admission_waits_for = None;
        state
    }

    /// What is remembered of a container; nothing yet is the default.
    pub fn container(&mut self, name: &str) -> &mut ContainerRecord {
        self.containers.entry(name.to_owned()).or_default()
    }

    /// A container is on its way up or down, so that the status is likely to be another one in a moment.
    #[must_use]
    pub fn is_in_transit(&self) -> bool {
        self.containers.values().any(|container| match &container.stage {
            Stage::Pulling | Stage::Pulled | Stage::Starting => true,
            Stage::Running(running) => running.stop.as_ref().is_some_and(|stop| stop.told.is_some()),
            Stage::Idle | Stage::BackOff { .. } | Stage::Held { .. } => false,
        })
    }

    /// No container runs or is being started.
    #[must_use]
    pub fn all_stopped(&self) -> bool {
        self.containers.values().all(|c| !c.is_active())
    }

    /// The pod has ended for good and nothing of it runs.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.ending.is_some() && self.all_stopped()
    }

    /// Takes in that the object is gone from the API server.
    pub fn record_vanished(&mut self, now: Now) {
        self.end(EndingCause::Vanished, now);
    }

    /// Takes in a verdict on the whole pod. The first one stays, and none changes how a pod has ended.
    pub fn record_verdict(&mut self, verdict: Verdict, now: Now) {
        if self.is_over() {
            return;
        }
        self.verdict.get_or_insert(verdict);
        self.end(EndingCause::Verdict, now);
    }

    /// Puts the pod on its way out, or notes that a stronger cause has come.
    pub(super) fn end(&mut self, cause: EndingCause, now: Now) {
        match &mut self.ending {
            Some(ending) if ending.cause < cause => ending.cause = cause,
            Some(_) => {}
            None => self.ending = Some(Ending { cause, since: now.steady, overdue: false }),
        }
    }

    /// Takes in the outcome of a pull.
    pub fn record_pull(&mut self, name: &str, outcome: Result<Image, Trouble>, now: Now) {
        let record = self.container(name);
        if record.stage != Stage::Pulling {
            return;
        }
        match outcome {
            Ok(image) => {
                record.image = Some(image);
                record.pull = BackoffRecord::default();
                record.stage = Stage::Pulled;
            }
            Err(trouble) => {
                // A name that can never be right is asked for again too: the image of a pod may change.
                let until = record.pull.fail(now.steady);
                let image = matches!(
                    trouble.reason,
                    WaitingReason::ErrImagePull
                        | WaitingReason::RegistryUnavailable
                        | WaitingReason::SignatureValidationFailed
                );
                record.stage = Stage::Held { since: now.steady, until, image };
                record.trouble = Some(trouble);
            }
        }
    }

    /// Takes in the outcome of a start. What the guest did since is seen by [`PodState::record_observation`].
    pub fn record_start(&mut self, spec: &Spec, name: &str, outcome: Result<Timestamp, Trouble>, now: Now) {
        let hook = spec.container(name).is_some_and(|c| c.post_start);
        let record = self.container(name);
        if record.stage != Stage::Starting {
            return;
        }
        match outcome {
            Ok(started_at) => record.run(started_at, hook, now),
            Err(trouble) => {
                // Nothing ran, so the attempt's number is free again.
                record.attempts = record.attempts.saturating_sub(1);
                // What is missing may be there the next moment; a module that cannot run stays so.
                let until = match trouble.reason {
                    WaitingReason::CreateContainerConfigError => now.steady.after(super::backoff::INITIAL),
                    _ => record.start.fail(now.steady),
                };
                record.stage = Stage::Held { since: now.steady, until, image: false };
                record.trouble = Some(trouble);
            }
        }
    }

    /// Puts the next pull of an image that could not be had off by this share of its delay: nodes whose pulls have failed
    /// together do not try again together.
    pub fn spread_pull(&mut self, name: &str, share: f64) {
        if let Stage::Held { since, until, image: true } = &mut self.container(name).stage {
            *until = until.after(until.since(*since).mul_f64(share.clamp(0.0, 1.0)));
        }
    }

    /// Takes in what the provider says of a container's newest attempt. What it cannot tell changes nothing.
    /// `termination` is what the guest left as termination message.
    pub fn record_observation(
        &mut self,
        name: &str,
        presence: &Presence,
        termination: Option<String>,
        now: Now,
    ) {
        let round = self.round;
        let record = self.container(name);
        match (&record.stage, presence) {
            (Stage::Running(_), Presence::Known(ContainerState::Exited(exit))) => {
                record.finish(round, exit.clone(), termination, now);
            }
            (Stage::Starting, Presence::Known(ContainerState::Exited(exit))) => {
                record.trouble = None;
                record.start = BackoffRecord::default();
                record.finish(round, exit.clone(), termination, now);
            }
            (Stage::Running(running), Presence::Absent) => {
                let exit = Exit {
                    started_at: running.started_at,
                    finished_at: now.wall,
                    exit_code: 137,
                    reason: ExitReason::Lost,
                    message: "The container is no longer known to the process that ran it.".to_owned(),
                };
                record.finish(round, exit, termination, now);
            }
            _ => {}
        }
    }

    /// Takes in that the postStart hook of an attempt has ended.
    pub fn record_post_start(&mut self, name: &str, attempt: u32, outcome: Result<(), Trouble>) {
        let record = self.container(name);
        if record.newest_attempt() != attempt {
            return;
        }
        let Stage::Running(running) = &mut record.stage else { return };
        running.post_start = if outcome.is_ok() { Hook::Done } else { Hook::Failed };
        record.trouble = outcome.err();
    }

    /// Takes in the result of a probe. True when it changed what the probe says of the container.
    pub fn record_probe(
        &mut self,
        spec: &Spec,
        name: &str,
        attempt: u32,
        kind: ProbeKind,
        success: bool,
    ) -> bool {
        let Some(container) = spec.container(name) else { return false };
        let record = self.container(name);
        if record.newest_attempt() != attempt {
            return false;
        }
        let Stage::Running(running) = &mut record.stage else { return false };
        running.probes.record(kind, container, success)
    }

    /// Takes in that a probe could not be carried out: it is run again when it is next due.
    pub fn record_probe_given_up(&mut self, name: &str, attempt: u32, kind: ProbeKind) {
        let record = self.container(name);
        if record.newest_attempt() == attempt
            && let Stage::Running(running) = &mut record.stage
        {
            running.probes.give_up(kind);
        }
    }

    /// Takes in that the preStop hook of an attempt has ended.
    pub fn record_pre_stop(&mut self, name: &str, attempt: u32) {
        let record = self.container(name);
        if record.newest_attempt() != attempt {
            return;
        }
        if let Stage::Running(Running { stop: Some(stop), .. }) = &mut record.stage {
            stop.pre_stop = Hook::Done;
        }
    }
}

impl ContainerRecord {
    pub(super) fn run(&mut self, started_at: Timestamp, post_start: bool, now: Now) {
        self.trouble = None;
        self.start = BackoffRecord::default();
        self.stage = Stage::Running(Running {
            started_at,
            since: now.moment_of(started_at),
            post_start: if post_start { Hook::Due } else { Hook::Done },
            stop: None,
            probes: Probes::default(),
            resize: None,
        });
    }
}

impl Running {
    /// Begins to stop it, or shortens the stop that is under way.
    pub(super) fn stop(&mut self, deadline: Moment, pre_stop: bool, again: bool) {
        match &mut self.stop {
            Some(stop) => stop.deadline = stop.deadline.min(deadline),
            None => {
                let pre_stop = if pre_stop { Hook::Due } else { Hook::Done };
                self.stop = Some(Stop { deadline, pre_stop, told: None, again, for_all: false });
            }
        }
    }

    /// Stops it without a hook and with the least grace, so that the whole pod can be started again.
    pub(super) fn stop_for_all(&mut self, now: Moment) {
        self.stop(now, false, false);
        if let Some(stop) = &mut self.stop {
            stop.for_all = true;
        }
    }
}
