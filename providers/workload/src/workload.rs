//! Plain types: what a workload is made of, and what is said of one.
//!
//! Names and shapes are those of wash-runtime's `types`, so that code moves over: numbers of 0 or less mean that nothing was said.

use std::collections::HashMap;

use bytes::Bytes;

use crate::wit::WitInterface;

/// Components that are linked to each other, and maybe a service, with what they get of their host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Workload {
    /// Where its name is unique.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whatever its owner wants to be known of it.
    pub annotations: HashMap<String, String>,
    /// Runs for as long as the workload.
    pub service: Option<Service>,
    /// Are called: by each other, by the service, by host interfaces.
    pub components: Vec<Component>,
    /// What it wants of its host, and with which settings. An interface that needs none need not be named.
    pub host_interfaces: Vec<WitInterface>,
    /// What its components can mount.
    pub volumes: Vec<Volume>,
}

/// A component that runs for as long as its workload: it exports `wasi:cli/run`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    /// The component, as bytes of WebAssembly.
    pub bytes: Bytes,
    /// Names the bytes, for whoever has compiled them before; `sha256:…`.
    pub digest: Option<String>,
    /// What it gets.
    pub local_resources: LocalResources,
    /// How often it is started again after it has failed.
    pub max_restarts: u64,
}

/// A component that is called. It keeps nothing from one call to the next that it can rely on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Component {
    /// Its name in its workload; one without has its place in the list: `component-0`.
    pub name: String,
    /// The component, as bytes of WebAssembly.
    pub bytes: Bytes,
    /// Names the bytes, for whoever has compiled them before; `sha256:…`.
    pub digest: Option<String>,
    /// What it gets.
    pub local_resources: LocalResources,
    /// Instances that are kept when they have nothing to do. 0: each call has a fresh one.
    pub pool_size: i32,
    /// Calls that an instance of the pool answers before it is replaced. 0: as many as come.
    pub max_invocations: i32,
    /// Calls at a time; one more waits. 0: 64.
    pub max_concurrency: i32,
}

/// What a component or a service gets.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalResources {
    /// MiB of everything that its instances have together; 0 or less: the host's default.
    pub memory_limit_mb: i32,
    /// Thousandths of a core that it gets at most; 0 or less: no limit of its own.
    pub cpu_limit: i32,
    /// Settings that `wasi:config` tells, over those of the interface.
    pub config: HashMap<String, String>,
    /// Arguments behind its name; wash-runtime has none.
    pub arguments: Vec<String>,
    /// Environment variables.
    pub environment: HashMap<String, String>,
    /// Volumes of the workload that it has.
    pub volume_mounts: Vec<VolumeMount>,
    /// Whom it may connect to: `*`, `host[:port]`, `*.suffix[:port]`, `scheme://host[:port][/]`. Without any, nobody.
    pub allowed_hosts: Vec<String>,
    /// Names that it may look up besides those of `allowed_hosts`: `name`, `*.suffix` or `*`.
    pub allowed_ip_name_lookups: Vec<String>,
    /// Ports of this machine's loopback that it may connect to.
    pub allowed_loopback_ports: Vec<u16>,
}

impl Default for LocalResources {
    fn default() -> Self {
        Self {
            memory_limit_mb: -1,
            cpu_limit: -1,
            config: HashMap::new(),
            arguments: Vec::new(),
            environment: HashMap::new(),
            volume_mounts: Vec::new(),
            allowed_hosts: Vec::new(),
            allowed_ip_name_lookups: Vec::new(),
            allowed_loopback_ports: Vec::new(),
        }
    }
}

/// A directory that components can mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name in its workload.
    pub name: String,
    /// Where it is.
    pub volume_type: VolumeType,
}

/// Where a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeType {
    /// A directory of this machine.
    HostPath(HostPathVolume),
    /// A directory that is made with the workload, and removed with it.
    EmptyDir(EmptyDirVolume),
}

/// A directory of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPathVolume {
    /// Its path, which must be absolute.
    pub local_path: String,
}

/// A directory that is made with the workload, and removed with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EmptyDirVolume {}

/// A volume in a component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeMount {
    /// Name of the volume.
    pub name: String,
    /// Where the component sees it.
    pub mount_path: String,
    /// Nothing can be written to it.
    pub read_only: bool,
}

/// How far a workload is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkloadState {
    /// Nothing is known of it.
    #[default]
    Unspecified,
    /// It is compiled and linked.
    Starting,
    /// It can be called.
    Running,
    /// Its service has ended, and wanted to.
    Completed,
    /// What is under way in it ends.
    Stopping,
    /// It could not start, or its service has failed too often.
    Error,
    /// There is no such workload.
    NotFound,
}

/// What is said of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadStatus {
    /// Which it is.
    pub workload_id: String,
    /// How far it is.
    pub workload_state: WorkloadState,
    /// Why, for people.
    pub message: String,
}

/// Asks for a workload.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkloadStartRequest {
    /// Which it will be. One that is empty is given a name by the host.
    pub workload_id: String,
    /// What it is.
    pub workload: Workload,
}

/// A workload has been started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadStartResponse {
    /// What is known of it.
    pub workload_status: WorkloadStatus,
}

/// Asks for another version of a workload that runs: its components take over, and what is under way ends in the old ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkloadUpdateRequest {
    /// Which it is.
    pub workload_id: String,
    /// What it will be.
    pub workload: Workload,
}

/// Another version has taken over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadUpdateResponse {
    /// What is known of it.
    pub workload_status: WorkloadStatus,
}

/// Asks about a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadStatusRequest {
    /// Which it is.
    pub workload_id: String,
}

/// What is known of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadStatusResponse {
    /// That.
    pub workload_status: WorkloadStatus,
}

/// Asks for the end of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadStopRequest {
    /// Which it is.
    pub workload_id: String,
}

/// A workload has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadStopResponse {
    /// What was known of it.
    pub workload_status: WorkloadStatus,
}

/// What a host says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostHeartbeat {
    /// Which it is.
    pub id: String,
    /// Of the machine.
    pub hostname: String,
    /// For people.
    pub friendly_name: String,
    /// Of this program.
    pub version: String,
    /// Whatever its owner wants to be known of it.
    pub labels: HashMap<String, String>,
    /// When it was started, in seconds since 1970.
    pub started_at: u64,
    /// Kind of processor: `x86_64`.
    pub os_arch: String,
    /// `linux`.
    pub os_name: String,
    /// The kernel's release.
    pub os_kernel: String,
    /// Load of the last minute in percent of the processors.
    pub system_cpu_usage: f32,
    /// Bytes of memory of the machine.
    pub system_memory_total: u64,
    /// Bytes of it that are available.
    pub system_memory_free: u64,
    /// Components of workloads that run, services included.
    pub component_count: u64,
    /// Workloads that are there, in whatever state.
    pub workload_count: u64,
    /// Interfaces that the host calls in components.
    pub imports: Vec<WitInterface>,
    /// Interfaces that components get of the host.
    pub exports: Vec<WitInterface>,
}
