//! The node as a whole: everything in this crate, put together.
//!
//! [`Agent::new`] does all that can fail; [`Agent::run`] then only serves, until it is cancelled. Cancelling
//! it ends the agent and nothing else: containers go on, and the Node stays registered.

mod addresses;
mod derived;
mod folders;

use std::{io, net::IpAddr, path::PathBuf, sync::Arc, time::Instant};

use k8s_openapi::api::{
    core::v1::{Pod, Service},
    node::v1::RuntimeClass,
};
use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::folders::check_root;
use self::{
    addresses::follow_addresses,
    derived::{derive, keep, learn, refresh, view},
    folders::{log_links, real_logs_dir},
};
use crate::{
    admitter::PodAdmitter,
    config::Config,
    events::{EventLimits, Recorder},
    eviction::{EvictionDesk, Watcher, WatcherParts},
    held_metrics::Held,
    http_metrics::HttpMetrics,
    identity::{self, Connection, IdentityError, Rotation, serving},
    mirror::Mirror,
    network_readiness::NetworkReadiness,
    node::{self, address},
    node_health::NodeHealth,
    node_metrics::NodeMetrics,
    oom_events::OomEvents,
    pod_ranges,
    pods::{
        EvictionCandidates, HostPorts, ImageAccess, LogKeeper, NodeFacts, PodAddresses, PodIndex, PodManager,
        ProbeMetrics, PullLimit, Records, RequestFailureWatch, ResizeMetrics, Shared, Volumes,
        admission::NodeView,
        api::Cluster,
        board::Board,
        files::resolv_conf,
        lifecycle::LifecycleLimits,
        source,
        volumes::{self, Memory},
    },
    policies::{self, Policies, RefusalMetrics, RefusalWatch},
    registry_auth::NodeCredentials,
    runtime::{Runtime, ServiceTable},
    server::{self, Ports, Server},
    services::{Follower, FollowerParts, ServicesMode},
    shutdown::{ShutdownManager, ShutdownMetrics, ShutdownParts},
    static_pods::{FileSource, Mirrors, UrlSource},
    stats::{NodeStats, StatsParts},
    system_oom,
    traces::{TraceEndpoint, TraceExporter, TraceMetrics, Tracer},
};

/// Pod updates that may wait for the manager.
const UPDATES: usize = 1024;

