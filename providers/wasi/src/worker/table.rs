//! What the worker knows of its instances. No I/O: changes go in, pictures and changes come out.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use kubewasm_host::exit::Exit;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::instance::{End, Instance};

/// Changes that a watcher may be behind before it is given a new picture instead.
const BACKLOG: usize = 1024;

/// A change that watchers are told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// An instance of this id is being started.
    Starting(String),
    /// An instance started or ended.
    Changed(Instance),
    /// An instance was forgotten, or did not start.
    Removed(String),
}

/// All instances at one moment, and all changes after it.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) revision: u64,
    /// Ids of those that are being started.
    pub(super) starting: Vec<String>,
    pub(super) instances: Vec<Instance>,
    pub(super) changes: broadcast::Receiver<Change>,
}

/// All instances that were started and not yet removed, each with `R` while it runs.
#[derive(Debug)]
pub(super) struct Table<R> {
    inner: Mutex<TableInner<R>>,
    changes: broadcast::Sender<Change>,
}

#[derive(Debug)]
struct TableInner<R> {
    entries: HashMap<String, TableEntry<R>>,
    /// Only starts of this session are taken in.
    session: String,
    revision: u64,
    running: usize,
    /// Nothing more is taken in.
    closed: bool,
}

#[derive(Debug)]
enum TableEntry<R> {
    /// Its id is taken; nothing runs yet. Becomes `Known`, or is released.
    Starting(StartSignals),
    /// `R` is there until it ends.
    Known { instance: Instance, running: Option<R> },
}

/// Between a start that is under way and those who wait for its end or want it to end. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct StartSignals {
    /// Cancelled by who wants nothing to come of it.
    pub(super) given_up: CancellationToken,
    /// Cancelled when it has come to its end, good or bad.
    pub(super) over: CancellationToken,
}

/// What an id means when somebody wants to start it.
#[derive(Debug)]
pub(super) enum Claim {
    /// It is the caller's, who must call [`Table::started`] or [`Table::release`].
    Yours(StartSignals),
    /// Somebody else is starting it right now.
    Starting(StartSignals),
    /// Another session has begun since the start was asked for.
    Stale,
    /// It was started before.
    Known(Instance),
    /// As many run as may.
    Full,
    /// The worker is about to end.
    Closed,
}

impl<R: Clone> Table<R> {
    pub(super) fn new() -> Self {
        let (entries, session) = (HashMap::new(), String::new());
        let inner = TableInner { entries, session, revision: 0, running: 0, closed: false };
        Self { inner: Mutex::new(inner), changes: broadcast::channel(BACKLOG).0 }
    }

    /// Begins a session: what earlier ones have asked for and was not claimed by now is refused.
    pub(super) fn begin_session(&self, session: String) {
        self.lock().session = session;
    }

    /// Whether a session is the present one.
    pub(super) fn is_session(&self, session: &str) -> bool {
        self.lock().session == session
    }

    /// Takes an id, if `session` is the present one and no more than `most` run or are starting.
    pub(super) fn claim(&self, id: &str, session: &str, most: usize) -> Claim {
        let mut inner = self.lock();
        if inner.session != session {
            return Claim::Stale;
        }
        match inner.entries.get(id) {
            Some(TableEntry::Starting(signals)) => Claim::Starting(signals.clone()),
            Some(TableEntry::Known { instance, .. }) => Claim::Known(instance.clone()),
            None if inner.closed => Claim::Closed,
            None if inner.running >= most => Claim::Full,
            None => {
                inner.running += 1;
                let signals = StartSignals::default();
                inner.entries.insert(id.to_owned(), TableEntry::Starting(signals.clone()));
                self.tell(Change::Starting(id.to_owned()));
                Claim::Yours(signals)
            }
        }
    }

    /// Takes in nothing more, if there is nothing: true then, and for good.
    pub(super) fn close_if_empty(&self) -> bool {
        let mut inner = self.lock();
        inner.closed |= inner.entries.is_empty();
        inner.closed
    }

    /// Gives back an id that was claimed and not started.
    pub(super) fn release(&self, id: &str) {
        let mut inner = self.lock();
        let Some(TableEntry::Starting(signals)) = inner.entries.get(id) else { return };
        signals.over.cancel();
        inner.entries.remove(id);
        inner.running -= 1;
        self.tell(Change::Removed(id.to_owned()));
    }

