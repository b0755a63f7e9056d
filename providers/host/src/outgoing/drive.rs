//! What runs for guests beside them, on their account.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use hyper::rt::Executor;
use tokio::task::JoinSet;

use crate::{account::Account, clock::thread_time};

/// A future whose processor time an account is charged with.
pub(super) struct Metered<F> {
    future: Pin<Box<F>>,
    account: Arc<Account>,
}

impl<F: Future> Metered<F> {
    pub(super) fn new(future: F, account: Arc<Account>) -> Self {
        Self { future: Box::pin(future), account }
    }
}

impl<F: Future> Future for Metered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let before = thread_time();
        let result = self.future.as_mut().poll(context);
        self.account.charge(thread_time().saturating_sub(before));
        result
    }
}

/// The tasks of one connection: what drives it, and of HTTP/2 what its requests and bodies need. Clones are the same; they
/// end when their [`DriverTasks`] is dropped.
#[derive(Clone)]
pub(super) struct Driver {
    tasks: Arc<Mutex<Option<JoinSet<()>>>>,
    account: Arc<Account>,
}

/// Ends the tasks of a connection when it is dropped.
#[derive(Debug)]
pub(super) struct DriverTasks(Driver);

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

impl Driver {
    /// On this account.
    pub(super) fn new(account: &Arc<Account>) -> (Self, DriverTasks) {
        let tasks = Arc::new(Mutex::new(Some(JoinSet::new())));
        let driver = Self { tasks, account: Arc::clone(account) };
        (driver.clone(), DriverTasks(driver))
    }

    fn lock(&self) -> MutexGuard<'_, Option<JoinSet<()>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a task. Must be called within a tokio runtime.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(tasks) = self.lock().as_mut() {
            // Those that have ended go.
            while tasks.try_join_next().is_some() {}
            tasks.spawn(Metered::new(task, Arc::clone(&self.account)));
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Driver {
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}

impl Drop for DriverTasks {
    fn drop(&mut self) {
        // Tasks hold clones of the driver, and are dropped by its runtime a little later: not here, under the lock.
        let tasks = self.0.lock().take();
        drop(tasks);
    }
}
