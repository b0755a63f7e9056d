//! When a status is to be written, and whether somebody else has changed it since.
//!
//! At most one write is under way; while it is, newer statuses replace each other, and the last one is
//! written next. A status of a pod that is about to change again (a container is being started or stopped) is
//! held back for a moment: a guest starts in less time than the API server takes for a write, and nobody is
//! served by being told of it twice. No I/O happens here.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::lifecycle::Moment;
use crate::retry::RetryDelays;

/// How long a write that has failed waits.
const RETRIES: RetryDelays = RetryDelays::new(Duration::from_millis(500), Duration::from_secs(10));

/// How long a status is held back at most. Starts and stops that take longer are seen as they happen.
const HOLD: Duration = Duration::from_millis(100);

/// Conditions that are the node's to set.
const OWNED: [&str; 8] = [
    "PodResizePending",
    "PodResizeInProgress",
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "AllContainersRestarting",
];

/// What is known of the status in the API.
#[derive(Debug, Default)]
pub(super) struct Publisher {
    /// The status that the API has from us.
    written: Option<PodStatus>,
    /// What the API made of it, and the version of the pod at that time.
    echo: Option<(PodStatus, u64)>,
    /// The status that is being written.
    in_flight: Option<PodStatus>,
    failures: u32,
    retry_at: Option<Moment>,
    /// Until when a status is held back.
    hold_until: Option<Moment>,
}

impl Publisher {
    /// The status to be written now, if any; it counts as under way from here on. One that is
    /// `about_to_change` is held back for a moment.
    pub(super) fn next(
        &mut self,
        status: &PodStatus,
        about_to_change: bool,
        now: Moment,
    ) -> Option<PodStatus> {
        if self.written.as_ref() == Some(status) {
            self.hold_until = None;
        }
        let waiting = self.retry_at.is_some_and(|at| at > now);
        if self.in_flight.is_some() || waiting || self.written.as_ref() == Some(status) {
            return None;
        }
        if about_to_change && now < *self.hold_until.get_or_insert_with(|| now.after(HOLD)) {
            return None;
        }
        self.hold_until = None;
        self.in_flight = Some(status.clone());
        self.in_flight.clone()
    }

    /// When the next write is due: the next try after a failure, or one that is held back.
    pub(super) fn due_at(&self) -> Option<Moment> {
        self.retry_at.into_iter().chain(self.hold_until).max()
    }

    /// The API has this status from us, and no write is under way.
    pub(super) fn is_settled(&self, status: &PodStatus) -> bool {
        self.in_flight.is_none() && self.written.as_ref() == Some(status)
    }

    /// A write has succeeded; `pod` is what the API answered.
    pub(super) fn succeeded(&mut self, pod: &Pod) {
        self.written = self.in_flight.take();
        self.echo = pod.status.as_ref().map(|status| (owned(status), version(pod)));
        (self.failures, self.retry_at) = (0, None);
    }

    /// A write has failed and is to be tried again.
    pub(super) fn failed(&mut self, now: Moment) {
        self.in_flight = None;
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(now.after(RETRIES.after_failures(self.failures)));
    }

    /// Takes in the pod as the API server shows it. What it had before this process came is not written
    /// again, and what somebody else has changed is put right.
    pub(super) fn observe(&mut self, pod: &Pod, computed: &PodStatus) {
        let Some(status) = &pod.status else { return };
        match &self.echo {
            None if self.in_flight.is_none()
                && self.written.is_none()
                && owned(status) == owned(computed) =>
            {
                self.written = Some(computed.clone());
                self.echo = Some((owned(status), version(pod)));
            }
            Some((echo, at)) if version(pod) > *at && owned(status) != *echo => self.written = None,
            _ => {}
        }
    }
}

