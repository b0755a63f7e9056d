//! Starting, stopping and accounting for instances.

mod attach;
mod backlog;
mod ending;
mod exec;
mod forward;
mod keyboard;
mod outlet;
mod pod_wide;
mod resize;
mod serving;
mod stdio;
#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use kubewasm_host::{
    Account, Firewall, GuestLimits, Host, HttpConnections, Input, InstantiationStats, LoadError, Loaded,
    Output, PodPorts, PrepareError, Refusals, Setup, SocketRules, capacity,
    exit::{CODE_KILLED, CODE_TRAPPED, Exit, ExitReason},
    http::{
        CertificateOutcome, FailureSink, HttpMonitor, HttpServing, InvalidCertificate, RequestFailures,
        ServerCertificate,
    },
    network::{OutOfStep, TablesUpdate},
};
use kubewasm_kubelet::traces::{self, SpanKind};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub(super) use self::{
    attach::Attachment,
    exec::{ConnectedCommand, ConnectedExec, ExecInput, ExecProgram},
    forward::ForwardError,
    outlet::Outlet,
    resize::Resized,
    stdio::AttachedInput,
};
use self::{
    pod_wide::PodWide,
    serving::Work,
    stdio::{ContainerStdio, TooManyCallers},
};
use super::{
    charge::{self, Holder},
    handover::{Given, Handovers, HeldDirectories, Root},
    table::{Claim, Picture, StartSignals, Table},
};
use crate::{
    instance::{Instance, InstanceStats},
    logs::{Log, LogOptions, LogPlace},
    protocol::WireError,
    spec::{InstanceLimits, InstanceSpec},
};

/// Most execs at a time in one worker.
const EXECS: usize = 256;
/// A guest that was killed and does not end is a fault of ours; callers are told after this.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why an instance did not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum HostingError {
    /// Another agent, or this one once more, has said Hello since.
    #[error("the session is not the present one")]
    Stale,
    /// Somebody has asked for its end before it ran.
    #[error("the start was given up")]
    GivenUp,
    /// What it is to be made of makes no sense.
    #[error(transparent)]
    Spec(#[from] WireError),
    /// A panic of the host's.
    #[error("the host failed while it started this instance; its log has more")]
    Fault,
    /// Nothing more is taken in.
    #[error("the worker is about to end; try again")]
    Closed,
    /// As many run as may.
    #[error("the worker hosts as many guests as it can: {0}")]
    Full(String),
    /// The module does not run here.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The agent did not hand over its files, or has hung up since.
    #[error("the container's files were not handed over")]
    NoFiles,
    /// Its files cannot be opened.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// Its log cannot be opened.
    #[error("cannot open the log {path}: {source}")]
    Log {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// There is no such instance to exec in.
    #[error("the instance does not run")]
    NotRunning,
    /// Its guests answer requests, and run no commands.
    #[error(
        "the program serves HTTP, and runs no commands; name another program of the image, or use an httpGet probe or hook"
    )]
    Serves,
    /// It is called by programs, and runs no commands.
    #[error("the program is no command: it exports neither _start nor wasi:cli/run")]
    NoCommand,
    /// No more callers are attached.
    #[error(transparent)]
    Callers(#[from] TooManyCallers),
    /// Too many execs at a time.
    #[error("{EXECS} execs run in this worker already; try again")]
    Busy,
}

/// Who does the work.
#[derive(Clone, Debug)]
pub(super) struct Threads {
    /// Where guests run.
    pub(super) guests: Handle,
    /// Whose blocking threads write logs.
    pub(super) logs: Handle,
}

/// All that the worker hosts. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Hosting(Arc<HostingInner>);

#[derive(Debug)]
struct HostingInner {
    host: Arc<Host>,
    handovers: Handovers,
    threads: Threads,
    log: LogOptions,
    most: usize,
    table: Table<HostedInstance>,
    execs: Arc<Semaphore>,
    /// What guests listen on, by pod.
    pod_ports: PodWide<PodPorts>,
    /// Their connections for HTTP, by pod.
    http_connections: PodWide<HttpConnections>,
    /// Held while the tables of the network are changed.
    tables: Mutex<()>,
    /// Held while a certificate is changed.
    certificates: Mutex<()>,
    /// Held while limits are changed.
    resizes: Mutex<()>,
    /// Requests that have failed and that no agent was told of.
    failures: RequestFailures,
}

