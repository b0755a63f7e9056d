//! The tables of the network, on their way to the workers.
//!
//! ```text
//!   set_services, set_rules
//!                       ▼
//!                   [TableLog] ── since(revision) ──► SetNetwork ─► worker
//!                       │ newest revision                 ▲
//!                       └────────────────► one task for each worker
//! ```
//!
//! What is kept is the newest of each entry, with the revision that has brought it, and of those that are gone the newest
//! few. So what a worker lacks can be told by the revision that it has. A worker that has just been met has none, and is sent
//! whole tables before anything is started in it; one that says that it has another than was thought is sent them, too.

mod rules;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kubewasm_kubelet::runtime::{NetworkRules, ServiceRoutes, ServiceTable};
use kubewasm_rules::Addresses;
use tokio::sync::watch;
use tonic::Status;

use rules::RuleLog;

use super::{CALL, connect::Client};
use crate::protocol::{OutgoingUpdate, Versions, wire::SetNetworkOutcome};

/// Removals that are remembered, for each table. A worker that lacks more of them is sent whole tables.
const REMOVALS: usize = 1024;
/// How often in a row a worker may say that it needs something else.
const TURNS: usize = 4;
/// Between two attempts; longer and longer.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The newest tables. Shared by all groups.
#[derive(Debug)]
pub(super) struct Tables {
    log: Mutex<TableLog>,
    /// The newest revision.
    newest: watch::Sender<u64>,
}

/// The newest tables, and how they have come about.
#[derive(Debug, Default)]
struct TableLog {
    /// 0: nobody has told anything. Workers keep what an earlier agent told them until then.
    revision: u64,
    services: LoggedTable<ServiceRoutes>,
    /// `None`: nobody has told of rules.
    rules: Option<RuleLog>,
}

/// One table.
#[derive(Debug)]
struct LoggedTable<V> {
    /// By key, with the revision that has set it.
    entries: BTreeMap<String, (u64, Arc<V>)>,
    /// Keys, with the revision that has removed them; the newest last.
    removals: VecDeque<(u64, String)>,
    /// That of the newest removal that is forgotten.
    forgotten: u64,
}

impl<V> Default for LoggedTable<V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), removals: VecDeque::new(), forgotten: 0 }
    }
}

/// What an update says of one table.
type TableChanges<V> = (Vec<(String, Arc<V>)>, Vec<String>);

impl<V: PartialEq> LoggedTable<V> {
    /// Makes the table this one, at a revision. False when it was this one before.
    fn set(&mut self, table: &BTreeMap<String, Arc<V>>, revision: u64) -> bool {
        let mut is_changed = false;
        for (key, new) in table {
            let known = self.entries.get(key).map(|(_, known)| known);
            if known.is_none_or(|known| !Arc::ptr_eq(known, new) && known != new) {
                self.entries.insert(key.clone(), (revision, Arc::clone(new)));
                is_changed = true;
            }
        }
        if self.entries.len() > table.len() {
            let gone: Vec<_> = self.entries.keys().filter(|key| !table.contains_key(*key)).cloned().collect();
            for key in gone {
                self.entries.remove(&key);
                self.removals.push_back((revision, key));
            }
            while self.removals.len() > REMOVALS {
                self.forgotten = self.removals.pop_front().map_or(self.forgotten, |(revision, _)| revision);
            }
            is_changed = true;
        }
        is_changed
    }

    /// Whether all removals since a revision are known.
    fn remembers(&self, base: u64) -> bool {
        base >= self.forgotten
    }

    /// What has changed since a revision; everything since none.
    fn since(&self, base: Option<u64>) -> TableChanges<V> {
        let Some(base) = base else {
            let all = self.entries.iter().map(|(key, (_, value))| (key.clone(), Arc::clone(value)));
            return (all.collect(), Vec::new());
        };
        let set = self.entries.iter().filter(|(_, (revision, _))| *revision > base);
        let set = set.map(|(key, (_, value))| (key.clone(), Arc::clone(value))).collect();
        // What came back is set, which is more than it takes.
        let removed = self.removals.iter().rev().take_while(|(revision, _)| *revision > base);
        let removed = removed.map(|(_, key)| key).filter(|key| !self.entries.contains_key(*key));
        (set, removed.cloned().collect())
    }
}

