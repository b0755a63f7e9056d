//! What each replica says of itself, in a Lease of its own: which versions of policies it serves, and which certificate it shows.
//!
//! The leader tells API servers of a policy when all replicas serve it, whichever of them a request comes to. A replica that is not
//! heard of any more counts as long as its Lease lasts.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

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
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{FIELD_MANAGER, explain::explain, labels, policy::PolicyVersion};

/// How long a replica counts that is not heard of, in seconds.
const LEASE_SECONDS: i32 = 15;
/// How often a replica says how it is.
const RENEWAL: Duration = Duration::from_secs(5);
/// How soon it tries again.
const RETRY: Duration = Duration::from_secs(1);
/// Changes come in groups.
const GATHER: Duration = Duration::from_millis(50);
/// On the Lease of a replica: what it says.
const REPORT: &str = "kubewasm.dev/policy-report";

/// What a replica says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaReport {
    /// The versions that it serves, `UID/GENERATION` by the name under which it serves them.
    #[serde(default)]
    pub policies: BTreeMap<String, String>,
    /// Fingerprint of the certificate that it shows.
    #[serde(default)]
    pub certificate: Option<String>,
}

impl ReplicaReport {
    /// Notes a version.
    pub fn note(&mut self, unique: String, version: &PolicyVersion) {
        self.policies.insert(unique, text(version));
    }

    /// Whether the replica serves this version.
    #[must_use]
    pub fn serves(&self, unique: &str, version: &PolicyVersion) -> bool {
        self.policies.get(unique) == Some(&text(version))
    }
}

fn text(version: &PolicyVersion) -> String {
    format!("{}/{}", version.uid, version.generation)
}

/// A replica, as the leader sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Replica {
    /// Its name.
    pub identity: String,
    /// Its Lease.
    lease: String,
    renewed: Option<MicroTime>,
    /// What it says of itself.
    pub report: ReplicaReport,
}

impl Replica {
    /// Reads the Lease of a replica; none of another Lease.
    #[must_use]
    pub fn read(lease: &Lease) -> Option<Self> {
        let report = lease.metadata.annotations.as_ref()?.get(REPORT)?;
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
    pub fn sort<'a>(
        &mut self,
        replicas: impl Iterator<Item = &'a Replica>,
        now: Instant,
    ) -> (Vec<&'a Replica>, Vec<&'a str>) {
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
    name: String,
    identity: String,
    server: String,
}

impl Reporter {
    /// One for this replica.
    #[must_use]
    pub fn new(client: Client, namespace: &str, server: &str, identity: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: format!("kubewasm-policy-{server}.{identity}"),
            identity: identity.to_owned(),
            server: server.to_owned(),
        }
    }

    /// Says it whenever it changes, and every few seconds, until it is cancelled. Then the Lease is removed.
    pub async fn run(self, mut report: watch::Receiver<ReplicaReport>, cancel: CancellationToken) {
        let said = async {
            loop {
                let newest = report.borrow_and_update().clone();
                let pause = match timeout(RENEWAL, self.say(&newest)).await {
                    Ok(Ok(())) => RENEWAL,
                    Ok(Err(error)) => {
                        let error = explain(&error);
                        tracing::warn!(
                            error,
                            "cannot write the Lease {} of this replica; trying again",
                            self.name
                        );
                        RETRY
                    }
                    Err(_) => {
                        tracing::warn!(
                            "the API server does not answer in time; the Lease {} is not renewed",
                            self.name
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
        if !matches!(timeout(RETRY, self.api.delete(&self.name, &DeleteParams::default())).await, Ok(Ok(_))) {
            tracing::debug!("the Lease {} is left to run out", self.name);
        }
    }

    async fn say(&self, report: &ReplicaReport) -> Result<(), kube::Error> {
        let report = serde_json::to_string(report).map_err(kube::Error::SerdeError)?;
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(labels(&self.server)),
                annotations: Some([(REPORT.to_owned(), report)].into()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        };
        self.api.patch(&self.name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(lease)).await?;
        Ok(())
    }
}
