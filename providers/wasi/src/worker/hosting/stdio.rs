//! The standard streams of a container's guest: its log, and the callers that are attached.
//!
//! ```text
//!   guest ─► [ContainerStdio] ─► log
//!     ▲            ├──────────► [Outlet] of each caller ─► its stream
//!     └── [InputPipe] ◄── what callers send; at a terminal, by way of its [Keyboard]
//! ```
//!
//! A guest waits for its log, and for callers while they read: what they are shown is whole. One that takes nothing for a
//! while is dropped, and told so, so that none can hold up a guest for good.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use kubewasm_host::{InputPipe, InputSource, Output, Stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{backlog::Backlog, keyboard::Keyboard, outlet::Outlet};
use crate::{logs::Log, spec::InstanceSpec};

/// Most callers at a time that one container writes to.
const CALLERS: usize = 32;

/// As many callers are attached as may be.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{CALLERS} clients are attached to this container already; try again when one has gone")]
pub(in crate::worker) struct TooManyCallers;

/// The standard streams of one container.
#[derive(Debug)]
pub(super) struct ContainerStdio {
    log: Log,
    /// Where callers' input goes, if the container takes any.
    pipe: Option<Arc<InputPipe>>,
    /// The one input that the container has ends with that of the first caller.
    once: bool,
    /// A caller's input has been connected.
    had_input: AtomicBool,
    keyboard: Option<Keyboard>,
    is_terminal: bool,
    callers: Mutex<Callers>,
    /// Cancelled when somebody types Ctrl-C.
    interrupted: CancellationToken,
}

#[derive(Debug)]
struct Callers {
    outlets: Vec<Outlet>,
    backlog: Backlog,
    has_ended: bool,
}

impl ContainerStdio {
    pub(super) fn new(log: Log, spec: &InstanceSpec, notice: Option<&CancellationToken>) -> Arc<Self> {
        let pipe = spec.stdin.then(|| InputPipe::new(spec.tty, notice.cloned()));
        let backlog = Backlog::new(spec.stdin && spec.stdin_once, spec.tty);
        Arc::new(Self {
            log,
            once: spec.stdin_once,
            had_input: AtomicBool::new(false),
            keyboard: pipe.as_ref().filter(|_| spec.tty).map(Keyboard::new),
            pipe,
            is_terminal: spec.tty,
            callers: Mutex::new(Callers { outlets: Vec::new(), backlog, has_ended: false }),
            interrupted: CancellationToken::new(),
        })
    }

    /// What the guest reads, if the container takes input.
    pub(super) fn input(&self) -> Option<Arc<dyn InputSource>> {
        self.pipe.clone().map(|pipe| pipe as Arc<dyn InputSource>)
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Waits until somebody types Ctrl-C.
    pub(super) async fn interrupted(&self) {
        self.interrupted.cancelled().await;
    }

    /// The guest has ended, and these are the last words about it. Callers are told, and there will be no more.
    pub(super) fn end(&self, last_words: &str) {
        let mut callers = self.callers();
        callers.has_ended = true;
        if !last_words.is_empty() {
            callers.write(Stream::Stderr, format!("{}\n", last_words.trim_end()).into());
        }
        callers.outlets.drain(..).for_each(|outlet| outlet.close());
    }

    /// Has one more caller written to; with `earlier`, what was kept for the one that the container waits for comes first.
    pub(super) fn add_outlet(&self, earlier: bool) -> Result<Outlet, TooManyCallers> {
        let mut callers = self.callers();
        if callers.outlets.len() >= CALLERS {
            return Err(TooManyCallers);
        }
        let outlet = Outlet::default();
        for (stream, bytes) in callers.backlog.for_caller(earlier) {
            outlet.push(stream, bytes);
        }
        if callers.has_ended {
            outlet.close();
        } else {
            callers.outlets.push(outlet.clone());
        }
        Ok(outlet)
    }

    pub(super) fn remove_outlet(&self, outlet: &Outlet) {
        self.callers().outlets.retain(|other| !other.is(outlet));
        // Nobody waits for it any more.
        outlet.give_up();
    }

    /// The input of one more caller.
    pub(super) fn add_input(self: &Arc<Self>) -> AttachedInput {
        let is_first = !self.had_input.swap(true, Ordering::Relaxed);
        AttachedInput { stdio: Arc::clone(self), ends: is_first && self.once }
    }

    /// One that is full, and until when it may be.
    fn full(&self) -> Option<(Outlet, Instant)> {
        let callers = self.callers();
        callers.outlets.iter().find_map(|outlet| Some((outlet.clone(), outlet.full_until()?)))
    }

    fn callers(&self) -> MutexGuard<'_, Callers> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Callers {
    fn write(&mut self, stream: Stream, bytes: Bytes) {
        self.backlog.note(stream, &bytes);
        // One that has no room for what the guest had leave to write is far behind.
        self.outlets.retain(|outlet| {
            let is_taken = outlet.push(stream, bytes.clone());
            if !is_taken {
                outlet.give_up();
            }
            is_taken && !outlet.is_closed()
        });
    }
}

impl Output for ContainerStdio {
    fn held(&self) -> u64 {
        self.log.held()
    }

    fn room(&self) -> usize {
        if self.full().is_some() { 0 } else { self.log.room() }
    }

    fn push(&self, stream: Stream, bytes: Bytes) -> bool {
        let is_taken = self.log.push(stream, bytes.clone());
        if is_taken {
            self.callers().write(stream, bytes);
        }
        is_taken
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            loop {
                self.log.ready().await;
                let Some((outlet, until)) = self.full() else { return };
                if Instant::now() >= until {
                    outlet.give_up();
                    continue;
                }
                tokio::select! {
                    () = outlet.ready() => {}
                    // Something may have been taken meanwhile.
                    () = tokio::time::sleep_until(until) => {}
                }
            }
        })
    }
}

/// The input of one caller. With the first one, dropped or not, the input of a container may end that has one.
#[derive(Debug)]
pub(in crate::worker) struct AttachedInput {
    stdio: Arc<ContainerStdio>,
    ends: bool,
}

impl AttachedInput {
    /// Writes what the caller has sent, once there is room. What a container without input is sent is dropped.
    pub(in crate::worker) async fn write(&self, bytes: Bytes) {
        let stdio = &*self.stdio;
        match (&stdio.keyboard, &stdio.pipe) {
            (Some(keyboard), _) => {
                let show = |echo| stdio.callers().write(Stream::Stdout, echo);
                if keyboard.press(&bytes, show) {
                    stdio.interrupted.cancel();
                }
            }
            (None, Some(pipe)) => pipe.write(bytes).await,
            (None, None) => {}
        }
    }
}

impl Drop for AttachedInput {
    fn drop(&mut self) {
        if let (true, Some(pipe)) = (self.ends, &self.stdio.pipe) {
            pipe.end();
        }
    }
}

#[cfg(test)]
mod tests;
