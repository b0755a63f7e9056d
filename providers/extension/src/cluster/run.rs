//! One replica of the server of extensions: all that it does in its cluster, joined.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use futures::future;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, core::DynamicObject, runtime::watcher};
use kubewasm_control::{
    elector::{ElectionTimes, Elector, LeaseName},
    follow::follow,
    replicas::Reporter,
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    FIELD_MANAGER,
    controller::{Controller, ControllerInputs, Replicas},
    grants::{self, GrantState},
    labels,
    loader::{ClusterExtensions, LoadProgress, Loader, LoaderInputs, PullSecrets, StoreModules},
    references::{ReferenceWatches, wanted},
    report::{self, Replica, ReplicaReport},
    selector,
};
use crate::{
    fetch::{FetchOptions, ModuleFetcher},
    subscribers::Subscribers,
    table::ExtensionTable,
    wasm_extension::{WasmExtension, api_resource},
};

/// Name of the leader's Lease.
const LEASE: &str = "kubewasm-extension";
/// How often what nobody uses is removed from disk.
const SWEEP: Duration = Duration::from_secs(3600);
/// What Envoys say comes in groups.
const GATHER: Duration = Duration::from_millis(500);

/// How a replica is run.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The namespace that it is in, and its Leases.
    pub namespace: String,
    /// The namespaces whose extensions it serves; all of them where none is named.
    pub watched: Vec<String>,
    /// Name of this replica, a label of DNS.
    pub identity: String,
    /// Times of the election.
    pub election: ElectionTimes,
    /// How modules are fetched.
    pub fetch: FetchOptions,
    /// How often a source is asked that is to be asked each time; zero for never again.
    pub refresh: Duration,
}

/// A replica, and what its server needs.
pub struct ClusterReplica {
    /// Whether Envoys can come: all that there is was published, as far as it can be.
    pub ready: watch::Receiver<bool>,
    sender: watch::Sender<bool>,
    client: Client,
    options: ClusterOptions,
    table: ExtensionTable,
    subscribers: Subscribers,
    secrets: Arc<dyn PullSecrets>,
}

impl fmt::Debug for ClusterReplica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterReplica").field("options", &self.options).finish_non_exhaustive()
    }
}

impl ClusterReplica {
    /// One that has asked nobody yet. It publishes in `table`, and says what `subscribers` has.
    #[must_use]
    pub fn new(
        client: Client,
        options: ClusterOptions,
        table: ExtensionTable,
        subscribers: Subscribers,
        secrets: Arc<dyn PullSecrets>,
    ) -> Self {
        let (sender, ready) = watch::channel(false);
        Self { ready, sender, client, options, table, subscribers, secrets }
    }

    /// Runs until it is cancelled. What is published stays so after that.
    pub async fn run(self, cancel: CancellationToken) {
        let Self { sender: ready, client, options, table, subscribers, secrets, .. } = self;
        let ClusterOptions { namespace, watched, identity, election, fetch, refresh } = options;
        tracing::info!(identity, "serving the extensions of the cluster");
        let (extensions_sender, extensions) = watch::channel(ClusterExtensions::default());
        let (replicas_sender, replicas) = watch::channel(Replicas::default());
        let (grants_sender, grants) = watch::channel(GrantState::default());
        let (progress_sender, progress) = watch::channel(LoadProgress::default());
        let (report_sender, report) = watch::channel(ReplicaReport::default());
        let (leading_sender, leading) = watch::channel(false);

        let apis: Vec<Api<DynamicObject>> = match watched.as_slice() {
            [] => vec![Api::all_with(client.clone(), &api_resource())],
            namespaces => namespaces
                .iter()
                .map(|namespace| Api::namespaced_with(client.clone(), namespace, &api_resource()))
                .collect(),
        };
        let watches: Vec<usize> = (0..apis.len()).collect();
        let follow_extensions = future::join_all(apis.into_iter().enumerate().map(|(number, api)| {
            follow(number, api, watcher::Config::default(), WasmExtension::read, &extensions_sender)
        }));
        let leases: Api<Lease> = Api::namespaced(client.clone(), &namespace);
        let ours = watcher::Config::default().labels(&selector());
        let follow_replicas = follow((), leases, ours, Replica::read, &replicas_sender);
        let follow_grants = grants::follow(client.clone(), &grants_sender);
        let references = ReferenceWatches::new(client.clone());
        let objects = references.objects();
        let follow_references = refer(references, extensions.clone(), grants.clone());

        let fetcher = Arc::new(ModuleFetcher::new(fetch));
        let sweep = sweep(Arc::clone(&fetcher), extensions.clone(), &watches);
        let supply = Arc::new(StoreModules { fetcher, secrets });
        let inputs =
            LoaderInputs { extensions: extensions.clone(), watches: watches.clone(), objects, grants };
        let load = Loader::new(table, supply, refresh).run(inputs, progress_sender);
        let sum_up = sum_up(progress.clone(), &subscribers, &report_sender, &ready);

        let of_replica = report::lease(&namespace, &identity);
        let report =
            Reporter::new(client.clone(), of_replica, &identity, FIELD_MANAGER).run(report, cancel.clone());
        let lease = LeaseName { namespace: namespace.clone(), name: LEASE.to_owned(), labels: labels() };
        let elect =
            Elector::new(client.clone(), lease, &identity, election).run(leading_sender, cancel.clone());
        let inputs = ControllerInputs {
            extensions,
            watches: watches.clone(),
            progress,
            replicas,
            subscribers: subscribers.clone(),
        };
        let lead = lead(leading, || Controller::new(client.clone(), &namespace, &identity, inputs.clone()));
        let works = async {
            tokio::join!(
                follow_extensions,
                follow_replicas,
                follow_grants,
                follow_references,
                sweep,
                load,
                sum_up,
                lead
            );
        };
        // Those two have something to do at the end.
        tokio::join!(cancel.run_until_cancelled(works), report, elect);
    }
}

