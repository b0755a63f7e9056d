//! The instances of a container: made for each request, or kept between them.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use tokio::time::Instant;
use wasmtime::PoolConcurrencyLimitError;
use wasmtime_wasi_http::{p2, p3};

use super::{
    gate::{Overloaded, Place},
    metrics::Counted,
    served::Served,
    settings::HttpSettings,
};
use crate::{
    account::HeldMemory,
    cache::EntryPoint,
    cpu::TurnStart,
    guest::Guest,
    outcome::{self, GuestPhase},
    setup::PrepareError,
    state::GuestState,
};

/// Bytes that are counted for each instance besides what any guest is counted: buffers of its request and its answer.
pub(super) const HELD_FOR_BODIES: u64 = 64 << 10;

/// An instance that answers requests, one after the other.
pub(super) struct HttpInstance {
    pub(super) store: wasmtime::Store<GuestState>,
    pub(super) handler: Handler,
    pub(super) began: Arc<TurnStart>,
    made: Instant,
    requests: u32,
    _counted: Counted,
    _held: HeldMemory,
}

/// What is called in it.
pub(super) enum Handler {
    /// `wasi:http/incoming-handler@0.2`.
    P2(p2::bindings::Proxy),
    /// `wasi:http/handler@0.3`.
    P3(p3::bindings::Service),
}

impl std::fmt::Debug for HttpInstance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpInstance").field("requests", &self.requests).finish_non_exhaustive()
    }
}

/// There is no instance for a request.
#[derive(Debug)]
pub(super) enum NoInstance {
    /// There is no room for it, and there was none in time.
    Overloaded,
    /// It cannot be made: why not, for people.
    Failed(String),
}

/// What came of an attempt.
enum Attempt {
    Made(Box<HttpInstance>),
    /// Others may give back what it takes. For people.
    Short(String),
}

impl HttpInstance {
    /// One more request.
    pub(super) fn take_request(&mut self) {
        self.requests = self.requests.saturating_add(1);
    }

    /// As many more.
    pub(super) fn take_requests(&mut self, count: u32) {
        self.requests = self.requests.saturating_add(count);
    }

    /// Requests that it may still answer.
    pub(super) fn requests_left(&self, settings: &HttpSettings) -> u32 {
        settings.max_requests.saturating_sub(self.requests)
    }

    /// When it is too old for another one.
    pub(super) fn good_until(&self, settings: &HttpSettings) -> Instant {
        self.made + settings.max_age
    }

    /// Whether it may answer another one.
    fn is_good(&self, settings: &HttpSettings, now: Instant) -> bool {
        let memory = self.store.data().memory.taken();
        self.requests_left(settings) > 0
            && now < self.good_until(settings)
            && (settings.max_memory == 0 || memory <= settings.max_memory)
    }
}

/// Those that have nothing to do. The last one is taken first, so that those that are too many grow old.
#[derive(Debug, Default)]
pub(super) struct IdleInstances(Mutex<Vec<(Instant, Box<HttpInstance>)>>);

impl IdleInstances {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Instant, Box<HttpInstance>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an instance that has answered, if it may answer another request.
    pub(super) fn keep(&self, instance: Box<HttpInstance>, settings: &HttpSettings) {
        let now = Instant::now();
        if instance.is_good(settings, now) {
            self.lock().push((now, instance));
        }
    }

    fn take(&self, settings: &HttpSettings) -> Option<Box<HttpInstance>> {
        let now = Instant::now();
        loop {
            // Dropped without the lock.
            let (_, instance) = self.lock().pop()?;
            if instance.is_good(settings, now) {
                return Some(instance);
            }
        }
    }

    /// Ends those that have had nothing to do for too long, and says when the next one has.
    pub(super) fn sweep(&self, settings: &HttpSettings) -> Option<Instant> {
        let now = Instant::now();
        let (old, next) = {
            let mut idle = self.lock();
            let fresh = idle.iter().position(|(since, _)| now < *since + settings.idle_time);
            let old_ones = fresh.unwrap_or(idle.len());
            let old: Vec<_> = idle.drain(..old_ones).collect();
            (old, idle.first().map(|(since, _)| *since + settings.idle_time))
        };
        drop(old);
        next
    }

