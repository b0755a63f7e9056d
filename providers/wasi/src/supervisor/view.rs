//! What the agent knows of all instances, and whom it must tell. No I/O.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use kubewasm_host::exit::Exit;
use tokio::sync::{Notify, mpsc};

use crate::instance::{End, Instance};

/// Wake-ups that wait in the channel; more wait in a set, each pod once.
const WAKEUPS: usize = 64;

/// All instances of all workers. Written by the groups' watchers and by starts and removals; read by
/// everybody.
#[derive(Debug, Default)]
pub(super) struct View {
    known: Mutex<Known>,
    wake: Arc<Wake>,
}

#[derive(Debug, Default)]
struct Known {
    entries: HashMap<String, Entry>,
    /// Groups whose workers live and have not told yet what they host.
    silent: HashSet<String>,
}

#[derive(Debug)]
struct Entry {
    group: String,
    pod_uid: String,
    /// Which worker process told of it; revisions of different ones do not compare.
    incarnation: String,
    instance: Option<Instance>,
}

/// What can be said of an id now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// It runs, or has ended and was not removed yet.
    Known(Instance),
    /// It was asked for, and there is no answer yet.
    Starting,
    /// Nothing of this id runs.
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

/// Pods that are to be looked at.
#[derive(Debug, Default)]
struct Wake {
    pods: Mutex<HashSet<String>>,
    new: Notify,
    taken: Mutex<bool>,
}

impl View {
    /// The worker of a group lives and has not told yet what it hosts.
    pub(super) fn is_silent(&self, group: &str) {
        self.lock().silent.insert(group.to_owned());
    }

    /// What the worker of a group hosts is known, or there is none.
    pub(super) fn has_told(&self, group: &str) {
        self.lock().silent.remove(group);
    }

    /// What can be said of an id.
    pub(super) fn sighting(&self, id: &str) -> Sighting {
        let known = self.lock();
        match known.entries.get(id) {
            Some(Entry { instance: Some(instance), .. }) => Sighting::Known(instance.clone()),
            Some(Entry { instance: None, .. }) => Sighting::Starting,
            None if known.silent.is_empty() => Sighting::Absent,
            None => Sighting::CannotTell,
        }
    }

    /// Ids and pod UIDs of all that is known or expected, and whether there is nothing else.
    pub(super) fn ids(&self) -> (Vec<(String, String)>, bool) {
        let known = self.lock();
        let ids = known.entries.iter().map(|(id, entry)| (id.clone(), entry.pod_uid.clone())).collect();
        (ids, known.silent.is_empty())
    }

    /// An instance is about to be started in a group: until it is known, it can be removed there.
    pub(super) fn expect(&self, id: &str, pod_uid: &str, group: &str) {
        let (group, pod_uid) = (group.to_owned(), pod_uid.to_owned());
        let entry = || Entry { group, pod_uid, incarnation: String::new(), instance: None };
        self.lock().entries.entry(id.to_owned()).or_insert_with(entry);
    }

    /// A worker told of an instance. Older news than what is known are dropped.
    pub(super) fn changed(&self, group: &str, incarnation: &str, instance: Instance) {
        let pod = instance.pod_uid.clone();
        let mut known = self.lock();
        if let Some(known) = known.entries.get(&instance.id)
            && known.incarnation == incarnation
            && known.instance.as_ref().is_some_and(|known| known.revision >= instance.revision)
        {
            return;
        }
        let id = instance.id.clone();
        let entry = Entry {
            group: group.to_owned(),
            pod_uid: pod.clone(),
            incarnation: incarnation.to_owned(),
            instance: Some(instance),
        };
        known.entries.insert(id, entry);
        drop(known);
        self.wake.pod(pod);
    }

    /// An instance was removed.
    pub(super) fn removed(&self, id: &str) {
        let entry = self.lock().entries.remove(id);
        if let Some(instance) = entry.and_then(|entry| entry.instance) {
            self.wake.pod(instance.pod_uid);
        }
    }

    /// A worker's picture is complete: what it did not name is gone, unless it came after the picture.
    pub(super) fn synced(&self, group: &str, incarnation: &str, revision: u64, named: &HashSet<String>) {
        let mut gone = Vec::new();
        self.lock().entries.retain(|id, entry| {
            let Some(instance) = &entry.instance else {
                return true;
            };
            let missing = entry.group == group
                && entry.incarnation == incarnation
                && instance.revision <= revision
                && !named.contains(id);
            if missing {
                gone.push(instance.pod_uid.clone());
            }
            !missing
        });
        gone.into_iter().for_each(|pod| self.wake.pod(pod));
    }

    /// Workers of a group are no more: what ran in them is lost.
    pub(super) fn lost(&self, group: &str, dead: Dead<'_>, exit: &Exit, now: Timestamp) {
        let mut changed = Vec::new();
        for entry in self.lock().entries.values_mut() {
            if entry.group == group
                && dead.includes(&entry.incarnation)
                && let Some(instance) = &mut entry.instance
                && instance.end.is_none()
            {
                instance.end = Some(End { finished_at: now, exit: exit.clone() });
                changed.push(instance.pod_uid.clone());
            }
        }
        changed.into_iter().for_each(|pod| self.wake.pod(pod));
    }

    pub(super) fn get(&self, id: &str) -> Option<Instance> {
        self.lock().entries.get(id).and_then(|entry| entry.instance.clone())
    }

    pub(super) fn all(&self) -> Vec<Instance> {
        self.lock().entries.values().filter_map(|entry| entry.instance.clone()).collect()
    }

    /// Whether any instance of a group is known or expected.
    pub(super) fn has(&self, group: &str) -> bool {
        self.lock().entries.values().any(|entry| entry.group == group)
    }

