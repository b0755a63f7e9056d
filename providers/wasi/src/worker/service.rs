//! The protocol's calls, each a few lines: read the message, ask [`Hosting`], answer.

mod streams;

use std::{net::IpAddr, pin::Pin, time::Duration};

use futures::Stream;
use kubewasm_host::{
    LoadError, PrepareError, Refusals,
    http::{FailureCount, ServerCertificate},
};
use kubewasm_kubelet::traces::{self, Span, SpanContext, SpanKind, Tracer};
use tokio::{
    sync::{broadcast::error::RecvError, mpsc},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    hosting::{Hosting, HostingError, Resized, SetTables},
    table::{Change, Picture},
};
use crate::{
    protocol::{
        IncomingUpdate, Versions, WireError,
        wire::{self, forward_message, from_caller, watch_event::Event, worker_server},
    },
    spec::{InstanceLimits, InstanceSpec},
};

/// Events on their way to a watcher.
const WATCH_BUFFER: usize = 64;
/// How often a watcher is told of requests that have failed, at most.
const FAILURES: Duration = Duration::from_secs(5);
/// Most that an exec may keep of its output, in bytes; what fits into a message.
const EXEC_OUTPUT_LIMIT: usize = 1 << 20;

/// The service, which cancels `end` when it is told to shut down.
pub(super) fn server(
    hosting: Hosting,
    end: CancellationToken,
    versions: Versions,
    confinement: Vec<String>,
) -> worker_server::WorkerServer<Service> {
    let started = jiff::Timestamp::now().as_nanosecond();
    let incarnation = format!("{}-{started}", std::process::id());
    worker_server::WorkerServer::new(Service { hosting, end, incarnation, versions, confinement })
}

#[derive(Debug)]
pub(super) struct Service {
    hosting: Hosting,
    end: CancellationToken,
    incarnation: String,
    versions: Versions,
    /// How the worker is confined, for people.
    confinement: Vec<String>,
}

#[async_trait::async_trait]
impl worker_server::Worker for Service {
    async fn hello(
        &self,
        request: Request<wire::HelloRequest>,
    ) -> Result<Response<wire::HelloResponse>, Status> {
        let wire::HelloRequest { protocol_min, protocol_max, session } = request.into_inner();
        if self.versions.common(Versions { min: protocol_min, max: protocol_max }).is_none() {
            tracing::warn!(protocol_min, protocol_max, "an agent speaks no protocol version of ours");
        }
        self.hosting.begin_session(session);
        Ok(Response::new(wire::HelloResponse {
            protocol_min: self.versions.min,
            protocol_max: self.versions.max,
            wasmtime_version: kubewasm_host::WASMTIME_VERSION.to_owned(),
            pid: std::process::id(),
            incarnation: self.incarnation.clone(),
            confinement: self.confinement.clone(),
        }))
    }

    async fn start(
        &self,
        request: Request<wire::StartRequest>,
    ) -> Result<Response<wire::StartResponse>, Status> {
        let wire::StartRequest { spec, session, traceparent } = request.into_inner();
        let (tracer, kept) = Tracer::keeping();
        let caller = SpanContext::parse(&traceparent).filter(SpanContext::is_sampled);
        let mut span = match caller {
            Some(_) => tracer.continuing(caller, "kubewasm.worker.v1.Worker/Start", SpanKind::Server),
            None => Span::none(),
        };
        let result = match InstanceSpec::try_from(spec.unwrap_or_default()) {
            Ok(spec) => {
                let name = spec.name.clone();
                let result = traces::within(span.place(), self.hosting.start(spec, &session)).await;
                result.inspect_err(|error| tracing::info!(name, %error, "an instance did not start"))
            }
            Err(error) => Err(HostingError::Spec(error)),
        };
        span.note(&result);
        drop(span);
        let spans = kept.take().iter().map(Into::into).collect();
        Ok(Response::new(match result {
            Ok(instance) => wire::StartResponse { instance: Some((&instance).into()), failure: None, spans },
            Err(error) => {
                let failure =
                    wire::StartFailure { kind: failure_kind(&error).into(), message: error.to_string() };
                wire::StartResponse { instance: None, failure: Some(failure), spans }
            }
        }))
    }

    async fn stop(
        &self,
        request: Request<wire::StopRequest>,
    ) -> Result<Response<wire::StopResponse>, Status> {
        let wire::StopRequest { id, grace_millis } = request.into_inner();
        self.hosting.stop(&id, Duration::from_millis(grace_millis));
        Ok(Response::new(wire::StopResponse {}))
    }

