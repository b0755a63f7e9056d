//! The worker protocol as Rust values: generated types, and the way between them and ours.

mod callers;
mod exposed;
mod http;
mod instance_spec;
mod resize;
mod rules;
pub(crate) mod spans;
mod tables;

use std::{fmt, time::Duration};

use jiff::Timestamp;
use kubewasm_host::{
    InstantiationStats, TrafficUsage, Usage,
    exit::{Exit, ExitReason},
};

use crate::instance::{End, Instance, InstanceStats};

pub(crate) use rules::OutgoingRules;
pub(crate) use tables::{IncomingUpdate, OutgoingUpdate};

/// What `proto/worker.proto` generates.
#[allow(
    missing_docs,
    rust_2018_idioms,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "generated code"
)]
pub(crate) mod wire {
    tonic::include_proto!("kubewasm.worker.v1");
}

/// A range of protocol versions; `proto/worker.proto` says what each brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The oldest.
    pub min: u32,
    /// The newest.
    pub max: u32,
}

impl Versions {
    /// What this program speaks: the newest version, and the two before it.
    pub const OURS: Self = Self { min: 3, max: 5 };
    /// The first version with tables of the network.
    pub(crate) const TABLES: u32 = 4;
    /// The first version in which a worker says who listens.
    pub(crate) const LISTENS: u32 = 5;
    /// The first version in which a worker takes certificates.
    pub(crate) const CERTIFICATES: u32 = 5;
    /// The first version in which limits of instances that run can be changed.
    pub(crate) const RESIZE: u32 = 5;
    /// The first version in which callers can be connected to what runs.
    pub(crate) const STREAMS: u32 = 5;

    /// The newest version that both speak.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u32> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

/// A message that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid message: {0}")]
pub struct WireError(&'static str);

impl fmt::Debug for wire::EnvVar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvVar").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for wire::TlsCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsCertificate").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for wire::HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpProxy").field("url", &self.url).field("past", &self.past).finish_non_exhaustive()
    }
}

impl From<&Exit> for wire::Exit {
    /// An end that has come now.
    fn from(exit: &Exit) -> Self {
        let reason = match exit.reason {
            ExitReason::Exited => wire::ExitReason::Exited,
            ExitReason::Trapped => wire::ExitReason::Trapped,
            ExitReason::Stopped => wire::ExitReason::Stopped,
            ExitReason::OutOfMemory => wire::ExitReason::OutOfMemory,
            ExitReason::StartFailed => wire::ExitReason::StartFailed,
            ExitReason::Lost => wire::ExitReason::Lost,
        };
        Self {
            finished_at: nanoseconds(Timestamp::now()),
            code: exit.code,
            reason: reason.into(),
            message: exit.message.clone(),
        }
    }
}

impl From<&Instance> for wire::Instance {
    fn from(instance: &Instance) -> Self {
        let exit = instance.end.as_ref().map(|End { finished_at, exit }| wire::Exit {
            finished_at: nanoseconds(*finished_at),
            ..exit.into()
        });
        Self {
            id: instance.id.clone(),
            pod_uid: instance.pod_uid.clone(),
            revision: instance.revision,
            started_at: nanoseconds(instance.started_at),
            exit,
            label: instance.label.clone(),
        }
    }
}

impl TryFrom<wire::Instance> for Instance {
    type Error = WireError;

    fn try_from(instance: wire::Instance) -> Result<Self, WireError> {
        let end = match instance.exit {
            None => None,
            Some(exit) => {
                let reason = match exit.reason() {
                    wire::ExitReason::Exited => ExitReason::Exited,
                    wire::ExitReason::Trapped => ExitReason::Trapped,
                    wire::ExitReason::Stopped => ExitReason::Stopped,
                    wire::ExitReason::OutOfMemory => ExitReason::OutOfMemory,
                    wire::ExitReason::StartFailed => ExitReason::StartFailed,
                    wire::ExitReason::Lost => ExitReason::Lost,
                    wire::ExitReason::Unspecified => {
                        return Err(WireError("the reason of an exit is missing or unknown"));
                    }
                };
                Some(End {
                    finished_at: timestamp(exit.finished_at)?,
                    exit: Exit::new(exit.code, reason, exit.message),
                })
            }
        };
        Ok(Self {
            id: instance.id,
            pod_uid: instance.pod_uid,
            label: instance.label,
            revision: instance.revision,
            started_at: timestamp(instance.started_at)?,
            end,
        })
    }
}

