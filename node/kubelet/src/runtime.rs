//! What the kubelet needs of a provider: images, and containers that run them.
//!
//! The kubelet decides *what* should run and *when*; a [`Runtime`] makes it so and says what it sees.
//! The interface is level-triggered: [`Runtime::observe`] answers from the provider's present view, and
//! the channel of [`Runtime::wakeups`] only says that looking again is worthwhile. A container id is made
//! by the kubelet and recorded on disk before [`Runtime::start`] is called with it, so that after a
//! restart of the agent every container that may be running can be asked about by name.

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// Runs containers and keeps images. One per node; shared by all pod tasks.
#[async_trait]
pub trait Runtime: std::fmt::Debug + Send + Sync + 'static {
    /// `<type>://<version>`, as it is shown in `status.nodeInfo.containerRuntimeVersion`; the type is
    /// also the scheme of every `containerID`.
    fn version(&self) -> String;

    /// Handlers of RuntimeClasses that this provider knows, the empty one (of pods without a class) among
    /// them. A pod with another handler does not start.
    fn handlers(&self) -> Vec<String> {
        vec![String::new()]
    }

    /// The image as it is in the local store, without asking a registry.
    ///
    /// # Errors
    /// [`ImageError::InvalidName`] when `image` is no image reference, [`ImageError::Store`] when the
    /// store cannot be read.
    async fn image(&self, image: &str) -> Result<Option<Image>, ImageError>;

    /// Fetches the image from its registry, trying `credentials` in order and then nobody's.
    ///
    /// Concurrent calls for one reference share one download.
    ///
    /// # Errors
    /// See [`ImageError`]; all but [`ImageError::InvalidName`] may pass with time.
    async fn pull(&self, image: &str, credentials: &[Credential]) -> Result<Image, ImageError>;

    /// All images in the local store, for `status.images`.
    async fn images(&self) -> Vec<Image>;

    /// The folder with the files of an image that is in the local store, for a volume made of it; nobody may
    /// write there. `None` when the image is not there, or holds no files.
    ///
    /// # Errors
    /// As for [`Runtime::image`].
    async fn image_files(&self, _image: &str) -> Result<Option<PathBuf>, ImageError> {
        Ok(None)
    }

    /// Resolves, checks and precompiles the module of a container, and starts it.
    ///
    /// When this returns, the guest's first instruction is about to run, or has run; how it goes on is
    /// seen by [`Runtime::observe`]. Dropping the future before it is done leaves the container either
    /// not started or started; `observe` tells which.
    ///
    /// The log file of the container is there from the moment on from which its guest may have run, and a start
    /// that fails before that leaves none: it tells of containers whose process is gone.
    ///
    /// # Errors
    /// See [`StartError`]. After an error nothing of this id runs.
    async fn start(&self, spec: &ContainerSpec) -> Result<(), StartError>;

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

    /// Runs another instance of a container's module, with its environment, mounts and network, to its
    /// end, and returns what it printed. Dropping the future ends the instance.
    ///
    /// # Errors
    /// [`StartError`] when the instance could not be started at all.
    async fn exec(&self, spec: &ExecSpec) -> Result<ExecOutput, StartError>;

    /// What the provider knows of a container now. `None`: it does not know the id, and nothing of that
    /// id runs.
    fn observe(&self, id: &str) -> Option<ContainerState>;

    /// Ids of all containers the provider knows, running or exited and not yet removed.
    fn containers(&self) -> Vec<ContainerRef>;

    /// What the containers that run use. Those of a provider that does not measure, or that cannot be asked
    /// just now, are missing.
    async fn stats(&self) -> Vec<ContainerStats> {
        Vec::new()
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

/// An image in the local store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `repository@sha256:…`: what `imageID` says.
    pub id: String,
    /// The reference as the store resolved it, with registry and tag (`docker.io/library/x:latest`).
    pub reference: String,
    /// Bytes that the image takes in the store.
    pub size_bytes: u64,
    /// All names under which the store knows the image, digests first, for `status.images`.
    pub names: Vec<String>,
    /// The image's ENTRYPOINT; for an artifact that is a module alone, one name for the module.
    pub entrypoint: Vec<String>,
    /// The image's CMD.
    pub cmd: Vec<String>,
    /// The image's environment, in order.
    pub env: Vec<(String, String)>,
    /// The image's WORKDIR.
    pub working_dir: Option<String>,
}

