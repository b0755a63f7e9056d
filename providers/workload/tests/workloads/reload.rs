//! Another version takes over.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use async_trait::async_trait;
use kubewasm_host::GuestState;
use kubewasm_workload::{
    host_interface::{
        BoundInterface, ComponentBinding, HostInterface, InterfaceError, LinkedImport, Stateless,
        WorkloadIdentity,
    },
    types::{Component, Service, Workload, WorkloadState},
    wit::{WitInterface, WitWorld},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    sync::Notify,
};
use wasmtime::component::Linker;

use crate::{
    guests,
    world::{World, component, guest, http, service, workload},
};

async fn web(guest_name: &str) -> Workload {
    let component = component("web", &guest(guest_name).await);
    Workload { host_interfaces: vec![http("a", "")], ..workload("w", vec![component]) }
}

/// Asks on one connection, again and again, and again on another one when that is ended between two requests.
async fn ask_on_and_on(world: &World, ends: &AtomicBool, versions: &[AtomicUsize; 2]) {
    let mut connection: Option<BufReader<TcpStream>> = None;
    while !ends.load(Ordering::Acquire) {
        let mut stream = match connection.take() {
            Some(stream) => stream,
            None => BufReader::new(TcpStream::connect(world.address()).await.unwrap()),
        };
        stream.write_all(b"GET /scheme HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let (mut line, mut chunked, mut length) = (String::new(), false, 0);
        stream.read_line(&mut line).await.unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "a request has failed: {line:?}");
        loop {
            line.clear();
            stream.read_line(&mut line).await.unwrap();
            let header = line.trim_end().to_ascii_lowercase();
            chunked |= header == "transfer-encoding: chunked";
            if let Some(value) = header.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            }
            if header.is_empty() {
                break;
            }
        }
        let mut body = Vec::new();
        if chunked {
            loop {
                line.clear();
                stream.read_line(&mut line).await.unwrap();
                let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
                let mut chunk = vec![0; size + 2];
                stream.read_exact(&mut chunk).await.unwrap();
                body.extend(&chunk[..size]);
                if size == 0 {
                    break;
                }
            }
        } else {
            body.resize(length, 0);
            stream.read_exact(&mut body).await.unwrap();
        }
        let version = match body.as_slice() {
            b"http" => 0,
            b"0" => 1,
            other => panic!("another answer: {:?}", String::from_utf8_lossy(other)),
        };
        versions[version].fetch_add(1, Ordering::AcqRel);
        connection = Some(stream);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_versions_take_over() {
    let world = Arc::new(World::new().await);
    let versions = [web("http-0.2.c").await, web("http-0.3.wat").await];
    world.start(versions[0].clone()).await.unwrap();
    let (ends, counts) =
        (Arc::new(AtomicBool::new(false)), Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (world, ends, counts) = (Arc::clone(&world), Arc::clone(&ends), Arc::clone(&counts));
            tokio::spawn(async move { ask_on_and_on(&world, &ends, &counts).await })
        })
        .collect();
    // Each version must have answered before the next takes over.
    for version in [1, 0, 1, 0, 1] {
        let before = counts[version].load(Ordering::Acquire);
        world.update(versions[version].clone()).await.unwrap();
        while counts[version].load(Ordering::Acquire) < before + 20 {
            assert!(clients.iter().all(|client| !client.is_finished()), "a client has failed");
            tokio::task::yield_now().await;
        }
    }
    ends.store(true, Ordering::Release);
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(world.get("a", "/scheme").await.0, 200);
}

#[tokio::test]
async fn a_request_that_is_under_way_ends_on_the_old_version() {
    let world = World::new().await;
    world.start(web("http-0.2.c").await).await.unwrap();
    let mut slow = TcpStream::connect(world.address()).await.unwrap();
    slow.write_all(b"GET /drip?20 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut begun = [0; 12];
    slow.read_exact(&mut begun).await.unwrap();
    world.update(web("http-0.3.wat").await).await.unwrap();
    assert!(world.get("a", "/scheme").await.1.contains('0'), "the new version answers");
    let mut rest = String::new();
    slow.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest.matches("drip").count(), 20);
}

fn caller_and(math: Component) -> Workload {
    workload("w", vec![component("caller", &guests::caller()), math])
}

