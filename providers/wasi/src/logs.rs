//! Guests' output, on its way to the log file that `kubectl logs` and log collectors read.
//!
//! ```text
//!   guest ─write─► guest stream ─push─► [queue::Log] ─► blocking thread: [format] ─► [file] ─write(2)─► disk
//!                       ▲                                                              │
//!                       └────────── waits while half a write is on its way ◄────────────┘
//! ```
//!
//! A guest goes on while what it wrote is on its way to the file, as long as that is less than half of
//! [`kubewasm_host::LARGEST_WRITE`]: that is the back-pressure, as that of a pipe, and nothing else is buffered but the
//! unfinished line of each stream. A worker that is killed takes what is on its way with it. One queue takes
//! both streams, so that their order is kept. The file is written by a blocking thread that exists only
//! while there is something to write, and its processor time is the guest's: a disk that hangs holds up the guests that print, and nobody else.
//! A disk that is full loses output, says so once there is room, and the guest goes on.
//!
//! The format, and the names of rotated files, are those of the
//! [CRI](https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md).
//! Compressing them is the agent's business.

mod file;
mod format;
mod queue;

pub use file::{LogOptions, LogPlace};
pub use queue::{Log, Meter};