    /// Ends one, for its memory. False where there is none.
    fn give_up_one(&self) -> bool {
        let mut idle = self.lock();
        let oldest = (!idle.is_empty()).then(|| idle.remove(0));
        drop(idle);
        oldest.is_some()
    }

    /// Ends all.
    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut *self.lock());
        drop(all);
    }
}

impl Served {
    /// An instance for a request that has this place: one that is kept, or a new one. Where memory is short, kept ones are
    /// ended, and then others are waited for.
    pub(super) async fn instance(
        &self,
        place: &Place,
        until: Instant,
    ) -> Result<Box<HttpInstance>, NoInstance> {
        if let Some(kept) = self.idle.take(&self.settings) {
            return Ok(kept);
        }
        let mut retries = None;
        loop {
            let retries = retries.get_or_insert_with(|| place.retries(until));
            retries.begin();
            match self.attempt().await? {
                Attempt::Made(instance) => return Ok(instance),
                Attempt::Short(_) if self.idle.give_up_one() => {}
                Attempt::Short(reason) => {
                    if retries.wait().await == Err(Overloaded) {
                        self.log.warn(&format!("no instance for a request: {reason}"));
                        self.tell_of_failure(&reason);
                        return Err(NoInstance::Overloaded);
                    }
                }
            }
        }
    }

    async fn attempt(&self) -> Result<Attempt, NoInstance> {
        let setup = self.setup.borrowed();
        let stack = self.loaded.linked.stack.charge();
        let held = setup.held_by_instance().saturating_add(HELD_FOR_BODIES).saturating_add(stack);
        let held = match self.account().hold(held) {
            Ok(held) => held,
            Err(exceeded) => return Ok(Attempt::Short(PrepareError::from(exceeded).to_string())),
        };
        let guest = self.host.guest(Arc::clone(&self.loaded), setup, &self.common, Vec::new(), held);
        let Guest { mut store, began, _held, .. } = guest;
        let begun = Instant::now();
        let made = match &self.loaded.entry {
            EntryPoint::Http(pre) => {
                let began = Arc::clone(&began);
                InTurn { began, work: Box::pin(pre.instantiate_async(&mut store)) }.await.map(Handler::P2)
            }
            EntryPoint::HttpP3(pre) => {
                let began = Arc::clone(&began);
                InTurn { began, work: Box::pin(pre.instantiate_async(&mut store)) }.await.map(Handler::P3)
            }
            EntryPoint::Core(_)
            | EntryPoint::Component(_)
            | EntryPoint::ComponentP3(_)
            | EntryPoint::EmbeddedCore(_)
            | EntryPoint::EmbeddedComponent(_) => {
                return Err(NoInstance::Failed("the module does not serve HTTP".to_owned()));
            }
        };
        match made {
            Ok(handler) => {
                self.host.scheduler().instantiations().took(begun.elapsed());
                let _counted = self.metrics.instances.one_more();
                let made = Instant::now();
                let instance = HttpInstance { store, handler, began, made, requests: 0, _counted, _held };
                Ok(Attempt::Made(Box::new(instance)))
            }
            Err(error) if is_pool_full(&error) => Ok(Attempt::Short(format!("{error:#}"))),
            Err(error) => {
                let refusal = store.data().memory.refusal();
                let exit = outcome::of(GuestPhase::Instantiate, &Err(error), refusal, self.overflow());
                if refusal.is_some() {
                    Ok(Attempt::Short(exit.message))
                } else {
                    Err(NoInstance::Failed(exit.message))
                }
            }
        }
    }
}

/// Polls something of a guest, whose turn begins with each poll.
pub(crate) struct InTurn<F> {
    pub(crate) began: Arc<TurnStart>,
    pub(crate) work: std::pin::Pin<Box<F>>,
}

impl<F: Future> Future for InTurn<F> {
    type Output = F::Output;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.began.begin();
        self.work.as_mut().poll(cx)
    }
}

/// Whether a pool had no place left. Others, maybe of other containers, will give theirs back.
fn is_pool_full(error: &wasmtime::Error) -> bool {
    error.downcast_ref::<PoolConcurrencyLimitError>().is_some()
}