#[tokio::test]
async fn callers_call_the_version_that_counts() {
    let world = World::new().await;
    let pooled = Component { pool_size: 1, ..component("math", &guests::math("1.0.0")) };
    world.start(caller_and(pooled.clone())).await.unwrap();
    assert_eq!(world.call("w", "count", &[]).await.unwrap(), Some(1));
    assert_eq!(world.call("w", "count", &[]).await.unwrap(), Some(2));
    let newer = Component { bytes: guests::math("1.5.0"), ..pooled };
    world.update(caller_and(newer)).await.unwrap();
    assert_eq!(world.call("w", "count", &[]).await.unwrap(), Some(1), "it has instances of its own");
}

#[tokio::test]
async fn a_service_that_has_not_changed_goes_on() {
    let world = World::new().await;
    let computes = service(&guests::computes(), 0);
    let with = |service: Service, version: &str| Workload {
        service: Some(service),
        ..workload("w", vec![component("math", &guests::math(version))])
    };
    world.start(with(computes.clone(), "1.0.0")).await.unwrap();
    world.update(with(computes, "1.1.0")).await.unwrap();
    assert_eq!(world.status("w").await.workload_state, WorkloadState::Running);
    world.update(with(service(&guests::exits(0), 0), "1.1.0")).await.unwrap();
    world.until("w", WorkloadState::Completed).await;
}

/// A plugin that binds a workload when it is let.
#[derive(Debug, Default)]
struct Gate {
    is_asked: Notify,
    lets: Notify,
    refuses: AtomicBool,
    binds: AtomicUsize,
    unbinds: AtomicUsize,
}

const GATE: &str = "test:gate/gate@1.0.0";

#[async_trait]
impl HostInterface for Gate {
    fn id(&self) -> &'static str {
        "gate"
    }

    fn world(&self) -> WitWorld {
        WitWorld { imports: Vec::new(), exports: vec![WitInterface::from(GATE)] }
    }

    async fn bind(&self, _: &Arc<WorkloadIdentity>, _: &[WitInterface]) -> Result<(), InterfaceError> {
        self.binds.fetch_add(1, Ordering::AcqRel);
        self.is_asked.notify_one();
        self.lets.notified().await;
        if self.refuses.load(Ordering::Acquire) {
            return Err(InterfaceError::Setting {
                key: "gate".to_owned(),
                reason: "it is closed".to_owned(),
            });
        }
        Ok(())
    }

    async fn bind_component(&self, _: &ComponentBinding) -> Result<Arc<dyn BoundInterface>, InterfaceError> {
        Ok(Arc::new(Stateless))
    }

    fn link(&self, _: &mut Linker<GuestState>, _: &[LinkedImport]) -> wasmtime::Result<()> {
        Ok(())
    }

    async fn unbind(&self, _: &WorkloadIdentity) {
        self.unbinds.fetch_add(1, Ordering::AcqRel);
    }
}

/// A workload that runs without the plugin, on a host that has it, and a version that wants it.
async fn at_the_gate() -> (World, Arc<Gate>, Workload) {
    let gate = Arc::new(Gate::default());
    let world = World::with(|builder| builder.with_plugin(Arc::<Gate>::clone(&gate)).unwrap()).await;
    let older = caller_and(component("math", &guests::math("1.0.0")));
    world.start(older.clone()).await.unwrap();
    let newer = Workload { host_interfaces: vec![WitInterface::from(GATE)], ..older };
    (world, gate, newer)
}

#[tokio::test]
async fn a_version_takes_over_although_nobody_waits_for_it_any_more() {
    let (world, gate, newer) = at_the_gate().await;
    tokio::select! {
        updated = world.update(newer.clone()) => panic!("the plugin has not bound it yet: {updated:?}"),
        () = gate.is_asked.notified() => {}
    }
    gate.lets.notify_one();
    // Its turn comes after that of the first one, whose plugins it finds bound.
    world.update(newer).await.unwrap();
    assert_eq!(gate.binds.load(Ordering::Acquire), 1);
    world.stop("w").await.unwrap();
    assert_eq!(gate.unbinds.load(Ordering::Acquire), 1);
}

#[tokio::test]
async fn a_version_that_fails_leaves_no_plugin_bound_to_it() {
    let (world, gate, newer) = at_the_gate().await;
    gate.refuses.store(true, Ordering::Release);
    gate.lets.notify_one();
    let error = world.update(newer.clone()).await.unwrap_err().to_string();
    assert!(error.contains("it is closed"), "{error}");
    assert_eq!(gate.unbinds.load(Ordering::Acquire), 1);
    gate.refuses.store(false, Ordering::Release);
    gate.lets.notify_one();
    world.update(newer).await.unwrap();
    assert_eq!(gate.binds.load(Ordering::Acquire), 2, "it is bound anew");
}
