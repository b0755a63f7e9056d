//! The shared watches of objects, by namespace and name, and their newest answers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{sync::watch, task::AbortHandle, time::Instant};

use crate::pods::api_error::ApiError;

/// How long the first answer of the API server about an object is waited for.
const ANSWER: Duration = Duration::from_secs(10);

/// How long a refusal is not taken for an answer: the Node authorizer learns of a new pod at the same time as
/// its node does, and until then all that the pod refers to is forbidden.
const GRACE: Duration = Duration::from_secs(1);

/// What is known of an object.
#[derive(Debug)]
pub(in crate::pods) enum Known<K> {
    /// Nothing yet.
    Unread,
    /// Nothing yet, and this is why.
    Unreadable(String),
    /// It does not exist.
    Absent,
    /// It was last seen like this.
    Present(Arc<K>),
}

// Not derived, because that would demand `K: Clone`; objects are shared by reference count.
impl<K> Clone for Known<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Unread => Self::Unread,
            Self::Unreadable(why) => Self::Unreadable(why.clone()),
            Self::Absent => Self::Absent,
            Self::Present(object) => Self::Present(Arc::clone(object)),
        }
    }
}

/// Namespace and name.
type ObjectKey = (String, String);

/// Entries by namespace and name. An entry lives as long as somebody has a subscription to it.
pub(in crate::pods) struct ObjectTable<K> {
    entries: Mutex<HashMap<ObjectKey, Weak<WatchedObject<K>>>>,
}

impl<K> Default for ObjectTable<K> {
    fn default() -> Self {
        Self { entries: Mutex::default() }
    }
}

struct WatchedObject<K> {
    known: watch::Receiver<Known<K>>,
    task: AbortHandle,
}

impl<K> Drop for WatchedObject<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Follows one object for as long as it lives.
pub(in crate::pods) struct Subscription<K> {
    known: watch::Receiver<Known<K>>,
    /// Holds a reference count of the shared watch, which ends with the last one; `None` where there is none.
    _entry: Option<Arc<WatchedObject<K>>>,
}

impl<K: Send + Sync + 'static> ObjectTable<K> {
    /// Joins those who follow the object. For the first of them, `follow` makes the task that tells the
    /// sender what it sees.
    pub(super) fn subscribe<F>(
        &self,
        namespace: &str,
        name: &str,
        follow: impl FnOnce(watch::Sender<Known<K>>) -> F,
    ) -> Subscription<K>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (namespace.to_owned(), name.to_owned());
        let entry = entries.get(&key).and_then(Weak::upgrade).unwrap_or_else(|| {
            entries.retain(|_, entry| entry.strong_count() > 0);
            let (sender, known) = watch::channel(Known::Unread);
            let task = tokio::spawn(follow(sender)).abort_handle();
            let entry = Arc::new(WatchedObject { known, task });
            entries.insert(key, Arc::downgrade(&entry));
            entry
        });
        Subscription { known: entry.known.clone(), _entry: Some(entry) }
    }
}

impl<K> Subscription<K> {
    /// What is known now.
    pub(in crate::pods) fn known(&mut self) -> Known<K> {
        self.known.borrow_and_update().clone()
    }

    /// Waits until something else is known than what [`Subscription::known`] has returned last.
    pub(in crate::pods) async fn changed(&mut self) {
        if self.known.changed().await.is_err() {
            // The watch has ended because the object is immutable: no update can come.
            std::future::pending().await
        }
    }

    /// The object, or that there is none, as soon as one or the other is known. `kind` is for messages.
    ///
    /// # Errors
    /// [`ApiError::Later`] when the API server refuses to tell, or does not answer.
    pub(in crate::pods) async fn answer(mut self, kind: &str) -> Result<Option<Arc<K>>, ApiError> {
        let begun = Instant::now();
        loop {
            let (patience, trouble) = match self.known() {
                Known::Present(object) => return Ok(Some(object)),
                Known::Absent => return Ok(None),
                Known::Unreadable(why) => (GRACE, why),
                Known::Unread => {
                    (ANSWER, format!("failed to sync {kind} cache: timed out waiting for the condition"))
                }
            };
            if tokio::time::timeout_at(begun + patience, self.changed()).await.is_err() {
                return Err(ApiError::Later(trouble));
            }
        }
    }

    /// One of what never changes.
    pub(super) fn constant(known: Known<K>) -> Self {
        Self { known: watch::channel(known).1, _entry: None }
    }

    /// One that nobody else shares, for tests.
    #[cfg(test)]
    pub(in crate::pods) fn alone(known: watch::Receiver<Known<K>>) -> Self {
        Self { known, _entry: None }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Counts the tasks that run.
    #[derive(Clone, Default)]
    struct Tasks(Arc<(AtomicU32, AtomicU32)>);

    impl Tasks {
        fn follow(
            &self,
        ) -> impl FnOnce(watch::Sender<Known<u32>>) -> futures::future::BoxFuture<'static, ()> {
            struct Running(Tasks);
            impl Drop for Running {
                fn drop(&mut self) {
                    self.0.0.1.fetch_add(1, Ordering::SeqCst);
                }
            }
            let tasks = self.clone();
            move |sender| {
                Box::pin(async move {
                    tasks.0.0.fetch_add(1, Ordering::SeqCst);
                    let _running = Running(tasks);
                    let _ = sender.send(Known::Present(Arc::new(7)));
                    std::future::pending().await
                })
            }
        }

        fn begun(&self) -> u32 {
            self.0.0.load(Ordering::SeqCst)
        }

        async fn ended(&self, wanted: u32) {
            while self.0.1.load(Ordering::SeqCst) < wanted {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_waited_for_and_a_refusal_is_not_the_first_word() {
        let (sender, known) = watch::channel(Known::<u32>::Unread);
        let answer = || Subscription::alone(known.clone()).answer("configmap");
        let error = answer().await.unwrap_err().to_string();
        assert_eq!(error, "failed to sync configmap cache: timed out waiting for the condition");

        sender.send_replace(Known::Unreadable("no relationship found".to_owned()));
        let later = tokio::spawn(answer());
        tokio::time::sleep(GRACE / 2).await;
        assert!(!later.is_finished());
        sender.send_replace(Known::Present(Arc::new(7)));
        assert_eq!(later.await.unwrap().unwrap().as_deref(), Some(&7));

        sender.send_replace(Known::Unreadable("no relationship found".to_owned()));
        assert_eq!(answer().await.unwrap_err().to_string(), "no relationship found");
        sender.send_replace(Known::Absent);
        assert_eq!(answer().await.unwrap(), None);
    }

    #[tokio::test]
    async fn one_watch_for_all_that_ends_with_the_last() {
        let table: ObjectTable<u32> = ObjectTable::default();
        let tasks = Tasks::default();
        let mut one = table.subscribe("ns", "a", tasks.follow());
        let mut two = table.subscribe("ns", "a", tasks.follow());
        one.changed().await;
        assert!(matches!(one.known(), Known::Present(value) if *value == 7));
        assert!(matches!(two.known(), Known::Present(_)));
        let mut other = table.subscribe("other", "a", tasks.follow());
        other.changed().await;
        drop(one);
        drop(other);
        tasks.ended(1).await;
        assert_eq!(tasks.begun(), 2);
        assert!(matches!(two.known(), Known::Present(_)));
        drop(two);
        tasks.ended(2).await;
        let mut again = table.subscribe("ns", "a", tasks.follow());
        again.changed().await;
        assert_eq!(tasks.begun(), 3);
        assert_eq!(table.entries.lock().unwrap().len(), 1);
    }
}
