//! One start, from the claim on its id to a certain outcome.
//!
//! ```text
//! claim ─► a worker ─► files, handed over ─► Start ─┬─► started, or refused
//!                                             ▲     ├─► answer lost ─► Hello (fences off what was sent before)
//!                                             └─────┘
//!          given up at any time ─► Hello ─► Remove, until the worker says that nothing will come of it
//! ```
//!
//! A start is over when it is known what came of it, and no sooner: no call's time-out stands for an answer. It takes
//! as long as its worker lives and does not say. An answer that was lost is asked for again, under the same id, for
//! which a worker starts one instance at the most.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use kubewasm_host::exit::Exit;
use kubewasm_kubelet::traces::{self, SpanKind};
use tokio_util::sync::CancellationToken;

use super::{
    CALL, InstancePlace, Sighting, SupervisorError, WorkerFailure,
    connect::Client,
    group::{Common, Group},
    mounting::Handed,
    network,
    view::Dead,
};
use crate::{
    instance::Instance,
    protocol::{spans, wire},
    spec::InstanceSpec,
    worker,
};

/// Between two attempts to get an answer out of a worker that lives; longer and longer.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Starts that are under way, by id.
#[derive(Debug, Default)]
pub(super) struct Starts(Arc<Mutex<HashMap<String, Pending>>>);

/// A start that is under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    /// Cancelled by who wants nothing to come of it.
    pub(super) given_up: CancellationToken,
    /// Cancelled when it is known what came of it.
    pub(super) over: CancellationToken,
}

/// Takes a start out of the list when it is over.
pub(super) struct Listed {
    list: Arc<Mutex<HashMap<String, Pending>>>,
    id: String,
    pub(super) pending: Pending,
}

impl Drop for Listed {
    fn drop(&mut self) {
        lock(&self.list).remove(&self.id);
        self.pending.over.cancel();
    }
}

impl Starts {
    /// The start of this id, if it is under way.
    pub(super) fn get(&self, id: &str) -> Option<Pending> {
        lock(&self.0).get(id).cloned()
    }

    /// Lists a start; errs with the one of this id that is under way.
    pub(super) fn list(&self, id: &str) -> Result<Listed, Pending> {
        let mut list = lock(&self.0);
        if let Some(pending) = list.get(id) {
            return Err(pending.clone());
        }
        let pending = Pending::default();
        list.insert(id.to_owned(), pending.clone());
        Ok(Listed { list: Arc::clone(&self.0), id: id.to_owned(), pending })
    }
}

fn lock(list: &Mutex<HashMap<String, Pending>>) -> MutexGuard<'_, HashMap<String, Pending>> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One start.
pub(super) struct Start {
    pub(super) common: Arc<Common>,
    pub(super) group: Arc<Group>,
    pub(super) place: InstancePlace,
    pub(super) spec: InstanceSpec,
    pub(super) listed: Listed,
}

/// What a worker answered.
enum Answer {
    Started(Box<Instance>),
    Refused(SupervisorError),
    /// The session has changed since it was asked.
    Stale,
    /// None has come, or none that tells anything.
    Lost(tonic::Status),
}

impl Start {
    /// Starts the instance, whose id is claimed; after an error it is not any more. The view knows the instance when
    /// this returns well.
    pub(super) async fn run(self) -> Result<Timestamp, SupervisorError> {
        let started = self.outcome().await;
        if started.is_err() {
            self.common.view.forget(&self.spec.id);
            self.common.claims.release(self.group.name(), vec![self.spec.id.clone()]).await;
        }
        started
    }

    async fn outcome(&self) -> Result<Timestamp, SupervisorError> {
        let given_up = &self.listed.pending.given_up;
        // While a worker starts. Whoever asks it for something says why it cannot be started.
        let _ = self.common.mounter.start(&self.common.options);
        let client = tokio::select! {
            client = self.group.client_for(&self.place) => client?,
            () = given_up.cancelled() => return Err(SupervisorError::GivenUp),
        };
        // What it begins with is what holds for its pod.
        tokio::select! {
            () = self.common.tables.reached(&client) => {}
            () = given_up.cancelled() => return Err(SupervisorError::GivenUp),
        }
        network::attach(self.common.network.as_ref(), self.group.name(), &self.spec.network).await?;
        let handed = self.hand_over().await?;
        // Until here nothing was sent.
        if given_up.is_cancelled() {
            return Err(SupervisorError::GivenUp);
        }
        let started = self.conversation(client).await;
        match handed {
            Handed::Before(in_use) => started.map_err(|error| match error {
                SupervisorError::GivenUp => error,
                _ => WorkerFailure::NoFiles(in_use).into(),
            }),
            Handed::Over(_) => started,
        }
    }

