//! NetworkPolicies: which pods of this node they are about, and what is allowed then.
//!
//! ```text
//!  tasks of pods ─► [Policies] ─► keeper ─► demand ─► followers ◄─watch─ NetworkPolicies, namespaces, pods
//!        ▲  (pods of this node)     │                    │
//!        │                          ▼                    ▼
//!        └── settled ◄── Runtime::set_network_rules ◄── compile (pure)
//! ```
//!
//! NetworkPolicies are followed from the first pod with an address of its own on; namespaces and pods, only those that
//! the policies ask for that select a pod of this node. Of pods, labels are compared by the API server, and
//! addresses and named ports are kept.
//!
//! **What is not known.** A pod does not begin before the policies have been read and the provider has its rules
//! ([`Policies::settled`]). Where the node has no right to read policies, none is enforced, which is said in an Event of
//! each pod. Where it can read them, and not what they ask for, nobody is allowed by that part of them.

mod compile;
mod follow;
mod keeper;
mod plan;
mod policy;
mod refusals;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

pub(crate) use keeper::Keeper;
pub use refusals::RefusalMetrics;
pub(crate) use refusals::RefusalWatch;
pub(crate) use world::LocalPod;

/// How long a pod's start waits for its rules, before it is tried again.
const PATIENCE: Duration = Duration::from_secs(30);

/// What tasks of pods have to do with NetworkPolicies. Clones are the same.
#[derive(Clone, Debug)]
pub struct Policies(Option<Arc<Desk>>);

#[derive(Debug)]
struct Desk {
    /// The pods of this node that have addresses of their own, by UID. Each is put in by its task.
    pods: watch::Sender<BTreeMap<String, Arc<LocalPod>>>,
    /// What the keeper has come to.
    progress: watch::Sender<Progress>,
}

/// What the keeper has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Progress {
    /// UIDs of pods whose rules the provider has.
    settled: BTreeSet<String>,
    /// Why there are others; for people.
    waiting: String,
}

impl Policies {
    /// None is enforced.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// They are enforced, if a [`Keeper`] runs.
    pub(crate) fn on() -> Self {
        let pods = watch::Sender::new(BTreeMap::new());
        Self(Some(Arc::new(Desk { pods, progress: watch::Sender::new(Progress::default()) })))
    }

    /// Takes note of a pod of this node as it is now; `None` when it has no address of its own, or none any more.
    pub(crate) fn note(&self, uid: &str, pod: Option<LocalPod>) {
        let Some(desk) = &self.0 else { return };
        desk.pods.send_if_modified(|pods| match pod {
            Some(pod) if pods.get(uid).is_some_and(|known| **known == pod) => false,
            Some(pod) => {
                pods.insert(uid.to_owned(), Arc::new(pod));
                true
            }
            None => pods.remove(uid).is_some(),
        });
    }

    /// Waits until the provider has the rules of a pod that was noted.
    ///
    /// # Errors
    /// Why it has not, after half a minute.
    pub(crate) async fn settled(&self, uid: &str) -> Result<(), String> {
        let Some(desk) = &self.0 else { return Ok(()) };
        let mut progress = desk.progress.subscribe();
        let settled = progress.wait_for(|progress| progress.settled.contains(uid));
        match tokio::time::timeout(PATIENCE, settled).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let waiting = desk.progress.borrow().waiting.clone();
                let why = if waiting.is_empty() { "they have not been read yet".to_owned() } else { waiting };
                Err(format!("network is not ready: the pod's NetworkPolicies are not known: {why}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> LocalPod {
        LocalPod::of(&k8s_openapi::api::core::v1::Pod::default(), &Default::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_waits_for_rules_and_not_for_ever() {
        let policies = Policies::on();
        policies.note("u", Some(pod()));
        let error = policies.settled("u").await.unwrap_err();
        assert!(error.contains("have not been read yet"), "{error}");
        let desk = policies.0.as_ref().unwrap();
        desk.progress.send_modify(|progress| progress.waiting = "forbidden".to_owned());
        assert!(policies.settled("u").await.unwrap_err().ends_with("not known: forbidden"));
        let waits = tokio::spawn({
            let policies = policies.clone();
            async move { policies.settled("u").await }
        });
        tokio::task::yield_now().await;
        desk.progress.send_modify(|progress| {
            progress.settled.insert("u".to_owned());
        });
        assert_eq!(waits.await.unwrap(), Ok(()));
        assert_eq!(Policies::off().settled("x").await, Ok(()));
    }

    #[test]
    fn only_what_is_new_of_a_pod_is_news() {
        let policies = Policies::on();
        let mut news = policies.0.as_ref().unwrap().pods.subscribe();
        let mut is_news = |pod| {
            policies.note("u", pod);
            std::mem::take(&mut news.has_changed().unwrap()) && {
                news.borrow_and_update();
                true
            }
        };
        assert!(is_news(Some(pod())) && !is_news(Some(pod())));
        let labelled = LocalPod { labels: [("a".to_owned(), "1".to_owned())].into(), ..pod() };
        assert!(is_news(Some(labelled)) && is_news(None) && !is_news(None));
    }
}
