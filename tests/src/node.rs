//! The node under test: the real `kubewasm node`, started as a user would start it.

use std::{
    collections::BTreeMap,
    env, fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use kubewasm_network::PodNetwork;
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    home::{self, Home},
    ports,
    process::{self, Process},
    wait,
};

/// Time for a node to answer on its health port.
const READY: Duration = Duration::from_secs(60);

/// Time for an agent to end on SIGTERM, and for killed workers to disappear.
const END: Duration = Duration::from_secs(20);

/// Folder of the guests' logs, below the root folder: several nodes share this machine.
const POD_LOGS: &str = "pod-logs";

/// The `kubewasm` program: `$KUBEWASM_BIN`, or cargo's, beside the program that runs now.
///
/// # Errors
/// When it is not there.
pub fn program() -> Result<PathBuf> {
    let program = match env::var_os("KUBEWASM_BIN").filter(|value| !value.is_empty()) {
        Some(program) => PathBuf::from(program),
        None => home::build_folder()?.join("kubewasm"),
    };
    if !program.is_file() {
        bail!("{} is not there: build it with `make build`, or set KUBEWASM_BIN", program.display());
    }
    Ok(program)
}

/// How a node differs from the usual one.
#[derive(Clone, Debug, Default)]
pub struct Options {
    flags: Vec<String>,
    config: BTreeMap<String, Value>,
    env: BTreeMap<String, String>,
    bootstrap_kubeconfig: Option<PathBuf>,
    meminfo: Option<PathBuf>,
}

impl Options {
    /// The node reads this file in the place of `/proc/meminfo`: it is mounted there in a mount namespace of the node's own, as
    /// lxcfs does it for containers. Takes root.
    #[must_use]
    pub fn meminfo(mut self, file: PathBuf) -> Self {
        self.meminfo = Some(file);
        self
    }

    /// One more variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// Other credentials to ask for a certificate with than the bootstrap token.
    #[must_use]
    pub fn bootstrap_kubeconfig(mut self, file: PathBuf) -> Self {
        self.bootstrap_kubeconfig = Some(file);
        self
    }

    /// One more flag on the command line.
    #[must_use]
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    /// One more field of the KubeletConfiguration.
    #[must_use]
    pub fn config(mut self, field: &str, value: Value) -> Self {
        self.config.insert(field.to_owned(), value);
        self
    }
}

/// A node's agent, its files and its workers.
///
/// Dropping it ends the agent and the workers at once, unless [`Node::leave`] was called; the Node object
/// stays.
#[derive(Debug)]
pub struct Node {
    name: String,
    root: PathBuf,
    address: IpAddr,
    port: u16,
    health_port: u16,
    arguments: Vec<String>,
    env: BTreeMap<String, String>,
    meminfo: Option<PathBuf>,
    log: PathBuf,
    process: Option<Process>,
    left: bool,
}

impl Node {
    /// Starts a node that joins `cluster` with the bootstrap token, and waits until its agent is healthy.
    ///
    /// # Errors
    /// When the program is not there, or does not become healthy; the error shows the end of its log.
    pub async fn start(home: &Home, cluster: &Cluster, name: &str, options: &Options) -> Result<Self> {
        let root = home.folder(name)?;
        let (address, port, health_port) = (cluster.node_address(), ports::free()?, ports::free()?);
        let config = root.join("config.yaml");
        write_config(&config, cluster.ca_certificate(), &root.join(POD_LOGS), &options.config)?;
        let bootstrap =
            options.bootstrap_kubeconfig.clone().unwrap_or_else(|| cluster.bootstrap_kubeconfig());
        let mut arguments = vec![
            "node".to_owned(),
            format!("--bootstrap-kubeconfig={}", bootstrap.display()),
            format!("--kubeconfig={}", root.join("kubeconfig").display()),
            format!("--root-dir={}", root.display()),
            format!("--cert-dir={}", root.join("pki").display()),
            format!("--config={}", config.display()),
            format!("--hostname-override={name}"),
            format!("--node-ip={address}"),
            format!("--address={address}"),
            format!("--port={port}"),
            format!("--healthz-port={health_port}"),
        ];
        // Others on this machine may have pods of the same addresses.
        if !options.flags.iter().any(|flag| flag.starts_with("--network=")) {
            arguments.push("--network=host".to_owned());
        }
        arguments.extend(options.flags.iter().cloned());
        let mut node = Self {
            name: name.to_owned(),
            address,
            port,
            health_port,
            arguments,
            env: options.env.clone(),
            meminfo: options.meminfo.clone(),
            log: home.log(name),
            root,
            process: None,
            left: false,
        };
        node.start_again().await?;
        Ok(node)
    }