/// Versions of one object can be compared.
fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// The part of a status that is the node's.
fn owned(status: &PodStatus) -> PodStatus {
    let mut conditions: Vec<_> = status
        .conditions
        .iter()
        .flatten()
        .filter(|condition| OWNED.contains(&condition.type_.as_str()))
        .cloned()
        .collect();
    conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
    PodStatus {
        phase: status.phase.clone(),
        reason: status.reason.clone(),
        message: status.message.clone(),
        conditions: Some(conditions),
        container_statuses: status.container_statuses.clone(),
        init_container_statuses: status.init_container_statuses.clone(),
        ephemeral_container_statuses: status.ephemeral_container_statuses.clone(),
        host_ip: status.host_ip.clone(),
        pod_ip: status.pod_ip.clone(),
        start_time: status.start_time.clone(),
        observed_generation: status.observed_generation,
        resources: status.resources.clone(),
        allocated_resources: status.allocated_resources.clone(),
        ..PodStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(phase: &str) -> PodStatus {
        PodStatus { phase: Some(phase.to_owned()), conditions: Some(vec![]), ..PodStatus::default() }
    }

    fn pod(version: &str, phase: &str) -> Pod {
        let mut pod = Pod { status: Some(status(phase)), ..Pod::default() };
        pod.metadata.resource_version = Some(version.to_owned());
        pod
    }

    fn at(second: u64) -> Moment {
        Moment::default().after(Duration::from_secs(second))
    }

    #[test]
    fn one_write_at_a_time_and_the_latest_wins() {
        let mut publisher = Publisher::default();
        assert_eq!(publisher.next(&status("Pending"), false, at(0)), Some(status("Pending")));
        assert_eq!(publisher.next(&status("Running"), false, at(0)), None);
        assert_eq!(publisher.next(&status("Succeeded"), false, at(0)), None);
        publisher.succeeded(&pod("5", "Pending"));
        assert!(!publisher.is_settled(&status("Succeeded")));
        assert_eq!(publisher.next(&status("Succeeded"), false, at(0)), Some(status("Succeeded")));
        publisher.succeeded(&pod("6", "Succeeded"));
        assert!(publisher.is_settled(&status("Succeeded")));
        assert_eq!(publisher.next(&status("Succeeded"), false, at(0)), None);
    }

    #[test]
    fn what_is_about_to_change_is_held_back_for_a_moment() {
        let mut publisher = Publisher::default();
        let (start, end) = (at(0), at(0).after(HOLD));
        assert_eq!(publisher.next(&status("Pending"), true, start), None);
        assert_eq!(publisher.due_at(), Some(end));
        let later = start.after(HOLD / 2);
        assert_eq!(publisher.next(&status("Pending"), true, later), None);
        assert_eq!(publisher.due_at(), Some(end), "looking again does not put it off");
        assert_eq!(publisher.next(&status("Running"), false, later), Some(status("Running")));
        assert_eq!(publisher.due_at(), None);
        publisher.succeeded(&pod("5", "Running"));
        assert_eq!(publisher.next(&status("Failed"), true, start), None);
        assert_eq!(publisher.next(&status("Failed"), true, end), Some(status("Failed")));
    }

    #[test]
    fn failures_are_tried_again_later_and_later() {
        let mut publisher = Publisher::default();
        let mut now = at(0);
        let mut delays = Vec::new();
        for _ in 0..6 {
            assert!(publisher.next(&status("Running"), false, now).is_some());
            publisher.failed(now);
            assert_eq!(publisher.next(&status("Running"), false, now), None);
            let next = publisher.due_at().unwrap();
            delays.push(next.since(now).as_millis());
            now = next;
        }
        assert_eq!(delays, [500, 1000, 2000, 4000, 8000, 10_000]);
    }

    #[test]
    fn only_a_newer_and_foreign_change_is_put_right() {
        let mut publisher = Publisher::default();
        publisher.next(&status("Running"), false, at(0));
        publisher.succeeded(&pod("10", "Running"));
        publisher.observe(&pod("9", "Pending"), &status("Running"));
        assert!(publisher.is_settled(&status("Running")), "an old view says nothing");
        publisher.observe(&pod("11", "Running"), &status("Running"));
        assert!(publisher.is_settled(&status("Running")), "nothing of ours has changed");
        publisher.observe(&pod("12", "Failed"), &status("Running"));
        assert_eq!(publisher.next(&status("Running"), false, at(0)), Some(status("Running")));
    }

    #[test]
    fn a_status_from_before_a_restart_is_not_written_again() {
        let mut publisher = Publisher::default();
        publisher.observe(&pod("3", "Running"), &status("Running"));
        assert_eq!(publisher.next(&status("Running"), false, at(0)), None);
        let mut publisher = Publisher::default();
        publisher.observe(&pod("3", "Pending"), &status("Running"));
        assert!(publisher.next(&status("Running"), false, at(0)).is_some());
    }
}
