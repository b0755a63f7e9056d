//! Pods of two sources, on a provider that runs everything at once and stops only when it is told to.

mod admitting;
mod following;
mod sandboxes;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PodStatus, Service};
use serde_json::{Value, json};

use super::*;
use crate::{
    admitter::PodAdmitter,
    events::{Occurrence, Recorder},
    pods::{
        LogLinks, NodeFacts, PodAddresses, PodIndex, ProbeMetrics, Records,
        addresses::pool::AddressPool,
        api::{ApiError, LocalObjects, ObjectFollower, Objects, PodApi},
        clock,
        container_id::container_id,
        environment::References,
        host_ports::HostPorts,
        lifecycle::{LifecycleLimits, PodState},
        volumes::{Memory, VolumeSettings, Volumes},
    },
    registry_auth::NodeCredentials,
    runtime::{
        ContainerList, ContainerRef, ContainerSpec, ContainerState, Credential, ExecEnd, ExecError, ExecIo,
        Exit, ExitReason, HostPort, Image, ImageError, ObjectNames, ObjectUpdate, PodSandbox, Presence,
        PulledImage, Runtime, RuntimeError, SandboxAddresses, SandboxError, StartError, UpdateError,
    },
};

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Containers by id, with the UID of their pod and whether they run.
type Containers = BTreeMap<String, (String, bool)>;

/// Name of a pod whose containers are gone before their start is answered.
const TORN: &str = "torn";

/// Name of a pod whose module is compiled for as long as it is waited for.
const SLOW: &str = "slow";

/// Runs what it is told to. What is to be stopped goes on until [`World::let_end`].
#[derive(Debug)]
struct Provider {
    containers: watch::Sender<Containers>,
    /// It cannot tell anything; how often it has said so.
    mute: watch::Sender<Option<usize>>,
    wakeups: Mutex<Option<mpsc::Receiver<String>>>,
    /// Calls that panic from now on, each once.
    panicking: Mutex<Vec<Call>>,
    /// Ids of all that was ever started.
    started: Mutex<Vec<String>>,
    /// Ids of all that was to be stopped.
    stopped: watch::Sender<Vec<String>>,
    /// Starts that wait for the compiler, and what calls each of them off.
    compiling: watch::Sender<BTreeMap<String, CancellationToken>>,
    /// Slots and addresses that were taken back.
    released: Mutex<Vec<(u32, Vec<IpAddr>)>>,
    /// Ports of the node that lead to pods.
    host_ports: Mutex<Vec<HostPort>>,
    /// Networks of pods, where it makes them.
    networks: sandboxes::Networks,
    /// What it was told of objects.
    told: following::Told,
}

/// What a provider is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Start,
    Stop,
    Observe,
}

impl Provider {
    fn called(&self, call: Call) {
        let mut panicking = self.panicking.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = panicking.iter().position(|other| *other == call) {
            panicking.remove(index);
            drop(panicking);
            panic!("{call:?} is too much");
        }
    }
}

#[async_trait]
impl Runtime for Provider {
    fn version(&self) -> String {
        "fake://1".to_owned()
    }

    async fn image(&self, image: &str) -> Result<Option<Image>, ImageError> {
        let entrypoint = vec!["guest".to_owned()];
        Ok(Some(Image { reference: image.to_owned(), entrypoint, ..Image::default() }))
    }

    async fn pull(&self, _: &str, _: &[Credential]) -> Result<PulledImage, ImageError> {
        Err(ImageError::Pull("there is no registry".into()))
    }

    async fn images(&self) -> Vec<Image> {
        Vec::new()
    }

    async fn start(&self, spec: &ContainerSpec) -> Result<Timestamp, StartError> {
        self.called(Call::Start);
        self.started.lock().unwrap().push(spec.id.clone());
        self.networks.start()?;
        if spec.pod_name == TORN {
            std::fs::write(&spec.log_path, "it has run\n").unwrap();
            return Err(StartError::Run("the process that runs it has died".into()));
        }
        if spec.pod_name == SLOW {
            let called_off = CancellationToken::new();
            self.compiling.send_modify(|all| {
                all.insert(spec.id.clone(), called_off.clone());
            });
            called_off.cancelled().await;
            return Err(StartError::Run("it was called off".into()));
        }
        self.containers.send_modify(|all| {
            all.insert(spec.id.clone(), (spec.pod_uid.clone(), true));
        });
        Ok(Timestamp::UNIX_EPOCH)
    }

    fn call_off(&self, id: &str) {
        if let Some(called_off) = self.compiling.borrow().get(id) {
            called_off.cancel();
        }
    }

    async fn stop(&self, id: &str, _: Duration) -> Result<(), RuntimeError> {
        self.called(Call::Stop);
        self.stopped.send_modify(|stopped| stopped.push(id.to_owned()));
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        self.containers.send_modify(|all| {
            all.remove(id);
        });
        Ok(())
    }

