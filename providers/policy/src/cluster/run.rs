//! One replica of a policy server in a cluster: all of its parts, joined.

use std::{fmt, sync::Arc};

use futures::future;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Secret};
use kube::{Api, Client, core::DynamicObject, runtime::watcher};
use kubewasm_control::{
    elector::{ElectionTimes, Elector, LeaseName},
    follow::follow,
    replicas::Reporter,
    tls::{self, ClientCertificates, TlsFailure},
};
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    FIELD_MANAGER,
    address::ServerAddress,
    controller::{Controller, ControllerInputs, Replicas, SecretState, ServerSecret, Webhooks},
    identity::PolicyKind,
    labels,
    loader::{ClusterPolicies, Loader, PolicySink, Progress},
    policy::ClusterPolicy,
    report::{self, Replica, ReplicaReport},
    rotation::RotationTimes,
    selector,
    webhook::{WebhookConfiguration, WebhookKind, WebhookTarget},
};

/// How a replica is run.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Name of the policy server, which policies name.
    pub server: String,
    /// The namespace that it is in.
    pub namespace: String,
    /// Where API servers reach it.
    pub address: ServerAddress,
    /// Name of this replica, a label of DNS.
    pub identity: String,
    /// Name of the Secret with its certificates.
    pub secret: String,
    /// Times of certificates.
    pub rotation: RotationTimes,
    /// Times of the election.
    pub election: ElectionTimes,
}

/// A replica, and what its server needs.
#[derive(Debug)]
pub struct ClusterReplica {
    /// The TLS to serve by.
    pub tls: watch::Receiver<Arc<ServerConfig>>,
    /// Whether requests can come.
    pub ready: watch::Receiver<bool>,
    parts: Parts,
}

struct Parts {
    client: Client,
    sink: Arc<dyn PolicySink>,
    options: ClusterOptions,
    tls: watch::Sender<Arc<ServerConfig>>,
    ready: watch::Sender<bool>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("options", &self.options).finish_non_exhaustive()
    }
}

impl ClusterReplica {
    /// One that has asked nobody yet. Until there is a certificate, its server shows one that nobody trusts.
    ///
    /// # Errors
    /// [`TlsFailure`] where this machine cannot make certificates.
    pub fn new(
        client: Client,
        sink: Arc<dyn PolicySink>,
        options: ClusterOptions,
    ) -> Result<Self, TlsFailure> {
        let (certificate, key) = tls::self_signed(options.address.hosts())?;
        let config = tls::server_config(certificate.as_bytes(), key.as_bytes(), ClientCertificates::Unasked)?;
        let (tls, tls_receiver) = watch::channel(config);
        let (ready, ready_receiver) = watch::channel(false);
        let parts = Parts { client, sink, options, tls, ready };
        Ok(Self { tls: tls_receiver, ready: ready_receiver, parts })
    }

    /// Runs until it is cancelled. What is served goes on being served after that.
    pub async fn run(self, cancel: CancellationToken) {
        self.parts.run(cancel).await;
    }
}

