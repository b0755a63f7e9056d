//! What the lifecycle asks the pod task to do.

use std::time::Duration;

use super::{clock::Moment, probe::ProbeKind};
use crate::pods::{container_resources::ContainerResources, reason::EventReason};

/// The outcome of one [`step`](super::step).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// To be done now, in this order. All but [`Action::Event`] go on beside the lifecycle, and what
    /// comes of them is handed to a `record_*` method of the state.
    pub actions: Vec<Action>,
    /// When to look again if nothing happens before.
    pub wake_at: Option<Moment>,
}

/// Something to be done outside of the lifecycle.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Look the image up or fetch it; then `record_pull`.
    Pull {
        /// Container name.
        container: String,
        /// Its image, as written.
        image: String,
    },
    /// Give up a pull that nobody waits for any more.
    AbortPull {
        /// Container name.
        container: String,
    },
    /// Start an attempt; then `record_start`.
    Start {
        /// Container name.
        container: String,
        /// Number of the attempt.
        attempt: u32,
    },
    /// Run the postStart hook; then `record_post_start`.
    PostStart {
        /// Container name.
        container: String,
    },
    /// Run the preStop hook for as long as `within`; then `record_pre_stop`.
    PreStop {
        /// Container name.
        container: String,
        /// What is left of the container's grace.
        within: Duration,
    },
    /// Run a probe; then `record_probe`.
    Probe {
        /// Container name.
        container: String,
        /// Which one.
        kind: ProbeKind,
    },
    /// Give a running attempt other limits; then `record_resized`.
    Resize {
        /// Container name.
        container: String,
        /// Number of the attempt.
        attempt: u32,
        /// What it is to have.
        wanted: ContainerResources,
    },
    /// Ask an attempt to end within `grace`.
    Stop {
        /// Container name.
        container: String,
        /// Number of the attempt.
        attempt: u32,
        /// How long it is given.
        grace: Duration,
    },
    /// Tell people.
    Event(Note),
}

/// An event about the pod, or about one of its containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Container name, where the event is about one.
    pub container: Option<String>,
    /// Warning rather than Normal.
    pub warning: bool,
    /// Reason.
    pub reason: EventReason,
    /// Message.
    pub message: String,
}

impl Step {
    pub(super) fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    pub(super) fn event(&mut self, container: Option<&str>, reason: EventReason, message: impl Into<String>) {
        self.push(Action::Event(Note {
            container: container.map(str::to_owned),
            warning: false,
            reason,
            message: message.into(),
        }));
    }

    pub(super) fn warning(
        &mut self,
        container: Option<&str>,
        reason: EventReason,
        message: impl Into<String>,
    ) {
        self.push(Action::Event(Note {
            container: container.map(str::to_owned),
            warning: true,
            reason,
            message: message.into(),
        }));
    }

    pub(super) fn wake(&mut self, at: Moment) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}