    async fn exec(&self, id: &str, _: &[String], _: ExecIo) -> Result<ExecEnd, ExecError> {
        Err(ExecError::NotRunning(id.to_owned()))
    }

    fn observe(&self, id: &str) -> Presence {
        self.called(Call::Observe);
        if self.mute.send_if_modified(|mute| mute.as_mut().map(|asked| *asked += 1).is_some()) {
            return Presence::CannotTell;
        }
        let (started_at, finished_at) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
        let (exit_code, reason, message) = (143, ExitReason::Stopped, String::new());
        match self.containers.borrow().get(id) {
            None => Presence::Absent,
            Some((_, true)) => Presence::Known(ContainerState::Running { started_at }),
            Some((_, false)) => {
                let exit = Exit { started_at, finished_at, exit_code, reason, message };
                Presence::Known(ContainerState::Exited(exit))
            }
        }
    }

    fn containers(&self) -> ContainerList {
        let mute = self.mute.borrow().is_some();
        let all = self.containers.borrow();
        let known = all.iter().filter(|_| !mute);
        let reference = |(id, (pod_uid, _)): (&String, &(String, bool))| ContainerRef {
            id: id.clone(),
            pod_uid: pod_uid.clone(),
        };
        ContainerList { containers: known.map(reference).collect(), is_complete: !mute }
    }

    fn followed_objects(&self, _: &str, annotations: &BTreeMap<String, String>) -> ObjectNames {
        following::Told::names(annotations)
    }

    async fn update_objects(&self, update: &ObjectUpdate) -> Result<(), UpdateError> {
        self.told.take(update)
    }

    async fn set_host_ports(&self, ports: &[HostPort]) -> Result<(), RuntimeError> {
        *self.host_ports.lock().unwrap() = ports.to_vec();
        Ok(())
    }

    async fn release_network(&self, slot: u32, addresses: &[IpAddr]) -> Result<(), RuntimeError> {
        assert!(!self.host_ports.lock().unwrap().iter().any(|port| addresses.contains(&port.pod_ip)));
        self.released.lock().unwrap().push((slot, addresses.to_vec()));
        Ok(())
    }

    async fn set_up_sandbox(&self, sandbox: &PodSandbox) -> Result<SandboxAddresses, SandboxError> {
        self.networks.set_up(sandbox)
    }

    async fn tear_down_sandbox(&self, pod_uid: &str) -> Result<(), RuntimeError> {
        self.networks.tear_down(pod_uid)
    }

    fn sandboxes(&self) -> Vec<String> {
        self.networks.made.borrow().clone()
    }

    fn wakeups(&self) -> Option<mpsc::Receiver<String>> {
        self.wakeups.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What an API server was asked for a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// To take a status.
    Status,
    /// To let go of it.
    Finalize,
}

/// An API server that notes down which object each status was written to.
#[derive(Debug)]
struct Api {
    written: watch::Sender<Vec<(String, PodStatus)>>,
    /// What it was asked, and whether it did it.
    asked: watch::Sender<Vec<(Asked, bool)>>,
    /// Requests that fail from now on, each once.
    failing: Mutex<Vec<Asked>>,
    /// `None` as long as it has never been reached.
    services: Mutex<Option<Vec<Arc<Service>>>>,
    secret: following::OneSecret,
}

impl Api {
    fn ask(&self, what: Asked) -> Result<(), ApiError> {
        let mut failing = self.failing.lock().unwrap();
        let fails = failing.iter().position(|other| *other == what).map(|index| failing.remove(index));
        self.asked.send_modify(|asked| asked.push((what, fails.is_none())));
        fails.map_or(Ok(()), |_| Err(ApiError::Later("it is away".to_owned())))
    }
}

#[async_trait]
impl PodApi for Api {
    async fn publish(&self, pod: &Pod, status: &PodStatus) -> Result<Pod, ApiError> {
        self.ask(Asked::Status)?;
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        self.written.send_modify(|written| written.push((uid, status.clone())));
        Ok(Pod { status: Some(status.clone()), ..pod.clone() })
    }

    async fn finalize(&self, _: &Pod) -> Result<(), ApiError> {
        self.ask(Asked::Finalize)
    }

    async fn objects(&self, _: &str, _: &References) -> Result<Objects, ApiError> {
        Ok(Objects::default())
    }

    fn follow(&self, _: &str, references: &References) -> Option<ObjectFollower> {
        Some(self.secret.follow(references))
    }

    fn services(&self) -> Option<Vec<Arc<Service>>> {
        self.services.lock().unwrap().clone()
    }
}

struct World {
    root: tempfile::TempDir,
    memory: Option<Memory>,
    node: watch::Sender<NodeFacts>,
    records: Records,
    runtime: Arc<Provider>,
    api: Arc<Api>,
    wake: mpsc::Sender<String>,
    events: mpsc::Receiver<Occurrence>,
    written: watch::Receiver<Vec<(String, PodStatus)>>,
    board: watch::Receiver<Board>,
    updates: mpsc::Sender<Update>,
    cancel: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(Err(error)) = self.memory.take().map(Memory::close) {
            eprintln!("a tmpfs stays behind: {error}");
        }
    }
}

