//! What makes an instance: plain values that cross the border between agent and worker.

use std::{fmt, path::PathBuf, sync::Arc};

use kubewasm_host::{
    CpuShare, DeniedNetworks, EgressList, HttpProxy, ListenPort, ModuleKind, NameFiles, Network,
    PrivateAuthorities, Stack,
    http::{HttpSettings, ServerCertificate},
};

/// Everything a worker needs to run one instance.
///
/// Its `Debug` shows the names of environment variables, never their values.
#[derive(Clone, PartialEq, Eq)]
pub struct InstanceSpec {
    /// Unique for ever; the worker keys by it.
    pub id: String,
    /// UID of the pod it belongs to; handed back with every change.
    pub pod_uid: String,
    /// Name for messages, `namespace/pod/container`.
    pub name: String,
    /// Precompiled module, as [`kubewasm_host::compile`] made it with the compiler key of this engine.
    pub module: PathBuf,
    /// What the module is, as [`kubewasm_host::inspect`] found.
    pub kind: ModuleKind,
    /// Arguments, `argv[0]` included; never empty.
    pub argv: Vec<String>,
    /// The whole environment, in order; the guest sees nothing else.
    pub env: Vec<(String, String)>,
    /// Initial working directory, for guests that ask (components; WASI 0.1 has no such call).
    pub working_dir: Option<String>,
    /// What the guest sees as `/`. It is not told to the worker, but handed over as open directories.
    pub root: RootSpec,
    /// File that output is appended to, in CRI format; its directory exists.
    pub log_path: PathBuf,
    /// What the guest may do with sockets.
    pub network: Network,
    /// What it does not reach, unless it has the host's network.
    pub denied_networks: DeniedNetworks,
    /// All that it may reach, if there is such a list.
    pub egress: Option<EgressList>,
    /// Whom it trusts for HTTPS besides those that the worker's machine trusts.
    pub authorities: Option<Arc<PrivateAuthorities>>,
    /// What its requests for HTTP go through, if the operator has named it.
    pub http_proxy: Option<Arc<HttpProxy>>,
    /// Ports on which it listens from its start, if it is a module of WASI 0.1 that can accept connections, or serves HTTP;
    /// that does on the first one.
    pub listen_ports: Vec<ListenPort>,
    /// How it serves HTTP, if it does.
    pub http: Option<HttpSettings>,
    /// The certificate that it has at first, if it serves HTTP over TLS. Its key is in memory alone: of the agent, and of the
    /// worker.
    pub tls: Option<Arc<ServerCertificate>>,
    /// What look-ups of names go by; `None`: what this machine resolves names with.
    pub name_files: Option<Arc<NameFiles>>,
    /// Bytes of all linear memories and tables together, and of what the host holds; 0 is the worker's
    /// default.
    pub memory_limit_bytes: u64,
    /// Volumes in memory that it may fill.
    pub memory_volumes: MemoryVolumes,
    /// What it may use of the processors.
    pub cpu: CpuShare,
    /// How much stack its guests have.
    pub stack: Stack,
    /// Its output streams say that they are terminals.
    pub terminal: bool,
    /// Its standard input is open for callers that attach.
    pub stdin: bool,
    /// Its standard input ends with that of the first of them.
    pub stdin_once: bool,
    /// All its standard streams are one terminal: callers see lines and type them.
    pub tty: bool,
    /// The guest is told to end by the end of its standard input, and given its grace. Without this, it is
    /// ended at once.
    pub stop_notice: bool,
    /// Anything that the agent wants to find again in [`crate::instance::Instance`].
    pub label: String,
}

impl InstanceSpec {
    /// An instance of a module that is given nothing: no arguments, files or sockets, no limits of its own, and no terminal. Whoever
    /// starts it says at least which pod it is of, and what it is called.
    #[must_use]
    pub fn new(id: impl Into<String>, module: PathBuf, kind: ModuleKind, log_path: PathBuf) -> Self {
        Self {
            id: id.into(),
            pod_uid: String::new(),
            name: String::new(),
            module,
            kind,
            argv: Vec::new(),
            env: Vec::new(),
            working_dir: None,
            root: RootSpec::default(),
            log_path,
            network: Network::Outgoing,
            denied_networks: DeniedNetworks::default(),
            egress: None,
            authorities: None,
            http_proxy: None,
            listen_ports: Vec::new(),
            http: None,
            tls: None,
            name_files: None,
            memory_limit_bytes: 0,
            memory_volumes: MemoryVolumes::default(),
            cpu: CpuShare::default(),
            stack: Stack::DEFAULT,
            terminal: false,
            stdin: false,
            stdin_once: false,
            tty: false,
            stop_notice: false,
            label: String::new(),
        }
    }
}

