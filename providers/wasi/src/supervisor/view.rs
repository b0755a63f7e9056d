//! What the agent knows of all instances, and whom it must tell. No I/O.
//!
//! An instance is known from the moment on from which it may run: first there is a claim on its id
//! ([`super::claims`]), then its worker is told of it. What a worker says of an id that was not claimed for its group
//! is refused: an escaped guest has its worker, and must not have anybody else's containers with it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use kubewasm_host::{
    exit::Exit,
    http::{FailureCount, RequestFailures},
};
use tokio::sync::mpsc;

use super::{claims::Claim, wake::Wake};
use crate::instance::{End, Instance};

/// All instances of all workers. Written by the groups' watchers and by starts and removals; read by
/// everybody.
#[derive(Debug, Default)]
pub(super) struct View {
    known: Mutex<KnownInstances>,
    wake: Arc<Wake>,
    /// Requests that have failed and that nobody was told of.
    pub(super) failures: RequestFailures,
}

#[derive(Debug, Default)]
struct KnownInstances {
    entries: HashMap<String, ViewEntry>,
    /// Groups whose workers live and have not told yet what they host.
    silent: HashMap<String, Ledger>,
}

/// Whether there are claims on what a silent worker hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ledger {
    /// On all of it.
    Kept,
    /// It was started by an agent that kept none: the worker's first picture is believed.
    Missing,
}

#[derive(Debug)]
struct ViewEntry {
    claim: Claim,
    stage: EntryStage,
}

/// What is known of a claimed id.
#[derive(Debug)]
enum EntryStage {
    /// An earlier agent has claimed it. Next: what its worker says, or nothing.
    Untold,
    /// It is being started here. Next: told, or forgotten by who starts it.
    Asked,
    /// Its worker says that it is being started, for an earlier agent.
    Starting { incarnation: String },
    /// Its worker has told of it. Revisions of different incarnations do not compare.
    Told { incarnation: String, instance: Instance },
}

/// What can be said of an id now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// It runs, or has ended and was not removed yet.
    Known(Instance),
    /// It is being started.
    Starting,
    /// Nothing of this id runs, and nothing that was asked for before will.
    Absent,
    /// A worker that may host it lives and does not answer.
    CannotTell,
}

/// Which worker processes of a group are dead.
#[derive(Clone, Copy, Debug)]
pub(super) enum Dead<'a> {
    /// This one.
    One(&'a str),
    /// All but this one, which answers.
    AllBut(&'a str),
}

impl Dead<'_> {
    fn includes(self, incarnation: &str) -> bool {
        match self {
            Self::One(dead) => incarnation == dead,
            Self::AllBut(alive) => incarnation != alive,
        }
    }
}

/// A worker told of an id that is not one of its group's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreign;

/// Why an id cannot be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// In another group.
    Elsewhere(String),
    /// In this group, by an earlier agent, and its worker has not told yet what became of it.
    Untold,
}

impl View {
    /// The worker of a group lives and has not told yet what it hosts; `claims` are those of earlier agents.
    pub(super) fn is_silent(&self, group: &str, ledger: Ledger, claims: Vec<(String, Claim)>) {
        let mut known = self.lock();
        known.silent.insert(group.to_owned(), ledger);
        let entry = |(id, claim)| (id, ViewEntry { claim, stage: EntryStage::Untold });
        known.entries.extend(claims.into_iter().map(entry));
    }

    /// No worker of a group lives: what none has told of is gone. Returns the ids that are.
    pub(super) fn has_no_worker(&self, group: &str) -> Vec<String> {
        self.lock().silent.remove(group);
        self.drop_entries(|_, entry| {
            let untold = matches!(entry.stage, EntryStage::Untold | EntryStage::Starting { .. });
            untold && entry.claim.group == group
        })
    }

    /// The worker of a group has not told yet what it hosts, and no claims were kept on that.
    pub(super) fn has_no_ledger(&self, group: &str) -> bool {
        self.lock().silent.get(group) == Some(&Ledger::Missing)
    }

    /// What can be said of an id.
    pub(super) fn sighting(&self, id: &str) -> Sighting {
        let known = self.lock();
        match known.entries.get(id).map(|entry| &entry.stage) {
            Some(EntryStage::Told { instance, .. }) => Sighting::Known(instance.clone()),
            Some(EntryStage::Asked | EntryStage::Starting { .. }) => Sighting::Starting,
            Some(EntryStage::Untold) => Sighting::CannotTell,
            None if known.is_complete() => Sighting::Absent,
            None => Sighting::CannotTell,
        }
    }

