//! A guest's future that runs only when it is its turn.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Instant,
};

use futures::task::AtomicWaker;
use tokio::time::Sleep;

use super::{
    began::TurnStart,
    crowd::Crowd,
    instantiations::Instantiations,
    queue::{self, QueueAnswer, QueuePlace, TurnQueue},
};
use crate::{account::Account, clock};

/// Hands out turns. One per worker.
#[derive(Debug)]
pub(crate) struct Scheduler {
    queue: Mutex<TurnQueue<Waker>>,
    /// Who waits, for those who tick.
    crowd: Arc<Crowd>,
    instantiations: Instantiations,
}

impl Scheduler {
    /// As many turns as this many threads can use at a time.
    pub(crate) fn new(turns: usize, crowd: Arc<Crowd>) -> Self {
        let queue = Mutex::new(TurnQueue::new(turns));
        Self { queue, crowd, instantiations: Instantiations::default() }
    }

    /// What is counted of the instances that were made.
    pub(crate) fn instantiations(&self) -> &Instantiations {
        &self.instantiations
    }

    /// Who waits for a turn.
    pub(crate) fn crowd(&self) -> Arc<Crowd> {
        Arc::clone(&self.crowd)
    }

    fn noted(&self, answer: QueueAnswer) -> QueueAnswer {
        if matches!(answer, QueueAnswer::Wait(_)) {
            self.crowd.grows();
        }
        answer
    }

    fn queue(&self) -> MutexGuard<'_, TurnQueue<Waker>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, account: &Account, waker: &Waker) -> QueueAnswer {
        let mut queue = self.queue();
        let age = account.arrive(|arrival, tick| queue.age_of_arrival(arrival, tick));
        self.noted(queue.ask(age, waker.clone()))
    }

    fn claim(&self, place: QueuePlace, waker: &Waker) -> Option<queue::Turn> {
        self.queue().claim(place, waker.clone())
    }

    fn finish(&self, turn: queue::Turn) {
        let next = self.queue().finish(turn);
        tell(next);
    }

    fn rotate(&self, turn: queue::Turn, account: &Account, waker: &Waker) -> QueueAnswer {
        let (answer, next) = self.queue().rotate(turn, account.age(), waker.clone());
        tell(next);
        self.noted(answer)
    }

    fn leave(&self, place: QueuePlace) {
        let next = self.queue().leave(place);
        tell(next);
    }
}

/// Wakes who is next, with no lock held.
fn tell(next: Option<Waker>) {
    if let Some(next) = next {
        next.wake();
    }
}

/// Runs a future in turns, on the account of a container.
pub(crate) struct Turns<F> {
    guest: Pin<Box<F>>,
    scheduler: Arc<Scheduler>,
    account: Arc<Account>,
    began: Arc<TurnStart>,
    state: TurnState,
    signal: Arc<Signal>,
    /// Of `signal`, kept because the guest takes it at every poll.
    waker: Waker,
}

enum TurnState {
    /// It waits for something of its own, or has just been woken.
    Away,
    /// Its container has used up its limit; until the time is over. Since then.
    Parked(Pin<Box<Sleep>>, Instant),
    /// It stands in the line.
    Waits(QueuePlace),
    /// It has its turn, and is about to be polled.
    Has(queue::Turn),
}

/// Tells a guest that wants to go on from one that waits for something: the former has woken itself before
/// its poll returned.
#[derive(Default)]
struct Signal {
    woken: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F: Future> Turns<F> {
    /// Runs `guest` in turns of `scheduler`, and notes down in `began` when each begins.
    pub(crate) fn new(
        guest: F,
        scheduler: Arc<Scheduler>,
        account: Arc<Account>,
        began: Arc<TurnStart>,
    ) -> Self {
        let signal = Arc::<Signal>::default();
        let waker = Waker::from(Arc::clone(&signal));
        Self { guest: Box::pin(guest), scheduler, account, began, state: TurnState::Away, signal, waker }
    }

    /// Comes to its turn.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<queue::Turn> {
        loop {
            match std::mem::replace(&mut self.state, TurnState::Away) {
                TurnState::Has(turn) => return Poll::Ready(turn),
                TurnState::Waits(place) => match self.scheduler.claim(place, cx.waker()) {
                    Some(turn) => return Poll::Ready(turn),
                    None => {
                        self.state = TurnState::Waits(place);
                        return Poll::Pending;
                    }
                },
                TurnState::Parked(mut sleep, since) => {
                    if sleep.as_mut().poll(cx).is_pending() {
                        self.state = TurnState::Parked(sleep, since);
                        return Poll::Pending;
                    }
                    self.account.was_parked(since.elapsed());
                }
                TurnState::Away => match self.account.pause() {
                    Some(pause) => {
                        self.state = TurnState::Parked(Box::pin(tokio::time::sleep(pause)), Instant::now());
                    }
                    None => match self.scheduler.ask(&self.account, cx.waker()) {
                        QueueAnswer::Turn(turn) => return Poll::Ready(turn),
                        QueueAnswer::Wait(place) => {
                            self.state = TurnState::Waits(place);
                            return Poll::Pending;
                        }
                    },
                },
            }
        }
    }
}

