//! What the kubelet needs of a provider: images, and containers that run them.
//!
//! The kubelet decides *what* should run and *when*; a [`Runtime`] makes it so and says what it sees.
//! The interface is level-triggered: [`Runtime::observe`] answers from the provider's present view, and
//! the channel of [`Runtime::wakeups`] only says that looking again is worthwhile. A container id is made
//! by the kubelet and recorded on disk before [`Runtime::start`] is called with it, so that after a
//! restart of the agent every container that may be running can be asked about by name.
//!
//! A provider may be unable to tell whether something runs: the process that hosts it is there and does not
//! answer. That is an answer of its own ([`Presence::CannotTell`]), on which nothing is started, removed or
//! written off.

mod image;
mod network;
mod objects;
mod resize;
mod sandbox;
mod service_table;
mod stats;
mod streams;

use std::{
    collections::BTreeMap,
    error::Error,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use ipnet::IpNet;
use jiff::Timestamp;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use image::{Credential, Image, ImageError, ImageUse, PulledImage};
pub use network::{ExposedPort, HostPort, HostPortProtocol, NetworkRefusals, NetworkRules};
pub use objects::{ObjectContents, ObjectNames, ObjectUpdate, SecretContent, UpdateError};
pub use resize::{ContainerLimits, ResizeError};
pub use sandbox::{PodSandbox, SandboxAddresses, SandboxError, SandboxPort};
pub use service_table::{ServiceRoute, ServiceRoutes, ServiceTable};
pub use stats::{
    ContainerFileIo, ContainerStats, ContainerTraffic, FailedRequests, HttpContainerStats, SystemOom,
};
pub use streams::{CallerStreams, Duplex, InputStream, OutputStream, PortForwardError, TerminalSize};

/// Runs containers and keeps images. One per node; shared by all pod tasks.
#[async_trait]
pub trait Runtime: fmt::Debug + Send + Sync + 'static {
    /// `<type>://<version>`, as it is shown in `status.nodeInfo.containerRuntimeVersion`; the type is
    /// also the scheme of every `containerID`.
    fn version(&self) -> String;

    /// Handlers of RuntimeClasses that this provider knows, the empty one (of pods without a class) among
    /// them. A pod with another handler does not start.
    fn handlers(&self) -> Vec<String> {
        vec![String::new()]
    }

    /// What keeps containers from being run at present, whichever they are; for people. May never return, where what it looks
    /// at is stuck.
    async fn problem(&self) -> Option<String> {
        None
    }

    /// The image as it is in the local store, without asking a registry.
    ///
    /// # Errors
    /// [`ImageError::InvalidName`] when `image` is no image reference, [`ImageError::SignatureInvalid`] when it is
    /// there and may not be used, [`ImageError::Store`] when the store cannot be read.
    async fn image(&self, image: &str) -> Result<Option<Image>, ImageError>;

    /// Fetches the image from its registry, trying `credentials` in order and then nobody's.
    ///
    /// Concurrent calls for one reference share one download.
    ///
    /// # Errors
    /// See [`ImageError`]; all but [`ImageError::InvalidName`] may pass with time.
    async fn pull(&self, image: &str, credentials: &[Credential]) -> Result<PulledImage, ImageError>;

    /// All images in the local store, for `status.images`.
    async fn images(&self) -> Vec<Image>;

    /// All images in the local store, with what is known of their use.
    ///
    /// # Errors
    /// [`ImageError::Store`] when the store cannot be read.
    async fn image_uses(&self) -> Result<Vec<ImageUse>, ImageError> {
        Ok(Vec::new())
    }

    /// Removes an image by its id under all its names, unless a container uses it, or it was pulled or looked up after
    /// `unused_since`; says whether it is gone.
    ///
    /// # Errors
    /// [`ImageError::Store`] when the store cannot be changed.
    async fn remove_image(&self, _id: &str, _unused_since: Timestamp) -> Result<bool, ImageError> {
        Ok(false)
    }

    /// The directory of the local store, for the size of its file system; `None` where it has none of its own.
    fn image_dir(&self) -> Option<PathBuf> {
        None
    }

    /// The folder with the files of an image that is in the local store, for a volume made of it; nobody may
    /// write there. `None` when the image is not there, or holds no files.
    ///
    /// # Errors
    /// As for [`Runtime::image`].
    async fn image_files(&self, _image: &str) -> Result<Option<PathBuf>, ImageError> {
        Ok(None)
    }

    /// Resolves, checks and precompiles the module of a container, and starts it. Returns when it was started,
    /// by the clock of the process that hosts it: `observe` tells the same time.
    ///
    /// When this returns, the guest's first instruction is about to run, or has run; how it goes on is
    /// seen by [`Runtime::observe`]. Takes as long as it takes. Dropping the future before it is done leaves the
    /// container not started, starting or started; `observe` tells which.
    ///
    /// The log file of the container is there from the moment on from which its guest may have run, and a start
    /// that fails before that leaves none: it tells of containers whose process is gone.
    ///
    /// # Errors
    /// See [`StartError`]. After an error nothing of this id runs, and nothing will come of the start any more.
    async fn start(&self, spec: &ContainerSpec) -> Result<Timestamp, StartError>;

    /// The objects of its namespace that a container needs by what its pod's annotations say to this provider; it does not
    /// start without them, and finds them in [`ContainerSpec::objects`].
    fn objects(&self, _container: &str, _annotations: &BTreeMap<String, String>) -> ObjectNames {
        ObjectNames::default()
    }

    /// Those of them that this provider wants to know of while the container runs.
    fn followed_objects(&self, _container: &str, _annotations: &BTreeMap<String, String>) -> ObjectNames {
        ObjectNames::default()
    }

    /// Says what is in the objects of a container that runs. Level-triggered: it may be what the container has already,
    /// after a restart of the agent say, and containers that have ended are fine.
    ///
    /// # Errors
    /// [`UpdateError`]; the container has what it had before.
    async fn update_objects(&self, _update: &ObjectUpdate) -> Result<(), UpdateError> {
        Ok(())
    }

    /// Gives the container `name` of this id other limits while it runs. Level-triggered: it may have them already, and one
    /// that has ended is fine.
    ///
    /// # Errors
    /// [`ResizeError`]; it goes on with the limits that it had.
    async fn resize(&self, _id: &str, _name: &str, _limits: ContainerLimits) -> Result<(), ResizeError> {
        Err(ResizeError::Unsupported(
            "this provider does not change limits of containers that run".to_owned(),
        ))
    }

    /// Calls off a start whose future somebody still awaits, if it has not come so far that its guest may run: it
    /// fails soon, with [`StartError::Run`]. Otherwise nothing happens. A start that looks for its module, or waits for
    /// the compiler, may take minutes, and its pod may be gone by then.
    fn call_off(&self, _id: &str) {}

    /// Asks a container to end, and ends it when `grace` is over. Returns when the request is delivered,
    /// not when the container has stopped. A second call may shorten the grace, never lengthen it.
    /// Unknown and exited containers are fine. A start that is still prepared is called off: it fails.
    ///
    /// # Errors
    /// [`RuntimeError`] when the provider could not be reached; try again.
    async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError>;

    /// Forgets an exited container. Unknown ids are fine; a running one is killed first.
    ///
    /// # Errors
    /// [`RuntimeError`] when the provider could not be reached; try again.
    async fn remove(&self, id: &str) -> Result<(), RuntimeError>;

    /// Runs another instance of the module of a running container to its end, with the container's environment,
    /// files, network and limits as it was started with them. Dropping the future ends the instance; that is how
    /// a caller bounds its time.
    ///
    /// # Errors
    /// [`ExecError`] when the instance could not be started at all.
    async fn exec(&self, id: &str, argv: &[String], io: ExecIo) -> Result<ExecEnd, ExecError>;

    /// The same, connected to a caller: the instance runs while the caller sends and is sent. Returns its exit code once it
    /// has ended and everything that it wrote has been taken by the caller; what it died of, where it did, is the last of
    /// stderr, or of the output of a terminal. Dropping the future ends the instance.
    ///
    /// # Errors
    /// [`ExecError`] when the instance could not be started at all; the streams have not been used then.
    async fn exec_stream(
        &self,
        _id: &str,
        _argv: &[String],
        _streams: CallerStreams,
    ) -> Result<i32, ExecError> {
        Err(ExecError::Failed("this provider connects nobody to its containers".into()))
    }

    /// Connects a caller to the standard streams of a running container, beside its log and beside other callers: what it
    /// writes from now on goes to all of them, and one that does not read does not hold it up for good. What they send is its
    /// input, in the order in which it comes, where [`ContainerSpec::stdin`] is set. Returns when the container has ended and
    /// the caller has taken what it wrote, or, where the caller wants no output, when its input has ended. Dropping the future
    /// takes the caller away. With [`ContainerSpec::stdin_once`], the container's input ends with that of the first caller who
    /// was connected to it, and when that caller goes.
    ///
    /// # Errors
    /// [`ExecError`] when there was nothing to connect to; the streams have not been used then.
    async fn attach(&self, _id: &str, _streams: CallerStreams) -> Result<(), ExecError> {
        Err(ExecError::Failed("this provider connects nobody to its containers".into()))
    }

    /// Connects to a TCP port of a pod that runs here, as a neighbour in the pod would: by its loopback, and else by its
    /// address. Both directions end by themselves. Dropping the connection ends it.
    ///
    /// # Errors
    /// [`PortForwardError`].
    async fn port_forward(&self, _pod_uid: &str, _port: u16) -> Result<Box<dyn Duplex>, PortForwardError> {
        Err(PortForwardError::Failed("this provider forwards no ports".into()))
    }

    /// What the provider can say of a container now.
    fn observe(&self, id: &str) -> Presence;

    /// All containers the provider knows, starting, running or exited and not yet removed.
    fn containers(&self) -> ContainerList;

    /// Those of one pod.
    fn containers_of(&self, pod_uid: &str) -> ContainerList {
        let mut list = self.containers();
        list.containers.retain(|container| container.pod_uid == pod_uid);
        list
    }

    /// What the containers that run use. Those of a provider that does not measure, or that cannot be asked
    /// just now, are missing.
    async fn stats(&self) -> Vec<ContainerStats> {
        Vec::new()
    }

    /// Shows what the provider counts of itself among the node's metrics.
    fn register_metrics(&self, _registry: &mut Registry) {}

    /// Pods can have addresses of their own.
    fn has_pod_network(&self) -> bool {
        false
    }

    /// Says from which ranges pods have addresses of their own, and which of these are in use. What else leads to a pod
    /// is an earlier agent's, and is taken back. Comes before any container with [`ContainerSpec::network_slot`].
    ///
    /// # Errors
    /// [`RuntimeError`]; try again.
    async fn set_pod_ranges(&self, _ranges: &[IpNet], _in_use: &[IpAddr]) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Says which ports of the node lead to pods with addresses of their own; no others do. What is connected stays. Comes
    /// after [`Runtime::set_pod_ranges`].
    ///
    /// # Errors
    /// [`RuntimeError`]; try again. Some may lead where they were asked to, and others where they did.
    async fn set_host_ports(&self, _ports: &[HostPort]) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Takes a pod's own addresses back, of which nothing runs any more. When this succeeds, nothing reaches anybody by
    /// them until they are in a [`ContainerSpec`] again.
    ///
    /// # Errors
    /// [`RuntimeError`]; try again.
    async fn release_network(&self, _slot: u32, _addresses: &[IpAddr]) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// Whether a container of a pod that shares the node's network takes the connections to this address of TCP: what answers
    /// there may be anybody's. A provider that cannot tell says that one does.
    ///
    /// # Errors
    /// [`RuntimeError`]; try again.
    async fn listens(&self, _pod_uid: &str, _address: SocketAddr) -> Result<bool, RuntimeError> {
        Ok(true)
    }

    /// Says which Services there are, for pods with addresses of their own: what these send to an address of one goes to an
    /// endpoint. Before the first word, they reach whatever they reached before. Level-triggered: the newest table counts,
    /// and reaches what runs in its own time; what is started from now on has it, or a newer one, from the beginning.
    fn set_services(&self, _services: &Arc<ServiceTable>) {}

    /// Each pod has a network of its own that is made before anything of the pod begins, by [`Runtime::set_up_sandbox`];
    /// [`Runtime::has_pod_network`] is false then.
    fn has_sandboxes(&self) -> bool {
        false
    }

    /// What keeps pods from getting networks of their own at present, as a container runtime says it. Asks whoever
    /// makes them, which may take a while.
    async fn sandbox_problem(&self) -> Option<String> {
        None
    }

    /// Makes the network of a pod, or finds the one that it has. A container of the pod comes after it. Dropping the
    /// future does not end what was begun.
    ///
    /// # Errors
    /// [`SandboxError`]; try again.
    async fn set_up_sandbox(&self, _sandbox: &PodSandbox) -> Result<SandboxAddresses, SandboxError> {
        Err(SandboxError::Failed("this provider makes no networks for pods".into()))
    }

    /// Takes away the network of a pod of which nothing runs any more, if there is anything of one.
    ///
    /// # Errors
    /// [`RuntimeError`]; try again.
    async fn tear_down_sandbox(&self, _pod_uid: &str) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// UIDs of the pods that have a network of their own, or of which there may be something of one.
    fn sandboxes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Says what is allowed of the traffic of these pods with addresses of their own; for others, what was said before
    /// holds on. When this succeeds, containers that are started later begin with it, and those that run go by it soon.
    /// Connections that exist stay. A pod reaches itself, and its node it and it its node, whatever the rules say.
    ///
    /// # Errors
    /// [`RuntimeError`]; try again.
    async fn set_network_rules(&self, _rules: &NetworkRules) -> Result<(), RuntimeError> {
        Ok(())
    }

    /// What was refused of the traffic of pods, since the processes that host them were started. Those that cannot be
    /// asked just now are missing.
    async fn network_refusals(&self) -> Vec<NetworkRefusals> {
        Vec::new()
    }

    /// What containers that serve HTTP have answered. Those that cannot be asked just now are missing.
    async fn http_stats(&self) -> Vec<HttpContainerStats> {
        Vec::new()
    }

    /// Waits until requests of containers that serve HTTP have failed, and takes what is to be told of that.
    async fn failed_requests(&self) -> Vec<FailedRequests> {
        std::future::pending().await
    }

    /// Waits until the kernel has ended a process of this provider's for want of memory of the machine.
    async fn system_oom(&self) -> SystemOom {
        std::future::pending().await
    }

    /// Takes the channel on which the UID of a pod arrives whenever the state of one of its containers
    /// has changed. The second call returns `None`.
    fn wakeups(&self) -> Option<mpsc::Receiver<String>>;
}

