//! The network namespaces of workers: found when the agent starts, entered by a group's worker, led to by pods' addresses;
//! or made by others, one for each pod.

use std::{io, path::Path, sync::Arc};

use kubewasm_host::Network;
use kubewasm_network::{LivingWorker, Namespace, NetworkError, PodNetwork};
use rustix::process::Signal;

use super::{CALL, Claim, SupervisorError, error::GroupError, process};
use crate::isolation::domain_of;

/// A group whose worker lives, and the claims that were kept for it, if any were.
type Stock = (String, Option<Vec<(String, Claim)>>);

/// Opens the network of pods, with the workers that live. One that cannot be reached is ended: nobody would ever answer at
/// the addresses of what it hosts.
pub(super) async fn open(name: &str, dir: &Path, stock: &[Stock]) -> Result<PodNetwork, NetworkError> {
    let living = stock.iter().filter_map(|(group, _)| {
        let pid = process::holder(&process::socket(dir, group))?.as_raw_pid().unsigned_abs();
        Some(LivingWorker { domain: domain_of(group)?.to_owned(), group: group.clone(), pid })
    });
    let (network, lost) = PodNetwork::open(name, living.collect()).await?;
    for worker in lost {
        process::signal(&process::socket(dir, &worker.group), Signal::KILL);
    }
    Ok(network)
}

/// The network namespace that a worker of a group is to be in, if it is not the node's. `made` is where one is mounted that
/// others have made.
pub(super) async fn enter(
    network: Option<&PodNetwork>,
    group: &str,
    made: Option<&Path>,
) -> Result<Option<Arc<Namespace>>, GroupError> {
    if let Some(path) = made {
        let path = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || Namespace::at(path)).await;
        let opened = opened.unwrap_or_else(|error| Err(io::Error::other(error)));
        return opened.map(|namespace| Some(Arc::new(namespace))).map_err(|source| {
            let source = NetworkError::Namespace { what: "open the network namespace of a pod", source };
            GroupError::Network { group: group.to_owned(), source }
        });
    }
    let Some(domain) = domain_of(group) else { return Ok(None) };
    let group_name = || group.to_owned();
    let network = network.ok_or_else(|| GroupError::NoNetwork { group: group_name() })?;
    let entered = network.enter(domain, group).await;
    entered.map(Some).map_err(|source| GroupError::Network { group: group_name(), source })
}

/// Takes the network namespace of a group away whose worker is gone, unless another group's is in it.
pub(super) async fn leave(network: Option<&PodNetwork>, group: &str) {
    if let (Some(domain), Some(network)) = (domain_of(group), network) {
        network.leave(domain, group).await;
    }
}

/// Kills the workers of the groups of this name, whatever their age, and waits until they are gone.
pub(super) async fn kill(dir: &Path, base: &str) -> Result<(), SupervisorError> {
    let unreadable = |source| SupervisorError::Dir { path: dir.display().to_string(), source };
    let (listed, base) = (dir.to_owned(), base.to_owned());
    let list = move || -> io::Result<Vec<String>> {
        let entries = std::fs::read_dir(listed)?.collect::<io::Result<Vec<_>>>()?;
        let names = entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter(|name| name.rsplit_once('.').is_some_and(|(found, _)| found == base)).collect())
    };
    let groups = tokio::task::spawn_blocking(list).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    for group in groups.map_err(unreadable)? {
        let socket = process::socket(dir, &group);
        process::signal(&socket, Signal::KILL);
        if !process::is_gone(&socket, CALL).await {
            let pid = process::holder(&socket).map(|pid| pid.to_string()).unwrap_or_default();
            return Err(GroupError::Stays { group, pid }.into());
        }
    }
    Ok(())
}

/// Leads the addresses of an instance's pod to its worker, where they are its own.
pub(super) async fn attach(
    network: Option<&PodNetwork>,
    group: &str,
    wanted: &Network,
) -> Result<(), SupervisorError> {
    let Network::Pod(pod) = wanted else { return Ok(()) };
    let missing = || GroupError::NoNetwork { group: group.to_owned() };
    let network = network.ok_or_else(missing)?;
    let domain = domain_of(group).ok_or_else(missing)?;
    Ok(network.attach(domain, &pod.own).await?)
}