/// What has come of an update of the tables of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SetTables {
    /// It is in effect.
    Applied,
    /// It is a change of other tables than these.
    OutOfStep,
    /// Another session has begun since it was sent.
    Stale,
}

/// What belongs to an instance that runs.
#[derive(Clone, Debug)]
struct HostedInstance {
    spec: Arc<InstanceSpec>,
    loaded: Arc<Loaded>,
    root: Arc<Root>,
    account: Arc<Account>,
    /// Where callers are connected.
    stdio: Arc<ContainerStdio>,
    /// Its limits, which may be others than those in `spec`.
    limits: Arc<Mutex<InstanceLimits>>,
    /// Of a container that serves HTTP.
    http: Option<HttpMonitor>,
    /// Volumes in memory that it may fill, open.
    memory_volumes: Arc<Vec<OwnedFd>>,
    /// When it must have ended; nothing while nobody asked.
    stop: watch::Sender<Option<Instant>>,
    /// Cancelled when its end is in the table.
    ended: CancellationToken,
}

/// What the guests of a container share with others of their pod.
struct PodShare {
    ports: Arc<PodPorts>,
    http_connections: Arc<HttpConnections>,
    firewall: Arc<Firewall>,
}

impl HostingInner {
    fn pod_share(&self, pod_uid: &str) -> PodShare {
        PodShare {
            ports: self.pod_ports.of(pod_uid),
            http_connections: self.http_connections.of(pod_uid),
            firewall: self.host.tables().firewalls().of(pod_uid),
        }
    }

    /// Opens the account of a container: for its guest, and for those that are executed in it.
    fn account(&self, spec: &InstanceSpec) -> Arc<Account> {
        self.host.account(GuestLimits { memory_bytes: spec.memory_limit_bytes, cpu: spec.cpu })
    }
}

/// A guest of a container, which is told nothing of its end, and does not listen: the container's first one does.
fn setup<'a>(
    spec: &'a InstanceSpec,
    held: &'a HeldDirectories,
    output: &'a Arc<dyn Output>,
    account: &'a Arc<Account>,
    pod: &'a PodShare,
) -> Setup<'a> {
    Setup {
        argv: &spec.argv,
        env: &spec.env,
        working_dir: spec.working_dir.as_deref(),
        preopens: &held.preopens,
        has_volumes: held.has_volumes,
        network: &spec.network,
        pod_ports: Some(&pod.ports),
        denied_networks: &spec.denied_networks,
        firewall: Some(&pod.firewall),
        egress: spec.egress.as_ref(),
        socket_rules: SocketRules::none(),
        http_connections: Some(&pod.http_connections),
        authorities: spec.authorities.as_ref(),
        http_proxy: spec.http_proxy.as_ref(),
        http_sender: None,
        http_rule: None,
        extension: None,
        listen_ports: &[],
        name_files: spec.name_files.as_ref(),
        output,
        terminal: spec.terminal,
        input: Input::Nothing,
        account,
        notice: None,
    }
}

impl Hosting {
    /// Hosts at most `most` instances.
    pub(super) fn new(host: Arc<Host>, threads: Threads, log: LogOptions, most: usize) -> Self {
        let (table, execs, handovers) = (Table::new(), Arc::new(Semaphore::new(EXECS)), Handovers::default());
        Self(Arc::new(HostingInner {
            host,
            handovers,
            threads,
            log,
            most,
            table,
            execs,
            pod_ports: PodWide::default(),
            http_connections: PodWide::default(),
            tables: Mutex::default(),
            certificates: Mutex::default(),
            resizes: Mutex::default(),
            failures: RequestFailures::default(),
        }))
    }

    /// Where the files of instances wait for their start.
    pub(super) fn handovers(&self) -> &Handovers {
        &self.0.handovers
    }

    /// All instances, and their changes.
    pub(super) fn picture(&self) -> Picture {
        self.0.table.picture()
    }

