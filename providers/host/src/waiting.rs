//! A wait that is polled again and again, by those who poll streams.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
};

use futures::future::BoxFuture;

/// What is waited for, if anything is. It is in a mutex because streams are to be `Sync`, which the future is not; nobody contends.
#[derive(Default)]
pub(crate) struct Waiting(Mutex<Option<BoxFuture<'static, ()>>>);

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").finish_non_exhaustive()
    }
}

impl Waiting {
    /// Goes on with what is waited for, or begins to; ready once, and then there is nothing that is waited for.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        begin: impl FnOnce() -> BoxFuture<'static, ()>,
    ) -> Poll<()> {
        let waiting = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        let poll = waiting.get_or_insert_with(begin).as_mut().poll(cx);
        if poll.is_ready() {
            *waiting = None;
        }
        poll
    }
}
