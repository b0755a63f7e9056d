//! How many requests of a container are worked on, how many wait, and how many are sent away.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, futures::Notified},
    time::{Instant, timeout_at},
};

/// Bounds the instances of a container, and the queue before them.
#[derive(Debug)]
pub(super) struct Gate {
    places: Arc<Semaphore>,
    all: usize,
    queued: AtomicUsize,
    queue: usize,
    /// A place, or memory that an instance had, is free again.
    freed: Notify,
}

/// A request may have an instance, until this is dropped: after the instance.
#[derive(Debug)]
pub(super) struct Place {
    gate: Arc<Gate>,
    _permit: OwnedSemaphorePermit,
}

/// There is no place, and there was none in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overloaded;

/// Stands in the queue.
pub(super) struct Queued<'a>(&'a AtomicUsize);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    pub(super) fn new(places: usize, queue: usize) -> Arc<Self> {
        let semaphore = Arc::new(Semaphore::new(places));
        let (queued, freed) = (AtomicUsize::new(0), Notify::new());
        Arc::new(Self { places: semaphore, all: places, queued, queue, freed })
    }

    /// Takes a place, or waits for one in the queue, if that is not full.
    pub(super) async fn enter(self: &Arc<Self>, until: Instant) -> Result<Place, Overloaded> {
        let permit = match Arc::clone(&self.places).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _queued = self.stand_in_queue()?;
                let permit = timeout_at(until, Arc::clone(&self.places).acquire_owned()).await;
                permit.map_err(|_| Overloaded)?.map_err(|_| Overloaded)?
            }
        };
        Ok(Place { gate: Arc::clone(self), _permit: permit })
    }

    /// Takes a place, if there is one.
    pub(super) fn try_enter(self: &Arc<Self>) -> Option<Place> {
        let permit = Arc::clone(&self.places).try_acquire_owned().ok()?;
        Some(Place { gate: Arc::clone(self), _permit: permit })
    }

    /// A request waits, if the queue is not full, until this is dropped.
    pub(super) fn stand_in_queue(&self) -> Result<Queued<'_>, Overloaded> {
        let fits = |queued: usize| (queued < self.queue).then_some(queued + 1);
        let entered = self.queued.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        entered.map(|_| Queued(&self.queued)).map_err(|_| Overloaded)
    }

    /// Requests that wait.
    pub(super) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Requests that have a place.
    pub(super) fn taken(&self) -> usize {
        self.all.saturating_sub(self.places.available_permits())
    }
}

impl Place {
    /// Waits in the queue for memory that others give back. What is wanted is attempted first, and each time that something
    /// was given back; it is given up when there is nobody to wait for.
    pub(super) fn retries(&self, until: Instant) -> Retries<'_> {
        Retries { gate: &self.gate, until, freed: Box::pin(self.gate.freed.notified()), queued: None }
    }
}

/// Attempts of something that may want for memory.
pub(super) struct Retries<'a> {
    gate: &'a Gate,
    until: Instant,
    freed: Pin<Box<Notified<'a>>>,
    queued: Option<Queued<'a>>,
}

impl Retries<'_> {
    /// Before an attempt, so that nothing is missed that is given back after it.
    pub(super) fn begin(&mut self) {
        self.freed.as_mut().enable();
    }

    /// After an attempt that failed.
    pub(super) async fn wait(&mut self) -> Result<(), Overloaded> {
        if self.gate.taken() <= 1 {
            return Err(Overloaded);
        }
        if self.queued.is_none() {
            self.queued = Some(self.gate.stand_in_queue()?);
        }
        timeout_at(self.until, self.freed.as_mut()).await.map_err(|_| Overloaded)?;
        self.freed = Box::pin(self.gate.freed.notified());
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[tokio::test(start_paused = true)]
    async fn one_works_one_waits_and_one_is_sent_away() {
        let gate = Gate::new(1, 1);
        let first = gate.enter(soon()).await.unwrap();
        let second = {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move { gate.enter(soon()).await.map(drop) })
        };
        tokio::task::yield_now().await;
        assert_eq!((gate.taken(), gate.queued()), (1, 1));
        assert_eq!(gate.enter(soon()).await.map(drop), Err(Overloaded));
        drop(first);
        assert_eq!(second.await.unwrap(), Ok(()));
        assert_eq!((gate.taken(), gate.queued()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_sent_away() {
        let gate = Gate::new(1, 1);
        let _first = gate.enter(soon()).await.unwrap();
        assert_eq!(gate.enter(soon()).await.map(drop), Err(Overloaded));
        assert_eq!(gate.queued(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_give_back_is_attempted_again() {
        let gate = Gate::new(2, 1);
        let (first, second) = (gate.enter(soon()).await.unwrap(), gate.enter(soon()).await.unwrap());
        let mut retries = second.retries(soon());
        retries.begin();
        let (waited, ()) = tokio::join!(retries.wait(), async { drop(first) });
        assert_eq!(waited, Ok(()));
        retries.begin();
        assert_eq!(retries.wait().await, Err(Overloaded), "nobody is there to wait for");
    }
}