    /// Starts the agent again on the same root folder, after [`Node::kill`] or [`Node::stop`].
    ///
    /// # Errors
    /// See [`Node::start`].
    pub async fn start_again(&mut self) -> Result<()> {
        let program = program()?;
        let mut command = match &self.meminfo {
            None => Command::new(program),
            Some(file) => {
                let script = r#"mount --bind "$0" /proc/meminfo && exec "$@""#;
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", script]).arg(file).arg(program);
                command
            }
        };
        command.args(&self.arguments).envs(&self.env);
        let mut process = Process::start(&self.name, &mut command, &self.log)?;
        let port = self.health_port;
        process
            .await_ready(READY, async || healthy(port).await.map_err(|error| format!("{error:#}")))
            .await?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills the agent (SIGKILL); workers go on.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill())
    }

    /// Asks the agent to end (SIGTERM), waits for it and returns how it ended.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("the agent does not run")?;
        process.stop(END).await
    }

    /// Sends the agent a signal.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.as_mut().context("the agent does not run")?.signal(signal)
    }

    /// Kills every worker of the node, as a machine out of memory would, and waits until they are gone.
    ///
    /// # Errors
    /// When one does not go.
    pub async fn kill_workers(&self) -> Result<()> {
        process::end_now_under(&self.root.join("workers"), END).await
    }

    /// The workers that live: process ids by name of their group.
    #[must_use]
    pub fn workers(&self) -> BTreeMap<String, Pid> {
        let alive = process::all_under(&self.root.join("workers")).unwrap_or_default();
        let worker = |entry: fs::DirEntry| {
            let pid = fs::read_to_string(entry.path().join("worker.lock")).ok()?;
            let pid = Pid::from_raw(pid.trim().parse().ok()?)?;
            // The file stays when the worker is killed.
            let lives = alive.contains(&pid);
            let name = entry.file_name().into_string().ok()?;
            let (group, _age) = name.rsplit_once('.')?;
            lives.then(|| (group.to_owned(), pid))
        };
        let entries = fs::read_dir(self.root.join("workers")).into_iter().flatten().flatten();
        entries.filter_map(worker).collect()
    }

    /// Name of the Node object.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Root folder of the node.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Folder of the guests' logs.
    #[must_use]
    pub fn pod_logs(&self) -> PathBuf {
        self.root.join(POD_LOGS)
    }

    /// URL of the HTTPS port.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}:{}", self.address, self.port)
    }

    /// Lets the node go on when this value is dropped.
    pub fn leave(mut self) {
        self.left = true;
    }
}

/// Removes what a node with this root directory, none of whose processes is left, has made of networks on this machine.
///
/// # Errors
/// When there is no right to do so.
pub async fn uninstall_network(root: &Path) -> Result<()> {
    // The name by which the node tells its network from that of others.
    let name = root.join("workers").display().to_string();
    PodNetwork::uninstall(&name).await.context("cannot remove what a node has made of networks")
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        // Nothing can be reported from here, and the end of the home folder ends what is left.
        let _ = self.kill();
        for pid in process::all_under(&self.root).unwrap_or_default() {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

/// The node's configuration: whose client certificates it trusts, and what the test wants otherwise.
fn write_config(path: &Path, ca: &Path, pod_logs: &Path, extra: &BTreeMap<String, Value>) -> Result<()> {
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": { "x509": { "clientCAFile": ca } },
        // How full the disk and the memory of this machine are decides no test.
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,
        "podLogsDir": pod_logs,
        "rotateCertificates": true,
    });
    for (field, value) in extra {
        config[field] = value.clone();
    }
    let text = serde_yaml_ng::to_string(&config).context("cannot encode a KubeletConfiguration")?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Asks a node's health port.
async fn healthy(port: u16) -> Result<()> {
    let url = format!("http://{}:{port}", Ipv4Addr::LOCALHOST);
    let client = kube::Client::try_from(kube::Config::new(url.parse().context("not a URL")?))?;
    let request = http::Request::get("/healthz").body(Vec::new())?;
    let text = client.request_text(request).await?;
    if text != "ok" {
        bail!("the health port answers {text:?}");
    }
    Ok(())
}

/// Waits until no process belongs to `node` any more.
///
/// # Errors
/// When some are left after 20 s.
pub async fn await_no_processes(root: &Path) -> Result<()> {
    wait::until("the node's processes to end", END, async || match process::all_under(root) {
        Ok(left) if left.is_empty() => Ok(()),
        Ok(left) => Err(format!("still running: {left:?}")),
        Err(error) => Err(format!("{error:#}")),
    })
    .await
}
