//! Requests that have failed and that nobody was told of yet.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Containers that are told apart. Those of whose failures nobody has heard are seldom more than those that run.
const MOST: usize = 4096;
/// Characters of a reason.
const REASON: usize = 256;

/// Counts of failed requests, by the id of their container, until somebody takes them. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct RequestFailures(Arc<Board>);

#[derive(Debug, Default)]
struct Board {
    counts: Mutex<BTreeMap<String, FailureCount>>,
    more: Notify,
}

/// What is to be told of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailureCount {
    /// Requests that have failed.
    pub count: u64,
    /// Why the last one did, for people: nothing of the request, and at most 256 characters.
    pub last: String,
}

impl RequestFailures {
    /// Adds to what is to be told of a container; the newest reason stays.
    pub fn add(&self, id: &str, more: FailureCount) {
        let mut counts = self.lock();
        if let Some(known) = counts.get_mut(id) {
            known.count = known.count.saturating_add(more.count);
            known.last = cut(&more.last);
        } else if counts.len() < MOST {
            counts.insert(id.to_owned(), FailureCount { last: cut(&more.last), ..more });
        }
        drop(counts);
        self.0.more.notify_one();
    }

    /// Waits until there is something to be told, and takes all of it.
    pub async fn take(&self) -> Vec<(String, FailureCount)> {
        loop {
            let counts = std::mem::take(&mut *self.lock());
            if !counts.is_empty() {
                return counts.into_iter().collect();
            }
            // One that was added in between has left its permit.
            self.0.more.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, FailureCount>> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first line, and no more than there is room for.
fn cut(reason: &str) -> String {
    reason.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(REASON).collect()
}

/// Where a server says which of its requests have failed.
#[derive(Clone, Debug)]
pub struct FailureSink {
    /// Where they are counted.
    pub failures: RequestFailures,
    /// Id of the container.
    pub id: String,
}

impl FailureSink {
    /// One more.
    pub(super) fn failed(&self, reason: &str) {
        self.failures.add(&self.id, FailureCount { count: 1, last: reason.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failures_are_counted_until_they_are_taken() {
        let failures = RequestFailures::default();
        let sink = FailureSink { failures: failures.clone(), id: "a".into() };
        sink.failed("first");
        sink.failed("wasm trap: unreachable\n  0: a frame");
        failures.add("b", FailureCount { count: 7, last: "x".repeat(2 * REASON) });
        let taken = failures.take().await;
        assert_eq!(taken[0], ("a".into(), FailureCount { count: 2, last: "wasm trap: unreachable".into() }));
        assert_eq!((taken[1].1.count, taken[1].1.last.len()), (7, REASON));
        let waiting = tokio::spawn({
            let failures = failures.clone();
            async move { failures.take().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "all was taken");
        sink.failed("again");
        assert_eq!(waiting.await.unwrap()[0].1.count, 1);
    }

    #[tokio::test]
    async fn containers_are_bounded() {
        let failures = RequestFailures::default();
        for id in 0..MOST + 10 {
            failures.add(&id.to_string(), FailureCount { count: 1, last: String::new() });
        }
        assert_eq!(failures.take().await.len(), MOST);
    }
}