/// A container that a [`Runtime`] knows of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRef {
    /// Container id, 64 hexadecimal digits.
    pub id: String,
    /// UID of the pod it belongs to.
    pub pod_uid: String,
}

/// All containers that a [`Runtime`] knows of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerList {
    /// Those that are known.
    pub containers: Vec<ContainerRef>,
    /// There are no others. Otherwise some process cannot be asked what it hosts, and what is not listed may run
    /// all the same.
    pub is_complete: bool,
}

/// What a [`Runtime`] can say of a container id now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The container is known: on its way up, running, or ended and not yet removed.
    Known(ContainerState),
    /// Nothing of this id runs, and nothing will come of a start that was asked for before.
    Absent,
    /// The process that may host it is there and does not answer. Ask again; nothing may be done as if it ran, or
    /// as if it did not.
    CannotTell,
}

/// Everything a provider needs to run one attempt of one container. Plain values only: it crosses
/// process borders.
///
/// Its `Debug` shows the names of environment variables, never their values, and no arguments but the first: the
/// others may have been made of such values.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// 64 hexadecimal digits, unique for this attempt.
    pub id: String,
    /// Pod UID.
    pub pod_uid: String,
    /// Pod namespace, for grouping and for messages.
    pub pod_namespace: String,
    /// Pod name, for messages.
    pub pod_name: String,
    /// Container name within the pod.
    pub name: String,
    /// `pod.spec.runtimeClassName`'s handler, empty for the default.
    pub runtime_handler: String,
    /// Bytes that all containers of the pod may have together; 0 where one of them has no limit.
    pub pod_memory_limit_bytes: u64,
    /// The image as named in the pod (or as resolved), present in the local store.
    pub image: String,
    /// argv, already expanded; never empty.
    pub argv: Vec<String>,
    /// The whole environment, in order, without duplicates.
    pub env: Vec<(String, String)>,
    /// Labels of the pod, for who judges what it runs.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The pod's service account, for the same; empty where it has none.
    #[serde(default)]
    pub service_account: String,
    /// Annotations of the pod, for what a provider understands beyond Kubernetes' fields.
    pub annotations: BTreeMap<String, String>,
    /// Names of all containers of the pod, for what annotations say of them.
    pub pod_containers: Vec<String>,
    /// What is in the objects that [`Runtime::objects`] has named. Secrets are among them, which are written down nowhere.
    #[serde(skip)]
    pub objects: ObjectContents,
    /// Initial working directory of the guest.
    pub working_dir: Option<String>,
    /// Directory on the host for whatever the guest writes outside its mounts. It belongs to this attempt
    /// alone: the kubelet makes its parent, and removes it once the container has been removed.
    pub scratch: PathBuf,
    /// The guest may write to its mounts only.
    pub read_only_root: bool,
    /// Host paths that the guest sees, in mount order.
    pub mounts: Vec<Mount>,
    /// Where in the guest volumes are that are kept in memory, and that it may fill: what is in them counts with the
    /// memory of the pod's containers.
    pub memory_volumes: Vec<String>,
    /// File that the guest's output is written to in CRI format; its directory exists.
    pub log_path: PathBuf,
    /// Address that the guest may use as its own.
    pub pod_ips: Vec<IpAddr>,
    /// The number of the pod's addresses in the node's ranges, where they are its own; no other pod of the node has it.
    /// `None`: they are the node's.
    pub network_slot: Option<u32>,
    /// True when the pod shares the host's network.
    pub host_network: bool,
    /// The `containerPort`s of TCP, each once, in order: a module of WASI 0.1 listens there from its start.
    pub tcp_ports: Vec<TcpPort>,
    /// The ports of the node that are the pod's. It listens there where it has no addresses of its own; otherwise they lead
    /// to these.
    pub exposed_ports: Vec<ExposedPort>,
    /// What look-ups of names go by. `None`: by what this machine resolves names with.
    pub name_files: Option<NameFiles>,
    /// stdin is kept open for an attach.
    pub stdin: bool,
    /// stdin ends with the first attach that was connected to it.
    #[serde(default)]
    pub stdin_once: bool,
    /// The guest's stdio is a terminal.
    pub tty: bool,
    /// Bytes; 0 is the node's default.
    pub memory_limit_bytes: u64,
    /// Thousandths of a core; 0 is no limit.
    pub cpu_limit_millis: u64,
    /// Thousandths of a core asked for, the weight among guests that share a worker.
    pub cpu_request_millis: u64,
}