    /// All claims, by id, and whether there can be nothing else.
    pub(super) fn claims(&self) -> (Vec<(String, Claim)>, bool) {
        let known = self.lock();
        let claims = known.entries.iter().map(|(id, entry)| (id.clone(), entry.claim.clone())).collect();
        (claims, known.is_complete())
    }

    /// Claims an id for an instance that is about to be started. One that is known in its group already keeps its
    /// place: it is not started twice.
    pub(super) fn claim(&self, id: &str, claim: Claim) -> Result<(), Taken> {
        let mut known = self.lock();
        match known.entries.get(id) {
            Some(entry) if entry.claim.group != claim.group => {
                Err(Taken::Elsewhere(entry.claim.group.clone()))
            }
            Some(ViewEntry { stage: EntryStage::Untold, .. }) => Err(Taken::Untold),
            Some(_) => Ok(()),
            None => {
                known.entries.insert(id.to_owned(), ViewEntry { claim, stage: EntryStage::Asked });
                Ok(())
            }
        }
    }

    /// A worker told of an instance. Older news than what is known are dropped. Whose it is and what it is labelled
    /// with is in the claim, whatever the worker says.
    pub(super) fn told(&self, group: &str, incarnation: &str, mut instance: Instance) -> Result<(), Foreign> {
        let mut known = self.lock();
        let id = instance.id.clone();
        known.adopt(group, &id, &instance);
        let entry = known.entries.get_mut(&id).filter(|entry| entry.claim.group == group).ok_or(Foreign)?;
        if let EntryStage::Told { incarnation: of, instance: known } = &entry.stage
            && of == incarnation
            && known.revision >= instance.revision
        {
            return Ok(());
        }
        instance.pod_uid.clone_from(&entry.claim.pod_uid);
        instance.label.clone_from(&entry.claim.label);
        let pod = instance.pod_uid.clone();
        entry.stage = EntryStage::Told { incarnation: incarnation.to_owned(), instance };
        drop(known);
        self.wake.pod(pod);
        Ok(())
    }

    /// A worker told that it is starting an instance.
    pub(super) fn told_of_start(&self, group: &str, incarnation: &str, id: &str) -> Result<(), Foreign> {
        let mut known = self.lock();
        let entry = known.entries.get_mut(id).filter(|entry| entry.claim.group == group).ok_or(Foreign)?;
        if matches!(entry.stage, EntryStage::Untold) {
            entry.stage = EntryStage::Starting { incarnation: incarnation.to_owned() };
            let pod = entry.claim.pod_uid.clone();
            drop(known);
            self.wake.pod(pod);
        }
        Ok(())
    }

    /// A worker told of requests that have failed.
    pub(super) fn told_of_failures(&self, group: &str, id: &str, more: FailureCount) -> Result<(), Foreign> {
        let is_of_group = self.lock().entries.get(id).is_some_and(|entry| entry.claim.group == group);
        if !is_of_group {
            return Err(Foreign);
        }
        self.failures.add(id, more);
        Ok(())
    }

    /// A worker told that it has nothing of an id any more, after all else up to a revision: an instance of that id which
    /// is newer than that was started since. True when the id is unknown now.
    pub(super) fn told_of_end(&self, group: &str, incarnation: &str, id: &str, revision: u64) -> bool {
        let ids = self.drop_entries(|of, entry| {
            let is_old = match &entry.stage {
                EntryStage::Asked => false,
                EntryStage::Told { incarnation: of, instance } => {
                    of == incarnation && instance.revision <= revision
                }
                EntryStage::Untold | EntryStage::Starting { .. } => true,
            };
            of == id && entry.claim.group == group && is_old
        });
        !ids.is_empty()
    }

    /// An id is not claimed any more: its instance was removed, or did not start.
    pub(super) fn forget(&self, id: &str) {
        self.drop_entries(|of, _| of == id);
    }

    /// A worker's picture is complete: what it did not name is gone, unless it came after the picture, or is being
    /// started here. Returns the ids that are.
    pub(super) fn synced(
        &self,
        group: &str,
        incarnation: &str,
        revision: u64,
        named: &HashSet<String>,
    ) -> Vec<String> {
        self.lock().silent.remove(group);
        self.drop_entries(|id, entry| {
            let is_old = match &entry.stage {
                EntryStage::Untold | EntryStage::Starting { .. } => true,
                EntryStage::Asked => false,
                EntryStage::Told { incarnation: of, instance } => {
                    of == incarnation && instance.revision <= revision
                }
            };
            entry.claim.group == group && is_old && !named.contains(id)
        })
    }