    /// Begins a session: no start that an earlier one has asked for is begun from now on.
    pub(super) fn begin_session(&self, session: String) {
        self.0.table.begin_session(session);
    }

    /// Brings the tables of the network up to date.
    pub(super) fn set_tables(&self, session: &str, update: TablesUpdate) -> SetTables {
        // One after the other: an update of an earlier session that is taken for one of this is over before the first of the
        // next, which is sent after its Hello was answered.
        let _one = self.0.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.0.table.is_session(session) {
            return SetTables::Stale;
        }
        let (revision, is_whole) = (update.revision, update.base.is_none());
        match self.0.host.tables().apply(update) {
            Ok(()) => {
                tracing::debug!(revision, is_whole, "the tables of the network have changed");
                SetTables::Applied
            }
            Err(OutOfStep) => SetTables::OutOfStep,
        }
    }

    /// Gives an instance that serves TLS another certificate. `None` when another session has begun since it was sent.
    ///
    /// # Errors
    /// [`InvalidCertificate`]; the one that it has stays.
    pub(super) fn set_certificate(
        &self,
        session: &str,
        id: &str,
        certificate: &ServerCertificate,
    ) -> Result<Option<CertificateOutcome>, InvalidCertificate> {
        // One after the other, for the same reason as the tables of the network.
        let _one = self.0.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.0.table.is_session(session) {
            return Ok(None);
        }
        let monitor = self.0.table.running(id).and_then(|running| running.http);
        let set = monitor.map(|monitor| monitor.set_certificate(certificate)).transpose()?;
        Ok(Some(set.unwrap_or(CertificateOutcome::NotServed)))
    }

    /// Requests that have failed and that no agent was told of.
    pub(super) fn failures(&self) -> &RequestFailures {
        &self.0.failures
    }

    /// Starts an instance; one that is known already is left as it is.
    pub(super) async fn start(&self, spec: InstanceSpec, session: &str) -> Result<Instance, HostingError> {
        let signals = loop {
            match self.0.table.claim(&spec.id, session, self.0.most) {
                Claim::Yours(signals) => break signals,
                // Who asks twice waits for what comes of the first time.
                Claim::Starting(signals) => signals.over.cancelled().await,
                Claim::Stale => return Err(HostingError::Stale),
                Claim::Known(instance) => return Ok(instance),
                Claim::Closed => return Err(HostingError::Closed),
                Claim::Full => return Err(HostingError::Full(capacity::advice())),
            }
        };
        // In a task of its own: a caller who hangs up midway leaves a whole instance, or none.
        let claimed = Claimed { hosting: self.clone(), id: spec.id.clone() };
        let task = tokio::spawn(traces::within(traces::current(), async move {
            let result = claimed.hosting.start_claimed(spec, &signals).await;
            drop(claimed);
            result
        }));
        task.await.unwrap_or(Err(HostingError::Fault))
    }

    async fn start_claimed(
        &self,
        spec: InstanceSpec,
        signals: &StartSignals,
    ) -> Result<Instance, HostingError> {
        let inner = &self.0;
        let load = traces::child("loadModule", SpanKind::Internal);
        let loaded = tokio::select! {
            loaded = inner.host.load(&spec.module, spec.kind, spec.stack) => loaded?,
            () = signals.given_up.cancelled() => return Err(HostingError::GivenUp),
        };
        drop(load);
        let _prepare = traces::child("prepareInstance", SpanKind::Internal);
        let account = inner.account(&spec);
        let meter = {
            let account = Arc::clone(&account);
            Box::new(move |used| account.charge(used))
        };
        let Given { root, log } = inner.handovers.take(&spec.id).ok_or(HostingError::NoFiles)?;
        let place = LogPlace::within(log, spec.log_path.file_name().unwrap_or_default(), &spec.log_path);
        let log = Log::open(place, inner.log, &inner.threads.logs, meter)
            .map_err(|source| HostingError::Log { path: spec.log_path.display().to_string(), source })?;
        let result = self.start_logged(spec, loaded, account, root, log.clone()).await;
        if result.is_err() {
            // Nothing has run: there is no log of it, unless somebody else had begun one.
            log.remove_if_empty();
        }
        result
    }