/// Why the node does not start. Every message is meant for the user as it is.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The root directory cannot be used.
    #[error("the root directory {} cannot be used: {source}; make it writable, or choose another with --root-dir", path.display())]
    Root {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The node has no identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The node has no address.
    #[error(transparent)]
    Address(#[from] address::NodeAddressError),
    /// Traces cannot be sent where the configuration says.
    #[error("tracing.endpoint: {0}")]
    Traces(String),
    /// The HTTPS API cannot be served.
    #[error(transparent)]
    Server(#[from] server::ServerError),
}

/// A node, ready to run.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    connection: Connection,
    rotation: Option<Rotation>,
    upkeep: serving::Upkeep,
    server: Server,
    node: node::NodeAgent,
    handle: node::NodeHandle,
    shared: Arc<Shared>,
    watcher: Watcher,
    facts: watch::Sender<NodeFacts>,
    view: watch::Sender<NodeView>,
    services: Mirror<Service>,
    services_follower: Follower,
    runtime_classes: Mirror<RuntimeClass>,
    refusals: RefusalMetrics,
    resizes: ResizeMetrics,
    shutdowns: ShutdownMetrics,
    http: HttpMetrics,
    addresses: watch::Sender<Vec<IpAddr>>,
    stats: NodeStats,
    traces: Option<TraceExporter>,
    /// When it was begun to put the node together.
    begun: Instant,
}

impl Agent {
    /// Gets the node its address, its ports and then its identity. This may take as long as the approval of its
    /// certificate takes. `admitter` is asked about each pod besides.
    ///
    /// # Errors
    /// [`AgentError`].
    pub async fn new(
        mut config: Config,
        runtime: Arc<dyn Runtime>,
        admitter: Option<Arc<dyn PodAdmitter>>,
        cancel: &CancellationToken,
    ) -> Result<Self, AgentError> {
        let begun = Instant::now();
        check_root(&config.root_dir)?;
        config.kubelet.pod_logs_dir = real_logs_dir(&config.kubelet.pod_logs_dir);
        let unusable = |source| AgentError::Root { path: config.root_dir.clone(), source };
        let records = Records::open(&config.root_dir).map_err(unusable)?;
        let image_access =
            ImageAccess::open(&config.root_dir, config.image_verification.clone()).map_err(unusable)?;
        tokio::task::spawn_blocking({
            let records = records.clone();
            move || records.keep_reserve()
        });
        let addresses = address::find(&config.node_ip, &config.hostname)?;
        let ports = Ports::bind(&config)?;
        image_access.settle(runtime.as_ref()).await;
        let (tracer, traces, trace_metrics) = open_traces(&config)?;
        let (connection, rotation) = identity::establish(&config, &tracer, cancel).await?;
        let client = connection.client();

        let (present_addresses, node_addresses) = watch::channel(addresses.clone());
        let (serving, upkeep) = serving::prepare(&config, node_addresses.clone(), &connection)?;
        let index = PodIndex::default();
        let probes = ProbeMetrics::default();
        let mut server = Server::new(
            &config,
            ports,
            Arc::clone(&serving) as Arc<_>,
            client.clone(),
            Arc::new(index.clone()),
        )?;
        server.register_probe_metrics(|registry| probes.register(registry));
        server.trace(tracer.clone());
        let metrics = NodeMetrics::default();
        let refusals = RefusalMetrics::default();
        server.register_metrics(|registry| refusals.register(registry));
        let resizes = ResizeMetrics::default();
        server.register_metrics(|registry| resizes.register(registry));
        let http = HttpMetrics::default();
        server.register_metrics(|registry| {
            http.register(registry);
            metrics.register(registry);
            connection.metrics().register(registry);
            trace_metrics.register(registry);
            connection.renewals().register(registry);
            runtime.register_metrics(registry);
            admitter.iter().for_each(|admitter| admitter.register_metrics(registry));
        });

        let shutdowns = ShutdownMetrics::open(&config.root_dir);
        server.register_metrics(|registry| shutdowns.register(registry));

        let limits =
            EventLimits { per_second: config.kubelet.event_record_qps, burst: config.kubelet.event_burst };
        let recorder = Recorder::new(connection.unlimited_client(), &config.node_name, limits);
        let desk = EvictionDesk::default();
        let (node, handle) = node::NodeAgent::new(node::NodeParts {
            config: config.clone(),
            addresses: node_addresses,
            port: server.port(),
            connection: connection.clone(),
            runtime: Arc::clone(&runtime),
            recorder: recorder.clone(),
            pressure: desk.pressure(),
        });

        let (services, all_services) = Mirror::new();
        let (runtime_classes, all_runtime_classes) = Mirror::new();
        let (facts, node_facts) = watch::channel(NodeFacts {
            hostname: config.hostname.clone(),
            cluster_domain: config.kubelet.cluster_domain.clone(),
            host_ips: addresses.clone(),
            ..NodeFacts::default()
        });
        let (view, admission) =
            watch::channel(NodeView { sysctls: config.allowed_sysctls.clone(), ..NodeView::default() });
        let services_follower = Follower::new(FollowerParts {
            services: all_services.clone(),
            node: handle.node(),
            node_name: config.node_name.clone(),
            addresses: addresses.clone(),
        });
        let cluster = Cluster::new(client, all_services, all_runtime_classes);
        let volumes = Volumes::new(&cluster, volume_settings(&config));
        let addresses = if runtime.has_sandboxes() {
            PodAddresses::of_sandboxes()
        } else if runtime.has_pod_network() {
            PodAddresses::undecided()
        } else {
            PodAddresses::shared()
        };
        let enforces = config.enforces_network_policies && runtime.has_pod_network();
        let policies = if enforces { Policies::on() } else { Policies::off() };
        let shared = Arc::new(Shared {
            runtime,
            api: Arc::new(cluster),
            recorder,
            records,
            volumes: Arc::new(volumes),
            index,
            admission: Some(admission),
            admitter,
            addresses,
            host_ports: HostPorts::default(),
            policies,
            node: node_facts,
            logs_dir: config.kubelet.pod_logs_dir.clone(),
            log_links: log_links(&config),
            node_credentials: NodeCredentials::new(
                config.registry_configs.clone(),
                config.credential_providers.clone(),
            ),
            image_access: Some(image_access),
            limits: LifecycleLimits {
                crash_backoff_max: config.kubelet.crash_loop_back_off.max_container_restart_period,
            },
            probes,
            metrics,
            oom_events: OomEvents::default(),
            pull_limit: PullLimit::new(config.kubelet.registry_pull_qps, config.kubelet.registry_burst),
            tracer,
            desk,
        });
        let stats = NodeStats::new(StatsParts {
            node_name: config.node_name.clone(),
            runtime: Arc::clone(&shared.runtime),
            index: shared.index.clone(),
            records: shared.records.clone(),
            volumes: Arc::clone(&shared.volumes),
            oom_events: shared.oom_events.clone(),
            logs_dir: shared.logs_dir.clone(),
            root_dir: config.root_dir.clone(),
            storage_period: config.kubelet.volume_stats_period(),
        });
        server.serve_stats(stats.clone());
        server.serve_streams(Arc::clone(&shared.runtime));
        let held = Held {
            index: shared.index.clone(),
            volumes: Arc::clone(&shared.volumes),
            connection: connection.clone(),
            serving,
        };
        server.register_metrics(|registry| {
            held.volumes.mounted().register(registry);
            registry.register_collector(Box::new(held));
        });
        let claims = EvictionCandidates {
            index: shared.index.clone(),
            records: shared.records.clone(),
            logs_dir: shared.logs_dir.clone(),
        };
        let watcher = Watcher::new(WatcherParts {
            config: config.clone(),
            runtime: Arc::clone(&shared.runtime),
            recorder: shared.recorder.clone(),
            desk: shared.desk.clone(),
            pods: Arc::new(claims),
            stats: stats.clone(),
        });
        Ok(Self {
            config,
            connection,
            rotation,
            upkeep,
            server,
            node,
            handle,
            shared,
            watcher,
            facts,
            view,
            services,
            services_follower,
            runtime_classes,
            refusals,
            resizes,
            shutdowns,
            http,
            addresses: present_addresses,
            stats,
            traces,
            begun,
        })
    }

    /// The port that the HTTPS API is served on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// Runs until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let (prepared, running) = (self.begun.elapsed(), Instant::now());
        let tasks = TaskTracker::new();
        if let Some(rotation) = self.rotation {
            tasks.spawn(rotation.run(cancel.clone()));
        }
        tasks.spawn(self.upkeep.run(cancel.clone()));
        if let Some(traces) = self.traces {
            tasks.spawn(traces.run(cancel.clone()));
        }
        let follower = follow_addresses(self.config.clone(), self.addresses, self.facts.clone());
        tasks.spawn(stop_at(cancel.clone(), follower));
        tasks.spawn(self.server.run(cancel.clone()));
        let expected = self.node.expected();
        if self.shared.runtime.has_sandboxes() {
            let readiness = NetworkReadiness::new(Arc::clone(&self.shared.runtime), self.handle.clone());
            tasks.spawn(stop_at(cancel.clone(), readiness.run()));
        }
        let health = NodeHealth {
            root_dir: self.config.root_dir.clone(),
            runtime: Arc::clone(&self.shared.runtime),
            index: self.shared.index.clone(),
            node: self.handle.clone(),
        };
        tasks.spawn(stop_at(cancel.clone(), health.run()));
        tasks.spawn(self.node.run(cancel.clone()));
        tasks.spawn(stop_at(cancel.clone(), self.services.run(self.connection.client())));
        tasks.spawn(stop_at(cancel.clone(), self.runtime_classes.run(self.connection.client())));

        // Static pods run before there is a Node, and without an API server.
        derive(&expected, &self.facts, learn);
        derive(&expected, &self.view, view);
        let (updates, receiver) = mpsc::channel(UPDATES);
        let (board, shown) = watch::channel(Board::default());
        tasks.spawn(stop_at(cancel.clone(), self.watcher.run()));
        let keeper = LogKeeper::new(
            self.config.log_upkeep(),
            self.shared.logs_dir.clone(),
            self.shared.index.clone(),
            self.shared.log_links.clone(),
        );
        tasks.spawn(stop_at(cancel.clone(), keeper.run()));
        let decision = pod_ranges::Decision {
            shared: Arc::clone(&self.shared),
            configured: self.config.pod_ranges.clone(),
            node: self.handle.node(),
            required: self.config.requires_pod_network,
        };
        let (client, shared) = (self.connection.client(), Arc::clone(&self.shared));
        let services = follow_services(self.config.services, self.services_follower, client, shared);
        tasks.spawn(stop_at(cancel.clone(), async move {
            decision.run().await;
            services.await;
        }));
        let (runtime, recorder) = (Arc::clone(&self.shared.runtime), self.shared.recorder.clone());
        let refusals = RefusalWatch::new(
            Arc::clone(&runtime),
            self.shared.index.clone(),
            recorder.clone(),
            self.refusals,
        );
        tasks.spawn(stop_at(cancel.clone(), refusals.run()));
        let failures =
            RequestFailureWatch::new(Arc::clone(&runtime), self.shared.index.clone(), recorder.clone());
        tasks.spawn(stop_at(cancel.clone(), failures.run()));
        let name = self.config.node_name.clone();
        let ooms = system_oom::watch(Arc::clone(&runtime), recorder.clone(), name);
        tasks.spawn(stop_at(cancel.clone(), ooms));
        let http = self.http.follow(Arc::clone(&runtime), self.shared.index.clone());
        tasks.spawn(stop_at(cancel.clone(), http));
        tasks.spawn(stop_at(cancel.clone(), self.stats.follow()));
        let metrics = self.shared.metrics.clone();
        let client = self.connection.client();
        if let Some(keeper) = policies::Keeper::new(&self.shared.policies, client, runtime, recorder) {
            tasks.spawn(stop_at(cancel.clone(), keeper.run()));
        }
        if !self.config.shutdown_periods.is_empty() {
            let shutdown = ShutdownManager::new(ShutdownParts {
                periods: self.config.shutdown_periods.clone(),
                node_name: self.config.node_name.clone(),
                node: self.handle.clone(),
                recorder: self.shared.recorder.clone(),
                index: self.shared.index.clone(),
                desk: self.shared.desk.clone(),
                metrics: self.shutdowns,
            });
            tasks.spawn(stop_at(cancel.clone(), shutdown.run()));
        }
        let pods_of_url = UrlSource::new(&self.config.kubelet, &self.config.node_name);
        let mut manager =
            PodManager::new(self.shared).with_static_pods(board).with_resize_metrics(self.resizes);
        if let Some(pods) = pods_of_url {
            manager = manager.with_pods_of_url();
            tasks.spawn(stop_at(cancel.clone(), pods.run(updates.clone())));
        }
        tasks.spawn(manager.run(receiver, cancel.clone()));
        let mirrors = Mirrors::new(self.connection.client(), shown, self.handle.node());
        tasks.spawn(stop_at(cancel.clone(), mirrors.run()));
        let name = self.config.node_name;
        let kubelet = self.config.kubelet;
        let files = FileSource::new(kubelet.static_pod_path, &name, kubelet.file_check_frequency);
        tasks.spawn(stop_at(cancel.clone(), files.run(updates.clone())));

        // The others are looked at once there is a Node that they can be bound to.
        let mut registered = self.handle.node();
        let is_registered = registered.wait_for(Option::is_some);
        if cancel.run_until_cancelled(is_registered).await.is_some_and(|node| node.is_ok()) {
            tracing::info!(node = name, "the node is registered");
            metrics.registered(prepared, running.elapsed());
            let node = self.handle.node();
            refresh(&node, &self.facts, learn);
            refresh(&node, &self.view, view);
            tasks.spawn(stop_at(cancel.clone(), keep(node.clone(), self.facts, learn)));
            tasks.spawn(stop_at(cancel.clone(), keep(node, self.view, view)));
            let client = self.connection.client();
            tasks.spawn(stop_at(
                cancel.clone(),
                async move { source::api_server(client, &name, updates).await },
            ));
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// What records traces, and what sends them where the configuration says.
fn open_traces(config: &Config) -> Result<(Tracer, Option<TraceExporter>, TraceMetrics), AgentError> {
    let metrics = TraceMetrics::default();
    let Some(tracing) = &config.kubelet.tracing else { return Ok((Tracer::off(), None, metrics)) };
    let endpoint = TraceEndpoint::parse(tracing.endpoint.as_deref()).map_err(AgentError::Traces)?;
    // Upstream's, by which its dashboards find a node.
    let resource = vec![("service.name", "kubelet".to_owned()), ("host.name", config.hostname.clone())];
    let samples = tracing.sampling_rate_per_million.unwrap_or(0);
    let opened = TraceExporter::open(endpoint, samples, resource, metrics.clone());
    let (tracer, exporter) = opened.map_err(|error| AgentError::Traces(error.to_string()))?;
    Ok((tracer, Some(exporter), metrics))
}

/// Keeps the runtime's table of Services up to date, where pods have addresses of their own.
async fn follow_services(mode: ServicesMode, follower: Follower, client: Client, shared: Arc<Shared>) {
    match mode {
        ServicesMode::Auto if shared.addresses.are_own() => {
            follower.run(client, |table| shared.runtime.set_services(table)).await;
        }
        ServicesMode::Auto => {}
        // Workers of an earlier agent may know some.
        ServicesMode::Off => shared.runtime.set_services(&Arc::new(ServiceTable::default())),
    }
}

async fn stop_at(cancel: CancellationToken, task: impl Future<Output = ()>) {
    cancel.run_until_cancelled(task).await;
}

/// What volumes are made with. Before the first worker starts, for it has to see what is mounted here.
fn volume_settings(config: &Config) -> volumes::VolumeSettings {
    let memory = Memory::open(&config.root_dir).inspect_err(|error| {
        tracing::warn!(
            %error,
            "nothing can be mounted here: Secrets, tokens and emptyDir volumes of medium Memory are kept on disk, \
             where only this user can read them"
        );
    });
    volumes::VolumeSettings {
        allowed_host_paths: config.allowed_host_paths.clone(),
        dns: resolv_conf::DnsSettings {
            cluster_dns: config.kubelet.cluster_dns.clone(),
            cluster_domain: config.kubelet.cluster_domain.clone(),
            alone: false,
        },
        resolv_conf: config.kubelet.resolv_conf.clone(),
        memory: memory.ok(),
    }
}

impl server::Pods for PodIndex {
    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        Self::pod(self, namespace, name)
    }

    fn is_mirror_of(&self, uid: &str, pod: &Pod) -> bool {
        Self::is_mirror_of(self, uid, pod)
    }

    fn pods(&self) -> Vec<Arc<Pod>> {
        Self::pods(self)
    }

    fn are_all_known(&self) -> bool {
        Self::are_all_known(self)
    }

    fn healthy(&self) -> Result<(), String> {
        self.looked_after(Instant::now())
    }
}