    /// Workers of a group are no more: what ran in them is lost, and what they were starting for an earlier agent is
    /// gone. Returns the ids of the latter.
    pub(super) fn lost(&self, group: &str, dead: Dead<'_>, exit: &Exit, now: Timestamp) -> Vec<String> {
        let mut changed = Vec::new();
        for entry in self.lock().entries.values_mut().filter(|entry| entry.claim.group == group) {
            if let EntryStage::Told { incarnation, instance } = &mut entry.stage
                && dead.includes(incarnation)
                && instance.end.is_none()
            {
                instance.end = Some(End { finished_at: now, exit: exit.clone() });
                changed.push(entry.claim.pod_uid.clone());
            }
        }
        changed.into_iter().for_each(|pod| self.wake.pod(pod));
        self.drop_entries(|_, entry| {
            let of_dead =
                matches!(&entry.stage, EntryStage::Starting { incarnation } if dead.includes(incarnation));
            of_dead && entry.claim.group == group
        })
    }

    pub(super) fn get(&self, id: &str) -> Option<Instance> {
        match self.sighting(id) {
            Sighting::Known(instance) => Some(instance),
            Sighting::Starting | Sighting::Absent | Sighting::CannotTell => None,
        }
    }

    pub(super) fn all(&self) -> Vec<Instance> {
        let known = self.lock();
        let told = |entry: &ViewEntry| match &entry.stage {
            EntryStage::Told { instance, .. } => Some(instance.clone()),
            _ => None,
        };
        known.entries.values().filter_map(told).collect()
    }

    /// Whether any id is claimed for a group.
    pub(super) fn has(&self, group: &str) -> bool {
        self.lock().entries.values().any(|entry| entry.claim.group == group)
    }

    /// The claim on an id.
    pub(super) fn claim_on(&self, id: &str) -> Option<Claim> {
        self.lock().entries.get(id).map(|entry| entry.claim.clone())
    }

    /// All claims of a group, by id.
    pub(super) fn claims_of(&self, group: &str) -> Vec<(String, Claim)> {
        let known = self.lock();
        let of_group = known.entries.iter().filter(|(_, entry)| entry.claim.group == group);
        of_group.map(|(id, entry)| (id.clone(), entry.claim.clone())).collect()
    }

    /// Group of an instance that may run: it is not known to have ended.
    pub(super) fn running_in(&self, id: &str) -> Option<String> {
        let known = self.lock();
        let entry = known.entries.get(id)?;
        let ended = matches!(&entry.stage, EntryStage::Told { instance, .. } if instance.end.is_some());
        (!ended).then(|| entry.claim.group.clone())
    }

    /// Takes the channel of pod UIDs. Must be called within a tokio runtime.
    pub(super) fn wakeups(&self) -> Option<mpsc::Receiver<String>> {
        self.wake.receiver()
    }

    /// Drops entries, and wakes their pods. Returns their ids.
    fn drop_entries(&self, mut is_gone: impl FnMut(&str, &ViewEntry) -> bool) -> Vec<String> {
        let mut gone = Vec::new();
        self.lock().entries.retain(|id, entry| {
            let drop = is_gone(id, entry);
            if drop {
                gone.push((id.clone(), entry.claim.pod_uid.clone()));
            }
            !drop
        });
        let (ids, pods): (Vec<_>, Vec<_>) = gone.into_iter().unzip();
        pods.into_iter().for_each(|pod| self.wake.pod(pod));
        ids
    }

    fn lock(&self) -> MutexGuard<'_, KnownInstances> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownInstances {
    /// No worker that is silent may host what was never claimed.
    fn is_complete(&self) -> bool {
        !self.silent.values().any(|ledger| *ledger == Ledger::Missing)
    }

    /// Believes the first picture of a worker on whose instances no claims were kept.
    fn adopt(&mut self, group: &str, id: &str, instance: &Instance) {
        if self.silent.get(group) == Some(&Ledger::Missing) && !self.entries.contains_key(id) {
            let (pod_uid, label) = (instance.pod_uid.clone(), instance.label.clone());
            let claim = Claim { group: group.to_owned(), pod_uid, label };
            self.entries.insert(id.to_owned(), ViewEntry { claim, stage: EntryStage::Untold });
        }
    }
}

#[cfg(test)]
mod tests;
