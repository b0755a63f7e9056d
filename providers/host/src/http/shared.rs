//! Instances that several requests are in at a time (`instance-concurrency`), and a request in one of them.
//!
//! A request takes a seat in an instance that runs and has room, or has a new one made, or waits in the queue. The [`driver`] of
//! the instance, which is a task of its own, calls the guest with it, and leaves here what comes of it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use futures::task::AtomicWaker;
use http::Request;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};
use wasmtime::component::GuestTaskId;

use super::{
    call::{Answer, NotBegun, Progress},
    driver::{self, Ending},
    instances::{HELD_FOR_BODIES, NoInstance},
    occupancy::{CallEnd, CallProgress, Occupancy},
    request_body::RequestBody,
    served::Served,
};
use crate::account::HeldMemory;

/// The requests of an instance.
pub(super) type Requests = Occupancy<Box<Request<RequestBody>>, Answer, GuestTaskId>;

/// The instances of a container that requests are in.
#[derive(Default)]
pub(super) struct SharedInstances {
    running: Mutex<Vec<Arc<SharedInstance>>>,
    /// There may be room for a request: for one that waits.
    room: Arc<Notify>,
    waiting: AtomicUsize,
}

/// An instance, as its requests and its driver know it.
pub(super) struct SharedInstance {
    requests: Mutex<Requests>,
    room: Arc<Notify>,
    /// The driver has something to do.
    pub(super) driver: AtomicWaker,
}

impl SharedInstance {
    fn new(most: u32, may_be: u32, room: Arc<Notify>) -> Self {
        Self { requests: Mutex::new(Occupancy::new(most, may_be)), room, driver: AtomicWaker::new() }
    }

    /// Does something with its requests. Whoever is to know of it is woken when nothing is locked any more.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut Requests) -> R) -> R {
        let (result, woken, is_freed) = {
            let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
            let result = work(&mut requests);
            (result, std::mem::take(&mut requests.woken), std::mem::take(&mut requests.is_freed))
        };
        for waker in woken {
            waker.wake();
        }
        if is_freed {
            self.room.notify_one();
        }
        result
    }
}

impl SharedInstances {
    fn running(&self) -> std::sync::MutexGuard<'_, Vec<Arc<SharedInstance>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An instance has ended, and with it the place that it had.
    pub(super) fn remove(&self, instance: &Arc<SharedInstance>) {
        self.running().retain(|other| !Arc::ptr_eq(other, instance));
    }

    /// There may be room for one more.
    pub(super) fn tell(&self) {
        self.room.notify_one();
    }
}

/// Waits for room, and is counted for it.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Served {
    /// Whether several requests are in one instance.
    pub(super) fn is_shared(&self) -> bool {
        self.settings.instance_concurrency > 1
    }

    /// A seat for a request: in an instance that has room for it, the oldest first, in a new one, or after a while in the queue.
    pub(super) async fn seat(self: &Arc<Self>, until: Instant) -> Result<Seat, NoInstance> {
        let mut queued = None;
        loop {
            // Those that wait come first.
            let is_first = queued.is_some() || self.shared.waiting.load(Ordering::Relaxed) == 0;
            if is_first && let Some((instance, id)) = self.try_seat(until) {
                drop(queued);
                if self.shared.waiting.load(Ordering::Relaxed) > 0 {
                    // There may be room for more than one.
                    self.shared.tell();
                }
                return self.paid(Seat { instance, id, _held: None });
            }
            if queued.is_none() {
                let in_queue = self.gate.stand_in_queue().map_err(|_| NoInstance::Overloaded)?;
                queued = Some((in_queue, Waiting::new(&self.shared.waiting)));
            }
            let freed = timeout_at(until, self.shared.room.notified()).await;
            freed.map_err(|_| NoInstance::Overloaded)?;
        }
    }

    /// Counts what is held for a request.
    fn paid(&self, mut seat: Seat) -> Result<Seat, NoInstance> {
        match self.account().hold(HELD_FOR_BODIES) {
            Ok(held) => seat._held = Some(held),
            Err(_) => {
                let reason = "the container's memory is used up; raise limits.memory";
                self.log.warn(&format!("no room for a request: {reason}"));
                self.tell_of_failure(reason);
                return Err(NoInstance::Overloaded);
            }
        }
        Ok(seat)
    }

    fn try_seat(self: &Arc<Self>, until: Instant) -> Option<(Arc<SharedInstance>, u64)> {
        let now = Instant::now();
        let mut running = self.shared.running();
        let join = |instance: &Arc<SharedInstance>| {
            let id = instance.with(|requests| requests.join(now))?;
            Some((Arc::clone(instance), id))
        };
        if let Some(joined) = running.iter().find_map(join) {
            return Some(joined);
        }
        let place = self.gate.try_enter()?;
        let (most, may_be) = (self.settings.instance_concurrency, self.settings.max_requests);
        let instance = Arc::new(SharedInstance::new(most, may_be, Arc::clone(&self.shared.room)));
        let joined = join(&instance)?;
        running.push(Arc::clone(&instance));
        drop(running);
        let ending = Ending { served: Arc::clone(self), shared: instance, place: Some(place) };
        self.spawn(driver::run(ending, until));
        Some(joined)
    }
}

