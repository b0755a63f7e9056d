//! `kubewasm run`: one pod from files, with no cluster.
//!
//! From the pod's task down it is the code of a node: the same lifecycle, the same workers, the same logs.
//! Only the API server is missing; statuses go to this program, which watches them to know when to end.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kubewasm_host::{DEFAULT_MEMORY_LIMIT, DeniedNetworks};
use kubewasm_kubelet::{
    agent,
    events::{Level, Occurrence, Recorder},
    eviction::EvictionDesk,
    node_metrics::NodeMetrics,
    pods::{
        HostPorts, LogLinks, NodeFacts, PodAddresses, PodIndex, PodManager, ProbeMetrics, PullLimit, Records,
        Shared, Update, Volumes,
        api::{Alone, LocalObjects},
        files::resolv_conf,
        lifecycle::LifecycleLimits,
        status::is_terminal,
        volumes::{self, AllowedHostPaths, ProtectedPaths},
    },
    policies::Policies,
    traces::Tracer,
};
use kubewasm_wasi::{confine::Confinement, isolation::Isolation, logs::LogOptions};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

#[cfg(feature = "policy")]
use crate::admission::{AdmissionArgs, AdmissionParts, NodeModules};
use crate::{
    attached, console,
    folder::Folder,
    home,
    manifest::{self, Manifest, Publish},
    run_socket::{RunSocket, RunningPod},
    runtime::{self, ImageSettings},
    terminal,
};

/// Events that may wait to be printed.
const EVENTS: usize = 256;

/// What the printing of the last lines may take.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Arguments of `kubewasm run`.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// The files that hold the Pod and the ConfigMaps and Secrets that it refers to, folders of such files, or - for
    /// standard input. Images may be paths to .wasm files (./hello.wasm), taken from the folder of the Pod's file.
    #[arg(value_name = "POD.YAML|DIR|-", required = true)]
    files: Vec<PathBuf>,

    /// A port of this machine that leads to one of the pod, on the loopback unless an address is named. May be repeated.
    #[arg(short, long, value_name = "[[ADDRESS:]PORT:]CONTAINER-PORT[/udp]")]
    publish: Vec<Publish>,

    /// Each containerPort without a hostPort gets one on the loopback, of the same number.
    #[arg(short = 'P', long)]
    publish_all: bool,

    /// Where modules are kept between runs [default: kubewasm in the user's cache folder].
    #[arg(long, value_name = "DIR")]
    root_dir: Option<PathBuf>,

    /// A folder of this machine that the pod may mount by hostPath volumes, with all below it; with :ro behind it,
    /// for reading alone. May be repeated [default: none].
    #[arg(long, value_name = "DIR[:ro]")]
    allow_host_path: Vec<PathBuf>,

    /// A folder with a folder for each registry, in which a hosts.toml names its mirrors, as containerd's config_path.
    /// May be repeated, or several with colons between them; the first that has a registry's folder counts.
    #[arg(long, value_name = "DIR", value_delimiter = ':')]
    registry_config_dir: Vec<PathBuf>,

    /// Which images of registries must be signed, and by whom: a file in YAML or JSON [default: none must].
    #[arg(long, value_name = "FILE")]
    image_signature_policy: Option<PathBuf>,

    #[cfg(feature = "policy")]
    #[command(flatten)]
    admission: AdmissionArgs,

    /// Pass standard input on to the pod's container that asks for it (`stdin: true`), or to its first one.
    #[arg(short = 'i', long)]
    stdin: bool,

    /// That container is at a terminal: this one.
    #[arg(short, long, requires = "stdin")]
    tty: bool,

    /// Say what happens to the pod, not only what goes wrong.
    #[arg(long)]
    events: bool,
}

/// Runs the pod to its end, or until Ctrl-C.
pub(crate) fn main(args: RunArgs) -> anyhow::Result<ExitCode> {
    if args.stdin && args.files.iter().any(|file| file.as_os_str() == "-") {
        anyhow::bail!("standard input cannot be both the manifest (-) and the input of a container (-i)");
    }
    let mut manifest = manifest::read(&args.files)?;
    manifest::publish(&mut manifest.pod, &args.publish, args.publish_all)?;
    let tty = console::wants_terminal(args.tty);
    let attached = if args.stdin { Some(attached::choose(&mut manifest.pod, tty)?) } else { None };
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start")?;
    let attached = attached.map(|container| Attached { container, tty });
    tokio.block_on(run(manifest, attached, args))
}

