//! Where work with files is done: on the guest's own thread as long as the file system answers at once, else on threads that
//! may wait.
//!
//! A thread of the pool costs more than most calls take: the page cache answers a small read in a microsecond, and to hand it
//! to another thread and back takes ten. But an executor's thread that waits for a disk holds up all guests that share it. So
//! one executor's thread is always left to go on, and when a call has once taken long, nobody tries again for a while.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::io::{Errno, Result};
use tokio::{runtime::Handle, task::spawn_blocking};

/// A call that takes longer has waited for something: it is more than a busy processor keeps a thread waiting for.
const LONG: Duration = Duration::from_millis(10);
/// How long the file systems are left to the pool after that.
const PAUSE: Duration = Duration::from_secs(1);

/// Calls that are on executors' threads now.
static INLINE: AtomicUsize = AtomicUsize::new(0);
/// Until when there are none, in milliseconds from [`BEGINNING`].
static PAUSED_UNTIL: AtomicU64 = AtomicU64::new(0);
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Does work that seldom waits.
///
/// # Errors
/// What the work says; `EIO` where the pool has given it up, because the process ends.
pub(super) async fn run<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match Permit::take() {
        Some(_permit) => work(),
        None => wait(work).await,
    }
}

/// Does work that is likely to wait: on a thread of the pool.
///
/// # Errors
/// As for [`run`].
pub(super) async fn wait<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    spawn_blocking(work).await.unwrap_or(Err(Errno::IO))
}

/// The right to work on this executor's thread. It takes the time.
pub(super) struct Permit {
    began: Instant,
}

impl Permit {
    /// `None` where the work belongs on a thread of the pool.
    pub(super) fn take() -> Option<Self> {
        let began = Instant::now();
        if millis(began) < PAUSED_UNTIL.load(Ordering::Relaxed) {
            return None;
        }
        let others =
            Handle::try_current().map_or(0, |runtime| runtime.metrics().num_workers()).saturating_sub(1);
        let taken = INLINE
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now < others).then_some(now + 1));
        taken.ok().map(|_| Self { began })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        INLINE.fetch_sub(1, Ordering::Relaxed);
        let now = Instant::now();
        if now.duration_since(self.began) > LONG {
            PAUSED_UNTIL.fetch_max(millis(now + PAUSE), Ordering::Relaxed);
        }
    }
}

fn millis(at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(*BEGINNING).as_millis()).unwrap_or(u64::MAX)
}