impl World {
    /// A manager; what runs from before it came is given by UIDs of pods.
    fn with(running: &[&str]) -> Self {
        Self::new(running, false)
    }

    /// The same, with volumes in memory where this process may mount any.
    fn new(running: &[&str], in_memory: bool) -> Self {
        Self::with_addresses(running, in_memory, PodAddresses::shared())
    }

    /// The same, with addresses of pods from there.
    fn with_addresses(running: &[&str], in_memory: bool, addresses: PodAddresses) -> Self {
        Self::build(running, in_memory, addresses, None)
    }

    /// The same, with somebody who has a say in pods.
    fn build(
        running: &[&str],
        in_memory: bool,
        addresses: PodAddresses,
        admitter: Option<Arc<dyn PodAdmitter>>,
    ) -> Self {
        let root = tempfile::tempdir().unwrap();
        let memory = in_memory.then(|| Memory::open(root.path()).ok()).flatten();
        let (wake, wakeups) = mpsc::channel(10);
        let before =
            running.iter().map(|uid| (container_id(uid, "c", 0), ((*uid).to_owned(), true))).collect();
        let (containers, _) = watch::channel(before);
        let (mute, _) = watch::channel(None);
        let wakeups = Mutex::new(Some(wakeups));
        let (panicking, started, released, host_ports) = Default::default();
        let (stopped, _) = watch::channel(Vec::new());
        let (compiling, _) = watch::channel(BTreeMap::new());
        let runtime = Arc::new(Provider {
            containers,
            mute,
            wakeups,
            panicking,
            started,
            stopped,
            compiling,
            released,
            host_ports,
            networks: sandboxes::Networks::default(),
            told: following::Told::default(),
        });
        let (written, seen) = watch::channel(Vec::new());
        let (asked, _) = watch::channel(Vec::new());
        let (failing, services, secret) = Default::default();
        let api = Arc::new(Api { written, asked, failing, services, secret });
        let (sink, events) = mpsc::channel(1000);
        let (node, facts) = watch::channel(NodeFacts::default());
        let records = Records::open(root.path()).unwrap();
        let shared = Shared {
            runtime: Arc::clone(&runtime) as Arc<dyn Runtime>,
            api: Arc::clone(&api) as Arc<dyn PodApi>,
            recorder: Recorder::local(sink),
            records: records.clone(),
            volumes: Arc::new(Volumes::alone(
                VolumeSettings { memory: memory.clone(), ..VolumeSettings::default() },
                LocalObjects::default(),
            )),
            index: PodIndex::default(),
            admission: None,
            admitter,
            addresses,
            host_ports: HostPorts::default(),
            policies: crate::policies::Policies::off(),
            node: facts,
            logs_dir: root.path().join("logs"),
            log_links: LogLinks::off(),
            node_credentials: NodeCredentials::default(),
            image_access: None,
            limits: LifecycleLimits::default(),
            probes: ProbeMetrics::default(),
            metrics: crate::node_metrics::NodeMetrics::default(),
            oom_events: Default::default(),
            pull_limit: Default::default(),
            tracer: Default::default(),
            desk: crate::eviction::EvictionDesk::default(),
        };
        let (board, shown) = watch::channel(Board::default());
        let (updates, receiver) = mpsc::channel(10);
        let cancel = CancellationToken::new();
        let manager = PodManager::new(Arc::new(shared)).with_static_pods(board);
        tokio::spawn(manager.run(receiver, cancel.clone()));
        Self {
            root,
            memory,
            node,
            records,
            runtime,
            api,
            wake,
            events,
            written: seen,
            board: shown,
            updates,
            cancel,
        }
    }

    async fn tell(&self, update: Update) {
        self.updates.send(update).await.unwrap();
    }

    async fn set(&self, pod: Value) {
        self.tell(Update::Set(Box::new(serde_json::from_value(pod).unwrap()))).await;
    }

    async fn synced(&self, source: PodSource, uids: &[&str]) {
        self.tell(Update::Synced(source, uids.iter().map(|uid| (*uid).to_owned()).collect())).await;
    }

    /// Waits until the pods of which something runs are these.
    async fn runs(&self, uids: &[&str]) {
        let mut containers = self.runtime.containers.subscribe();
        let is = |all: &Containers| {
            let mut running: Vec<_> =
                all.values().filter(|(_, runs)| *runs).map(|(uid, _)| uid.as_str()).collect();
            running.sort_unstable();
            running == uids
        };
        let reached =
            tokio::time::timeout(PATIENCE, containers.wait_for(is)).await.map(|state| state.is_ok());
        assert_eq!(reached, Ok(true), "{uids:?}: {:?}", self.runtime.containers.borrow());
    }

