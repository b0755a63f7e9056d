//! Other pods make room for a critical one, before anything of it is begun.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use super::{is_over, task::Desired};
use crate::{
    eviction::{EvictionCause, EvictionOrder},
    pods::{
        admission::{
            self, Rejection, Shortage,
            preemption::{self, Occupant},
        },
        reason::PodReason,
        shared::Shared,
    },
    shutdown::plan::grace,
};

/// How often those who have to go are looked for, beside the changes that are told of: the task of one that has just come
/// takes no orders yet.
const LOOK: Duration = Duration::from_secs(1);

/// Who has to go, and for want of what.
#[derive(Debug)]
pub(super) struct RoomMaking {
    victims: Vec<String>,
    /// The resource that was found missing first.
    resource: String,
}

impl RoomMaking {
    /// Who makes room for `pod`; `None` where it lacks nothing.
    pub(super) fn plan(
        pod: &Pod,
        occupants: &[Occupant<'_>],
        lacking: &[Shortage],
    ) -> Result<Option<Self>, Rejection> {
        let Some(first) = lacking.first() else { return Ok(None) };
        let victims = preemption::victims(pod, occupants, lacking).map_err(|why| admission::no_room(&why))?;
        Ok(Some(Self { victims, resource: first.resource.clone() }))
    }

    /// Tells them to go, and waits until they have, or the pod is not wanted any more. What they give back is the pod's
    /// already: whoever comes meanwhile finds the node fuller than it is.
    pub(super) async fn make(self, shared: &Arc<Shared>, mut desired: watch::Receiver<Desired>) {
        let unwanted = async {
            let is_unwanted = |desired: &Desired| match desired {
                Desired::Pod { pod, .. } => pod.metadata.deletion_timestamp.is_some(),
                Desired::Gone => true,
            };
            // The sender is dropped when the agent ends; so does this, from outside.
            if desired.wait_for(is_unwanted).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = self.all_have_gone(shared) => {}
            () = unwanted => {}
        }
    }

    async fn all_have_gone(&self, shared: &Shared) {
        let mut changes = shared.index.changes();
        loop {
            let all = self.victims.iter().filter_map(|uid| shared.index.get(uid));
            let left: Vec<_> = all.filter(|pod| !is_over(pod)).collect();
            if left.is_empty() {
                return;
            }
            for pod in left {
                let uid = pod.metadata.uid.as_deref().unwrap_or_default();
                if shared.desk.evict(uid, self.order(&pod)) {
                    tracing::warn!(
                        pod = uid,
                        resource = self.resource,
                        "a pod makes room for a critical one"
                    );
                }
            }
            // Either way it is time to look again.
            let _ = tokio::time::timeout(LOOK, changes.changed()).await;
        }
    }

    fn order(&self, pod: &Pod) -> EvictionOrder {
        EvictionOrder {
            reason: PodReason::Preempting,
            message: preemption::MESSAGE.to_owned(),
            annotations: BTreeMap::new(),
            cause: EvictionCause::Preemption(self.resource.clone()),
            grace: grace(pod),
            disrupts: true,
        }
    }
}