impl fmt::Debug for ContainerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("ContainerSpec")
            .field("id", &self.id)
            .field("pod_uid", &self.pod_uid)
            .field("pod_namespace", &self.pod_namespace)
            .field("pod_name", &self.pod_name)
            .field("name", &self.name)
            .field("runtime_handler", &self.runtime_handler)
            .field("image", &self.image)
            .field("argv0", &self.argv.first())
            .field("env", &names)
            .field("mounts", &self.mounts)
            .field("log_path", &self.log_path)
            .finish_non_exhaustive()
    }
}

/// A `containerPort` of TCP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpPort {
    /// The number.
    pub port: u16,
    /// Its name; empty where it has none.
    pub name: String,
}

/// What the files of a pod say about names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameFiles {
    /// The text of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// The text of `/etc/hosts`, entries of `hostAliases` included.
    pub hosts: String,
}

/// A host file or directory that a guest sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path on the host, which exists: of a directory, or of a single file.
    pub host_path: PathBuf,
    /// Absolute path in the guest.
    pub guest_path: String,
    /// The guest may not change anything below.
    pub read_only: bool,
}

/// The standard streams of an instance that [`Runtime::exec`] runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecIo {
    /// No input. What it prints is in [`ExecEnd::output`].
    Collect {
        /// Bytes that are kept; what comes after is dropped.
        limit: usize,
    },
}

