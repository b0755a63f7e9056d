//! A request in an instance.

use std::task::Waker;

/// A request in an instance.
pub(super) struct Call<Q, A, T> {
    pub(super) stage: CallStage<Q, T>,
    /// What is said of it in the log.
    pub(super) name: String,
    pub(super) answer: Option<A>,
    pub(super) has_answered: bool,
    pub(super) end: Option<CallEnd<Q>>,
    /// Its time is not over.
    pub(super) is_wanted: bool,
    /// Somebody asks about it.
    pub(super) is_attended: bool,
    pub(super) waker: Option<Waker>,
}

/// How far it is.
pub(super) enum CallStage<Q, T> {
    /// It has a seat.
    Reserved,
    /// The guest is about to be called with it.
    Waiting(Q),
    /// The guest was called with it, as this task.
    Begun(Option<T>),
    Over,
}

/// How a request has left an instance.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum CallEnd<Q> {
    /// Its call is over.
    Returned,
    /// The instance has failed, which the log has, or was ended for what another request has done.
    Failed,
    /// The guest has not heard of it.
    HandedBack(Q),
    /// There was no room for the instance.
    Overloaded,
}

/// What there is of a request.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum CallProgress<Q, A> {
    Answered(A),
    Ended(CallEnd<Q>),
}

impl<Q, A, T> Default for Call<Q, A, T> {
    fn default() -> Self {
        Self {
            stage: CallStage::Reserved,
            name: String::new(),
            answer: None,
            has_answered: false,
            end: None,
            is_wanted: true,
            is_attended: true,
            waker: None,
        }
    }
}

impl<Q, A, T: Copy> Call<Q, A, T> {
    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, CallStage::Over)
    }

    /// The guest has heard of it, and it is not over.
    pub(super) fn has_begun(&self) -> bool {
        matches!(self.stage, CallStage::Begun(_))
    }

    /// The task of the guest that it is.
    pub(super) fn task(&self) -> Option<T> {
        match self.stage {
            CallStage::Begun(task) => task,
            CallStage::Reserved | CallStage::Waiting(_) | CallStage::Over => None,
        }
    }
}
