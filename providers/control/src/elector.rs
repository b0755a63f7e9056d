//! Which replica is the leader: the one whose name is in a Lease.
//!
//! As Kubernetes' own components do it: the time in the Lease is never held against a clock of somebody else's. A Lease is over when
//! nobody has renewed it for as long as it says, by the clock of whoever wants it.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams, core::ObjectMeta};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::explain;

/// How long things last.
#[derive(Clone, Copy, Debug)]
pub struct ElectionTimes {
    /// How long a leader leads that is not heard of.
    pub lease: Duration,
    /// How often the Lease is looked at, and renewed.
    pub retry: Duration,
}

impl Default for ElectionTimes {
    fn default() -> Self {
        Self { lease: Duration::from_secs(15), retry: Duration::from_secs(2) }
    }
}

/// The Lease that replicas want.
#[derive(Clone, Debug)]
pub struct LeaseName {
    /// Where it is.
    pub namespace: String,
    /// What it is called.
    pub name: String,
    /// Its labels, where it has to be made.
    pub labels: BTreeMap<String, String>,
}

/// Takes part in the election of a leader.
#[derive(Debug)]
pub struct Elector {
    api: Api<Lease>,
    lease: LeaseName,
    /// Of this replica.
    identity: String,
    times: ElectionTimes,
    seen: Option<Seen>,
}

/// What was last seen of somebody else's Lease.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    holder: Option<String>,
    renewed: Option<MicroTime>,
    /// Since when it has not changed, by our clock.
    since: Instant,
}

/// What is to be done with the Lease.
#[derive(Debug, PartialEq)]
enum Claim {
    /// It is another one's.
    Wait,
    /// It is ours, or free: this is to be written.
    Write(LeaseSpec),
}

impl Elector {
    /// One that wants this Lease for the replica of this identity.
    #[must_use]
    pub fn new(client: Client, lease: LeaseName, identity: &str, times: ElectionTimes) -> Self {
        let api = Api::namespaced(client, &lease.namespace);
        Self { api, lease, identity: identity.to_owned(), times, seen: None }
    }