impl fmt::Debug for InstanceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.env.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("InstanceSpec")
            .field("id", &self.id)
            .field("pod_uid", &self.pod_uid)
            .field("name", &self.name)
            .field("module", &self.module)
            .field("kind", &self.kind)
            .field("argv", &self.argv)
            .field("env", &names)
            .field("working_dir", &self.working_dir)
            .field("root", &self.root)
            .field("log_path", &self.log_path)
            .field("network", &self.network)
            .field("denied_networks", &self.denied_networks)
            .field("egress", &self.egress)
            .field("authorities", &self.authorities)
            .field("http_proxy", &self.http_proxy)
            .field("listen_ports", &self.listen_ports)
            .field("http", &self.http)
            .field("tls", &self.tls)
            .field("name_files", &self.name_files.is_some())
            .field("memory_limit_bytes", &self.memory_limit_bytes)
            .field("memory_volumes", &self.memory_volumes)
            .field("cpu", &self.cpu)
            .field("stack", &self.stack)
            .field("terminal", &self.terminal)
            .field("stdin", &self.stdin)
            .field("stdin_once", &self.stdin_once)
            .field("tty", &self.tty)
            .field("stop_notice", &self.stop_notice)
            .field("label", &self.label)
            .finish()
    }
}

/// What of an instance's limits can change while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InstanceLimits {
    /// As [`InstanceSpec::memory_limit_bytes`].
    pub memory_limit_bytes: u64,
    /// As [`MemoryVolumes::pod_limit_bytes`].
    pub pod_memory_limit_bytes: u64,
    /// As [`InstanceSpec::cpu`].
    pub cpu: CpuShare,
}

impl InstanceLimits {
    /// Those that an instance is started with.
    #[must_use]
    pub fn of(spec: &InstanceSpec) -> Self {
        Self {
            memory_limit_bytes: spec.memory_limit_bytes,
            pod_memory_limit_bytes: spec.memory_volumes.pod_limit_bytes,
            cpu: spec.cpu,
        }
    }
}

/// Volumes in memory, which count with the memory of the instances that may fill them. The default is none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryVolumes {
    /// Where the guest sees them: each is in a file system of its own that is kept in memory.
    pub guest_paths: Vec<String>,
    /// Bytes that the pod's instances and volumes in memory may have together; 0 where one of its containers has no
    /// limit.
    pub pod_limit_bytes: u64,
}

/// What a guest sees as `/`. The default is nothing at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RootSpec {
    /// The unpacked file system of an image, which is not written to.
    pub image: Option<PathBuf>,
    /// Directory of this instance's own, for what it writes and what it takes to make its root. Its parent
    /// exists, and nobody but this host's administrators can write there. Without one the guest sees the files of
    /// its image or none, may not write, and has no mounts.
    pub scratch: Option<PathBuf>,
    /// The guest may change nothing but what is mounted.
    pub read_only: bool,
    /// What is mounted below the root, or as the root.
    pub mounts: Vec<Mount>,
}

/// A directory or a single file of this host that a guest sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Absolute path on this host. What is there exists, and no part of the path is a symbolic link.
    pub host_path: PathBuf,
    /// Absolute path in the guest.
    pub guest_path: String,
    /// The guest may change nothing there.
    pub read_only: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_values_of_the_environment() {
        let spec = InstanceSpec {
            env: vec![("PASSWORD".into(), "hunter2".into())],
            ..InstanceSpec::new("1", "/m".into(), ModuleKind::CoreCommand, "/l".into())
        };
        let text = format!("{spec:?}");
        assert!(text.contains("PASSWORD"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}
