//! A worker that an escaped guest has made its own, and an honest one beside it. Both are servers in this process, which
//! hold the locks of workers.

mod requests;
mod tables;

use std::{collections::VecDeque, fs, path::Path, pin::Pin, sync::Mutex};

use futures::{Stream, StreamExt as _};
use kubewasm_host::{
    NetworkTables, Usage,
    network::{OutOfStep, TablesUpdate},
};
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::{
    instance::InstanceStats,
    protocol::{
        IncomingUpdate,
        wire::{watch_event::Event, worker_server},
    },
};

type ToCaller = Pin<Box<dyn Stream<Item = Result<wire::ToCaller, Status>> + Send>>;

/// What a worker says, whatever it is asked.
#[derive(Clone, Debug, Default)]
struct Says {
    events: Vec<Event>,
    /// Ends its streams.
    dead: CancellationToken,
    stats: Vec<wire::InstanceStats>,
    refusals: Vec<wire::PodRefusals>,
    /// What it speaks; ours if nothing else.
    versions: Option<Versions>,
    /// What it knows of the network, and every update that it was sent, in effect or not.
    tables: Arc<NetworkTables>,
    updates: Arc<Mutex<Vec<TablesUpdate>>>,
    /// The certificates that it was sent, with the session and the instance.
    certificates: Arc<Mutex<Vec<(String, String, wire::TlsCertificate)>>>,
    /// What it says of them, one after the other.
    outcomes: Arc<Mutex<VecDeque<wire::SetCertificateOutcome>>>,
    /// The limits that it was sent.
    resizes: Arc<Mutex<Vec<wire::ResizeRequest>>>,
    /// What it says of them, one after the other.
    resized: Arc<Mutex<VecDeque<wire::ResizeResponse>>>,
    /// The pods that listen, and where.
    listens: Vec<(String, String)>,
}

#[async_trait::async_trait]
impl worker_server::Worker for Says {
    async fn hello(&self, _: Request<wire::HelloRequest>) -> Result<Response<wire::HelloResponse>, Status> {
        let versions = self.versions.unwrap_or(Versions::OURS);
        Ok(Response::new(wire::HelloResponse {
            protocol_min: versions.min,
            protocol_max: versions.max,
            pid: 1,
            incarnation: "1".into(),
            ..wire::HelloResponse::default()
        }))
    }

    async fn start(&self, _: Request<wire::StartRequest>) -> Result<Response<wire::StartResponse>, Status> {
        Err(Status::unimplemented("start"))
    }

    async fn stop(&self, _: Request<wire::StopRequest>) -> Result<Response<wire::StopResponse>, Status> {
        Ok(Response::new(wire::StopResponse {}))
    }

