//! Which requests are in one instance, how far they are, and what becomes of it. Pure.
//!
//! ```text
//!   join ─► Reserved ─submit─► Waiting ─begin─► Begun ─answered─► Begun ─end─► Over
//!                                  └── hand_back: to another instance, or to the queue
//! ```

mod call;

use std::{
    collections::{HashMap, VecDeque},
    task::{Context, Poll, Waker},
};

use call::{Call, CallStage};
pub(super) use call::{CallEnd, CallProgress};
use tokio::time::Instant;

/// The requests of one instance: `Q` is what is asked, `A` what is answered, and `T` what the engine calls a task of the guest.
pub(super) struct Occupancy<Q, A, T> {
    /// Requests at a time.
    most: u32,
    stage: Stage,
    calls: HashMap<u64, Call<Q, A, T>>,
    waiting: VecDeque<u64>,
    next: u64,
    /// Requests that are not over.
    taken: u32,
    /// Those among them that somebody may still get an answer to.
    wanted: u32,
    /// Requests that its guest may be called with in all.
    may_be: u32,
    /// Requests that its guest has been called with.
    begun: u32,
    /// Requests that have a seat, and that its guest has not heard of.
    unbegun: u32,
    /// It is given none from then on.
    good_until: Option<Instant>,
    /// Its guest wants no more requests for now.
    has_backpressure: bool,
    /// It has more memory than it may have for another request.
    is_grown: bool,
    /// When it was last polled, its guest went on computing, or held the instance in a call of the host.
    is_busy: bool,
    /// While it is polled: its calls could go on.
    was_asked: bool,
    /// While it is polled: its guest gave up its turn in the middle of something since then.
    has_yielded: bool,
    /// For which of its calls the guest computes.
    computes: Option<T>,
    /// Who is to be woken, once nothing is locked any more.
    pub(super) woken: Vec<Waker>,
    /// There may be room for one more request. For whoever gives it away, who takes it back to false.
    pub(super) is_freed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It takes requests.
    Open,
    /// It takes none, and ends when nobody wants anything of it any more.
    Retired,
    /// It ends now.
    Condemned,
    /// It is no more.
    Ended,
}

impl<Q, A, T: Copy + PartialEq> Occupancy<Q, A, T> {
    /// Of an instance that is about to be made.
    pub(super) fn new(most: u32, may_be: u32) -> Self {
        Self {
            most,
            stage: Stage::Open,
            calls: HashMap::new(),
            waiting: VecDeque::new(),
            next: 0,
            taken: 0,
            wanted: 0,
            may_be,
            begun: 0,
            unbegun: 0,
            good_until: None,
            has_backpressure: false,
            is_grown: false,
            is_busy: false,
            was_asked: false,
            has_yielded: false,
            computes: None,
            woken: Vec::new(),
            is_freed: false,
        }
    }

    /// Takes a seat in it, if it takes another request now.
    pub(super) fn join(&mut self, now: Instant) -> Option<u64> {
        let is_open = self.stage == Stage::Open && !self.has_backpressure && !self.is_busy && !self.is_grown;
        let is_fresh = self.good_until.is_none_or(|until| now < until);
        let is_left = self.begun.saturating_add(self.unbegun) < self.may_be;
        if !(is_open && is_fresh && is_left && self.taken < self.most) {
            return None;
        }
        let id = self.next;
        self.next += 1;
        self.taken += 1;
        self.wanted += 1;
        self.unbegun += 1;
        self.calls.insert(id, Call::default());
        Some(id)
    }