/// The container that this terminal is connected to.
struct Attached {
    container: String,
    tty: bool,
}

async fn run(manifest: Manifest, attached: Option<Attached>, args: RunArgs) -> anyhow::Result<ExitCode> {
    let Manifest { mut pod, config_maps, secrets } = manifest;
    let objects = LocalObjects::new(config_maps, secrets);
    // Another part of the program may have chosen already; both choices are fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let root = args.root_dir.map_or_else(home::default_root, Ok)?;
    agent::check_root(&root)?;
    let signature_policy = runtime::signature_policy(args.image_signature_policy.as_deref())?;
    let state = Folder::make().context("cannot make a folder for the pod")?;
    let protected = ProtectedPaths::with([root.clone(), state.path().to_owned()]);
    let images = ImageSettings {
        registry_config_dirs: args.registry_config_dir,
        signature_policy,
        // They are the user's own, like the paths.
        dirs: vec![PathBuf::from("/")],
        ..ImageSettings::default()
    };
    let store = runtime::open_store(&root.join("modules"), images)?;
    let cancel = CancellationToken::new();
    #[cfg(feature = "policy")]
    let judges = {
        let parts = || {
            Ok(AdmissionParts {
                node: facts().hostname,
                empty: state.path().join("admission"),
                modules: NodeModules::new(store.clone(), home::credentials(), Confinement::default())?,
                // Nobody wants the pod without them, and nobody looks at its health meanwhile.
                patience: Duration::from_hours(1),
            })
        };
        args.admission.judges(parts, &cancel).await?
    };
    #[cfg(not(feature = "policy"))]
    let judges = runtime::Judges::default();
    let runtime = runtime::open(runtime::ProviderSettings {
        store,
        workers: state.path().join("workers"),
        with_parent: true,
        isolation: Isolation::Node,
        // Its logs and its volumes.
        hidden: vec![state.path().to_owned()],
        confinement: Confinement::default(),
        allow_paths: true,
        judge: judges.of_modules,
        default_memory_limit: DEFAULT_MEMORY_LIMIT,
        allocatable_memory: None,
        denied_networks: DeniedNetworks::default(),
        http_proxy: None,
        pod_network: false,
        cluster_networks: Vec::new(),
        cni: None,
        log: LogOptions::default(),
    })
    .await?;

    let (sink, events) = mpsc::channel(EVENTS);
    let printer = tokio::spawn(print_events(events, args.events));
    let (api, mut statuses) = Alone::new(objects.clone());
    let logs_dir = state.path().join("logs");
    let records = Records::open(state.path()).context("cannot make a folder for the pod")?;
    let (_node, node) = watch::channel(facts());
    let volumes = volumes::VolumeSettings {
        allowed_host_paths: AllowedHostPaths::new(args.allow_host_path, protected)
            .map_err(|message| anyhow::anyhow!(message))?,
        dns: resolv_conf::DnsSettings { alone: true, ..resolv_conf::DnsSettings::default() },
        resolv_conf: PathBuf::from("/etc/resolv.conf"),
        // What runs for a while in the foreground mounts nothing on the machine.
        memory: None,
    };
    let volumes = Volumes::alone(volumes, objects);
    let shared = Arc::new(Shared {
        runtime: Arc::clone(&runtime) as Arc<dyn kubewasm_kubelet::runtime::Runtime>,
        api: Arc::new(api),
        recorder: Recorder::local(sink),
        records,
        volumes: Arc::new(volumes),
        index: PodIndex::default(),
        admission: None,
        admitter: judges.of_pods,
        addresses: PodAddresses::shared(),
        host_ports: HostPorts::default(),
        policies: Policies::off(),
        node,
        logs_dir: logs_dir.clone(),
        log_links: LogLinks::off(),
        node_credentials: home::credentials(),
        // One user's pod, with this user's own credentials.
        image_access: None,
        limits: LifecycleLimits::default(),
        probes: ProbeMetrics::default(),
        metrics: NodeMetrics::default(),
        oom_events: Default::default(),
        pull_limit: PullLimit::default(),
        tracer: Tracer::off(),
        desk: EvictionDesk::default(),
    });

    let (updates, receiver) = mpsc::channel(4);
    let manager = tokio::spawn(PodManager::new(shared).run(receiver, cancel.clone()));
    updates.send(Update::Set(Box::new(pod.clone()))).await.context("the pod's task did not start")?;
    let shown = Arc::new(pod.clone());
    let running = RunningPod {
        pod: Arc::clone(&shown),
        runtime: Arc::clone(&runtime) as Arc<dyn kubewasm_kubelet::runtime::Runtime>,
        statuses: statuses.clone(),
    };
    let socket = RunSocket::open(state.path(), running.clone())?;
    let named = attached.as_ref().map(|attached| attached.container.clone());
    let output = terminal::copy(shown, named, logs_dir.clone(), statuses.clone());
    let sizes = console::sizes().context("cannot follow the terminal")?;
    let output = tokio::spawn(async move {
        let attach = async {
            if let Some(Attached { container, tty }) = attached {
                attached::attach(running, container, tty, sizes, logs_dir).await;
            }
        };
        tokio::join!(output, attach);
    });

    let mut interrupts = Interrupts::new().context("cannot listen for Ctrl-C")?;
    let status = loop {
        tokio::select! {
            changed = statuses.changed() => {
                let status = statuses.borrow_and_update().clone();
                if changed.is_err() || is_terminal(Some(&status)) {
                    break status;
                }
            }
            again = interrupts.next() => {
                let grace = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
                let grace = if again { 1 } else { grace };
                eprintln!("kubewasm: stopping {}{}", name(&pod), if again { " now" } else { "; Ctrl-C again to hurry" });
                pod.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
                pod.metadata.deletion_grace_period_seconds = Some(grace);
                updates.send(Update::Set(Box::new(pod.clone()))).await.context("the pod's task has ended")?;
            }
        }
    };
    // The last lines are on disk by now; what follows them ends by itself.
    if tokio::time::timeout(LAST_LINES, output).await.is_err() {
        tracing::debug!("the pod's last output was not all printed");
    }
    drop(socket);
    cancel.cancel();
    manager.await.context("the pod's task failed")?;
    runtime::shut_down(&runtime).await;
    drop(updates);
    printer.abort();
    Ok(exit_code(&status))
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// A pod without a node has this machine's loopback as its address.
fn facts() -> NodeFacts {
    let machine = rustix::system::sysinfo();
    NodeFacts {
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        cluster_domain: String::new(),
        host_ips: vec![std::net::IpAddr::from([127, 0, 0, 1])],
        cpu_millis: std::thread::available_parallelism().map_or(1, |n| n.get() as u64).saturating_mul(1000),
        memory_bytes: (machine.totalram as u64).saturating_mul(u64::from(machine.mem_unit)),
        storage_bytes: 0,
    }
}

/// 0 for a pod that succeeded; otherwise the exit code of the first container that failed, or 1 when none
/// got that far.
fn exit_code(status: &PodStatus) -> ExitCode {
    if status.phase.as_deref() == Some("Succeeded") {
        return ExitCode::SUCCESS;
    }
    if let Some(message) = &status.message {
        eprintln!("kubewasm: {message}");
    }
    let code = |c: &ContainerStatus| c.state.as_ref()?.terminated.as_ref().map(|t| t.exit_code);
    let all =
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let failed = all.filter_map(code).find(|code| *code != 0);
    failed.and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Prints warnings, and everything else too when asked.
async fn print_events(mut events: mpsc::Receiver<Occurrence>, all: bool) {
    while let Some(event) = events.recv().await {
        if all || event.level == Level::Warning {
            let container = event.about.field_path.as_deref().and_then(|path| {
                let (_, rest) = path.split_once('{')?;
                rest.strip_suffix('}')
            });
            let about = container.or(event.about.name.as_deref()).unwrap_or_default();
            eprintln!("kubewasm: {about}: {}: {}", event.reason, event.message);
        }
    }
}

/// Ctrl-C and SIGTERM.
struct Interrupts {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    count: u32,
}

impl Interrupts {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            count: 0,
        })
    }

    /// Waits for the next one; true when it is not the first.
    async fn next(&mut self) -> bool {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        self.count += 1;
        self.count > 1
    }
}