/// How an exec ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecEnd {
    /// Exit code of the instance.
    pub exit_code: i32,
    /// stdout and stderr as they came.
    pub output: Vec<u8>,
}

/// What a provider knows of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// It is being started; nothing of it has run.
    Starting,
    /// The guest runs.
    Running {
        /// When it was started.
        started_at: Timestamp,
    },
    /// The guest has ended.
    Exited(Exit),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// When it was started.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Exit code: the guest's own; 134 for a trap, 137 when it was killed, 143 when it was stopped.
    pub exit_code: i32,
    /// Why.
    pub reason: ExitReason,
    /// More about it, for people: a trap's text and backtrace. Empty when there is nothing to say.
    pub message: String,
}

/// Why a container ended; becomes `state.terminated.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// The guest returned or called exit.
    Exited,
    /// The guest trapped.
    Trapped,
    /// It was stopped on request.
    Stopped,
    /// It met its memory limit and died of it.
    OutOfMemory,
    /// It could not be instantiated.
    StartFailed,
    /// The process that hosted it is gone.
    Lost,
}

/// What made a [`Runtime`] fail: an error of the provider's own, with its sources.
pub type RuntimeCause = Box<dyn Error + Send + Sync>;

/// Why a container did not start. Each variant is one waiting reason of the contract.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The container's configuration asks for something that cannot be: `CreateContainerConfigError`.
    #[error(transparent)]
    Config(RuntimeCause),
    /// The module cannot be run: not Wasm, no entry point, unknown imports: `CreateContainerError`.
    #[error(transparent)]
    Create(RuntimeCause),
    /// Whoever has a say in what runs on this node refuses it for good: `PolicyViolation`, and the pod fails.
    #[error(transparent)]
    Refused(RuntimeCause),
    /// The provider failed while starting it: `RunContainerError`.
    #[error(transparent)]
    Run(RuntimeCause),
}

