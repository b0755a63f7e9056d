//! A host, somebody who calls its components, their logs, and a client of its HTTP server.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use kubewasm_host::{Capture, GuestState, Output};
use kubewasm_workload::{
    CallError, ResolvedWorkload,
    engine::Engine,
    error::WorkloadError,
    host::{
        Host, HostApi, HostBuilder,
        http::{DynamicRouter, HttpServer},
    },
    host_interface::{
        BoundInterface, ComponentBinding, HostInterface, InterfaceError, LinkedImport, Stateless,
        WorkloadIdentity,
    },
    output::Outputs,
    types::{
        Component, LocalResources, Service, Workload, WorkloadStartRequest, WorkloadState, WorkloadStatus,
        WorkloadStatusRequest, WorkloadStopRequest, WorkloadUpdateRequest,
    },
    wit::{WitInterface, WitWorld},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use wasmtime::component::{Linker, Val};

/// For what must come, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn engine() -> Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| Engine::builder().build().unwrap()).clone()
}

/// Knows the workloads of a host, and calls what they export.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    resolved: Mutex<HashMap<String, ResolvedWorkload>>,
}

#[async_trait]
impl HostInterface for Probe {
    fn id(&self) -> &'static str {
        "probe"
    }

    fn world(&self) -> WitWorld {
        let imports = ["test:app/entry@1.0.0", "test:math/ops@1.0.0", "wasi:cli/run@0.2.0"];
        WitWorld { imports: imports.map(WitInterface::from).into(), exports: Vec::new() }
    }

    async fn bind_component(&self, _: &ComponentBinding) -> Result<Arc<dyn BoundInterface>, InterfaceError> {
        Ok(Arc::new(Stateless))
    }

    fn link(&self, _: &mut Linker<GuestState>, _: &[LinkedImport]) -> wasmtime::Result<()> {
        Ok(())
    }

    async fn resolved(&self, workload: &ResolvedWorkload) -> Result<(), InterfaceError> {
        let name = workload.identity().name.clone();
        self.resolved.lock().unwrap().insert(name, workload.clone());
        Ok(())
    }

    async fn unbind(&self, workload: &WorkloadIdentity) {
        self.resolved.lock().unwrap().remove(&workload.name);
    }
}

/// The logs of all components, by workload and component.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logs(Arc<Mutex<HashMap<(String, String), Capture>>>);

impl Outputs for Logs {
    fn open(&self, workload: &Arc<WorkloadIdentity>, component: &str) -> Arc<dyn Output> {
        let capture = Capture::new(64 << 10);
        let key = (workload.name.clone(), component.to_owned());
        self.0.lock().unwrap().insert(key, capture.clone());
        Arc::new(capture)
    }
}

pub(crate) struct World {
    pub(crate) host: Arc<Host>,
    pub(crate) probe: Arc<Probe>,
    pub(crate) http: Arc<HttpServer>,
    pub(crate) logs: Logs,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    pub(crate) async fn with(set: impl FnOnce(HostBuilder) -> HostBuilder) -> Self {
        let (probe, logs) = (Arc::new(Probe::default()), Logs::default());
        let http = Arc::new(HttpServer::new(DynamicRouter::default(), "127.0.0.1:0".parse().unwrap()));
        let builder = HostBuilder::new()
            .with_engine(engine())
            .with_plugin(Arc::<Probe>::clone(&probe))
            .unwrap()
            .with_http_handler(Arc::clone(&http))
            .with_outputs(Arc::new(logs.clone()));
        let host = set(builder).build().unwrap().start().await.unwrap();
        Self { host, probe, http, logs }
    }

    pub(crate) async fn start(&self, workload: Workload) -> Result<WorkloadStatus, WorkloadError> {
        let request = WorkloadStartRequest { workload_id: workload.name.clone(), workload };
        self.host.workload_start(request).await.map(|response| response.workload_status)
    }

    pub(crate) async fn update(&self, workload: Workload) -> Result<WorkloadStatus, WorkloadError> {
        let request = WorkloadUpdateRequest { workload_id: workload.name.clone(), workload };
        self.host.workload_update(request).await.map(|response| response.workload_status)
    }

    pub(crate) async fn stop(&self, name: &str) -> Result<WorkloadStatus, WorkloadError> {
        let request = WorkloadStopRequest { workload_id: name.to_owned() };
        self.host.workload_stop(request).await.map(|response| response.workload_status)
    }