    /// Takes part until it is cancelled, and tells whether this replica is the leader. It then gives the Lease back, so that another
    /// one need not wait.
    pub async fn run(mut self, leading: watch::Sender<bool>, cancel: CancellationToken) {
        let mut renewed: Option<Instant> = None;
        loop {
            let began = Instant::now();
            let patience = self.patience(renewed);
            let turn = tokio::time::timeout(patience, self.turn());
            let Some(turn) = cancel.run_until_cancelled(turn).await else { break };
            match turn.unwrap_or(Err(Refused::Silent)) {
                Ok(true) => renewed = Some(began),
                Ok(false) => renewed = None,
                // Somebody else was quicker.
                Err(Refused::Conflict) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot look after the Lease {}; trying again", self.lease.name)
                }
            }
            // Before anybody else may take it to be over. After that it is no deadline to wake up for.
            renewed = renewed.filter(|renewed| renewed.elapsed() < self.deadline());
            self.tell(&leading, renewed.is_some());
            let until_deadline = renewed.map(|renewed| self.deadline().saturating_sub(renewed.elapsed()));
            let pause = until_deadline.map_or(self.times.retry, |left| left.min(self.times.retry));
            if cancel.run_until_cancelled(sleep(pause)).await.is_none() {
                break;
            }
        }
        let led = leading.send_replace(false);
        if led && let Err(error) = self.release().await {
            tracing::debug!(%error, "cannot give the Lease {} back", self.lease.name);
        }
    }

    fn tell(&self, leading: &watch::Sender<bool>, is_leader: bool) {
        let changed = leading.send_if_modified(|leading| std::mem::replace(leading, is_leader) != is_leader);
        if changed && is_leader {
            tracing::info!("{} is the leader: it holds the Lease {}", self.identity, self.lease.name);
        } else if changed {
            tracing::warn!("{} is not the leader any more", self.identity);
        }
    }

    /// How long after a renewal this replica may take itself for the leader.
    fn deadline(&self) -> Duration {
        self.times.lease * 2 / 3
    }

    /// How long a look at the Lease may take. A leader that hears nothing has to say in time that it is none any more.
    fn patience(&self, renewed: Option<Instant>) -> Duration {
        let latest = self.times.lease * 11 / 12;
        let left = renewed.map(|renewed| latest.saturating_sub(renewed.elapsed()));
        left.map_or(self.deadline(), |left| left.min(self.deadline()))
    }

    /// Looks at the Lease, and takes or renews it. True when it is ours.
    async fn turn(&mut self) -> Result<bool, Refused> {
        let params = PostParams::default();
        let Some(lease) = self.api.get_opt(&self.lease.name).await? else {
            let spec = self.spec(&LeaseSpec::default(), Timestamp::now());
            let metadata = ObjectMeta {
                name: Some(self.lease.name.clone()),
                labels: Some(self.lease.labels.clone()),
                ..ObjectMeta::default()
            };
            self.api.create(&params, &Lease { metadata, spec: Some(spec) }).await?;
            return Ok(true);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        match self.claim(&spec, Timestamp::now(), Instant::now()) {
            Claim::Wait => Ok(false),
            Claim::Write(spec) => {
                // With the version that was read: of two that want it, one gets it.
                self.api.replace(&self.lease.name, &params, &Lease { spec: Some(spec), ..lease }).await?;
                Ok(true)
            }
        }
    }

    fn claim(&mut self, lease: &LeaseSpec, now: Timestamp, instant: Instant) -> Claim {
        let holder = lease.holder_identity.as_deref().filter(|holder| !holder.is_empty());
        if holder.is_none_or(|holder| holder == self.identity) {
            self.seen = None;
            return Claim::Write(self.spec(lease, now));
        }
        let is_as_before = self
            .seen
            .as_ref()
            .is_some_and(|seen| seen.holder == lease.holder_identity && seen.renewed == lease.renew_time);
        if !is_as_before {
            self.seen = Some(Seen {
                holder: lease.holder_identity.clone(),
                renewed: lease.renew_time.clone(),
                since: instant,
            });
        }
        let seconds = lease.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let duration = seconds.map_or(self.times.lease, Duration::from_secs);
        let is_over = self.seen.as_ref().is_some_and(|seen| instant.duration_since(seen.since) >= duration);
        if is_over { Claim::Write(self.spec(lease, now)) } else { Claim::Wait }
    }

    fn spec(&self, before: &LeaseSpec, now: Timestamp) -> LeaseSpec {
        let is_ours = before.holder_identity.as_ref() == Some(&self.identity);
        let now = MicroTime(now);
        let transitions = before.lease_transitions.unwrap_or_default();
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.times.lease.as_secs().max(1)).ok(),
            acquire_time: before.acquire_time.clone().filter(|_| is_ours).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if is_ours { transitions } else { transitions.saturating_add(1) }),
            ..before.clone()
        }
    }

    async fn release(&self) -> Result<(), Refused> {
        let release = async {
            let Some(lease) = self.api.get_opt(&self.lease.name).await? else { return Ok(()) };
            let mut spec = lease.spec.clone().unwrap_or_default();
            if spec.holder_identity.as_ref() == Some(&self.identity) {
                spec.holder_identity = None;
                let lease = Lease { spec: Some(spec), ..lease };
                self.api.replace(&self.lease.name, &PostParams::default(), &lease).await?;
            }
            Ok(())
        };
        tokio::time::timeout(self.times.retry, release).await.unwrap_or(Err(Refused::Silent))
    }
}

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it has changed meanwhile")]
    Conflict,
    #[error("{}", explain::explain(.0))]
    Api(kube::Error),
    #[error("the API server does not answer in time")]
    Silent,
}

impl From<kube::Error> for Refused {
    fn from(error: kube::Error) -> Self {
        match explain::code(&error) {
            Some(409) => Self::Conflict,
            _ => Self::Api(error),
        }
    }
}