    /// Ends the guests of a pod that is to be stopped.
    async fn let_end(&self, uid: &str) {
        self.runtime.containers.send_modify(|all| {
            all.values_mut().filter(|(of, _)| of == uid).for_each(|(_, runs)| *runs = false);
        });
        self.wake.send(uid.to_owned()).await.unwrap();
    }

    /// Waits until the object of this UID was told that phase.
    async fn told(&mut self, uid: &str, phase: &str) {
        let is = |written: &Vec<(String, PodStatus)>| {
            written.iter().any(|(to, status)| to == uid && status.phase.as_deref() == Some(phase))
        };
        let reached =
            tokio::time::timeout(PATIENCE, self.written.wait_for(is)).await.map(|state| state.is_ok());
        assert_eq!(reached, Ok(true), "{phase} for {uid}");
    }

    /// Waits until something is told of the pod of that name by an event of that reason; returns the message.
    async fn event(&mut self, pod: &str, reason: &str) -> String {
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let event = self.events.recv().await.unwrap();
                if event.about.name.as_deref() == Some(pod) && event.reason == reason {
                    return event.message;
                }
            }
        });
        found.await.unwrap_or_else(|_| panic!("no {reason} of {pod}"))
    }

    /// An agent that was here before has left a record of a pod.
    fn remember(&self, uid: &str) {
        self.records.save(uid, &PodState::default(), false, clock::now()).unwrap();
    }

    /// Nothing can be saved of the pod from now on, or it can again.
    fn let_save(&self, uid: &str, can: bool) {
        let in_the_way = self.records.dir(uid).join(".state.json.new/in-the-way");
        if can {
            std::fs::remove_dir_all(in_the_way.parent().unwrap()).unwrap();
        } else {
            std::fs::create_dir_all(in_the_way).unwrap();
        }
    }

    /// Asks for the pod to be deleted.
    async fn delete(&self, mut pod: Value) {
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        self.set(pod).await;
    }

    /// Waits until the API server has let go of a pod.
    async fn let_go(&self) {
        let done = |asked: &Vec<(Asked, bool)>| asked.contains(&(Asked::Finalize, true));
        let reached = tokio::time::timeout(PATIENCE, self.api.asked.subscribe().wait_for(done)).await.is_ok();
        assert!(reached, "{:?}", self.api.asked.borrow());
    }

    /// Waits until the board is as it is asked for.
    async fn shown(&mut self, is: impl Fn(&Board) -> bool) {
        let reached = tokio::time::timeout(PATIENCE, self.board.wait_for(|board| is(board))).await;
        assert_eq!(reached.map(|board| board.is_ok()), Ok(true), "{:?}", self.board.borrow());
    }
}

fn pod(name: &str, uid: &str, annotations: Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "uid": uid, "annotations": annotations},
        "spec": {"containers": [{"name": "c", "image": "i:v1", "imagePullPolicy": "IfNotPresent"}]},
    })
}

fn static_pod(name: &str, uid: &str) -> Value {
    pod(name, uid, json!({"kubernetes.io/config.source": "file", "kubernetes.io/config.hash": uid}))
}

fn mirror(name: &str, uid: &str, of: &str) -> Value {
    pod(name, uid, json!({"kubernetes.io/config.mirror": of, "kubernetes.io/config.hash": of}))
}

#[tokio::test]
async fn nothing_is_an_orphan_before_every_source_has_told_all() {
    let world = World::with(&["from-api", "orphan"]);
    world.remember("orphan");
    world.synced(PodSource::File, &["static"]).await;
    world.set(static_pod("p", "static")).await;
    world.runs(&["from-api", "orphan", "static"]).await;
    assert!(world.records.knows("orphan"));
    world.set(pod("q", "from-api", json!({}))).await;
    world.synced(PodSource::Api, &["from-api"]).await;
    world.runs(&["from-api", "static"]).await;
    let removed = tokio::time::timeout(PATIENCE, async {
        while world.records.knows("orphan") {
            tokio::task::yield_now().await;
        }
    });
    removed.await.unwrap();
}