/// Why nothing was executed in a container.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The container does not run, or not any more.
    #[error("container {0} does not run")]
    NotRunning(String),
    /// The instance could not be started, or the process that hosts the container could not be asked.
    #[error(transparent)]
    Failed(RuntimeCause),
}

/// The provider could not carry out a request: the process that hosts the container could not be asked. Whether it
/// has taken effect is not known; ask again.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct RuntimeError(pub RuntimeCause);

#[cfg(test)]
mod tests {
    use super::*;

    /// What a container is started with is as often as not a secret.
    #[test]
    fn debug_texts_hold_no_values_of_the_environment() {
        let spec = serde_json::json!({
            "id": "1d", "pod_uid": "u", "pod_namespace": "ns", "pod_name": "p", "name": "c", "runtime_handler": "",
            "image": "i", "argv": ["serve", "--password=hunter2"], "annotations": {}, "pod_containers": [], "env": [["PASSWORD", "hunter2"]],
            "working_dir": null, "scratch": "/s", "read_only_root": false, "mounts": [], "memory_volumes": [],
            "log_path": "/l", "pod_ips": [], "network_slot": null,
            "host_network": false, "tcp_ports": [], "exposed_ports": [], "name_files": null, "stdin": false, "tty": false, "memory_limit_bytes": 0, "pod_memory_limit_bytes": 0,
            "cpu_limit_millis": 0, "cpu_request_millis": 0,
        });
        let spec: ContainerSpec = serde_json::from_value(spec).unwrap();
        let text = format!("{spec:?}");
        assert!(text.contains("PASSWORD") && text.contains("serve") && !text.contains("hunter2"), "{text}");
        let data = BTreeMap::from([("tls.key".to_owned(), b"hunter2".to_vec())]);
        let secret = SecretContent { kind: "kubernetes.io/tls".to_owned(), data };
        let text = format!("{secret:?}");
        assert!(text.contains("tls.key") && !text.contains(&format!("{:?}", b"hunter2")), "{text}");
        let objects =
            ObjectContents { secrets: BTreeMap::from([("s".to_owned(), secret)]), ..Default::default() };
        let spec = ContainerSpec { objects, ..spec };
        let hunter = serde_json::to_string(b"hunter2").unwrap();
        assert!(!serde_json::to_string(&spec).unwrap().contains(&hunter), "it may be written down");
        let credential = Credential { username: "me".to_owned(), password: "hunter2".to_owned() };
        assert!(!format!("{credential:?}").contains("hunter2"));
    }

    /// A cause is what its error says, and what is below it can be asked for.
    #[test]
    fn causes_keep_their_sources() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open the log")]
        struct Outer(#[source] std::io::Error);
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let text = full.to_string();
        let error = StartError::Run(Box::new(Outer(full)));
        assert_eq!(error.to_string(), "cannot open the log");
        assert_eq!(error.source().map(ToString::to_string), Some(text));
    }
}