    async fn remove(
        &self,
        request: Request<wire::RemoveRequest>,
    ) -> Result<Response<wire::RemoveResponse>, Status> {
        let id = request.into_inner().id;
        if self.hosting.remove(&id).await {
            Ok(Response::new(wire::RemoveResponse {}))
        } else {
            Err(Status::aborted(format!("the instance {id} has not ended yet; try again")))
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<wire::WatchEvent, Status>> + Send>>;

    async fn watch(
        &self,
        _request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (sender, receiver) = mpsc::channel(WATCH_BUFFER);
        let (hosting, end) = (self.hosting.clone(), self.end.clone());
        tokio::spawn(async move {
            tokio::select! {
                // Errs when the watcher has gone.
                _ = tell(&hosting, &sender) => {}
                () = end.cancelled() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn exec(
        &self,
        request: Request<wire::ExecRequest>,
    ) -> Result<Response<wire::ExecResponse>, Status> {
        let wire::ExecRequest { id, argv, timeout_millis, output_limit, program } = request.into_inner();
        if argv.is_empty() {
            return Err(Status::invalid_argument("argv is empty"));
        }
        let output_limit = usize::try_from(output_limit).unwrap_or(usize::MAX).min(EXEC_OUTPUT_LIMIT);
        let timeout = Duration::from_millis(timeout_millis);
        let program = program.map(streams::program).transpose()?;
        let exec = self.hosting.exec(&id, &argv, program.as_ref(), timeout, output_limit);
        let outcome = exec.await.map_err(|error| status(&error))?;
        let (exit_code, output, timed_out) = (outcome.exit_code, outcome.output, outcome.timed_out);
        Ok(Response::new(wire::ExecResponse { exit_code, output, timed_out }))
    }

    type ExecStreamStream = streams::Answers<wire::ToCaller>;

    async fn exec_stream(
        &self,
        request: Request<Streaming<wire::FromCaller>>,
    ) -> Result<Response<Self::ExecStreamStream>, Status> {
        let mut incoming = request.into_inner();
        let Some(from_caller::Message::Exec(start)) = streams::first(&mut incoming).await? else {
            return Err(Status::invalid_argument("an exec begins with what is to be executed"));
        };
        let (id, command) = streams::command(start)?;
        let exec = self.hosting.exec_connected(&id, &command).await.map_err(|error| status(&error))?;
        let (to, answers) = streams::channel();
        tokio::spawn(streams::exec(exec, command.tty, incoming, to));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    type AttachStream = streams::Answers<wire::ToCaller>;

    async fn attach(
        &self,
        request: Request<Streaming<wire::FromCaller>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut incoming = request.into_inner();
        let Some(from_caller::Message::Attach(start)) = streams::first(&mut incoming).await? else {
            return Err(Status::invalid_argument("an attach begins with whom to"));
        };
        let wire::AttachStart { id, stdin, output, earlier } = start;
        let attachment = self.hosting.attach(&id, stdin, output, earlier).map_err(|error| status(&error))?;
        let (to, answers) = streams::channel();
        tokio::spawn(streams::attach(attachment, incoming, to));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    type ForwardStream = streams::Answers<wire::ForwardMessage>;

    async fn forward(
        &self,
        request: Request<Streaming<wire::ForwardMessage>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        let mut incoming = request.into_inner();
        let first = incoming.message().await?.and_then(|first| first.message);
        let Some(forward_message::Message::Start(wire::ForwardStart { pod_uid, port, addresses })) = first
        else {
            return Err(Status::invalid_argument("a connection begins with where to"));
        };
        let port = u16::try_from(port).map_err(|_| Status::invalid_argument("the port is none"))?;
        let addresses = addresses.iter().map(|ip| ip.parse()).collect::<Result<Vec<IpAddr>, _>>();
        let addresses = addresses.map_err(|_| Status::invalid_argument("an address of the pod is none"))?;
        let stream = self.hosting.connect(&pod_uid, port, &addresses).await;
        let stream = stream.map_err(|error| streams::forward_status(&error))?;
        let (to, answers) = streams::channel();
        tokio::spawn(streams::forward(stream, incoming, to));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn stats(
        &self,
        _request: Request<wire::StatsRequest>,
    ) -> Result<Response<wire::StatsResponse>, Status> {
        let instances = self.hosting.stats().iter().map(Into::into).collect();
        let refusals = self.hosting.refusals().into_iter().map(|(pod_uid, refusals)| {
            let Refusals { ingress, egress, last } = refusals;
            wire::PodRefusals { pod_uid, ingress, egress, last }
        });
        let instantiations = Some((&self.hosting.instantiations()).into());
        Ok(Response::new(wire::StatsResponse { instances, refusals: refusals.collect(), instantiations }))
    }

    async fn set_network(
        &self,
        request: Request<Streaming<wire::SetNetworkRequest>>,
    ) -> Result<Response<wire::SetNetworkResponse>, Status> {
        let (mut parts, mut update) = (request.into_inner(), IncomingUpdate::default());
        let unreadable = |error: WireError| Status::invalid_argument(error.to_string());
        while let Some(part) = parts.message().await? {
            update.take(part).map_err(unreadable)?;
        }
        let (session, update) = update.end().map_err(unreadable)?;
        let outcome = match self.hosting.set_tables(&session, update) {
            SetTables::Applied => wire::SetNetworkOutcome::Applied,
            SetTables::OutOfStep => wire::SetNetworkOutcome::OutOfStep,
            SetTables::Stale => wire::SetNetworkOutcome::Stale,
        };
        Ok(Response::new(wire::SetNetworkResponse { outcome: outcome.into() }))
    }

    async fn listens(
        &self,
        request: Request<wire::ListensRequest>,
    ) -> Result<Response<wire::ListensResponse>, Status> {
        let wire::ListensRequest { pod_uid, address } = request.into_inner();
        let address = address.parse().map_err(|_| Status::invalid_argument("the address is none"))?;
        Ok(Response::new(wire::ListensResponse { listens: self.hosting.listens(&pod_uid, address) }))
    }

    async fn set_certificate(
        &self,
        request: Request<wire::SetCertificateRequest>,
    ) -> Result<Response<wire::SetCertificateResponse>, Status> {
        let wire::SetCertificateRequest { session, id, certificate } = request.into_inner();
        let unreadable = |error: WireError| Status::invalid_argument(error.to_string());
        let certificate = ServerCertificate::try_from(certificate.unwrap_or_default()).map_err(unreadable)?;
        let set = self.hosting.set_certificate(&session, &id, &certificate);
        let set = set.map_err(|error| Status::internal(error.to_string()))?;
        let outcome = set.map_or(wire::SetCertificateOutcome::Stale, Into::into);
        Ok(Response::new(wire::SetCertificateResponse { outcome: outcome.into() }))
    }

    async fn resize(
        &self,
        request: Request<wire::ResizeRequest>,
    ) -> Result<Response<wire::ResizeResponse>, Status> {
        let request = request.into_inner();
        let limits = InstanceLimits::from(&request);
        let resized = self.hosting.resize(&request.session, &request.id, limits);
        let (outcome, below) = match resized {
            Resized::Applied => (wire::ResizeOutcome::Applied, None),
            Resized::NotRunning => (wire::ResizeOutcome::NotRunning, None),
            Resized::BelowUse(below) => (wire::ResizeOutcome::BelowUse, Some(below)),
            Resized::PodBelowUse(below) => (wire::ResizeOutcome::PodBelowUse, Some(below)),
            Resized::Stale => (wire::ResizeOutcome::Stale, None),
        };
        let (used_bytes, limit_bytes) = below.map_or((0, 0), |below| (below.used, below.limit));
        Ok(Response::new(wire::ResizeResponse { outcome: outcome.into(), used_bytes, limit_bytes }))
    }

    async fn shutdown(
        &self,
        request: Request<wire::ShutdownRequest>,
    ) -> Result<Response<wire::ShutdownResponse>, Status> {
        let wire::ShutdownRequest { grace_millis, only_if_empty } = request.into_inner();
        if only_if_empty && !self.hosting.close_if_empty() {
            return Err(Status::failed_precondition("the worker hosts instances"));
        }
        let grace = Duration::from_millis(grace_millis);
        self.hosting.stop_all(grace).await;
        self.end.cancel();
        Ok(Response::new(wire::ShutdownResponse {}))
    }
}

/// Where a watcher hears of everything.
type Watcher = mpsc::Sender<Result<wire::WatchEvent, Status>>;

/// It has gone.
type WatcherGone = mpsc::error::SendError<Result<wire::WatchEvent, Status>>;

fn event(event: Event) -> Result<wire::WatchEvent, Status> {
    Ok(wire::WatchEvent { event: Some(event) })
}

/// Tells a watcher everything until it goes.
async fn tell(hosting: &Hosting, to: &Watcher) -> Result<(), WatcherGone> {
    let starting = |id| event(Event::Starting(wire::Starting { id }));
    let mut quiet_until = Instant::now();
    loop {
        let Picture { revision, starting: ids, instances, mut changes } = hosting.picture();
        to.send(event(Event::Reset(wire::Reset { revision }))).await?;
        for id in ids {
            to.send(starting(id)).await?;
        }
        for instance in &instances {
            to.send(event(Event::Changed(instance.into()))).await?;
        }
        to.send(event(Event::Synced(wire::Synced {}))).await?;
        loop {
            let change = tokio::select! {
                change = changes.recv() => change,
                failures = failures_after(hosting, quiet_until) => {
                    quiet_until = Instant::now() + FAILURES;
                    tell_of_failures(hosting, failures, to).await?;
                    continue;
                }
                () = to.closed() => return Ok(()),
            };
            match change {
                Ok(Change::Starting(id)) => to.send(starting(id)).await?,
                Ok(Change::Changed(instance)) => to.send(event(Event::Changed((&instance).into()))).await?,
                Ok(Change::Removed(id)) => to.send(event(Event::Removed(id))).await?,
                // Too slow: begin again with a new picture.
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return Ok(()),
            }
        }
    }
}

/// Requests that have failed, once it may be told of them again.
async fn failures_after(hosting: &Hosting, quiet_until: Instant) -> Vec<(String, FailureCount)> {
    tokio::time::sleep_until(quiet_until).await;
    hosting.failures().take().await
}

/// Tells of requests that have failed. What a watcher did not take is for the next one.
async fn tell_of_failures(
    hosting: &Hosting,
    failures: Vec<(String, FailureCount)>,
    to: &Watcher,
) -> Result<(), WatcherGone> {
    let mut told = Ok(());
    for (id, failed) in failures {
        if told.is_ok() {
            let FailureCount { count, last } = failed.clone();
            let failures = wire::FailedRequests { id: id.clone(), count, last };
            told = to.send(event(Event::FailedRequests(failures))).await;
        }
        if told.is_err() {
            hosting.failures().add(&id, failed);
        }
    }
    told
}

/// The status that tells the agent whose fault it is: `failed_precondition` the module's,
/// `invalid_argument` the configuration's, `resource_exhausted` and the rest the worker's.
fn status(error: &HostingError) -> Status {
    let text = error.to_string();
    match error {
        HostingError::Load(LoadError::Link(_)) => Status::failed_precondition(text),
        HostingError::Load(LoadError::Precompiled(_)) => Status::internal(text),
        HostingError::Prepare(PrepareError::Listen { .. }) => Status::unavailable(text),
        HostingError::Prepare(_) | HostingError::Spec(_) => Status::invalid_argument(text),
        HostingError::Full(_) | HostingError::Busy | HostingError::Callers(_) => {
            Status::resource_exhausted(text)
        }
        HostingError::NotRunning => Status::not_found(text),
        HostingError::Serves | HostingError::NoCommand => Status::failed_precondition(text),
        HostingError::GivenUp | HostingError::Stale => Status::aborted(text),
        HostingError::Fault => Status::internal(text),
        HostingError::Log { .. } | HostingError::NoFiles | HostingError::Closed => Status::unavailable(text),
    }
}

/// The same of a start.
fn failure_kind(error: &HostingError) -> wire::StartFailureKind {
    match error {
        HostingError::Load(LoadError::Link(_)) => wire::StartFailureKind::Module,
        // Whoever has the port may give it back.
        HostingError::Prepare(PrepareError::Listen { .. }) => wire::StartFailureKind::Worker,
        HostingError::Prepare(_) | HostingError::Spec(_) => wire::StartFailureKind::Config,
        HostingError::GivenUp => wire::StartFailureKind::GivenUp,
        HostingError::Stale => wire::StartFailureKind::Stale,
        HostingError::Load(LoadError::Precompiled(_))
        | HostingError::NoFiles
        | HostingError::Full(_)
        | HostingError::Busy
        | HostingError::NotRunning
        | HostingError::Serves
        | HostingError::NoCommand
        | HostingError::Callers(_)
        | HostingError::Fault
        | HostingError::Log { .. }
        | HostingError::Closed => wire::StartFailureKind::Worker,
    }
}

#[cfg(test)]
mod tests {
    use kubewasm_host::{Host, HostOptions};

    use super::*;
    use crate::{logs::LogOptions, worker::hosting::Threads};

    /// What a watcher that has gone did not take is told to the next one.
    #[tokio::test]
    async fn failures_are_told_to_who_takes_them() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::new(HostOptions::new(dir.path().join("empty"))).unwrap();
        let here = tokio::runtime::Handle::current();
        let threads = Threads { guests: here.clone(), logs: here };
        let hosting = Hosting::new(std::sync::Arc::new(host), threads, LogOptions::default(), 1);
        let failed = |count| FailureCount { count, last: "why".into() };
        for id in ["a", "b"] {
            hosting.failures().add(id, failed(1));
        }
        let (to, gone) = mpsc::channel(1);
        drop(gone);
        let taken = failures_after(&hosting, Instant::now()).await;
        assert!(tell_of_failures(&hosting, taken, &to).await.is_err());
        hosting.failures().add("a", failed(2));

        let (to, mut watcher) = mpsc::channel(8);
        let taken = failures_after(&hosting, Instant::now()).await;
        assert_eq!(taken, [("a".to_owned(), failed(3)), ("b".to_owned(), failed(1))]);
        tell_of_failures(&hosting, taken, &to).await.unwrap();
        let told = watcher.recv().await.unwrap().unwrap().event;
        let expected = wire::FailedRequests { id: "a".into(), count: 3, last: "why".into() };
        assert_eq!(told, Some(Event::FailedRequests(expected)));
    }
}