/// A request's part in an instance, until this is dropped.
pub(super) struct Seat {
    instance: Arc<SharedInstance>,
    id: u64,
    _held: Option<HeldMemory>,
}

impl Seat {
    /// Asks.
    pub(super) fn begin(
        self,
        served: Arc<Served>,
        until: Instant,
        request: Request<RequestBody>,
    ) -> SharedCall {
        let name = super::call::name_of(&request);
        let of_log = name.clone();
        self.instance.with(|requests| requests.submit(self.id, of_log, Box::new(request)));
        self.instance.driver.wake();
        SharedCall { seat: Some(self), served, name, until, is_over: false, has_failed: false }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<CallProgress<Box<Request<RequestBody>>, Answer>> {
        self.instance.with(|requests| requests.poll(self.id, cx))
    }

    fn time_is_up(&self) {
        self.instance.with(|requests| requests.time_is_up(self.id));
        self.instance.driver.wake();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.instance.with(|requests| requests.leave(self.id));
        self.instance.driver.wake();
    }
}

/// A request in an instance that has others.
pub(super) struct SharedCall {
    /// There until the call is dropped.
    seat: Option<Seat>,
    served: Arc<Served>,
    name: String,
    /// When it must have been answered.
    until: Instant,
    is_over: bool,
    has_failed: bool,
}

impl SharedCall {
    /// Waits until the guest has answered.
    pub(super) fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Progress, NotBegun>> {
        let Some(seat) = &self.seat else { return Poll::Ready(Ok(Progress::Failed)) };
        let end = match std::task::ready!(seat.poll(cx)) {
            CallProgress::Answered(answer) => return Poll::Ready(Ok(Progress::Answered(answer))),
            CallProgress::Ended(end) => end,
        };
        self.is_over = true;
        Poll::Ready(Ok(match end {
            CallEnd::HandedBack(request) => return Poll::Ready(Err(NotBegun(request))),
            CallEnd::Returned => Progress::Silent,
            CallEnd::Overloaded => Progress::Overloaded,
            CallEnd::Failed => {
                self.has_failed = true;
                Progress::Failed
            }
        }))
    }

    /// Waits until the guest has returned.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_over {
            return Poll::Ready(());
        }
        self.poll_answer(cx).map(drop)
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    pub(super) fn served(&self) -> &Arc<Served> {
        &self.served
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The guest was too slow with it.
    pub(super) fn time_is_up(&mut self) {
        if let Some(seat) = self.seat.take() {
            seat.time_is_up();
        }
    }
}

impl Drop for SharedCall {
    /// A guest cannot be told that nobody waits for what it does. It is given its time, and if that does not do, its instance is
    /// given up.
    fn drop(&mut self) {
        let Some(seat) = self.seat.take() else { return };
        if self.is_over || !seat.instance.with(|requests| requests.is_unanswered(seat.id)) {
            return;
        }
        let (until, name, served) = (self.until, std::mem::take(&mut self.name), Arc::clone(&self.served));
        self.served.spawn(async move {
            let answered = std::future::poll_fn(|cx| seat.poll(cx));
            match timeout_at(until, answered).await {
                // Dropped with its body, which is how the guest is told.
                Ok(_) => {}
                Err(_) => {
                    seat.time_is_up();
                    served.log.warn(&format!(
                        "{name}: its client is gone, and the guest did not come to an end in time; its instance gets no more requests"
                    ));
                }
            }
        });
    }
}
