//! Which workers are told of which tables of the network.

use kubewasm_host::network::ServiceChanges;
use kubewasm_kubelet::runtime::ServiceRoutes;

use super::*;

/// Services of these names, each with an address.
fn services(services: &[(&str, u8)]) -> ServiceTable {
    let services = services.iter().map(|(key, address)| {
        let cluster_ips = vec![[10, 96, 0, *address].into()];
        ((*key).to_owned(), Arc::new(ServiceRoutes { cluster_ips, routes: Vec::new() }))
    });
    ServiceTable { services: services.collect() }
}

/// An update as base, revision, keys that are set and keys that are removed.
fn short(update: &TablesUpdate) -> (Option<u64>, u64, Vec<String>, Vec<String>) {
    let TablesUpdate { base, revision, services: ServiceChanges { set, removed }, .. } = update;
    (*base, *revision, set.iter().map(|service| service.key.clone()).collect(), removed.clone())
}

/// Awaits the update of this number that a worker was sent.
async fn update(says: &Says, number: usize) -> (Option<u64>, u64, Vec<String>, Vec<String>) {
    loop {
        if let Some(update) = says.updates.lock().unwrap().get(number) {
            return short(update);
        }
        tokio::time::sleep(process::LOOK).await;
    }
}

fn keys(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

pub(super) async fn agent(dir: &Path) -> Supervisor {
    Supervisor::open(SupervisorOptions::new(dir, Program::new("/bin/false"))).await.unwrap()
}

#[tokio::test]
async fn a_worker_is_told_everything_and_then_what_changes() {
    let dir = tempfile::tempdir().unwrap();
    let says = Says { events: picture([]), ..Says::default() };
    // What an earlier agent has told.
    says.tables.apply(TablesUpdate { revision: 1, ..TablesUpdate::default() }).unwrap();
    let _worker = worker(dir.path(), "g", &[], says.clone());
    let agent = agent(dir.path()).await;
    assert_eq!(says.updates.lock().unwrap().len(), 0, "the agent knows nothing yet");

    agent.set_services(&services(&[("ns/a", 1), ("ns/b", 2)]));
    assert_eq!(update(&says, 0).await, (None, 1, keys(&["ns/a", "ns/b"]), keys(&[])));
    agent.set_services(&services(&[("ns/a", 1), ("ns/c", 3)]));
    assert_eq!(update(&says, 1).await, (Some(1), 2, keys(&["ns/c"]), keys(&["ns/b"])));

    // Somebody else has told it something: what changes does not follow from that.
    says.tables.apply(TablesUpdate { revision: 99, ..TablesUpdate::default() }).unwrap();
    agent.set_services(&services(&[("ns/a", 7), ("ns/c", 3)]));
    assert_eq!(update(&says, 2).await, (Some(2), 3, keys(&["ns/a"]), keys(&[])));
    assert_eq!(update(&says, 3).await, (None, 3, keys(&["ns/a", "ns/c"]), keys(&[])));
    agent.set_services(&services(&[("ns/c", 3)]));
    assert_eq!(update(&says, 4).await, (Some(3), 4, keys(&[]), keys(&["ns/a"])));
}

/// A worker that is met is told everything before anything can be started in it.
#[tokio::test]
async fn a_worker_that_is_met_has_the_tables() {
    let dir = tempfile::tempdir().unwrap();
    let agent = agent(dir.path()).await;
    agent.set_services(&services(&[("ns/a", 1)]));
    let says = Says { events: picture([]), ..Says::default() };
    let _worker = worker(dir.path(), "g", &[], says.clone());
    agent.group("g").await.client().await.unwrap();
    let told: Vec<_> = says.updates.lock().unwrap().iter().map(short).collect();
    assert_eq!(told, [(None, 1, keys(&["ns/a"]), keys(&[]))]);
}

#[tokio::test]
async fn a_worker_of_an_earlier_version_is_told_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let before = Versions { min: Versions::TABLES - 2, max: Versions::TABLES - 1 };
    let old = Says { events: picture([]), versions: Some(before), ..Says::default() };
    let new = Says { events: picture([]), ..Says::default() };
    let _old = worker(dir.path(), "old", &[], old.clone());
    let _new = worker(dir.path(), "new", &[], new.clone());
    let agent = agent(dir.path()).await;
    for group in ["old", "new"] {
        agent.group(group).await.client().await.unwrap();
    }
    agent.set_services(&services(&[("ns/a", 1)]));
    update(&new, 0).await;
    assert_eq!(old.updates.lock().unwrap().len(), 0);
}