    /// Whoever has a seat asks.
    pub(super) fn submit(&mut self, id: u64, name: String, request: Q) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.name = name;
        if call.is_over() {
            // The instance ended meanwhile.
            call.end = Some(CallEnd::HandedBack(request));
        } else {
            call.stage = CallStage::Waiting(request);
            self.waiting.push_back(id);
        }
    }

    /// The instance is there: its guest may be called with so many requests, until then.
    pub(super) fn made(&mut self, requests: u32, good_until: Instant) {
        self.may_be = requests;
        self.good_until = Some(good_until);
    }

    /// The next request that the guest is to be called with, if it was called with fewer than it may be. Others are handed back.
    pub(super) fn begin(&mut self) -> Option<(u64, Q)> {
        if self.begun >= self.may_be {
            self.hand_back();
            return None;
        }
        while let Some(id) = self.waiting.pop_front() {
            let Some(call) = self.calls.get_mut(&id) else { continue };
            match std::mem::replace(&mut call.stage, CallStage::Begun(None)) {
                CallStage::Waiting(request) => {
                    self.begun += 1;
                    self.unbegun -= 1;
                    return Some((id, request));
                }
                other => call.stage = other,
            }
        }
        None
    }

    /// The guest is called, and this is its task.
    pub(super) fn begun(&mut self, id: u64, task: T) {
        if let Some(call) = self.calls.get_mut(&id)
            && let CallStage::Begun(of_call) = &mut call.stage
        {
            *of_call = Some(task);
        }
    }

    /// How many requests the guest was called with.
    pub(super) fn count(&self) -> u32 {
        self.begun
    }

    /// The guest has answered. What nobody takes is returned.
    pub(super) fn answered(&mut self, id: u64, answer: A) -> Option<A> {
        let Some(call) = self.calls.get_mut(&id).filter(|call| call.is_attended && call.is_wanted) else {
            return Some(answer);
        };
        call.has_answered = true;
        call.answer = Some(answer);
        self.woken.extend(call.waker.take());
        None
    }

    /// A request is over, one way or the other.
    pub(super) fn end(&mut self, id: u64, end: CallEnd<Q>) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        if call.is_over() {
            return;
        }
        if !call.has_begun() {
            self.unbegun -= 1;
        }
        call.stage = CallStage::Over;
        call.end = Some(end);
        self.woken.extend(call.waker.take());
        self.taken -= 1;
        self.wanted -= u32::from(std::mem::take(&mut call.is_wanted));
        self.is_freed = true;
        if !call.is_attended {
            self.calls.remove(&id);
        }
    }

    /// Gives back those that the guest has not heard of.
    pub(super) fn hand_back(&mut self) {
        while let Some(id) = self.waiting.pop_front() {
            let Some(call) = self.calls.get_mut(&id) else { continue };
            if let CallStage::Waiting(request) = std::mem::replace(&mut call.stage, CallStage::Reserved) {
                self.end(id, CallEnd::HandedBack(request));
            }
        }
    }

    /// What there is of a request; who asks is woken when there is something.
    pub(super) fn poll(&mut self, id: u64, cx: &mut Context<'_>) -> Poll<CallProgress<Q, A>> {
        let Some(call) = self.calls.get_mut(&id) else {
            return Poll::Ready(CallProgress::Ended(CallEnd::Failed));
        };
        if let Some(answer) = call.answer.take() {
            return Poll::Ready(CallProgress::Answered(answer));
        }
        if let Some(end) = call.end.take() {
            return Poll::Ready(CallProgress::Ended(end));
        }
        call.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The guest has heard of it, and has not answered yet.
    pub(super) fn is_unanswered(&self, id: u64) -> bool {
        self.calls.get(&id).is_some_and(|call| call.has_begun() && !call.has_answered)
    }

    /// The time of a request is over: the instance takes no more, and if it is for this one that the guest computes, or nobody
    /// else wants anything of it, it ends now.
    pub(super) fn time_is_up(&mut self, id: u64) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let is_made = self.good_until.is_some();
        if call.is_over() || (is_made && !call.has_begun()) {
            // The guest has no part in it.
            return;
        }
        self.wanted -= u32::from(std::mem::take(&mut call.is_wanted));
        let computes = self.is_busy && call.task().is_some() && call.task() == self.computes;
        if self.stage == Stage::Open {
            self.stage = Stage::Retired;
            // Others may have an instance of their own.
            self.hand_back();
        }
        if computes {
            self.stage = Stage::Condemned;
        }
    }

    /// Nobody asks about it any more. What the guest has not heard of is gone at once.
    pub(super) fn leave(&mut self, id: u64) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.is_attended = false;
        match call.stage {
            CallStage::Reserved | CallStage::Waiting(_) => self.end(id, CallEnd::Returned),
            CallStage::Over => {
                self.calls.remove(&id);
            }
            CallStage::Begun(_) => {
                call.answer = None;
                // One that is not answered yet has somebody who looks after its time.
                if call.has_answered {
                    self.wanted -= u32::from(std::mem::take(&mut call.is_wanted));
                }
            }
        }
    }

    /// It is about to be polled.
    pub(super) fn before_poll(&mut self) {
        self.was_asked = false;
    }

    /// While it is polled: its calls can go on, so that nothing holds it.
    pub(super) fn is_asked(&mut self) {
        self.was_asked = true;
        self.has_yielded = false;
        self.computes = None;
        self.is_freed |= std::mem::take(&mut self.is_busy);
    }

    /// While it is polled: its guest gives up its turn in the middle of this call, where that is known.
    pub(super) fn has_yielded(&mut self, task: Option<T>) {
        self.has_yielded = true;
        self.computes = task;
    }

    /// It was polled, and nothing has come of it. What the guest has not heard of does not wait for one that computes.
    pub(super) fn after_poll(&mut self) {
        self.is_busy = self.has_yielded || !self.was_asked;
        if self.is_busy {
            self.hand_back();
        }
    }

    /// Whether the guest wants no more requests for now.
    pub(super) fn set_backpressure(&mut self, backpressure: bool) {
        self.is_freed |= self.has_backpressure && !backpressure;
        self.has_backpressure = backpressure;
        if backpressure {
            self.hand_back();
        }
    }

    /// It has too much memory for another request.
    pub(super) fn set_grown(&mut self) {
        self.is_grown = true;
    }

    /// Requests that somebody waits for.
    pub(super) fn wanted(&self) -> u32 {
        self.wanted
    }

    /// No request is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.taken == 0
    }

    /// What is done in it is of no use to anybody.
    pub(super) fn is_to_end(&self) -> bool {
        match self.stage {
            Stage::Open => false,
            Stage::Retired => self.wanted == 0,
            Stage::Condemned | Stage::Ended => true,
        }
    }

    /// It may be kept for other requests.
    pub(super) fn is_good(&self) -> bool {
        matches!(self.stage, Stage::Open | Stage::Ended)
    }

    /// Takes no more, if no request is in it.
    pub(super) fn close_if_empty(&mut self) -> bool {
        let is_empty = self.is_empty();
        if is_empty && self.stage == Stage::Open {
            self.stage = Stage::Ended;
        }
        is_empty
    }

    /// It is no more, and its requests end so; those that the guest has not heard of are handed back.
    pub(super) fn close(&mut self, mut end: impl FnMut() -> CallEnd<Q>) {
        self.stage = Stage::Ended;
        self.hand_back();
        let all: Vec<_> = self.calls.keys().copied().collect();
        for id in all {
            self.end(id, end());
        }
        self.is_freed = true;
    }

    /// The same before it was made: those that wait for it end so, too.
    pub(super) fn close_all(&mut self, end: impl FnMut() -> CallEnd<Q>) {
        self.waiting.clear();
        self.close(end);
    }

    /// What the request is called whose task this is, or those that the guest was called with, as far as they are not over.
    pub(super) fn names(&self, task: Option<T>) -> Vec<&str> {
        let of_task = |call: &&Call<Q, A, T>| task.is_some() && call.task() == task;
        if let Some(call) = self.calls.values().find(of_task) {
            return vec![&call.name];
        }
        let mut begun: Vec<_> = self.calls.iter().filter(|(_, call)| call.has_begun()).collect();
        begun.sort_by_key(|(id, _)| **id);
        begun.into_iter().map(|(_, call)| &*call.name).collect()
    }
}

#[cfg(test)]
mod tests;