    async fn start_logged(
        &self,
        spec: InstanceSpec,
        loaded: Arc<Loaded>,
        account: Arc<Account>,
        root: Root,
        log: Log,
    ) -> Result<Instance, HostingError> {
        let inner = &self.0;
        let notice = spec.stop_notice.then(CancellationToken::new);
        let spec = Arc::new(spec);
        let root = Arc::new(root);
        let held = root.held().ok_or(HostingError::NoFiles)?;
        let stdio = ContainerStdio::new(log.clone(), &spec, notice.as_ref());
        let output: Arc<dyn Output> = Arc::clone(&stdio) as Arc<dyn Output>;
        let input = stdio.input();
        let pod = inner.pod_share(&spec.pod_uid);
        let setup = Setup {
            notice: notice.as_ref(),
            listen_ports: &spec.listen_ports,
            input: input.as_ref().map_or(Input::Nothing, Input::From),
            ..setup(&spec, &held, &output, &account, &pod)
        };
        let work = match &spec.http {
            Some(settings) => {
                let failures = FailureSink { failures: inner.failures.clone(), id: spec.id.clone() };
                let serving = HttpServing {
                    settings: settings.clone(),
                    certificate: spec.tls.clone(),
                    failures: Some(failures),
                };
                let server = inner.host.serve(Arc::clone(&loaded), &setup, serving)?;
                Work::Server(server, Arc::clone(&held))
            }
            None => Work::Guest(inner.host.prepare(Arc::clone(&loaded), setup)?),
        };
        let memory_volumes = Arc::new(charge::open(&held.preopens, &spec.memory_volumes.guest_paths));
        drop(held);
        let (stop, stopped) = watch::channel(None);
        let ended = CancellationToken::new();
        let running = HostedInstance {
            limits: Arc::new(Mutex::new(InstanceLimits::of(&spec))),
            spec,
            loaded,
            root: Arc::clone(&root),
            account,
            stdio: Arc::clone(&stdio),
            http: work.monitor(),
            memory_volumes,
            stop,
            ended: ended.clone(),
        };
        let monitor = running.http.clone();
        let spec = Arc::clone(&running.spec);
        let id = spec.id.clone();
        let started = inner.table.started(&id, &spec.pod_uid, &spec.label, Timestamp::now(), running);
        let instance = started.ok_or(HostingError::GivenUp)?;
        let guest = inner.threads.guests.spawn(work.until_stopped(stopped, notice));
        let hosting = self.clone();
        let exceeds = self.clone().exceeds(Arc::clone(&spec));
        tokio::spawn(async move {
            let mut guest = AbortOnDropHandle::new(guest);
            let exit = tokio::select! {
                exit = &mut guest => exit.unwrap_or_else(|_| fault_of_ours()),
                message = exceeds => {
                    guest.abort();
                    // Its memory is given back, and nothing writes any more, when this is over.
                    let _ = guest.await;
                    Exit::new(CODE_KILLED, ExitReason::OutOfMemory, message)
                }
                () = stdio.interrupted() => {
                    guest.abort();
                    let _ = guest.await;
                    Exit::interrupted()
                }
            };
            stdio.end(&exit.message);
            drop(stdio);
            if let Some(monitor) = &monitor {
                serving::end(monitor).await;
            }
            let finished_at = Timestamp::now();
            log.finish(&exit.message).await;
            drop(log);
            // Before anybody hears of the end: what its volumes are made of may be taken away then.
            let _ = tokio::task::spawn_blocking(move || root.give_up()).await;
            hosting.0.table.exited(&id, finished_at, exit);
            ended.cancel();
        });
        Ok(instance)
    }

    /// Waits until an instance has more memory than it may, what is in its volumes in memory included, and says so.
    async fn exceeds(self, spec: Arc<InstanceSpec>) -> String {
        if spec.memory_volumes.guest_paths.is_empty() {
            return std::future::pending().await;
        }
        let mut looks = tokio::time::interval(charge::LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let Some(own) = self.0.table.running(&spec.id) else { continue };
            let pod = self.holders(&spec.pod_uid);
            if let Some(message) = charge::excess(&spec.id, &pod, own.limits().pod_memory_limit_bytes) {
                return message;
            }
        }
    }