    /// Records that a claimed id runs. `None` when its start was given up: it must not run then.
    pub(super) fn started(
        &self,
        id: &str,
        pod_uid: &str,
        label: &str,
        at: Timestamp,
        running: R,
    ) -> Option<Instance> {
        let mut inner = self.lock();
        let Some(TableEntry::Starting(signals)) = inner.entries.get(id) else { return None };
        if signals.given_up.is_cancelled() {
            return None;
        }
        signals.over.cancel();
        inner.revision += 1;
        let instance = Instance {
            id: id.to_owned(),
            pod_uid: pod_uid.to_owned(),
            label: label.to_owned(),
            revision: inner.revision,
            started_at: at,
            end: None,
        };
        inner
            .entries
            .insert(id.to_owned(), TableEntry::Known { instance: instance.clone(), running: Some(running) });
        self.tell(Change::Changed(instance.clone()));
        Some(instance)
    }

    /// Records how an instance ended.
    pub(super) fn exited(&self, id: &str, finished_at: Timestamp, exit: Exit) {
        let mut inner = self.lock();
        let TableInner { entries, revision, running: count, .. } = &mut *inner;
        if let Some(TableEntry::Known { instance, running }) = entries.get_mut(id)
            && running.take().is_some()
        {
            *revision += 1;
            *count -= 1;
            instance.revision = *revision;
            instance.end = Some(End { finished_at, exit });
            self.tell(Change::Changed(instance.clone()));
        }
    }

    /// Forgets an instance that has ended. True when it is unknown now; one that starts or runs stays.
    pub(super) fn remove(&self, id: &str) -> bool {
        let mut inner = self.lock();
        match inner.entries.get(id) {
            None => true,
            Some(TableEntry::Known { running: None, .. }) => {
                inner.entries.remove(id);
                self.tell(Change::Removed(id.to_owned()));
                true
            }
            Some(_) => false,
        }
    }

    /// The start of an instance that is under way.
    pub(super) fn starting(&self, id: &str) -> Option<StartSignals> {
        match self.lock().entries.get(id) {
            Some(TableEntry::Starting(signals)) => Some(signals.clone()),
            _ => None,
        }
    }

    /// All starts that are under way.
    pub(super) fn all_starting(&self) -> Vec<StartSignals> {
        let inner = self.lock();
        let signals = |entry: &TableEntry<R>| match entry {
            TableEntry::Starting(signals) => Some(signals.clone()),
            TableEntry::Known { .. } => None,
        };
        inner.entries.values().filter_map(signals).collect()
    }

    /// What belongs to an instance that runs.
    pub(super) fn running(&self, id: &str) -> Option<R> {
        match self.lock().entries.get(id) {
            Some(TableEntry::Known { running, .. }) => running.clone(),
            _ => None,
        }
    }

    /// What belongs to all instances that run.
    pub(super) fn all_running(&self) -> Vec<R> {
        let inner = self.lock();
        inner
            .entries
            .values()
            .filter_map(|entry| match entry {
                TableEntry::Known { running, .. } => running.clone(),
                TableEntry::Starting(_) => None,
            })
            .collect()
    }

    /// All instances, and a receiver that misses no change after them.
    pub(super) fn picture(&self) -> Picture {
        let inner = self.lock();
        let (mut starting, mut instances) = (Vec::new(), Vec::new());
        for (id, entry) in &inner.entries {
            match entry {
                TableEntry::Starting(_) => starting.push(id.clone()),
                TableEntry::Known { instance, .. } => instances.push(instance.clone()),
            }
        }
        Picture { revision: inner.revision, starting, instances, changes: self.changes.subscribe() }
    }

    /// Called with the lock held, so that changes are told in the order in which they happen.
    fn tell(&self, change: Change) {
        // Nobody watching is no error.
        let _ = self.changes.send(change);
    }

    fn lock(&self) -> MutexGuard<'_, TableInner<R>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubewasm_host::exit::ExitReason;

    fn exit() -> Exit {
        Exit::new(3, ExitReason::Exited, "")
    }

