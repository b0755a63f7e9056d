//! What is counted of a container's requests.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Upper bounds of the buckets of durations, in milliseconds; what takes longer is in none of them.
pub const DURATION_BUCKETS_MILLIS: [u64; 11] = [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000];

/// What was counted of a container's requests since it was started, and what there is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpStats {
    /// Answers by the first digit of their status: those with 1xx first, those with 5xx last.
    pub answers: [u64; 5],
    /// Time from the head of a request to the end of its answer, of all of them.
    pub duration: Duration,
    /// Answers by how long they took: each bucket has those that took no longer than its bound and longer than the one
    /// before. Of [`DURATION_BUCKETS_MILLIS`].
    pub buckets: [u64; DURATION_BUCKETS_MILLIS.len()],
    /// Requests that are not answered yet.
    pub in_flight: u64,
    /// Requests that wait for an instance.
    pub queued: u64,
    /// Instances, those that have nothing to do included.
    pub instances: u64,
    /// Connections.
    pub connections: u64,
    /// Requests that were sent away because too many waited, or memory was short.
    pub rejected: u64,
    /// Instances that trapped, exited, or left without an answer.
    pub failures: u64,
    /// Requests whose time was over.
    pub timeouts: u64,
    /// Connections that did not come to be: their handshake of TLS failed, or took too long.
    pub handshake_failures: u64,
}

/// Counts them.
#[derive(Debug, Default)]
pub(super) struct HttpMetrics {
    answers: [AtomicU64; 5],
    duration_micros: AtomicU64,
    buckets: [AtomicU64; DURATION_BUCKETS_MILLIS.len()],
    pub(super) in_flight: Gauge,
    pub(super) instances: Gauge,
    pub(super) connections: Gauge,
    rejected: AtomicU64,
    failures: AtomicU64,
    timeouts: AtomicU64,
    handshake_failures: AtomicU64,
}

/// How many there are now.
#[derive(Debug, Default)]
pub(super) struct Gauge(std::sync::Arc<AtomicU64>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(std::sync::Arc<AtomicU64>);

impl Gauge {
    pub(super) fn one_more(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(std::sync::Arc::clone(&self.0))
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl HttpMetrics {
    /// A request was answered with this status, so long after its head.
    pub(super) fn answered(&self, status: http::StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        add(&self.answers[class], 1);
        add(&self.duration_micros, u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        let fits = |bound: &u64| took <= Duration::from_millis(*bound);
        if let Some(bucket) = DURATION_BUCKETS_MILLIS.iter().position(fits) {
            add(&self.buckets[bucket], 1);
        }
    }

    pub(super) fn rejected(&self) {
        add(&self.rejected, 1);
    }

    pub(super) fn failed(&self) {
        add(&self.failures, 1);
    }

    pub(super) fn timed_out(&self) {
        add(&self.timeouts, 1);
    }

    pub(super) fn handshake_failed(&self) {
        add(&self.handshake_failures, 1);
    }

    /// All of it, with so many requests that wait.
    pub(super) fn stats(&self, queued: usize) -> HttpStats {
        HttpStats {
            answers: self.answers.each_ref().map(get),
            duration: Duration::from_micros(get(&self.duration_micros)),
            buckets: self.buckets.each_ref().map(get),
            in_flight: self.in_flight.get(),
            queued: queued as u64,
            instances: self.instances.get(),
            connections: self.connections.get(),
            rejected: get(&self.rejected),
            failures: get(&self.failures),
            timeouts: get(&self.timeouts),
            handshake_failures: get(&self.handshake_failures),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn answers_are_counted_by_class_and_duration() {
        let metrics = HttpMetrics::default();
        let one = metrics.in_flight.one_more();
        metrics.answered(StatusCode::OK, Duration::from_millis(5));
        metrics.answered(StatusCode::NO_CONTENT, Duration::from_millis(6));
        metrics.answered(StatusCode::BAD_GATEWAY, Duration::from_secs(11));
        let stats = metrics.stats(3);
        assert_eq!(stats.answers, [0, 2, 0, 0, 1]);
        assert_eq!(stats.buckets, [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(stats.duration, Duration::from_millis(11_011));
        assert_eq!((stats.in_flight, stats.queued), (1, 3));
        drop(one);
        assert_eq!(metrics.stats(0).in_flight, 0);
    }
}