    pub(crate) async fn status(&self, name: &str) -> WorkloadStatus {
        let request = WorkloadStatusRequest { workload_id: name.to_owned() };
        self.host.workload_status(request).await.unwrap().workload_status
    }

    /// Waits until a workload is so.
    pub(crate) async fn until(&self, name: &str, state: WorkloadState) -> WorkloadStatus {
        let mut status = self.host.watch(name).unwrap();
        let reached = status.wait_for(|status| status.workload_state == state);
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        reached.unwrap_or_else(|_| panic!("waited in vain for {state:?}")).unwrap().clone()
    }

    /// Calls a function of `test:app/entry`.
    pub(crate) async fn call(
        &self,
        workload: &str,
        function: &str,
        params: &[u32],
    ) -> Result<Option<u32>, CallError> {
        let params = params.iter().map(|param| Val::U32(*param)).collect();
        let results = self.call_as(workload, "test:app/entry@1.0.0", function, params).await?;
        Ok(results.first().map(|result| match result {
            Val::U32(number) => *number,
            other => panic!("another result: {other:?}"),
        }))
    }

    pub(crate) async fn call_as(
        &self,
        workload: &str,
        interface: &str,
        function: &str,
        params: Vec<Val>,
    ) -> Result<Vec<Val>, CallError> {
        let resolved = self.probe.resolved.lock().unwrap().get(workload).unwrap().clone();
        let exporters = resolved.exporters(interface);
        let exporter = exporters.first().expect("somebody exports it");
        exporter.call(function, params).await
    }

    /// Runs the command that a component is, and returns what it says.
    pub(crate) async fn run(&self, workload: &str) -> String {
        let results = self.call_as(workload, "wasi:cli/run@0.2.0", "run", Vec::new()).await;
        assert!(matches!(results.as_deref(), Ok([Val::Result(_)])), "{results:?}");
        self.said(workload, "c")
    }

    /// What a component has said since it was asked last.
    pub(crate) fn said(&self, workload: &str, component: &str) -> String {
        let logs = self.logs.0.lock().unwrap();
        let capture = logs.get(&(workload.to_owned(), component.to_owned())).unwrap();
        String::from_utf8(capture.take()).unwrap()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.http.address().unwrap()
    }

    /// Asks for a path of a host, on a connection of its own. Status, and what comes behind the head.
    pub(crate) async fn get(&self, host: &str, path: &str) -> (u16, String) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await
    }

    pub(crate) async fn ask(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an answer").unwrap();
        let status = answer.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        (status.parse().unwrap(), if is_chunked { joined(body) } else { body.to_owned() })
    }
}

/// A body without the framing of its chunks.
fn joined(mut chunked: &str) -> String {
    let mut body = String::new();
    while let Some((size, rest)) = chunked.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        let (chunk, rest) = rest.split_at(size);
        body.push_str(chunk);
        chunked = rest.strip_prefix("\r\n").unwrap();
        if size == 0 {
            break;
        }
    }
    body
}

pub(crate) fn component(name: &str, bytes: &Bytes) -> Component {
    Component { name: name.to_owned(), bytes: bytes.clone(), ..Component::default() }
}

pub(crate) fn service(bytes: &Bytes, max_restarts: u64) -> Service {
    Service { bytes: bytes.clone(), max_restarts, ..Service::default() }
}

pub(crate) fn workload(name: &str, components: Vec<Component>) -> Workload {
    Workload { namespace: "test".to_owned(), name: name.to_owned(), components, ..Workload::default() }
}

/// A component that is run as a command, with these arguments.
pub(crate) fn command(bytes: &Bytes, arguments: &[String], resources: LocalResources) -> Component {
    let local_resources = LocalResources { arguments: arguments.to_vec(), ..resources };
    Component { local_resources, ..component("c", bytes) }
}

/// One of `tests/guests`.
pub(crate) async fn guest(name: &str) -> Bytes {
    kubewasm_tests::guests::guest(name).await.unwrap().into()
}

/// An entry `wasi:http` with this host and these aliases.
pub(crate) fn http(host: &str, aliases: &str) -> WitInterface {
    let mut entry = WitInterface::from("wasi:http/incoming-handler");
    for (key, value) in [("host", host), ("host-aliases", aliases)] {
        entry.config.insert(key.to_owned(), value.to_owned());
    }
    entry
}
