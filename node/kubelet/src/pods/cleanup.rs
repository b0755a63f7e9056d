//! The end of a pod that no source has any more.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use super::shared::Shared;
use crate::{logs, retry::Backoff};

const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// Removes all that is left of a pod, and tries until nothing is. Its volumes go when its containers are gone, and
/// its record last, or nobody would ask for the rest again after a restart of the agent.
///
/// `logs` is the folder of its logs; `None` looks for it.
pub(super) async fn remove_pod(shared: &Arc<Shared>, uid: &str, logs: Option<PathBuf>) {
    let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY);
    while let Err(error) = try_to_remove(shared, uid, logs.clone()).await {
        tracing::warn!(
            pod = uid,
            error,
            "something of a pod that is gone could not be removed; trying again"
        );
        tokio::time::sleep(backoff.next()).await;
    }
}

async fn try_to_remove(shared: &Arc<Shared>, uid: &str, logs: Option<PathBuf>) -> Result<(), String> {
    remove_containers(shared, uid).await?;
    release_addresses(shared, uid).await?;
    tear_down_sandbox(shared, uid).await?;
    let (shared, uid) = (Arc::clone(shared), uid.to_owned());
    let remove = move || -> io::Result<()> {
        shared.volumes.remove(&shared.records, &uid)?;
        // Of this node's pods alone: other nodes may write their logs to the same place.
        let logs = logs.map_or_else(|| logs::dirs_of(&shared.logs_dir, &uid), |dir| vec![dir]);
        for dir in logs {
            shared.log_links.remove_pod(&dir);
            kubewasm_trees::remove(&dir)?;
        }
        shared.records.remove(&uid)
    };
    let removed = tokio::task::spawn_blocking(remove).await.map_err(|error| error.to_string())?;
    removed.map_err(|error| error.to_string())
}

/// Takes the addresses of a pod back that are its own, with the ports of the node that lead there, once nothing of it runs any more. The next pod may have them.
///
/// # Errors
/// What the provider says: they are not to be had then.
pub(super) async fn release_addresses(shared: &Shared, uid: &str) -> Result<(), String> {
    let Some((slot, addresses)) = shared.addresses.held_by(uid) else { return Ok(()) };
    let closed = shared.host_ports.close(shared.runtime.as_ref(), uid).await;
    closed.map_err(|error| format!("cannot close the host ports of the pod: {error}"))?;
    let released = shared.runtime.release_network(slot, &addresses).await;
    released.map_err(|error| format!("cannot take back the addresses of the pod: {error}"))?;
    shared.addresses.release(uid);
    Ok(())
}

/// Takes away the network that the provider has made for a pod, once nothing of it runs any more.
///
/// # Errors
/// What the provider says: there may be something of it, and the pod's addresses may be taken.
pub(super) async fn tear_down_sandbox(shared: &Shared, uid: &str) -> Result<(), String> {
    let work = shared.runtime.tear_down_sandbox(uid);
    shared.metrics.operation("remove_podsandbox", work).await.map_err(|error| error.to_string())
}

/// What an Event says of a network that could not be taken away: the kubelet's words.
pub(super) fn failed_sandbox(uid: &str, error: &str) -> String {
    format!(
        "error killing pod: failed to \"KillPodSandbox\" for \"{uid}\" with KillPodSandboxError: {error:?}"
    )
}

/// Removes all containers of a pod that the provider knows; those that run are killed. When this succeeds, nothing of
/// the pod runs.
///
/// # Errors
/// One that could not be removed, or that the provider cannot tell of all: something may run.
pub(super) async fn remove_containers(shared: &Shared, uid: &str) -> Result<(), String> {
    let list = shared.runtime.containers_of(uid);
    for container in &list.containers {
        let removed = shared.runtime.remove(&container.id).await;
        removed.map_err(|error| format!("cannot remove container {}: {error}", container.id))?;
    }
    if list.is_complete {
        return Ok(());
    }
    Err("it cannot be told whether anything of it still runs: a worker does not answer".to_owned())
}