    fn claim<R: Clone>(table: &Table<R>, id: &str, most: usize) -> Claim {
        table.claim(id, "", most)
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    #[test]
    fn an_id_is_started_once() {
        let table = Table::new();
        assert!(matches!(claim(&table, "a", 9), Claim::Yours(_)));
        assert!(matches!(claim(&table, "a", 9), Claim::Starting(_)));
        table.release("a");
        assert!(matches!(claim(&table, "a", 9), Claim::Yours(_)));
        let instance = table.started("a", "uid", "", now(), ()).unwrap();
        assert!(matches!(claim(&table, "a", 9), Claim::Known(known) if known == instance));
        table.exited("a", now(), exit());
        assert!(matches!(claim(&table, "a", 9), Claim::Known(Instance { end: Some(_), .. })));
    }

    /// After a session has begun, what runs, starts or is known is all that there will be of those before it.
    #[test]
    fn starts_of_earlier_sessions_are_refused() {
        let table: Table<()> = Table::new();
        table.begin_session("1".into());
        assert!(matches!(table.claim("a", "1", 9), Claim::Yours(_)));
        table.begin_session("2".into());
        assert!(matches!(table.claim("b", "1", 9), Claim::Stale));
        assert!(matches!(table.claim("a", "1", 9), Claim::Stale));
        assert!(matches!(table.claim("a", "2", 9), Claim::Starting(_)));
        assert_eq!(table.picture().starting, ["a"]);
    }

    #[test]
    fn a_start_that_was_given_up_does_not_run() {
        let table = Table::new();
        let Claim::Yours(signals) = claim(&table, "a", 9) else { panic!() };
        table.starting("a").unwrap().given_up.cancel();
        assert_eq!(table.started("a", "uid", "", now(), ()), None);
        assert!(!signals.over.is_cancelled(), "it may still be at work");
        table.release("a");
        assert!(signals.over.is_cancelled() && table.remove("a"));
        assert!(matches!(claim(&table, "a", 9), Claim::Yours(_)));
    }

    #[test]
    fn only_what_runs_or_starts_counts_against_the_limit() {
        let table = Table::new();
        assert!(matches!(claim(&table, "a", 1), Claim::Yours(_)));
        assert!(matches!(claim(&table, "b", 1), Claim::Full));
        table.started("a", "uid", "", now(), ());
        assert!(matches!(claim(&table, "b", 1), Claim::Full));
        table.exited("a", now(), exit());
        assert!(matches!(claim(&table, "b", 1), Claim::Yours(_)));
        table.release("b");
        assert!(matches!(claim(&table, "c", 1), Claim::Yours(_)));
    }

    #[test]
    fn exited_instances_stay_until_they_are_removed() {
        let table = Table::new();
        claim(&table, "a", 9);
        assert!(!table.remove("a"), "it is starting");
        table.started("a", "uid", "", now(), ());
        assert!(!table.remove("a"), "it runs");
        assert!(table.running("a").is_some());
        table.exited("a", now(), exit());
        assert!(table.running("a").is_none());
        assert_eq!(table.picture().instances.len(), 1);
        assert!(table.remove("a"));
        assert!(table.remove("a"), "twice is fine");
        assert!(table.picture().instances.is_empty());
    }

    #[test]
    fn a_table_that_was_closed_takes_nothing_in() {
        let table = Table::new();
        claim(&table, "a", 9);
        assert!(!table.close_if_empty(), "one is starting");
        table.started("a", "uid", "", now(), ());
        assert!(!table.close_if_empty(), "one runs");
        table.exited("a", now(), exit());
        assert!(!table.close_if_empty(), "one has ended, and nobody has noted it");
        assert!(matches!(claim(&table, "b", 9), Claim::Yours(_)));
        table.release("b");
        table.remove("a");
        assert!(table.close_if_empty());
        assert!(matches!(claim(&table, "c", 9), Claim::Closed));
        assert!(table.close_if_empty(), "once and for all");
    }

    #[test]
    fn the_first_end_counts() {
        let table = Table::new();
        claim(&table, "a", 9);
        table.started("a", "uid", "", now(), ());
        table.exited("a", now(), exit());
        table.exited("a", now(), Exit::stopped(true));
        assert_eq!(table.picture().instances[0].end.as_ref().unwrap().exit, exit());
    }

    #[test]
    fn watchers_see_what_comes_after_their_picture_in_order() {
        let table = Table::new();
        claim(&table, "a", 9);
        table.started("a", "uid", "", now(), ());
        let mut picture = table.picture();
        assert_eq!((picture.revision, picture.instances.len()), (1, 1));
        table.exited("a", now(), exit());
        table.remove("a");
        match picture.changes.try_recv().unwrap() {
            Change::Changed(instance) => {
                assert_eq!((instance.revision, instance.end.is_some()), (2, true))
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(picture.changes.try_recv().unwrap(), Change::Removed("a".into()));
        claim(&table, "b", 9);
        table.release("b");
        assert_eq!(picture.changes.try_recv().unwrap(), Change::Starting("b".into()));
        assert_eq!(picture.changes.try_recv().unwrap(), Change::Removed("b".into()));
        assert!(picture.changes.try_recv().is_err());
    }
}
