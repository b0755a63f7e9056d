//! The worker's threads: who runs what, and who goes first.
//!
//! | threads | what they do | priority |
//! |---|---|---|
//! | control | calls of the agent, exits, stops, loading modules | the agent's |
//! | guests | guests, in turns, and their files | lower |
//! | logs | writing guests' output to their logs | lower |
//!
//! The kernel gives a thread that wakes up after a sleep its time before it goes on with those that compute,
//! so that priorities matter little on a machine that is idle but for guests. They matter when the agent, the
//! control threads or the rest of the node have to work while guests compute: then these get three times a
//! guest thread's share.

use std::{io, num::NonZeroUsize};

use tokio::runtime::{Builder, Runtime};

use super::hosting::Threads;

/// How much lower the priority of guests' threads is. Each step is a factor of 1.25; an unprivileged process
/// cannot take it back, which nobody wants to.
const NICE: i32 = 5;
/// Threads that write logs. They share a disk: more would wait for each other.
const LOG_THREADS: usize = 8;
/// How many tasks a guests' thread polls before it looks for input and timers. A poll is a turn, of ten
/// milliseconds when the guest computes: tokio's own number would make everybody wait for half a second.
const EVENT_INTERVAL: u32 = 1;

/// The runtimes of a worker.
#[derive(Debug)]
pub(super) struct Runtimes {
    control: Runtime,
    guests: Runtime,
    logs: Runtime,
}

impl Runtimes {
    /// Starts them.
    pub(super) fn new() -> io::Result<Self> {
        let control =
            Builder::new_multi_thread().worker_threads(1).thread_name("control").enable_all().build()?;
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let guests = Builder::new_multi_thread()
            // There are as many turns as processors. One thread more, and there is always one that has no
            // turn, to see who wakes up and who is to be stopped.
            .worker_threads(processors.saturating_add(1))
            .event_interval(EVENT_INTERVAL)
            .thread_name("guests")
            .on_thread_start(lower_priority)
            .enable_all()
            .build()?;
        let logs = Builder::new_current_thread()
            .max_blocking_threads(LOG_THREADS)
            .thread_name("logs")
            .on_thread_start(lower_priority)
            .build()?;
        Ok(Self { control, guests, logs })
    }

    /// The runtime of everything but guests.
    pub(super) fn control(&self) -> &Runtime {
        &self.control
    }

    /// Where guests run and logs are written.
    pub(super) fn threads(&self) -> Threads {
        Threads { guests: self.guests.handle().clone(), logs: self.logs.handle().clone() }
    }

    /// Ends them without waiting: guests that would not end, and threads that hang in a disk, end with the
    /// process.
    pub(super) fn shutdown(self) {
        self.guests.shutdown_background();
        self.logs.shutdown_background();
        self.control.shutdown_background();
    }
}

/// Lowers the priority of the calling thread; on Linux it is a thread's, not a process's.
fn lower_priority() {
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::warn!(%error, "cannot lower the priority of a guests' thread");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_and_logs_go_after_control() {
        let runtimes = Runtimes::new().unwrap();
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let ours = nice();
        let Threads { guests, logs } = runtimes.threads();
        let lower = (ours + NICE).min(19);
        for (task, expected) in [
            (runtimes.control().spawn(async move { nice() }), ours),
            (guests.spawn(async move { nice() }), lower),
            (guests.spawn_blocking(nice), lower),
            (logs.spawn_blocking(nice), lower),
        ] {
            assert_eq!(runtimes.control().block_on(task).unwrap(), expected);
        }
        runtimes.shutdown();
    }
}
