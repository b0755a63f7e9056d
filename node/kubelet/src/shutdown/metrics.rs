//! When the node was shut down last, for monitoring, with upstream's names. Remembered over the shutdown that they tell of.

use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicU64,
};

use jiff::Timestamp;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use serde::{Deserialize, Serialize};

/// The file, upstream's name of it.
const FILE: &str = "graceful_node_shutdown_state";

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Times {
    start_time: Option<Timestamp>,
    end_time: Option<Timestamp>,
}

/// When the last graceful shutdown began and ended, in seconds since 1970. Clones share them.
#[derive(Clone, Debug)]
pub struct ShutdownMetrics {
    file: PathBuf,
    start: Gauge<f64, AtomicU64>,
    end: Gauge<f64, AtomicU64>,
}

impl ShutdownMetrics {
    /// What is remembered below `root`.
    #[must_use]
    pub fn open(root: &Path) -> Self {
        let metrics = Self { file: root.join(FILE), start: Gauge::default(), end: Gauge::default() };
        metrics.show(metrics.read());
        metrics
    }

    /// Shows them among the metrics of `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "kubelet_graceful_shutdown_start_time_seconds",
            "When the last graceful shutdown of the node began, in seconds since 1970",
            self.start.clone(),
        );
        registry.register(
            "kubelet_graceful_shutdown_end_time_seconds",
            "When the last graceful shutdown of the node ended, in seconds since 1970",
            self.end.clone(),
        );
    }

    pub(super) fn begin(&self) {
        self.note(Times { start_time: Some(Timestamp::now()), end_time: None });
    }

    pub(super) fn end(&self) {
        self.note(Times { end_time: Some(Timestamp::now()), ..self.read() });
    }

    fn read(&self) -> Times {
        let bytes = std::fs::read(&self.file).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// What cannot be remembered is shown all the same, for as long as the agent lives.
    fn note(&self, times: Times) {
        self.show(times);
        let written = serde_json::to_vec(&times).map_err(std::io::Error::from);
        if let Err(error) = written.and_then(|bytes| std::fs::write(&self.file, bytes)) {
            tracing::warn!(path = %self.file.display(), %error, "the time of the shutdown cannot be noted down");
        }
    }

    fn show(&self, times: Times) {
        for (gauge, time) in [(&self.start, times.start_time), (&self.end, times.end_time)] {
            gauge.set(time.map_or(0.0, |time| time.as_duration().as_secs_f64()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_outlive_the_shutdown_that_they_tell_of() {
        let root = tempfile::tempdir().unwrap();
        let metrics = ShutdownMetrics::open(root.path());
        assert_eq!((metrics.start.get(), metrics.end.get()), (0.0, 0.0));
        metrics.begin();
        assert!(metrics.start.get() > 0.0);
        assert!(metrics.end.get().abs() < f64::EPSILON);
        metrics.end();
        let later = ShutdownMetrics::open(root.path());
        assert!(later.end.get() >= later.start.get() && later.start.get() > 0.0);
        std::fs::write(root.path().join(FILE), "no JSON").unwrap();
        assert!(ShutdownMetrics::open(root.path()).start.get().abs() < f64::EPSILON);
    }
}
