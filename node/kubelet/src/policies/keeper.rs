//! Keeps the provider's rules as policies, namespaces and pods have them.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use kube::Client;
use tokio::sync::{Notify, watch};

use super::{
    Desk, LocalPod, Policies, Progress,
    compile::Missing,
    follow::{self, Followed, Trouble},
    plan::Plan,
    policy::{Labels, Policy},
    world::{Demand, PeerPod, PodScope, World},
};
use crate::{
    events::Recorder,
    pods::reason::EventReason,
    retry::Backoff,
    runtime::{Runtime, RuntimeError},
};

/// How often the provider is told when nothing has changed: what it adds itself may have.
const REFRESH: Duration = Duration::from_secs(60);
/// Changes that come within this are worked in together.
const SETTLE: Duration = Duration::from_millis(20);
/// Rounds take no more than this part of the time.
const SHARE: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The one that follows the cluster and tells the provider.
pub(crate) struct Keeper {
    desk: Arc<Desk>,
    client: Client,
    runtime: Arc<dyn Runtime>,
    recorder: Recorder,
    changed: Arc<Notify>,
    policies: Option<Followed<Arc<Policy>>>,
    namespaces: Option<Followed<Labels>>,
    peers: BTreeMap<PodScope, Followed<PeerPod>>,
    plan: Plan,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("plan", &self.plan).finish_non_exhaustive()
    }
}

impl Keeper {
    /// `None` where no policies are enforced.
    pub(crate) fn new(
        policies: &Policies,
        client: Client,
        runtime: Arc<dyn Runtime>,
        recorder: Recorder,
    ) -> Option<Self> {
        Some(Self {
            desk: Arc::clone(policies.0.as_ref()?),
            client,
            runtime,
            recorder,
            changed: Arc::default(),
            policies: None,
            namespaces: None,
            peers: BTreeMap::new(),
            plan: Plan::default(),
        })
    }

    /// Runs for ever.
    pub(crate) async fn run(mut self) {
        let mut pods = self.desk.pods.subscribe();
        let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let begun = Instant::now();
            let again = match self.round(&mut pods).await {
                Ok(()) => {
                    pauses.reset();
                    REFRESH
                }
                Err(error) => {
                    tracing::warn!(%error, "the rules of pods could not be set; trying again");
                    pauses.next()
                }
            };
            tokio::time::sleep(SETTLE.max(begun.elapsed() * (SHARE - 1))).await;
            tokio::select! {
                // The sender lives as long as this.
                _ = pods.changed() => {}
                () = self.changed.notified() => {}
                () = tokio::time::sleep(again) => {}
            }
        }
    }

    async fn round(
        &mut self,
        pods: &mut watch::Receiver<BTreeMap<String, Arc<LocalPod>>>,
    ) -> Result<(), RuntimeError> {
        let pods = pods.borrow_and_update().clone();
        if pods.is_empty() && self.policies.is_none() {
            return Ok(());
        }
        let plan = self.next(&pods);
        self.warn(&pods, &plan);
        self.runtime.set_network_rules(&plan.rules).await?;
        self.desk
            .progress
            .send_replace(Progress { settled: plan.settled.clone(), waiting: plan.waiting.clone() });
        self.plan = plan;
        Ok(())
    }

    /// What follows from what is known now.
    fn next(&mut self, pods: &BTreeMap<String, Arc<LocalPod>>) -> Plan {
        let changed = &self.changed;
        let follow = || follow::policies(self.client.clone(), Arc::clone(changed));
        let known = self.policies.get_or_insert_with(follow).look().clone();
        let Some(policies) = known.items else {
            return match known.trouble {
                Some(trouble) if trouble.is_forbidden => Plan::unenforced(pods, &trouble),
                trouble => self.plan.clone().unread(pods, trouble.as_ref()),
            };
        };
        let mut world = World::default();
        for policy in policies.values() {
            world.policies.entry(policy.namespace.clone()).or_default().push(Arc::clone(policy));
        }
        world.namespaces = self.namespaces.as_ref().and_then(|followed| followed.look().items.clone());
        self.follow(world.demand(pods.values().map(AsRef::as_ref)));
        for (scope, followed) in &self.peers {
            world.peers.extend(followed.look().items.clone().map(|pods| (scope.clone(), pods)));
        }
        self.plan.clone().next(pods, &world, |missing| self.trouble(missing))
    }

    /// Follows what is asked for, and nothing else.
    fn follow(&mut self, demand: Demand) {
        let Demand { namespaces, scopes } = demand;
        if !namespaces {
            self.namespaces = None;
        } else if self.namespaces.is_none() {
            self.namespaces = Some(follow::namespaces(self.client.clone(), Arc::clone(&self.changed)));
        }
        self.peers.retain(|scope, _| scopes.contains(scope));
        for scope in scopes {
            if !self.peers.contains_key(&scope) {
                let followed = follow::pods(self.client.clone(), &scope, Arc::clone(&self.changed));
                self.peers.insert(scope, followed);
            }
        }
    }

    fn trouble(&self, missing: &Missing) -> Option<Trouble> {
        match missing {
            Missing::Namespaces => self.namespaces.as_ref()?.look().trouble.clone(),
            Missing::Pods(scope) => self.peers.get(scope)?.look().trouble.clone(),
        }
    }

    /// Says what was not said before.
    fn warn(&self, pods: &BTreeMap<String, Arc<LocalPod>>, plan: &Plan) {
        for (uid, message) in &plan.warnings {
            if self.plan.warnings.get(uid) != Some(message)
                && let Some(pod) = pods.get(uid)
            {
                let reason = EventReason::NetworkPolicyUnreadable.as_str();
                self.recorder.warning(&pod.reference, reason, message.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests;