impl Parts {
    async fn run(self, cancel: CancellationToken) {
        let Self { client, sink, options, tls, ready } = self;
        let ClusterOptions { server, namespace, address, identity, secret, rotation, election } = options;
        tracing::info!(server, identity, "serving the policies of the cluster by {address}");
        let (policies_sender, policies) = watch::channel(ClusterPolicies::default());
        let (webhooks_sender, webhooks) = watch::channel(Webhooks::default());
        let (replicas_sender, replicas) = watch::channel(Replicas::default());
        let (secret_sender, secrets) = watch::channel(ServerSecret::default());
        let (progress_sender, progress) = watch::channel(Progress::default());
        let (shown_sender, shown) = watch::channel(None::<String>);
        let (report_sender, report) = watch::channel(ReplicaReport::default());
        let (leading_sender, leading) = watch::channel(false);

        let follow_policies = future::join_all(PolicyKind::ALL.map(|kind| {
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind.resource());
            let read = move |object: &DynamicObject| Some(ClusterPolicy::read(kind, object));
            follow(kind, api, watcher::Config::default(), read, &policies_sender)
        }));
        let ours = watcher::Config::default().labels(&selector(&server));
        let follow_webhooks = future::join_all(WebhookKind::ALL.map(|kind| {
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind.resource());
            let read = move |object: &DynamicObject| WebhookConfiguration::read(kind, object);
            follow(kind, api, ours.clone(), read, &webhooks_sender)
        }));
        let leases: Api<Lease> = Api::namespaced(client.clone(), &namespace);
        let follow_replicas = follow((), leases, ours.clone(), Replica::read, &replicas_sender);
        let named = watcher::Config::default().fields(&format!("metadata.name={secret}"));
        let secret_api: Api<Secret> = Api::namespaced(client.clone(), &namespace);
        let follow_secret =
            follow((), secret_api, named, |secret| Some(SecretState::read(secret)), &secret_sender);

        let load = Loader::new(sink, &server).run(policies.clone(), progress_sender);
        let show = show(secrets.clone(), &tls, &shown_sender);
        let sum_up = sum_up(progress.clone(), shown, &report_sender, &ready);
        let replica = report::lease(&namespace, &server, &identity);
        let report =
            Reporter::new(client.clone(), replica, &identity, FIELD_MANAGER).run(report, cancel.clone());
        let lease = LeaseName {
            namespace: namespace.clone(),
            name: format!("kubewasm-policy-{server}"),
            labels: labels(&server),
        };
        let elect =
            Elector::new(client.clone(), lease, &identity, election).run(leading_sender, cancel.clone());

        let target = WebhookTarget { server, address, namespace };
        let inputs = ControllerInputs { policies, progress, webhooks, replicas, secret: secrets };
        let lead = lead(leading, || {
            Controller::new(client.clone(), target.clone(), &secret, rotation, inputs.clone())
        });
        let works = async {
            tokio::join!(
                follow_policies,
                follow_webhooks,
                follow_replicas,
                follow_secret,
                load,
                show,
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

/// Shows the current certificate of the Secret. Where there is none, the one before goes on.
async fn show(
    mut secret: watch::Receiver<ServerSecret>,
    tls: &watch::Sender<Arc<ServerConfig>>,
    shown: &watch::Sender<Option<String>>,
) {
    loop {
        let state = secret.borrow_and_update().values().next().cloned();
        let current = state.as_ref().and_then(|state| state.certificates.current.as_ref());
        if let Some(current) = current {
            let fingerprint = current.fingerprint();
            if shown.borrow().as_ref() != Some(&fingerprint) {
                match current.server_config() {
                    Ok(config) => {
                        tls.send_replace(config);
                        tracing::info!(fingerprint, "a new certificate is shown");
                        shown.send_replace(Some(fingerprint));
                    }
                    Err(error) => tracing::error!("the new certificate cannot be shown: {error}"),
                }
            }
        }
        if secret.changed().await.is_err() {
            return;
        }
    }
}

/// Sums up how this replica is, for the leader and for whoever sends requests.
async fn sum_up(
    mut progress: watch::Receiver<Progress>,
    mut shown: watch::Receiver<Option<String>>,
    report: &watch::Sender<ReplicaReport>,
    ready: &watch::Sender<bool>,
) {
    loop {
        let certificate = shown.borrow_and_update().clone();
        let newest = progress.borrow_and_update().clone();
        let is_ready = newest.is_ready && certificate.is_some();
        if ready.send_if_modified(|ready| std::mem::replace(ready, is_ready) != is_ready) {
            tracing::info!(is_ready, "readiness has changed");
        }
        let mut said = ReplicaReport { certificate, ..ReplicaReport::default() };
        for (name, progress) in &newest.policies {
            if let Some(served) = &progress.served {
                said.note(name.unique(), &served.version);
            }
        }
        report.send_if_modified(|before| {
            let is_new = *before != said;
            *before = said;
            is_new
        });
        let changed = tokio::select! {
            changed = progress.changed() => changed,
            changed = shown.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}