impl From<&InstanceStats> for wire::InstanceStats {
    fn from(stats: &InstanceStats) -> Self {
        // Of processor time, 64 bits hold centuries.
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            id: stats.id.clone(),
            pod_uid: stats.pod_uid.clone(),
            at: nanoseconds(stats.at),
            cpu_nanos: nanos(stats.usage.cpu),
            throttled_nanos: nanos(stats.usage.throttled),
            memory_bytes: stats.usage.memory_bytes,
            yields: stats.usage.yields,
            received_bytes: stats.usage.traffic.received_bytes,
            sent_bytes: stats.usage.traffic.sent_bytes,
            has_uncounted_traffic: stats.usage.traffic.has_uncounted,
            file_read_bytes: stats.usage.files.received_bytes,
            file_written_bytes: stats.usage.files.sent_bytes,
            file_reads: stats.usage.files.reads,
            file_writes: stats.usage.files.writes,
            has_uncounted_files: stats.usage.files.has_uncounted,
            http: stats.http.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<wire::InstanceStats> for InstanceStats {
    type Error = WireError;

    fn try_from(stats: wire::InstanceStats) -> Result<Self, WireError> {
        Ok(Self {
            id: stats.id,
            pod_uid: stats.pod_uid,
            at: timestamp(stats.at)?,
            usage: Usage {
                cpu: Duration::from_nanos(stats.cpu_nanos),
                throttled: Duration::from_nanos(stats.throttled_nanos),
                memory_bytes: stats.memory_bytes,
                yields: stats.yields,
                traffic: TrafficUsage {
                    received_bytes: stats.received_bytes,
                    sent_bytes: stats.sent_bytes,
                    has_uncounted: stats.has_uncounted_traffic,
                    // Of sockets, nobody asks.
                    ..TrafficUsage::default()
                },
                files: TrafficUsage {
                    received_bytes: stats.file_read_bytes,
                    sent_bytes: stats.file_written_bytes,
                    reads: stats.file_reads,
                    writes: stats.file_writes,
                    has_uncounted: stats.has_uncounted_files,
                },
            },
            http: stats.http.map(Into::into),
        })
    }
}

impl From<&InstantiationStats> for wire::InstantiationStats {
    fn from(stats: &InstantiationStats) -> Self {
        Self {
            duration_nanos: u64::try_from(stats.duration.as_nanos()).unwrap_or(u64::MAX),
            buckets: stats.buckets.into(),
        }
    }
}

impl From<wire::InstantiationStats> for InstantiationStats {
    fn from(stats: wire::InstantiationStats) -> Self {
        let mut own = Self { duration: Duration::from_nanos(stats.duration_nanos), ..Self::default() };
        own.buckets.iter_mut().zip(stats.buckets).for_each(|(own, count)| *own = count);
        own
    }
}

/// Nanoseconds since 1970; the last one that fits for times after the year 2262.
fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

fn timestamp(nanoseconds: i64) -> Result<Timestamp, WireError> {
    Timestamp::from_nanosecond(nanoseconds.into()).map_err(|_| WireError("a time is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_survive_the_wire() {
        let started_at = Timestamp::new(1_700_000_000, 123_456_789).unwrap();
        let running = Instance {
            id: "1".into(),
            pod_uid: "u".into(),
            label: "image".into(),
            revision: 7,
            started_at,
            end: None,
        };
        assert_eq!(Instance::try_from(wire::Instance::from(&running)), Ok(running.clone()));
        for reason in [
            ExitReason::Exited,
            ExitReason::Trapped,
            ExitReason::Stopped,
            ExitReason::OutOfMemory,
            ExitReason::StartFailed,
            ExitReason::Lost,
        ] {
            let end = End { finished_at: started_at, exit: Exit::new(3, reason, "why") };
            let exited = Instance { end: Some(end), ..running.clone() };
            assert_eq!(Instance::try_from(wire::Instance::from(&exited)), Ok(exited));
        }
    }

    #[test]
    fn stats_survive_the_wire() {
        let stats = InstanceStats {
            id: "1".into(),
            pod_uid: "u".into(),
            at: Timestamp::new(1_700_000_000, 123_456_789).unwrap(),
            usage: Usage {
                cpu: Duration::new(3600, 1),
                throttled: Duration::from_millis(7),
                yields: 8,
                memory_bytes: 64 << 20,
                traffic: TrafficUsage {
                    received_bytes: 9,
                    sent_bytes: 10,
                    has_uncounted: true,
                    ..TrafficUsage::default()
                },
                files: TrafficUsage {
                    received_bytes: 11,
                    sent_bytes: 12,
                    reads: 13,
                    writes: 14,
                    has_uncounted: true,
                },
            },
            http: Some(kubewasm_host::http::HttpStats {
                answers: [0, 3, 0, 1, 2],
                duration: Duration::from_millis(17),
                buckets: [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 3],
                in_flight: 1,
                queued: 2,
                instances: 3,
                connections: 4,
                rejected: 5,
                failures: 6,
                timeouts: 7,
                handshake_failures: 8,
            }),
        };
        assert_eq!(InstanceStats::try_from(wire::InstanceStats::from(&stats)), Ok(stats));
    }

    #[test]
    fn the_newest_common_version_is_spoken() {
        let ours = Versions { min: 2, max: 3 };
        for (min, max, expected) in [
            (1, 1, None),
            (1, 2, Some(2)),
            (2, 3, Some(3)),
            (3, 9, Some(3)),
            (4, 9, None),
            (0, 0, None),
            (3, 2, None),
        ] {
            let theirs = Versions { min, max };
            assert_eq!(ours.common(theirs), expected, "{theirs}");
            assert_eq!(theirs.common(ours), expected, "{theirs}");
        }
    }

    #[test]
    fn neighbouring_versions_understand_each_other() {
        let Versions { min, max } = Versions::OURS;
        assert!(min < max, "the version before the newest is spoken too");
        assert_eq!(Versions::OURS.common(Versions { min: max, max: max + 1 }), Some(max));
        assert_eq!(Versions::OURS.common(Versions { min: min.saturating_sub(1), max: min }), Some(min));
    }
}