/// Does the leader's work whenever this replica is the leader. A new leader begins with nothing in mind.
async fn lead(mut leading: watch::Receiver<bool>, controller: impl Fn() -> Controller) {
    while leading.wait_for(|leading| *leading).await.is_ok() {
        let mut over = leading.clone();
        tokio::select! {
            () = controller().run() => {}
            _ = over.wait_for(|leading| !leading) => {}
        }
    }
}

/// Follows what extensions refer to, and may.
async fn refer(
    mut watches: ReferenceWatches,
    mut extensions: watch::Receiver<ClusterExtensions>,
    mut grants: watch::Receiver<GrantState>,
) {
    loop {
        let all = extensions.borrow_and_update().clone();
        let wanted = wanted(all.values().map(AsRef::as_ref), &grants.borrow_and_update());
        watches.set(&wanted);
        let changed = tokio::select! {
            changed = extensions.changed() => changed,
            changed = grants.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Removes from disk what no extension uses, now and then.
async fn sweep(
    fetcher: Arc<ModuleFetcher>,
    extensions: watch::Receiver<ClusterExtensions>,
    watches: &[usize],
) {
    let mut ticks = interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let all = extensions.borrow().clone();
        if all.has_all(watches) {
            let namespaces: BTreeSet<String> =
                all.values().map(|extension| extension.name.namespace().to_owned()).collect();
            fetcher.sweep(namespaces).await;
        }
    }
}

/// Sums up how this replica is, for the leader and for whoever sends it Envoys.
async fn sum_up(
    mut progress: watch::Receiver<LoadProgress>,
    subscribers: &Subscribers,
    report: &watch::Sender<ReplicaReport>,
    ready: &watch::Sender<bool>,
) {
    let mut changes = subscribers.changes();
    let mut had_room = true;
    loop {
        let newest = progress.borrow_and_update().clone();
        changes.mark_unchanged();
        if ready.send_if_modified(|ready| std::mem::replace(ready, newest.is_ready) != newest.is_ready) {
            tracing::info!(is_ready = newest.is_ready, "readiness has changed");
        }
        let said = ReplicaReport::new(&newest, &subscribers.snapshot());
        let has_room = said.left_out == 0;
        if had_room && !has_room {
            tracing::warn!(
                left_out = said.left_out,
                "this replica's Lease has no room for all extensions: their statuses do not count its Envoys, unless it leads"
            );
        }
        had_room = has_room;
        report.send_if_modified(|before| {
            let is_new = *before != said;
            *before = said;
            is_new
        });
        tokio::select! {
            changed = progress.changed() => if changed.is_err() { return },
            changed = changes.changed() => match changed {
                Ok(()) => sleep(GATHER).await,
                Err(_) => return,
            },
        }
    }
}