impl<F: Future> Future for Turns<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let turn = std::task::ready!(this.poll_turn(cx));
        this.signal.task.register(cx.waker());
        this.signal.woken.store(false, Ordering::Release);
        // The turn is given back even if the guest panics.
        this.state = TurnState::Has(turn);
        this.began.begin();
        let started = clock::thread_time();
        let poll = this.guest.as_mut().poll(&mut Context::from_waker(&this.waker));
        this.account.charge(clock::thread_time().saturating_sub(started));
        let TurnState::Has(turn) = std::mem::replace(&mut this.state, TurnState::Away) else {
            return poll;
        };
        let goes_on = poll.is_pending() && this.signal.woken.load(Ordering::Acquire);
        if goes_on && this.account.pause().is_none() {
            this.state = match this.scheduler.rotate(turn, &this.account, cx.waker()) {
                QueueAnswer::Turn(turn) => TurnState::Has(turn),
                QueueAnswer::Wait(place) => TurnState::Waits(place),
            };
        } else {
            this.scheduler.finish(turn);
        }
        poll
    }
}

impl<F> Drop for Turns<F> {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.state, TurnState::Away) {
            TurnState::Away => {}
            TurnState::Parked(_, since) => self.account.was_parked(since.elapsed()),
            TurnState::Waits(place) => self.scheduler.leave(place),
            TurnState::Has(turn) => self.scheduler.finish(turn),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{CpuShare, account::GuestLimits};

    const MEMORY: u64 = 1 << 20;

    fn account(cpu: CpuShare) -> Arc<Account> {
        Arc::new(Account::new(GuestLimits { memory_bytes: MEMORY, cpu }))
    }

    fn in_turns<F: Future>(work: F, scheduler: Arc<Scheduler>, account: Arc<Account>) -> Turns<F> {
        let began = Arc::new(TurnStart::new(Arc::clone(&account)));
        Turns::new(work, scheduler, account, began)
    }

    /// Computes for this long and lets others have a turn, again and again.
    async fn spin(turn: Duration) {
        loop {
            let until = clock::thread_time() + turn;
            while clock::thread_time() < until {
                std::hint::spin_loop();
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_account_has_the_time_that_was_used() {
        let scheduler = Arc::new(Scheduler::new(1, Arc::default()));
        let account = account(CpuShare::default());
        let guest = in_turns(spin(Duration::from_millis(1)), scheduler, Arc::clone(&account));
        let before = clock::thread_time();
        assert!(tokio::time::timeout(Duration::from_millis(200), guest).await.is_err());
        let used = clock::thread_time() - before;
        let accounted = account.usage().cpu;
        assert!(accounted <= used && accounted >= used * 9 / 10, "{accounted:?} of {used:?}");
    }

    #[tokio::test]
    async fn a_guest_that_waits_for_an_event_gives_its_turn_back() {
        let scheduler = Arc::new(Scheduler::new(1, Arc::default()));
        let waits =
            in_turns(std::future::pending::<()>(), Arc::clone(&scheduler), account(CpuShare::default()));
        let waits = tokio::spawn(waits);
        tokio::task::yield_now().await;
        in_turns(async {}, scheduler, account(CpuShare::default())).await;
        waits.abort();
    }

    #[tokio::test]
    async fn a_turn_is_not_lost_with_its_owner() {
        let scheduler = Arc::new(Scheduler::new(1, Arc::default()));
        let turns =
            || in_turns(spin(Duration::from_millis(1)), Arc::clone(&scheduler), account(CpuShare::default()));
        // Each is dropped somewhere: with its turn, in the line, or never polled.
        let mut guests: Vec<_> = (0..5).map(|_| Box::pin(turns())).collect();
        for guest in guests.iter_mut().take(4) {
            assert!(futures::poll!(guest.as_mut()).is_pending());
        }
        drop(guests);
        in_turns(async {}, Arc::clone(&scheduler), account(CpuShare::default())).await;

        let panics = in_turns(
            async { panic!("a guest that panics") },
            Arc::clone(&scheduler),
            account(CpuShare::default()),
        );
        assert!(tokio::spawn(panics).await.unwrap_err().is_panic());
        in_turns(async {}, scheduler, account(CpuShare::default())).await;
    }

    #[tokio::test]
    async fn a_limit_parks_the_guest_and_says_for_how_long() {
        let scheduler = Arc::new(Scheduler::new(1, Arc::default()));
        let account = account(CpuShare { limit_millis: 100, request_millis: 100 });
        let guest = in_turns(spin(Duration::from_millis(1)), scheduler, Arc::clone(&account));
        let started = Instant::now();
        // However little a busy machine gives it: it comes to its limit again and again.
        let parked = async {
            while account.usage().throttled < Duration::from_millis(200) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = guest => panic!("it never ends"),
            () = parked => {}
        }
        let (usage, wall) = (account.usage(), started.elapsed());
        // A period more, for the one that had begun; and a turn.
        assert!(usage.cpu <= wall / 10 + Duration::from_millis(15), "{usage:?} in {wall:?}");
        assert!(usage.throttled <= wall, "{usage:?} in {wall:?}");
    }
}