/// What an agent that was killed has left in memory goes when it is known to be nobody's, and not before: until then,
/// a worker may still show it to a guest.
#[tokio::test]
async fn volumes_in_memory_are_no_orphans_before_that_either() {
    let world = World::new(&["kept"], true);
    if world.memory.is_none() {
        eprintln!("not tested: this process may not mount");
        return;
    }
    let memory = world.root.path().join("memory");
    for uid in ["kept", "orphan"] {
        let volume = memory.join(uid).join("kubernetes.io~secret/v");
        std::fs::create_dir_all(&volume).unwrap();
        std::fs::write(volume.join("key"), uid).unwrap();
    }
    world.synced(PodSource::File, &["static"]).await;
    world.set(static_pod("p", "static")).await;
    // The static pod runs, so that the list of files has been taken in.
    world.runs(&["kept", "static"]).await;
    assert!(memory.join("orphan/kubernetes.io~secret/v/key").exists());
    world.set(pod("q", "kept", json!({}))).await;
    world.synced(PodSource::Api, &["kept"]).await;
    let removed = tokio::time::timeout(PATIENCE, async {
        while memory.join("orphan").exists() {
            tokio::task::yield_now().await;
        }
    });
    removed.await.unwrap();
    assert!(memory.join("kept/kubernetes.io~secret/v/key").exists());
}

#[tokio::test]
async fn a_source_speaks_for_its_own_pods_only() {
    let world = World::with(&["from-api"]);
    world.set(static_pod("p", "static")).await;
    world.set(pod("q", "from-api", json!({}))).await;
    world.synced(PodSource::File, &["static"]).await;
    world.synced(PodSource::Api, &["from-api"]).await;
    world.runs(&["from-api", "static"]).await;
    // Each is ended by its own source alone.
    world.synced(PodSource::File, &[]).await;
    world.let_end("static").await;
    world.runs(&["from-api"]).await;
    world.synced(PodSource::Api, &[]).await;
    world.let_end("from-api").await;
    world.runs(&[]).await;
}

#[tokio::test]
async fn a_new_version_of_a_static_pod_waits_for_the_end_of_the_old_one() {
    let mut world = World::with(&[]);
    world.synced(PodSource::Api, &[]).await;
    world.set(static_pod("p", "v1")).await;
    world.synced(PodSource::File, &["v1"]).await;
    world.runs(&["v1"]).await;
    world.set(static_pod("p", "v2")).await;
    world.synced(PodSource::File, &["v2"]).await;
    world.set(static_pod("other", "other")).await;
    world.runs(&["other", "v1"]).await;
    // The file is changed back while its pod is still being stopped: it has to end all the same.
    world.set(static_pod("p", "v1")).await;
    world.synced(PodSource::File, &["other", "v1"]).await;
    world.shown(|board| board.pods.values().any(|pod| pod.ending)).await;
    world.let_end("v1").await;
    world.shown(|board| !board.pods.values().any(|pod| pod.ending)).await;
    world.runs(&["other", "v1"]).await;
}

#[tokio::test]
async fn a_mirror_is_no_pod_to_run_but_is_told_how_its_pod_is() {
    let mut world = World::with(&[]);
    world.synced(PodSource::File, &["v1"]).await;
    world.set(static_pod("p", "v1")).await;
    world.runs(&["v1"]).await;
    assert_eq!(world.written.borrow().len(), 0, "there is nobody to tell yet");

    world.set(mirror("p", "m0", "v0")).await;
    world.set(mirror("p", "m1", "v1")).await;
    world.told("m1", "Running").await;
    // Its successor knows nothing of what it was told.
    world.tell(Update::Gone("m1".to_owned())).await;
    world.set(mirror("p", "m2", "v1")).await;
    world.told("m2", "Running").await;
    world.synced(PodSource::Api, &["m2"]).await;
    world.runs(&["v1"]).await;
    let told: HashSet<String> = world.written.borrow().iter().map(|(uid, _)| uid.clone()).collect();
    assert_eq!(
        told,
        HashSet::from(["m1".to_owned(), "m2".to_owned()]),
        "the mirror of another version is not told"
    );
}