    /// The instances that run of a pod, with what they have.
    fn holders(&self, pod_uid: &str) -> Vec<Holder> {
        let all = self.0.table.all_running().into_iter();
        all.filter(|running| running.spec.pod_uid == pod_uid).map(|running| running.holder()).collect()
    }

    /// What the instances that run have used.
    pub(super) fn stats(&self) -> Vec<InstanceStats> {
        let at = Timestamp::now();
        let stats = |running: HostedInstance| InstanceStats {
            id: running.spec.id.clone(),
            pod_uid: running.spec.pod_uid.clone(),
            at,
            usage: running.account.usage(),
            http: running.http.as_ref().map(HttpMonitor::stats),
        };
        self.0.table.all_running().into_iter().map(stats).collect()
    }

    /// How long the instances took that were made.
    pub(super) fn instantiations(&self) -> InstantiationStats {
        self.0.host.instantiations()
    }

    /// What was refused of pods' traffic.
    pub(super) fn refusals(&self) -> Vec<(String, Refusals)> {
        self.0.host.tables().firewalls().refusals()
    }

    /// Whether a guest of a pod takes the connections to an address.
    pub(super) fn listens(&self, pod_uid: &str, address: SocketAddr) -> bool {
        self.0.pod_ports.known(pod_uid).is_some_and(|ports| ports.listens_at(address))
    }

    /// Asks an instance to end within `grace`; a start that is under way is given up.
    pub(super) fn stop(&self, id: &str, grace: Duration) {
        if let Some(signals) = self.0.table.starting(id) {
            signals.given_up.cancel();
        }
        if let Some(running) = self.0.table.running(id) {
            running.stop_within(grace);
        }
    }

    /// Forgets an instance, killing it or giving up its start first. False when it does not end in time.
    pub(super) async fn remove(&self, id: &str) -> bool {
        if let Some(signals) = self.0.table.starting(id) {
            signals.given_up.cancel();
            if tokio::time::timeout(KILL_TIMEOUT, signals.over.cancelled()).await.is_err() {
                return false;
            }
        }
        if let Some(running) = self.0.table.running(id) {
            running.stop_within(Duration::ZERO);
            if tokio::time::timeout(KILL_TIMEOUT, running.ended.cancelled()).await.is_err() {
                return false;
            }
        }
        self.0.table.remove(id)
    }

    /// Takes in nothing more, if there is nothing: true then.
    pub(super) fn close_if_empty(&self) -> bool {
        self.0.table.close_if_empty()
    }

    /// Ends all instances, and returns when they have, or when `grace` and more is over.
    pub(super) async fn stop_all(&self, grace: Duration) {
        for signals in self.0.table.all_starting() {
            signals.given_up.cancel();
        }
        let running = self.0.table.all_running();
        for running in &running {
            running.stop_within(grace);
        }
        let all = futures::future::join_all(running.iter().map(|running| running.ended.cancelled()));
        if tokio::time::timeout(grace.saturating_add(KILL_TIMEOUT), all).await.is_err() {
            tracing::error!("some guests did not end");
        }
    }
}

/// A claim on an id, which is given back when this is dropped, unless it has become an instance.
struct Claimed {
    hosting: Hosting,
    id: String,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.hosting.0.table.release(&self.id);
    }
}

impl HostedInstance {
    fn holder(&self) -> Holder {
        let volumes = self.memory_volumes.iter().filter_map(|volume| charge::look(volume).ok());
        Holder {
            id: self.spec.id.clone(),
            memory: self.account.usage().memory_bytes,
            limit: self.limits().memory_limit_bytes,
            volumes: volumes.collect(),
        }
    }

    /// Asks for an end; an earlier end that was asked for stands.
    fn stop_within(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        self.stop.send_modify(|stop| *stop = Some(stop.map_or(deadline, |earlier| earlier.min(deadline))));
    }
}

/// A panic on the guest's thread: the host failed, not the guest.
fn fault_of_ours() -> Exit {
    Exit::new(CODE_TRAPPED, ExitReason::Trapped, "the host failed while it ran this guest; its log has more")
}