    async fn remove(
        &self,
        _: Request<wire::RemoveRequest>,
    ) -> Result<Response<wire::RemoveResponse>, Status> {
        Ok(Response::new(wire::RemoveResponse {}))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::WatchEvent, Status>> + Send>>;

    async fn watch(&self, _: Request<wire::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let events = self.events.clone().into_iter().map(|event| Ok(wire::WatchEvent { event: Some(event) }));
        let events = futures::stream::iter(events).chain(futures::stream::pending());
        Ok(Response::new(Box::pin(events.take_until(self.dead.clone().cancelled_owned()))))
    }

    async fn exec(&self, _: Request<wire::ExecRequest>) -> Result<Response<wire::ExecResponse>, Status> {
        Err(Status::unimplemented("exec"))
    }

    type ExecStreamStream = ToCaller;

    async fn exec_stream(
        &self,
        _: Request<Streaming<wire::FromCaller>>,
    ) -> Result<Response<ToCaller>, Status> {
        Err(Status::unimplemented("exec_stream"))
    }

    type AttachStream = ToCaller;

    async fn attach(&self, _: Request<Streaming<wire::FromCaller>>) -> Result<Response<ToCaller>, Status> {
        Err(Status::unimplemented("attach"))
    }

    type ForwardStream = Pin<Box<dyn Stream<Item = Result<wire::ForwardMessage, Status>> + Send>>;

    async fn forward(
        &self,
        _: Request<Streaming<wire::ForwardMessage>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        Err(Status::unimplemented("forward"))
    }

    async fn stats(&self, _: Request<wire::StatsRequest>) -> Result<Response<wire::StatsResponse>, Status> {
        Ok(Response::new(wire::StatsResponse {
            instances: self.stats.clone(),
            refusals: self.refusals.clone(),
            instantiations: None,
        }))
    }

    async fn set_network(
        &self,
        parts: Request<Streaming<wire::SetNetworkRequest>>,
    ) -> Result<Response<wire::SetNetworkResponse>, Status> {
        let (mut parts, mut update) = (parts.into_inner(), IncomingUpdate::default());
        while let Some(part) = parts.message().await? {
            update.take(part).unwrap();
        }
        let (_, update) = update.end().unwrap();
        self.updates.lock().unwrap().push(update.clone());
        let outcome = match self.tables.apply(update) {
            Ok(()) => wire::SetNetworkOutcome::Applied,
            Err(OutOfStep) => wire::SetNetworkOutcome::OutOfStep,
        };
        Ok(Response::new(wire::SetNetworkResponse { outcome: outcome.into() }))
    }

    async fn listens(
        &self,
        request: Request<wire::ListensRequest>,
    ) -> Result<Response<wire::ListensResponse>, Status> {
        let asked = request.into_inner();
        let listens =
            self.listens.iter().any(|known| *known == (asked.pod_uid.clone(), asked.address.clone()));
        Ok(Response::new(wire::ListensResponse { listens }))
    }

    async fn set_certificate(
        &self,
        request: Request<wire::SetCertificateRequest>,
    ) -> Result<Response<wire::SetCertificateResponse>, Status> {
        let wire::SetCertificateRequest { session, id, certificate } = request.into_inner();
        self.certificates.lock().unwrap().push((session, id, certificate.unwrap()));
        let outcome = self.outcomes.lock().unwrap().pop_front();
        let outcome = outcome.unwrap_or(wire::SetCertificateOutcome::Applied);
        Ok(Response::new(wire::SetCertificateResponse { outcome: outcome.into() }))
    }

    async fn resize(
        &self,
        request: Request<wire::ResizeRequest>,
    ) -> Result<Response<wire::ResizeResponse>, Status> {
        self.resizes.lock().unwrap().push(request.into_inner());
        let answer = self.resized.lock().unwrap().pop_front();
        let applied = wire::ResizeOutcome::Applied.into();
        Ok(Response::new(answer.unwrap_or(wire::ResizeResponse { outcome: applied, ..Default::default() })))
    }

    async fn shutdown(
        &self,
        _: Request<wire::ShutdownRequest>,
    ) -> Result<Response<wire::ShutdownResponse>, Status> {
        Err(Status::failed_precondition("it stays"))
    }
}

/// Dead when this is dropped.
struct Worker {
    _lock: fs::File,
    _streams: DropGuard,
    _server: AbortOnDropHandle<Result<(), tonic::transport::Error>>,
}

/// A living worker of a group, for which these ids are claimed.
fn worker(dir: &Path, group: &str, claimed: &[&str], says: Says) -> Worker {
    let socket = process::socket(dir, group);
    let claims = dir.join(".claims").join(group);
    for folder in [socket.parent().unwrap(), &claims] {
        fs::create_dir_all(folder).unwrap();
    }
    for id in claimed {
        fs::write(claims.join(id), format!("pod-{id}\nlabel-{id}\n")).unwrap();
    }
    let lock = fs::File::create(crate::worker::lock_path(&socket)).unwrap();
    lock.lock().unwrap();
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let streams = says.dead.clone().drop_guard();
    let server = tonic::transport::Server::builder()
        .add_service(worker_server::WorkerServer::new(says))
        .serve_with_incoming(tokio_stream::wrappers::UnixListenerStream::new(listener));
    let server = AbortOnDropHandle::new(tokio::spawn(server));
    Worker { _lock: lock, _streams: streams, _server: server }
}

fn instance(id: &str, exit: Option<wire::Exit>) -> wire::Instance {
    let (pod_uid, label) = ("pod-of-another".to_owned(), "image-of-another".to_owned());
    wire::Instance { id: id.into(), pod_uid, revision: 9, started_at: 1, exit, label }
}

fn exited() -> Option<wire::Exit> {
    let (reason, message) = (wire::ExitReason::Exited.into(), "it says".to_owned());
    Some(wire::Exit { finished_at: 2, code: 0, reason, message })
}

fn stats(id: &str) -> wire::InstanceStats {
    let usage = Usage::default();
    let at = Timestamp::UNIX_EPOCH;
    (&InstanceStats { id: id.into(), pod_uid: "pod-of-another".into(), at, usage, http: None }).into()
}

fn refusals(pod_uid: &str) -> wire::PodRefusals {
    wire::PodRefusals { pod_uid: pod_uid.into(), ingress: 1, egress: 2, last: vec!["ü".repeat(9000); 9] }
}

fn picture(events: impl IntoIterator<Item = Event>) -> Vec<Event> {
    let end = Event::Synced(wire::Synced {});
    [Event::Reset(wire::Reset { revision: 9 })].into_iter().chain(events).chain([end]).collect()
}

fn runs(agent: &Supervisor, id: &str) -> bool {
    agent.observe(id).is_some_and(|instance| instance.end.is_none())
}

/// A worker that says of another group's container that it has ended, is being started or was removed, or that it runs
/// what nobody has started, is not believed.
#[tokio::test]
async fn a_worker_can_claim_no_container_of_another_group() {
    let dir = tempfile::tempdir().unwrap();
    let honest = Says { events: picture([Event::Changed(instance("victim", None))]), ..Says::default() };
    let lies = [
        Event::Changed(instance("victim", exited())),
        Event::Changed(instance("made-up", None)),
        Event::Starting(wire::Starting { id: "victim".into() }),
        Event::Removed("victim".into()),
        Event::Changed(instance("own", None)),
    ];
    let liar = Says {
        events: picture(lies.clone()).into_iter().chain(lies).collect(),
        stats: vec![stats("victim"), stats("made-up"), stats("own")],
        refusals: ["pod-victim", "made-up", "pod-own"].map(refusals).into(),
        ..Says::default()
    };
    let _honest = worker(dir.path(), "honest", &["victim"], honest);
    let liar = worker(dir.path(), "liar", &["own"], liar);

    let agent =
        Supervisor::open(SupervisorOptions::new(dir.path(), Program::new("/bin/false"))).await.unwrap();
    assert!(runs(&agent, "victim") && runs(&agent, "own"));
    // Neither whose it is nor its image is for a worker to say.
    for id in ["victim", "own"] {
        let seen = agent.observe(id).unwrap();
        assert_eq!((seen.pod_uid, seen.label), (format!("pod-{id}"), format!("label-{id}")));
    }
    assert_eq!((agent.sighting("made-up"), agent.claims().0.len()), (Sighting::Absent, 2));
    let stats: Vec<_> = agent.stats().await.into_iter().map(|stats| (stats.id, stats.pod_uid)).collect();
    assert_eq!(stats, [("own".to_owned(), "pod-own".to_owned())]);
    let refusals = agent.refusals().await;
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert_eq!((refusals[0].pod_uid.as_str(), refusals[0].ingress, refusals[0].egress), ("pod-own", 1, 2));
    assert!(refusals[0].last.iter().map(|text| text.chars().count()).eq([400, 400]), "no more is taken");

    drop(liar);
    while runs(&agent, "own") {
        tokio::time::sleep(process::LOOK).await;
    }
    assert!(runs(&agent, "victim"), "a liar's death is its own");
    drop(agent);
    let next =
        Supervisor::open(SupervisorOptions::new(dir.path(), Program::new("/bin/false"))).await.unwrap();
    assert!(runs(&next, "victim"));
    assert_eq!((next.sighting("own"), next.claims().0.len()), (Sighting::Absent, 1));
}

/// Workers answer for pods of which they host something, and those that cannot tell are not in the way.
#[tokio::test]
async fn who_listens_is_asked_of_the_pods_own_workers() {
    let dir = tempfile::tempdir().unwrap();
    let says = |versions, ids: &[&str], pods: &[&str]| Says {
        events: picture(ids.iter().map(|id| Event::Changed(instance(id, None)))),
        versions,
        listens: pods.iter().map(|pod| ((*pod).to_owned(), "192.0.2.1:80".to_owned())).collect(),
        ..Says::default()
    };
    let before = Versions { min: Versions::LISTENS - 1, max: Versions::LISTENS - 1 };
    let _one = worker(dir.path(), "one", &["a", "b"], says(None, &["a", "b"], &["pod-a", "pod-c"]));
    let _other = worker(dir.path(), "other", &["c"], says(None, &["c"], &[]));
    let _old = worker(dir.path(), "old", &["d"], says(Some(before), &["d"], &[]));
    let agent = tables::agent(dir.path()).await;
    for (pod, address, expected) in [
        ("pod-a", "192.0.2.1:80", true),
        ("pod-a", "192.0.2.1:81", false),
        ("pod-b", "192.0.2.1:80", false),
        ("pod-c", "192.0.2.1:80", false),
        ("pod-d", "192.0.2.1:80", true),
        ("pod-e", "192.0.2.1:80", false),
    ] {
        assert_eq!(agent.listens(pod, address.parse().unwrap()).await.unwrap(), expected, "{pod} {address}");
    }
}