/// The final DELETE comes when the last status is there, and not before; each is asked for until it is done.
#[tokio::test]
async fn a_deleted_pod_is_let_go_after_its_last_status() {
    let mut world = World::with(&[]);
    *world.api.services.lock().unwrap() = Some(Vec::new());
    world.synced(PodSource::File, &[]).await;
    let mut p = pod("p", "u", json!({}));
    world.set(p.clone()).await;
    world.synced(PodSource::Api, &["u"]).await;
    world.told("u", "Running").await;
    let mut asked = world.api.asked.subscribe();
    let before = asked.borrow().len();
    *world.api.failing.lock().unwrap() = vec![Asked::Status, Asked::Status, Asked::Finalize];
    p["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    p["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    world.set(p).await;
    world.let_end("u").await;
    let done = |asked: &Vec<(Asked, bool)>| asked.contains(&(Asked::Finalize, true));
    tokio::time::timeout(PATIENCE, asked.wait_for(done)).await.unwrap().unwrap();
    let asked = asked.borrow()[before..].to_vec();
    let finalize = asked.iter().position(|(what, _)| *what == Asked::Finalize).unwrap();
    assert_eq!(asked[..2], [(Asked::Status, false); 2]);
    assert_eq!(asked[finalize - 1], (Asked::Status, true));
    assert_eq!(asked[finalize..], [(Asked::Finalize, false), (Asked::Finalize, true)]);
    let written = world.written.borrow().last().unwrap().1.clone();
    let end = written.container_statuses.unwrap()[0].state.clone().unwrap().terminated;
    assert_eq!((written.phase.as_deref(), end.map(|end| end.exit_code)), (Some("Failed"), Some(143)));
}

#[tokio::test]
async fn a_list_of_the_api_servers_takes_away_mirrors_that_it_does_not_hold() {
    let mut world = World::with(&[]);
    world.synced(PodSource::File, &[]).await;
    world.set(mirror("p", "m1", "v1")).await;
    world.synced(PodSource::Api, &["m1"]).await;
    world.shown(|board| !board.mirrors.is_empty()).await;
    world.synced(PodSource::Api, &[]).await;
    world.shown(|board| board.mirrors.is_empty()).await;
    world.runs(&[]).await;
}

/// What the provider cannot tell is neither lost nor an orphan: a pod goes on as it was, and a folder stays in which
/// something may run.
#[tokio::test]
async fn what_cannot_be_told_changes_nothing() {
    let mut world = World::with(&["orphan"]);
    world.remember("orphan");
    let mut p = static_pod("p", "s1");
    p["spec"]["restartPolicy"] = json!("Never");
    let mut mirrored = mirror("p", "m1", "s1");
    mirrored["spec"] = p["spec"].clone();
    world.runtime.mute.send_replace(Some(0));
    world.synced(PodSource::File, &["s1"]).await;
    world.synced(PodSource::Api, &["m1"]).await;
    world.set(p).await;
    world.set(mirrored).await;
    world.told("m1", "Running").await;
    world.runs(&["orphan", "s1"]).await;
    assert!(world.records.knows("orphan"));

    let mut mute = world.runtime.mute.subscribe();
    let before = *mute.borrow();
    world.let_end("s1").await;
    tokio::time::timeout(PATIENCE, mute.wait_for(|asked| *asked > before)).await.unwrap().unwrap();
    world.runtime.mute.send_replace(None);
    world.told("m1", "Failed").await;
    let (_, status) = world.written.borrow().last().cloned().unwrap();
    let end = status.container_statuses.unwrap()[0].state.clone().unwrap().terminated.unwrap();
    assert_eq!((end.exit_code, end.reason.as_deref()), (143, Some("Error")));
}

/// A container whose process died before it could say that it had started it has run all the same: a pod that
/// runs once does not run twice.
#[tokio::test]
async fn what_has_run_counts_though_its_start_has_failed() {
    let mut world = World::with(&[]);
    let mut torn = static_pod(TORN, "s1");
    torn["spec"]["restartPolicy"] = json!("Never");
    world.set(torn.clone()).await;
    let mut mirrored = mirror(TORN, "m1", "s1");
    mirrored["spec"] = torn["spec"].clone();
    world.set(mirrored).await;
    world.told("m1", "Failed").await;
    let (_, status) = world.written.borrow().last().cloned().unwrap();
    let statuses = status.container_statuses.unwrap();
    let end = statuses[0].state.clone().unwrap().terminated.unwrap();
    assert_eq!((end.exit_code, end.reason.as_deref()), (137, Some("ContainerStatusUnknown")));
    assert_eq!(statuses[0].restart_count, 0);
}

/// A start that still waits for the compiler ends with its pod, which it would hold up otherwise.
#[tokio::test]
async fn a_start_that_is_still_prepared_is_called_off_when_its_pod_is_deleted() {
    let world = World::with(&[]);
    *world.api.services.lock().unwrap() = Some(Vec::new());
    world.synced(PodSource::File, &[]).await;
    world.set(pod(SLOW, "u", json!({}))).await;
    world.synced(PodSource::Api, &["u"]).await;
    let mut compiling = world.runtime.compiling.subscribe();
    tokio::time::timeout(PATIENCE, compiling.wait_for(|all| !all.is_empty())).await.unwrap().unwrap();
    world.delete(pod(SLOW, "u", json!({}))).await;
    world.let_go().await;
    assert_eq!(world.runtime.stopped.borrow().len(), 0, "nothing has run");
}

/// A task that panics is said to have, by the pod's name, and another one goes on from the record: nothing is started
/// twice, and the pod can be deleted.
#[tokio::test]
async fn a_pod_whose_task_panics_is_taken_up_again() {
    let mut world = World::with(&[]);
    *world.api.services.lock().unwrap() = Some(Vec::new());
    world.synced(PodSource::File, &[]).await;
    world.set(pod("p", "u", json!({}))).await;
    world.set(pod("other", "o", json!({}))).await;
    world.synced(PodSource::Api, &["u", "o"]).await;
    world.told("u", "Running").await;
    world.runs(&["o", "u"]).await;
    world.runtime.panicking.lock().unwrap().push(Call::Observe);
    world.wake.send("u".to_owned()).await.unwrap();
    let message = world.event("p", "FailedSync").await;
    assert_eq!(message, "internal error: panic: Observe is too much; the pod is taken up again in 1 s");
    world.delete(pod("p", "u", json!({}))).await;
    world.event("p", "Killing").await;
    world.let_end("u").await;
    world.let_go().await;
    assert_eq!(world.runtime.started.lock().unwrap().len(), 2);
}

/// So is one that ends in the middle of being taken up, also where its pod is deleted meanwhile.
#[tokio::test]
async fn a_pod_that_is_gone_before_its_task_is_back_ends() {
    let mut world = World::with(&["u"]);
    world.synced(PodSource::File, &[]).await;
    let mut running = pod("p", "u", json!({}));
    running["status"] = json!({"phase": "Running", "containerStatuses": [{
        "name": "c", "image": "i:v1", "imageID": "", "ready": true, "restartCount": 0, "containerID": "fake://x",
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
    }]});
    world.runtime.panicking.lock().unwrap().extend([Call::Observe, Call::Observe]);
    world.set(running).await;
    world.event("p", "FailedSync").await;
    world.tell(Update::Gone("u".to_owned())).await;
    world.event("p", "FailedSync").await;
    world.event("p", "Killing").await;
    world.let_end("u").await;
    world.runs(&[]).await;
    assert_eq!(world.runtime.started.lock().unwrap().len(), 0);
}

/// What a task has spawned comes to an outcome even if it panics: the container waits for its next start, or is asked
/// to stop once more.
#[tokio::test]
async fn a_panic_in_what_a_task_has_begun_is_a_failure_of_that() {
    let mut world = World::with(&[]);
    *world.api.services.lock().unwrap() = Some(Vec::new());
    world.runtime.panicking.lock().unwrap().push(Call::Start);
    world.synced(PodSource::File, &[]).await;
    world.set(pod("p", "u", json!({}))).await;
    world.synced(PodSource::Api, &["u"]).await;
    let message = world.event("p", "FailedSync").await;
    assert_eq!(message, "internal error: a start has ended in a panic: Start is too much");
    let waiting = |written: &Vec<(String, PodStatus)>| {
        let status = written.iter().rev().find(|(uid, _)| uid == "u");
        let container =
            status.and_then(|(_, s)| s.container_statuses.as_ref()?.first()?.state.as_ref()?.waiting.clone());
        container.is_some_and(|w| w.message.as_deref() == Some("internal error: panic: Start is too much"))
    };
    tokio::time::timeout(PATIENCE, world.written.wait_for(waiting)).await.unwrap().unwrap();
    world.set(pod("q", "v", json!({}))).await;
    world.runs(&["v"]).await;
    world.runtime.panicking.lock().unwrap().push(Call::Stop);
    world.delete(pod("q", "v", json!({}))).await;
    assert_eq!(world.event("q", "FailedKillPod").await, "error killing pod: panic: Stop is too much");
    world.let_end("v").await;
    world.let_go().await;
}

/// A record that cannot be written holds up what is to begin, and what has ended is not told; a deletion is carried out
/// all the same.
#[tokio::test]
async fn a_pod_that_cannot_be_saved_begins_nothing_and_ends() {
    let mut world = World::with(&[]);
    *world.api.services.lock().unwrap() = Some(Vec::new());
    world.let_save("u", false);
    world.synced(PodSource::File, &[]).await;
    let mut once = pod("p", "u", json!({}));
    once["spec"]["restartPolicy"] = json!("Never");
    world.set(once.clone()).await;
    world.synced(PodSource::Api, &["u"]).await;
    let message = world.event("p", "FailedSync").await;
    assert!(
        message.starts_with("cannot save the record of the pod; nothing is begun until then: "),
        "{message}"
    );
    assert_eq!(world.runtime.started.lock().unwrap().len(), 0);
    world.let_save("u", true);
    world.runs(&["u"]).await;
    world.told("u", "Running").await;

    // Its end is not told, nor forgotten by the provider, before it is on disk.
    world.let_save("u", false);
    world.let_end("u").await;
    world.event("p", "FailedSync").await;
    assert!(world.runtime.containers.borrow().contains_key(&container_id("u", "c", 0)));
    let ended =
        |(_, status): &(String, PodStatus)| matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    assert!(!world.written.borrow().iter().any(ended));
    world.delete(once).await;
    world.let_go().await;
    assert!(world.written.borrow().iter().any(ended));
    assert_eq!(world.runtime.started.lock().unwrap().len(), 1);
}

/// What an agent has left behind that did not know of it is stopped, and nothing is begun beside it.
#[tokio::test]
async fn an_attempt_that_is_not_the_newest_ends_before_another_begins() {
    let world = World::with(&["u"]);
    *world.api.services.lock().unwrap() = Some(Vec::new());
    world.synced(PodSource::File, &[]).await;
    // The API server tells of the second attempt, which is gone; the first one runs.
    let mut running = pod("p", "u", json!({}));
    running["status"] = json!({"phase": "Running", "containerStatuses": [{
        "name": "c", "image": "i:v1", "imageID": "", "ready": true, "restartCount": 1, "containerID": "fake://x",
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
    }]});
    world.set(running).await;
    world.synced(PodSource::Api, &["u"]).await;
    let first = container_id("u", "c", 0);
    let mut stopped = world.runtime.stopped.subscribe();
    tokio::time::timeout(PATIENCE, stopped.wait_for(|all| *all == [first.clone()])).await.unwrap().unwrap();
    assert_eq!(world.runtime.started.lock().unwrap().len(), 0);
    world.let_end("u").await;
    world.runs(&["u"]).await;
    assert_eq!(*world.runtime.started.lock().unwrap(), [container_id("u", "c", 2)]);
    let mut containers = world.runtime.containers.subscribe();
    let removed = containers.wait_for(|all| !all.contains_key(&first));
    tokio::time::timeout(PATIENCE, removed).await.unwrap().unwrap();
}

/// A pod that ran before an agent came keeps the address that its guests were told of.
#[tokio::test]
async fn an_address_is_decided_once_and_kept_in_the_record() {
    let mut world = World::with(&[]);
    let ips = |texts: &[&str]| -> Vec<IpAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
    let host_ips = ips(&["10.0.0.9", "10.0.0.7"]);
    *world.api.services.lock().unwrap() = Some(Vec::new());
    world.node.send_replace(NodeFacts { host_ips: host_ips.clone(), ..NodeFacts::default() });
    let old = PodState { addresses: ips(&["10.0.0.7"]), ..PodState::default() };
    world.records.save("old", &old, false, clock::now()).unwrap();
    for (uid, expected) in [("old", ips(&["10.0.0.7"])), ("new", host_ips)] {
        world.set(pod(uid, uid, json!({}))).await;
        world.told(uid, "Running").await;
        let (_, status) = world.written.borrow().last().cloned().unwrap();
        let seen: Vec<IpAddr> = status.pod_ips.iter().flatten().map(|ip| ip.ip.parse().unwrap()).collect();
        assert_eq!((seen, status.host_ip.as_deref()), (expected.clone(), Some("10.0.0.9")), "{uid}");
        assert_eq!(world.records.load(uid, clock::now()).unwrap().unwrap().addresses, expected);
    }
}

/// Nothing of a pod begins before it has an address, and nobody else has it before nothing of the pod is left.
#[tokio::test]
async fn a_pod_waits_for_an_address_of_its_own_and_gives_it_back() {
    let addresses = PodAddresses::undecided();
    let mut world = World::with_addresses(&[], false, addresses.clone());
    *world.api.services.lock().unwrap() = Some(Vec::new());
    let mut first = pod("first", "first", json!({}));
    first["spec"]["containers"][0]["ports"] = json!([{ "containerPort": 80, "hostPort": 8080 }]);
    world.set(first.clone()).await;
    let message = world.event("first", "NetworkNotReady").await;
    assert!(message.contains("podCIDR"), "{message}");
    assert_eq!(world.runtime.started.lock().unwrap().len(), 0);
    addresses.decide_own(AddressPool::new(&["10.9.0.0/30".parse().unwrap()]).unwrap());
    world.runs(&["first"]).await;
    world.told("first", "Running").await;
    let own: Vec<IpAddr> = vec!["10.9.0.2".parse().unwrap()];
    let record = world.records.load("first", clock::now()).unwrap().unwrap();
    assert_eq!(record.addresses, own);
    let ports = world.runtime.host_ports.lock().unwrap().clone();
    let leading: Vec<_> =
        ports.iter().map(|port| (port.host_port, port.pod_ip, port.container_port)).collect();
    assert_eq!(leading, [(8080, own[0], 80)]);
    assert_eq!(record.host_ports, ports, "an agent that comes back knows them at once");
    world.set(pod("second", "second", json!({}))).await;
    let message = world.event("second", "NetworkNotReady").await;
    assert!(message.contains("no address is left in 10.9.0.0/30"), "{message}");
    world.delete(first).await;
    let mut stopped = world.runtime.stopped.subscribe();
    tokio::time::timeout(PATIENCE, stopped.wait_for(|all| !all.is_empty())).await.unwrap().unwrap();
    assert_eq!(*world.runtime.released.lock().unwrap(), [], "it still runs");
    world.let_end("first").await;
    world.let_go().await;
    world.tell(Update::Gone("first".to_owned())).await;
    world.runs(&["second"]).await;
    assert_eq!(*world.runtime.released.lock().unwrap(), [(2, own.clone())]);
    world.told("second", "Running").await;
    let (_, status) = world.written.borrow().last().cloned().unwrap();
    assert_eq!(status.pod_ip, Some(own[0].to_string()));
}