/// User and password for a registry. Its `Debug` shows neither password nor token.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// User name; empty when `password` is an identity token.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Everything a provider needs to run one attempt of one container. Plain values only: it crosses
/// process borders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Initial working directory of the guest.
    pub working_dir: Option<String>,
    /// Directory on the host for whatever the guest writes outside its mounts. It belongs to this attempt
    /// alone: the kubelet makes its parent, and removes it once the container has been removed.
    pub scratch: PathBuf,
    /// The guest may write to its mounts only.
    pub read_only_root: bool,
    /// Host paths that the guest sees, in mount order.
    pub mounts: Vec<Mount>,
    /// File that the guest's output is written to in CRI format; its directory exists.
    pub log_path: PathBuf,
    /// Address that the guest may use as its own.
    pub pod_ips: Vec<std::net::IpAddr>,
    /// True when the pod shares the host's network.
    pub host_network: bool,
    /// stdin is kept open for an attach.
    pub stdin: bool,
    /// The guest's stdio is a terminal.
    pub tty: bool,
    /// Bytes; 0 is the node's default.
    pub memory_limit_bytes: u64,
    /// Thousandths of a core; 0 is no limit.
    pub cpu_limit_millis: u64,
    /// Thousandths of a core asked for, the weight among guests that share a worker.
    pub cpu_request_millis: u64,
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

/// One more instance of a running container's module.
#[derive(Clone, Debug)]
pub struct ExecSpec {
    /// The container as it was started.
    pub container: ContainerSpec,
    /// argv of this instance.
    pub argv: Vec<String>,
    /// The instance is killed when this is over.
    pub timeout: Duration,
    /// Bytes of output kept; what comes after is dropped.
    pub output_limit: usize,
}

/// How an exec ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit code of the instance; meaningless when `timed_out`.
    pub exit_code: i32,
    /// stdout and stderr as they came.
    pub output: Vec<u8>,
    /// It was killed because its time was over.
    pub timed_out: bool,
}

/// What a provider knows of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
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

/// What a container uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStats {
    /// Container id.
    pub id: String,
    /// UID of the pod it belongs to.
    pub pod_uid: String,
    /// When this was so.
    pub at: Timestamp,
    /// Processor time since the container started; never falls.
    pub cpu: Duration,
    /// Time for which its limit held it back since it started; never falls.
    pub throttled: Duration,
    /// Bytes that it has now, on the account that its memory limit is for.
    pub memory_bytes: u64,
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

/// Why an image is not there. Each variant is one waiting reason of the contract.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    /// Not an image reference: waiting reason `InvalidImageName`. Does not pass with time.
    #[error("{0}")]
    InvalidName(String),
    /// The registry answered and said no, or what it sent was wrong: `ErrImagePull`.
    #[error("{0}")]
    Pull(String),
    /// The registry did not answer: `RegistryUnavailable`.
    #[error("{0}")]
    RegistryUnavailable(String),
    /// The local store failed: `ImageInspectError`.
    #[error("{0}")]
    Store(String),
}

/// Why a container did not start.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StartError {
    /// The container's configuration asks for something that cannot be: `CreateContainerConfigError`.
    #[error("{0}")]
    Config(String),
    /// The module cannot be run: not Wasm, no entry point, unknown imports: `CreateContainerError`.
    #[error("{0}")]
    Create(String),
    /// The provider failed while starting it: `RunContainerError`.
    #[error("{0}")]
    Run(String),
}

/// The provider could not carry out a request.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct RuntimeError(pub String);
