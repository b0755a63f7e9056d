//! What each replica says of itself, in a Lease of its own, so that the leader knows of all of them.
//!
//! A replica that is not heard of any more counts as long as its Lease lasts.

#[cfg(test)]
mod tests;

use std::{collections::HashMap, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
    core::ObjectMeta,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{elector::LeaseName, explain::explain};

/// How long a replica counts that is not heard of, in seconds.
const LEASE_SECONDS: i32 = 15;
/// How often a replica says how it is.
const RENEWAL: Duration = Duration::from_secs(5);
/// How soon it tries again.
const RETRY: Duration = Duration::from_secs(1);
/// Changes come in groups.
const GATHER: Duration = Duration::from_millis(50);
/// What replicas of one kind of server say of themselves.
pub trait Report: Serialize + DeserializeOwned + Default + Clone + Send + Sync + 'static {
    /// The annotation of the Lease that it is in, as JSON.
    const ANNOTATION: &'static str;
}

/// A replica, as the leader sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Replica<R> {
    /// Its name.
    pub identity: String,
    /// Its Lease.
    lease: String,
    renewed: Option<MicroTime>,
    /// What it says of itself.
    pub report: R,
}

impl<R: Report> Replica<R> {
    /// Reads the Lease of a replica; none of another Lease.
    #[must_use]
    pub fn read(lease: &Lease) -> Option<Self> {
        let report = lease.metadata.annotations.as_ref()?.get(R::ANNOTATION)?;
        let spec = lease.spec.as_ref()?;
        Some(Self {
            identity: spec.holder_identity.clone()?,
            lease: lease.metadata.name.clone()?,
            renewed: spec.renew_time.clone(),
            report: serde_json::from_str(report).unwrap_or_default(),
        })
    }
}

/// Tells the replicas that are there from those that were.
#[derive(Debug, Default)]
pub struct Heartbeats {
    /// By their Leases: the last renewal, and when it was seen.
    seen: HashMap<String, (Option<MicroTime>, Instant)>,
}

impl Heartbeats {
    /// The replicas that are there, and the Leases of those that are not any more.
    pub fn sort<'a, R>(
        &mut self,
        replicas: impl Iterator<Item = &'a Replica<R>>,
        now: Instant,
    ) -> (Vec<&'a Replica<R>>, Vec<&'a str>) {
        let before = std::mem::take(&mut self.seen);
        let (mut there, mut gone) = (Vec::new(), Vec::new());
        for replica in replicas {
            let known = before.get(&replica.lease).filter(|(renewed, _)| *renewed == replica.renewed);
            let since = known.map_or(now, |(_, since)| *since);
            self.seen.insert(replica.lease.clone(), (replica.renewed.clone(), since));
            let silence = now.saturating_duration_since(since);
            if silence < Duration::from_secs(LEASE_SECONDS.unsigned_abs().into()) {
                there.push(replica);
            } else {
                gone.push(replica.lease.as_str());
            }
        }
        (there, gone)
    }
}

/// Says how a replica is.
#[derive(Debug)]
pub struct Reporter {
    api: Api<Lease>,
    lease: LeaseName,
    identity: String,
    field_manager: &'static str,
}

impl Reporter {
    /// One for the replica of this identity, which has this Lease for itself.
    #[must_use]
    pub fn new(client: Client, lease: LeaseName, identity: &str, field_manager: &'static str) -> Self {
        let api = Api::namespaced(client, &lease.namespace);
        Self { api, lease, identity: identity.to_owned(), field_manager }
    }

    /// Says it whenever it changes, and every few seconds, until it is cancelled. Then the Lease is removed.
    pub async fn run<R: Report>(self, mut report: watch::Receiver<R>, cancel: CancellationToken) {
        let name = &self.lease.name;
        let said = async {
            loop {
                let newest = report.borrow_and_update().clone();
                let pause = match timeout(RENEWAL, self.say(&newest)).await {
                    Ok(Ok(())) => RENEWAL,
                    Ok(Err(error)) => {
                        let error = explain(&error);
                        tracing::warn!(error, "cannot write the Lease {name} of this replica; trying again");
                        RETRY
                    }
                    Err(_) => {
                        tracing::warn!(
                            "the API server does not answer in time; the Lease {name} is not renewed"
                        );
                        RETRY
                    }
                };
                tokio::select! {
                    () = sleep(pause) => {}
                    changed = report.changed() => match changed {
                        Ok(()) => sleep(GATHER).await,
                        Err(_) => return,
                    },
                }
            }
        };
        cancel.run_until_cancelled(said).await;
        if !matches!(timeout(RETRY, self.api.delete(name, &DeleteParams::default())).await, Ok(Ok(_))) {
            tracing::debug!("the Lease {name} is left to run out");
        }
    }

    async fn say<R: Report>(&self, report: &R) -> Result<(), kube::Error> {
        let report = serde_json::to_string(report).map_err(kube::Error::SerdeError)?;
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.lease.name.clone()),
                labels: Some(self.lease.labels.clone()),
                annotations: Some([(R::ANNOTATION.to_owned(), report)].into()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        };
        let params = PatchParams::apply(self.field_manager).force();
        self.api.patch(&self.lease.name, &params, &Patch::Apply(lease)).await?;
        Ok(())
    }
}