impl TableLog {
    /// Brings tables with the revision `has` up to date. `None`: they are, or there is nothing to say.
    fn since(&self, has: Option<u64>) -> Option<OutgoingUpdate> {
        if self.revision == 0 || has == Some(self.revision) {
            return None;
        }
        let rules = self.rules.as_ref();
        let remembers =
            |base: u64| self.services.remembers(base) && rules.is_none_or(|rules| rules.remembers(base));
        let base = has.filter(|base| remembers(*base));
        let (services, removed_services) = self.services.since(base);
        let rules = rules.map(|rules| rules.since(base));
        Some(OutgoingUpdate { base, revision: self.revision, services, removed_services, rules })
    }
}

impl Default for Tables {
    fn default() -> Self {
        Self { log: Mutex::default(), newest: watch::Sender::new(0) }
    }
}

impl Tables {
    /// Makes these the Services that workers know.
    pub(super) fn set_services(&self, services: &ServiceTable) {
        let mut log = self.log();
        let revision = log.revision + 1;
        let is_changed = log.services.set(&services.services, revision);
        // The first word is one, even if it is that there are none.
        if is_changed || log.revision == 0 {
            log.revision = revision;
            self.newest.send_replace(revision);
        }
    }

    /// Makes these the rules of pods, whose node has these addresses.
    pub(super) fn set_rules(&self, rules: &NetworkRules, node: Addresses) {
        let mut log = self.log();
        let revision = log.revision + 1;
        let is_first = log.rules.is_none();
        let is_changed = log.rules.get_or_insert_default().set(rules, node, revision);
        if is_changed || is_first {
            log.revision = revision;
            self.newest.send_replace(revision);
        }
    }

    /// Waits until a worker has what are the newest tables now, for as long as it lives. One that knows of no tables has
    /// them.
    pub(super) async fn reached(&self, client: &Client) {
        let newest = *self.newest.borrow();
        let mut delivered = client.tables.subscribe();
        while client.version >= Versions::TABLES && client.is_alive() {
            let reached = delivered.wait_for(|revision| *revision >= newest);
            if tokio::time::timeout(CALL, reached).await.is_ok() {
                return;
            }
        }
    }

    fn log(&self) -> MutexGuard<'_, TableLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings a worker up to date whose tables have the revision `has`, as far as is known; returns the one that they have
    /// then. After an error it is not known whether they were changed: the next attempt finds out.
    pub(super) async fn deliver(&self, client: &Client, has: Option<u64>) -> Result<Option<u64>, Status> {
        let mut has = has;
        for _ in 0..TURNS {
            let Some(update) = self.log().since(has) else { return Ok(has) };
            let revision = update.revision;
            let parts = update.parts(&client.session().await);
            let sent = client.worker.clone().set_network(tokio_stream::iter(parts)).await?;
            match sent.into_inner().outcome() {
                SetNetworkOutcome::Applied => return Ok(Some(revision)),
                SetNetworkOutcome::OutOfStep => has = None,
                SetNetworkOutcome::Stale => {}
                SetNetworkOutcome::Unspecified => {
                    return Err(Status::data_loss("it does not say what has come of the network's tables"));
                }
            }
        }
        Err(Status::aborted("it asks for the network's tables again and again"))
    }

    /// Keeps a worker up to date whose tables have the revision `has`, for as long as it lives.
    pub(super) async fn keep(self: Arc<Self>, group: String, client: Client, mut has: Option<u64>) {
        let mut newest = self.newest.subscribe();
        let mut pause = FIRST_PAUSE;
        while client.is_alive() {
            newest.mark_unchanged();
            let delivered = tokio::time::timeout(CALL, self.deliver(&client, has)).await;
            let delivered =
                delivered.unwrap_or_else(|_| Err(Status::deadline_exceeded("it does not answer")));
            match delivered {
                Ok(revision) => {
                    (has, pause) = (revision, FIRST_PAUSE);
                    client.tables.send_replace(revision.unwrap_or(0));
                    // The sender lives as long as this does.
                    if newest.changed().await.is_err() {
                        return;
                    }
                }
                Err(status) => {
                    let error = status.message();
                    tracing::warn!(
                        group,
                        error,
                        "a worker's tables of the network are not up to date; trying again"
                    );
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