    /// Group of an instance that is known or expected.
    pub(super) fn group_of(&self, id: &str) -> Option<String> {
        self.lock().entries.get(id).map(|entry| entry.group.clone())
    }

    /// Group of an instance that may run: it is not known to have ended.
    pub(super) fn running_in(&self, id: &str) -> Option<String> {
        let known = self.lock();
        let entry = known.entries.get(id)?;
        let ended = entry.instance.as_ref().is_some_and(|instance| instance.end.is_some());
        (!ended).then(|| entry.group.clone())
    }

    /// Takes the channel of pod UIDs. Must be called within a tokio runtime.
    pub(super) fn wakeups(&self) -> Option<mpsc::Receiver<String>> {
        let mut taken = self.wake.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *taken, true) {
            return None;
        }
        let (sender, receiver) = mpsc::channel(WAKEUPS);
        tokio::spawn(Arc::clone(&self.wake).deliver(sender));
        Some(receiver)
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake {
    fn pod(&self, uid: String) {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner).insert(uid);
        self.new.notify_one();
    }

    async fn deliver(self: Arc<Self>, to: mpsc::Sender<String>) {
        loop {
            let pods = std::mem::take(&mut *self.pods.lock().unwrap_or_else(PoisonError::into_inner));
            for pod in pods {
                if to.send(pod).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = self.new.notified() => {}
                () = to.closed() => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kubewasm_host::exit::ExitReason;

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    fn instance(id: &str, revision: u64) -> Instance {
        let (pod_uid, label) = (format!("pod-{id}"), String::new());
        Instance { id: id.into(), pod_uid, label, revision, started_at: now(), end: None }
    }

    fn exited(id: &str, revision: u64) -> Instance {
        let end = End { finished_at: now(), exit: Exit::new(0, ExitReason::Exited, "") };
        Instance { end: Some(end), ..instance(id, revision) }
    }

    #[test]
    fn old_news_do_not_undo_new_ones() {
        let view = View::default();
        view.changed("g", "1", exited("a", 2));
        view.changed("g", "1", instance("a", 1));
        assert!(view.get("a").unwrap().end.is_some());
    }

    #[test]
    fn what_a_picture_does_not_name_is_gone() {
        let view = View::default();
        for (id, revision) in [("named", 1), ("missing", 2), ("later", 4)] {
            view.changed("g", "1", instance(id, revision));
        }
        view.changed("other group", "1", instance("elsewhere", 1));
        view.expect("expected", "pod", "g");
        view.synced("g", "1", 3, &HashSet::from(["named".to_owned()]));
        let mut left: Vec<_> = view.all().into_iter().map(|instance| instance.id).collect();
        left.sort();
        assert_eq!(left, ["elsewhere", "later", "named"]);
        assert!(view.group_of("expected").is_some());
    }

    #[test]
    fn a_dead_worker_loses_what_ran_and_keeps_what_had_ended() {
        for dead in [Dead::One("1"), Dead::AllBut("2")] {
            let view = View::default();
            view.changed("g", "1", instance("ran", 1));
            view.changed("g", "1", exited("ended", 2));
            view.changed("h", "1", instance("elsewhere", 1));
            view.changed("g", "2", instance("successor", 1));
            view.lost("g", dead, &Exit::lost("the worker died"), now());
            let exit = |id| {
                let end = view.get(id).unwrap().end;
                end.map(|end| (end.exit.code, end.exit.reason))
            };
            assert_eq!(exit("ran"), Some((137, ExitReason::Lost)));
            assert_eq!(exit("ended"), Some((0, ExitReason::Exited)));
            assert_eq!(exit("elsewhere"), None);
            assert_eq!(exit("successor"), None);
        }
    }

    #[test]
    fn what_a_silent_worker_may_host_is_not_absent() {
        let view = View::default();
        view.changed("g", "1", instance("a", 1));
        assert_eq!(view.sighting("b"), Sighting::Absent);
        view.is_silent("h");
        assert_eq!(view.sighting("b"), Sighting::CannotTell);
        assert_eq!(view.sighting("a"), Sighting::Known(instance("a", 1)));
        assert!(!view.ids().1);
        view.has_told("h");
        assert_eq!(view.sighting("b"), Sighting::Absent);
        assert!(view.ids().1);
    }

    #[test]
    fn an_instance_can_be_stopped_until_it_has_ended() {
        let view = View::default();
        view.expect("a", "pod-a", "g");
        assert_eq!(view.running_in("a").as_deref(), Some("g"));
        assert_eq!((view.get("a"), view.sighting("a")), (None, Sighting::Starting), "expected is not known");
        assert_eq!(view.ids(), (vec![("a".to_owned(), "pod-a".to_owned())], true));
        view.changed("g", "1", instance("a", 1));
        assert_eq!(view.running_in("a").as_deref(), Some("g"));
        view.changed("g", "1", exited("a", 2));
        assert_eq!(view.running_in("a"), None);
        assert_eq!(view.group_of("a").as_deref(), Some("g"));
        assert!(view.has("g") && !view.has("h"));
        view.removed("a");
        assert!(!view.has("g"));
    }

    #[tokio::test]
    async fn every_pod_that_changed_is_told_once_or_more_and_never_forgotten() {
        let view = View::default();
        for n in 0..10 * WAKEUPS {
            view.changed("g", "1", instance(&n.to_string(), 1));
        }
        let mut wakeups = view.wakeups().unwrap();
        assert!(view.wakeups().is_none());
        let mut seen = HashSet::new();
        while seen.len() < 10 * WAKEUPS {
            seen.insert(wakeups.recv().await.unwrap());
        }
        view.removed("7");
        assert_eq!(wakeups.recv().await.unwrap(), "pod-7");
    }
}
