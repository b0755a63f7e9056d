//! Who listens in a network that pods share.

use std::{collections::BTreeSet, net::SocketAddr};

use super::{GroupError, Supervisor, SupervisorError, of_status};
use crate::protocol::{Versions, wire};

impl Supervisor {
    /// Whether a guest of a pod takes the connections to an address of the network that its workers are in. Workers of a
    /// version that cannot tell are taken at the kernel's word, which does not say whose a port is.
    ///
    /// # Errors
    /// [`SupervisorError`] when a worker could not be asked, and no other says so.
    pub async fn listens(&self, pod_uid: &str, address: SocketAddr) -> Result<bool, SupervisorError> {
        let (claims, _) = self.claims();
        let of_pod = claims.into_iter().filter(|(_, claim)| claim.pod_uid == pod_uid);
        let groups: BTreeSet<String> = of_pod.map(|(_, claim)| claim.group).collect();
        let mut failed = None;
        for group in groups {
            let mut client = match self.group(&group).await.client().await {
                Ok(client) => client,
                Err(GroupError::NoWorker { .. }) => continue,
                Err(error) => {
                    failed = Some(error.into());
                    continue;
                }
            };
            if client.version < Versions::LISTENS {
                return Ok(true);
            }
            let request = wire::ListensRequest { pod_uid: pod_uid.to_owned(), address: address.to_string() };
            match client.worker.listens(request).await {
                Ok(answer) if answer.get_ref().listens => return Ok(true),
                Ok(_) => {}
                Err(status) => failed = Some(of_status(status)),
            }
        }
        failed.map_or(Ok(false), Err)
    }
}