    /// Has the files of the instance made, and hands them to the worker of its group.
    async fn hand_over(&self) -> Result<Handed, SupervisorError> {
        let (common, spec) = (Arc::clone(&self.common), self.spec.clone());
        let handovers = worker::handovers_path(&self.group.socket());
        let hand_over = move || common.mounter.hand_over(&spec, &common.options, &handovers);
        tokio::task::spawn_blocking(hand_over).await.unwrap_or_else(|error| {
            let (what, source) = ("make a container's files", io::Error::other(error));
            Err(WorkerFailure::Files { what, source }.into())
        })
    }

    /// Asks the worker until it is known what has come of the start.
    async fn conversation(&self, mut client: Client) -> Result<Timestamp, SupervisorError> {
        let given_up = &self.listed.pending.given_up;
        let mut pause = FIRST_PAUSE;
        loop {
            let session = client.session().await;
            let answer = tokio::select! {
                answer = self.ask(&mut client, session.clone()) => answer,
                () = given_up.cancelled() => return self.withdraw(client, session).await,
            };
            match answer {
                Answer::Started(instance) => return self.started(&client, *instance),
                Answer::Refused(error) => return Err(error),
                // Another start has begun a session, or a Hello has come late.
                Answer::Stale => {}
                Answer::Lost(error) => {
                    tracing::warn!(instance = %self.spec.name, %error, "it is not known whether an instance has started; asking again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            // Any other worker of the group knows nothing of it, and is not asked.
            while client.renew(&session).await.is_err() {
                if !client.is_alive() {
                    return self.of_a_dead_worker(&client);
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Asks, and waits for the answer for as long as the connection lives.
    async fn ask(&self, client: &mut Client, session: String) -> Answer {
        let mut span = traces::child("kubewasm.worker.v1.Worker/Start", SpanKind::Client);
        span.set("rpc.system", "grpc");
        let recorded = span.place().filter(|place| place.context().is_sampled());
        let traceparent = recorded.as_ref().map(|place| place.context().to_string()).unwrap_or_default();
        let request = wire::StartRequest { spec: Some((&self.spec).into()), session, traceparent };
        let asked = client.worker.start(request);
        tokio::pin!(asked);
        let answer = match tokio::time::timeout(CALL, &mut asked).await {
            Ok(answer) => answer,
            Err(_) => {
                tracing::info!(instance = %self.spec.name, "a start takes long");
                asked.await
            }
        };
        match answer {
            Ok(answer) => {
                let mut answer = answer.into_inner();
                let told = std::mem::take(&mut answer.spans);
                if let Some(place) = recorded {
                    place.adopt(spans::told(told, &place, client.pid));
                }
                read(&self.spec.id, answer)
            }
            // What the worker has to say is in its message.
            Err(status) => {
                span.fail(status.message());
                Answer::Lost(status)
            }
        }
    }

    fn started(&self, client: &Client, instance: Instance) -> Result<Timestamp, SupervisorError> {
        let (view, group) = (&self.common.view, self.group.name());
        let started_at = instance.started_at;
        // The claim on it is this start's own.
        let _ = view.told(group, &client.incarnation, instance);
        if !client.is_alive() {
            // Its watch may have reported the loss before this instance was known.
            let exit = Exit::lost("the worker that hosted it is gone");
            view.lost(group, Dead::One(&client.incarnation), &exit, Timestamp::now());
        }
        Ok(started_at)
    }

    /// The worker that was asked is dead: what it had told is all that there is.
    fn of_a_dead_worker(&self, client: &Client) -> Result<Timestamp, SupervisorError> {
        match self.common.view.sighting(&self.spec.id) {
            Sighting::Known(instance) => Ok(instance.started_at),
            Sighting::Starting | Sighting::Absent | Sighting::CannotTell => {
                let group = self.group.name().to_owned();
                Err(WorkerFailure::Died { group, pid: client.pid }.into())
            }
        }
    }

    /// Sees to it that nothing comes of the start, however long that takes.
    async fn withdraw(&self, mut client: Client, mut session: String) -> Result<Timestamp, SupervisorError> {
        let mut pause = FIRST_PAUSE;
        while client.is_alive() {
            // What was sent before, and lies unread somewhere, must not come after the removal.
            let renewed = client.renew(&session).await;
            let removed = match renewed {
                Ok(()) => {
                    session = client.session().await;
                    let request = wire::RemoveRequest { id: self.spec.id.clone() };
                    super::call(client.worker.remove(request)).await
                }
                Err(error) => Err(super::of_status(error)),
            };
            match removed {
                Ok(_) => break,
                Err(error) => {
                    tracing::debug!(instance = %self.spec.name, %error, "a start that was given up may still come; asking again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        Err(SupervisorError::GivenUp)
    }
}

/// What a worker's answer to the start of an id says.
fn read(id: &str, answer: wire::StartResponse) -> Answer {
    let wire::StartResponse { instance, failure, spans: _ } = answer;
    if let Some(failure) = failure {
        let (kind, text) = (failure.kind(), failure.message);
        return match kind {
            wire::StartFailureKind::Stale => Answer::Stale,
            wire::StartFailureKind::Module => Answer::Refused(SupervisorError::Module(text)),
            wire::StartFailureKind::Config => Answer::Refused(SupervisorError::Config(text)),
            wire::StartFailureKind::GivenUp => Answer::Refused(SupervisorError::GivenUp),
            wire::StartFailureKind::Worker | wire::StartFailureKind::Unspecified => {
                Answer::Refused(WorkerFailure::Refused(text).into())
            }
        };
    }
    match instance.map(Instance::try_from) {
        Some(Ok(instance)) if instance.id == id => Answer::Started(Box::new(instance)),
        Some(Err(error)) => Answer::Lost(tonic::Status::data_loss(error.to_string())),
        Some(Ok(_)) | None => Answer::Lost(tonic::Status::data_loss("it names another instance, or none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(id: &str) -> wire::StartResponse {
        let instance = wire::Instance { id: id.into(), started_at: 1, ..wire::Instance::default() };
        wire::StartResponse { instance: Some(instance), ..wire::StartResponse::default() }
    }

    fn failure(kind: wire::StartFailureKind) -> wire::StartResponse {
        let failure = wire::StartFailure { kind: kind.into(), message: "why".into() };
        wire::StartResponse { failure: Some(failure), ..wire::StartResponse::default() }
    }

    /// Only what says what came of the start is an answer. Another instance's is none.
    #[test]
    fn answers_are_told_from_what_is_none() {
        assert!(matches!(read("a", instance("a")), Answer::Started(_)));
        for none in [instance("victim"), wire::StartResponse::default()] {
            assert!(matches!(read("a", none), Answer::Lost(_)));
        }
        assert!(matches!(read("a", failure(wire::StartFailureKind::Stale)), Answer::Stale));
        let refusal = |kind| match read("a", failure(kind)) {
            Answer::Refused(error) => error,
            _ => panic!("{kind:?} is no refusal"),
        };
        assert!(matches!(refusal(wire::StartFailureKind::Module), SupervisorError::Module(_)));
        assert!(matches!(refusal(wire::StartFailureKind::Config), SupervisorError::Config(_)));
        assert!(matches!(refusal(wire::StartFailureKind::GivenUp), SupervisorError::GivenUp));
        for kind in [wire::StartFailureKind::Worker, wire::StartFailureKind::Unspecified] {
            assert!(matches!(refusal(kind), SupervisorError::Worker(WorkerFailure::Refused(_))));
        }
    }

    #[test]
    fn a_start_is_listed_once_and_until_it_is_over() {
        let starts = Starts::default();
        let listed = starts.list("a").unwrap();
        let pending = starts.list("a").err().unwrap();
        assert!(starts.list("b").is_ok() && !pending.over.is_cancelled());
        starts.get("a").unwrap().given_up.cancel();
        assert!(listed.pending.given_up.is_cancelled());
        drop(listed);
        assert!(pending.over.is_cancelled() && starts.get("a").is_none());
    }
}
