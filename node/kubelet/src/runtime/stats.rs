//! What containers use and answer.

use std::time::Duration;

use jiff::Timestamp;

/// What a container uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStats {
    /// Container id.
    pub id: String,
    /// UID of the pod it belongs to.
    pub pod_uid: String,
    /// When this was so.
    pub at: Timestamp,
    /// Processor time since the container started; never falls.
    pub cpu: Duration,
    /// Time for which its limit held it back since it started; never falls.
    pub throttled: Duration,
    /// How often a guest of it was made to let others go on since it started; never falls.
    pub yields: u64,
    /// Bytes that it has now, on the account that its memory limit is for.
    pub memory_bytes: u64,
    /// What has gone through its sockets.
    pub traffic: ContainerTraffic,
    /// What it has read from files and written to them.
    pub files: ContainerFileIo,
}

/// What a container has read from files and written to them by its own calls since it started, wherever they are: what of that
/// has reached a disk is the kernel's matter. Never falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerFileIo {
    /// Bytes that it has read.
    pub read_bytes: u64,
    /// Bytes that it has written.
    pub written_bytes: u64,
    /// Calls by which it has read any.
    pub reads: u64,
    /// Calls by which it has written any.
    pub writes: u64,
    /// Some of it was not counted, so that there is more than this.
    pub has_uncounted: bool,
}

/// What has gone through the sockets of a container since it started, without headers; never falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerTraffic {
    /// Bytes that it has read.
    pub received_bytes: u64,
    /// Bytes that it has written.
    pub sent_bytes: u64,
    /// Some of it was not counted, so that there is more than this.
    pub has_uncounted: bool,
}

impl ContainerTraffic {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            received_bytes: self.received_bytes.saturating_add(other.received_bytes),
            sent_bytes: self.sent_bytes.saturating_add(other.sent_bytes),
            has_uncounted: self.has_uncounted || other.has_uncounted,
        }
    }
}

/// What a container that serves HTTP has answered since it started, and what it has now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpContainerStats {
    /// Container id.
    pub id: String,
    /// UID of the pod it belongs to.
    pub pod_uid: String,
    /// Answers by class, those with 1xx first.
    pub answers: [u64; 5],
    /// The time that they took, all together.
    pub duration: Duration,
    /// How many took no longer than each of these, without those of the buckets before.
    pub buckets: Vec<(Duration, u64)>,
    /// Requests that are not answered yet.
    pub in_flight: u64,
    /// Requests that wait for an instance.
    pub queued: u64,
    /// Instances of its module.
    pub instances: u64,
    /// Connections.
    pub connections: u64,
    /// Requests that were sent away for lack of room.
    pub rejected: u64,
    /// Instances that failed.
    pub failures: u64,
    /// Requests whose time was over.
    pub timeouts: u64,
    /// Handshakes of TLS that failed.
    pub handshake_failures: u64,
}

/// The kernel has ended a process of the provider's because the machine had no memory left, and not because of any limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemOom {
    /// What was ended, for people.
    pub process: String,
    /// Its process id.
    pub pid: u32,
}

/// Requests of a container that have failed and that nobody was told of yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedRequests {
    /// Container id.
    pub id: String,
    /// UID of the pod it belongs to.
    pub pod_uid: String,
    /// How many.
    pub count: u64,
    /// Why the last one did, for people; nothing of what was in the request.
    pub last: String,
}
