//! The handle by which everyone records events, and the task that sends them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    Level, Occurrence,
    correlator::{Correlated, Correlator, Sending},
};
use crate::{explain::explain, rate::TokenBucket};

/// Events that may wait to be sent.
const QUEUE: usize = 1000;
/// Tries after which an event is dropped.
const TRIES: u32 = 12;
/// Wait between two tries.
const RETRY: Duration = Duration::from_secs(10);
/// Characters of a message that the API server takes.
const MESSAGE_LIMIT: usize = 1024;
/// What an event's source and reporter are called.
const COMPONENT: &str = "kubelet";

/// How much may be sent: `eventRecordQPS` and `eventBurst`.
#[derive(Clone, Copy, Debug)]
pub struct EventLimits {
    /// Events per second in the long run; 0 is no limit.
    pub per_second: u32,
    /// Events at once.
    pub burst: u32,
}

/// Records events. Cloning is cheap; recording never waits and never fails.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: mpsc::Sender<Occurrence>,
}

impl Recorder {
    /// Sends to the API server, from a task that ends when the last clone is dropped.
    ///
    /// Must be called within a tokio runtime.
    #[must_use]
    pub fn new(client: Client, node_name: &str, limits: EventLimits) -> Self {
        let (queue, occurrences) = mpsc::channel(QUEUE);
        let sender =
            Sender { client, node_name: node_name.to_owned(), correlator: Correlator::new(), retry: RETRY };
        tokio::spawn(sender.run(occurrences, TokenBucket::new(limits.per_second, limits.burst)));
        Self { queue }
    }

    /// Hands every occurrence to `sink` as it is: for running without a cluster.
    #[must_use]
    pub fn local(sink: mpsc::Sender<Occurrence>) -> Self {
        Self { queue: sink }
    }

    /// Records that something happened as it should.
    pub fn normal(&self, about: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.record(about, Level::Normal, reason, message.into(), BTreeMap::new());
    }

    /// Records that something is wrong.
    pub fn warning(&self, about: &ObjectReference, reason: &str, message: impl Into<String>) {
        self.record(about, Level::Warning, reason, message.into(), BTreeMap::new());
    }

    /// Records that something is wrong, and tells programs more of it by annotations of the Event.
    pub fn annotated_warning(
        &self,
        about: &ObjectReference,
        reason: &str,
        message: impl Into<String>,
        annotations: BTreeMap<String, String>,
    ) {
        self.record(about, Level::Warning, reason, message.into(), annotations);
    }

    fn record(
        &self,
        about: &ObjectReference,
        level: Level,
        reason: &str,
        mut message: String,
        annotations: BTreeMap<String, String>,
    ) {
        if let Some((end, _)) = message.char_indices().nth(MESSAGE_LIMIT) {
            message.truncate(end);
        }
        tracing::debug!(
            kind = about.kind.as_deref(),
            namespace = about.namespace.as_deref(),
            name = about.name.as_deref(),
            level = level.as_str(),
            reason,
            "event: {message}"
        );
        let occurrence =
            Occurrence { about: about.clone(), level, reason: reason.to_owned(), message, annotations };
        if self.queue.try_send(occurrence).is_err() {
            tracing::warn!(name = about.name.as_deref(), reason, "event dropped: too many wait to be sent");
        }
    }
}

struct Sender {
    client: Client,
    node_name: String,
    correlator: Correlator,
    retry: Duration,
}

impl Sender {
    async fn run(mut self, mut occurrences: mpsc::Receiver<Occurrence>, budget: Option<TokenBucket>) {
        while let Some(occurrence) = occurrences.recv().await {
            let verdict = self.correlator.observe(&occurrence, Timestamp::now());
            if verdict == Correlated::Drop {
                tracing::debug!(reason = occurrence.reason, "event dropped: too many about this object");
                continue;
            }
            if let Some(budget) = &budget {
                tokio::time::sleep(budget.take(Instant::now())).await;
            }
            self.deliver(&occurrence, verdict).await;
        }
    }

    async fn deliver(&mut self, occurrence: &Occurrence, verdict: Correlated) {
        let namespace = occurrence.about.namespace.as_deref().unwrap_or("default");
        let api = Api::<Event>::namespaced(self.client.clone(), namespace);
        let mut verdict = verdict;
        for attempt in 1..=TRIES {
            let (sending, result) = match &verdict {
                Correlated::Drop => return,
                Correlated::Create(sending) => {
                    let event = self.event(occurrence, sending, namespace);
                    (sending, api.create(&PostParams::default(), &event).await)
                }
                Correlated::Repeat(sending) => {
                    let patch = json!({
                        "count": sending.count,
                        "lastTimestamp": Time(sending.last),
                        "message": sending.message,
                    });
                    let params = PatchParams::default();
                    (sending, api.patch(&sending.name, &params, &Patch::Strategic(patch)).await)
                }
            };
            match result {
                Ok(_) => return,
                Err(kube::Error::Api(status))
                    if status.code == 404 && matches!(verdict, Correlated::Repeat(_)) =>
                {
                    // It expired; the count goes on in a new one.
                    verdict = Correlated::Create(sending.clone());
                }
                Err(kube::Error::Api(status)) if status.is_already_exists() => return,
                Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                    tracing::debug!(
                        reason = occurrence.reason,
                        answer = status.message,
                        "event dropped: the API server refuses it"
                    );
                    self.correlator.forget(sending.key);
                    return;
                }
                Err(err) if attempt == TRIES => {
                    tracing::warn!(
                        reason = occurrence.reason,
                        error = explain(&err),
                        "event dropped: it could not be sent"
                    );
                    self.correlator.forget(sending.key);
                    return;
                }
                Err(err) => {
                    tracing::debug!(reason = occurrence.reason, error = explain(&err), "event not sent yet");
                    // The first wait is random, so that nodes do not come back in step.
                    let wait = if attempt == 1 { self.retry.mul_f64(rand::random()) } else { self.retry };
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    fn event(&self, occurrence: &Occurrence, sending: &Sending, namespace: &str) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(sending.name.clone()),
                namespace: Some(namespace.to_owned()),
                annotations: Some(occurrence.annotations.clone()).filter(|all| !all.is_empty()),
                ..ObjectMeta::default()
            },
            involved_object: occurrence.about.clone(),
            type_: Some(occurrence.level.as_str().to_owned()),
            reason: Some(occurrence.reason.clone()),
            message: Some(sending.message.clone()),
            count: Some(sending.count),
            first_timestamp: Some(Time(sending.first)),
            last_timestamp: Some(Time(sending.last)),
            event_time: None::<MicroTime>,
            source: Some(EventSource {
                component: Some(COMPONENT.to_owned()),
                host: Some(self.node_name.clone()),
            }),
            reporting_component: Some(COMPONENT.to_owned()),
            reporting_instance: Some(self.node_name.clone()),
            ..Event::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, Request, Response};
    use http_body_util::BodyExt as _;
    use kube::client::Body;
    use serde_json::Value;
    use tower_test::mock::{Handle, pair};

    use super::{super::node_reference, *};

    type Server = Handle<Request<Body>, Response<Body>>;

    fn recorder() -> (Recorder, Server) {
        let (service, handle) = pair();
        let client = Client::new(service, "default");
        let (queue, occurrences) = mpsc::channel(QUEUE);
        let sender = Sender {
            client,
            node_name: "n".to_owned(),
            correlator: Correlator::new(),
            retry: Duration::from_millis(1),
        };
        tokio::spawn(sender.run(occurrences, None));
        (Recorder { queue }, handle)
    }

    /// Takes the next request and answers it; a code of 200 answers with what was sent.
    async fn serve(server: &mut Server, code: u16) -> (Method, String, Value) {
        let (request, answer) = server.next_request().await.expect("no request");
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let sent: Value = serde_json::from_slice(&body).unwrap();
        let answered = if code == 200 {
            json!({ "metadata": {}, "involvedObject": {} })
        } else {
            json!({ "kind": "Status", "status": "Failure", "code": code, "reason": "", "message": "no" })
        };
        let response =
            Response::builder().status(code).body(Body::from(serde_json::to_vec(&answered).unwrap()));
        answer.send_response(response.unwrap());
        (parts.method, parts.uri.path().to_owned(), sent)
    }

    #[tokio::test]
    async fn an_event_is_created_and_then_counted() {
        let (recorder, mut server) = recorder();
        recorder.normal(&node_reference("n"), "Starting", "Starting kubelet.");
        recorder.normal(&node_reference("n"), "Starting", "Starting kubelet.");

        let (method, path, event) = serve(&mut server, 200).await;
        assert_eq!((method, path.as_str()), (Method::POST, "/api/v1/namespaces/default/events"));
        assert_eq!(event["type"], "Normal");
        assert_eq!(event["reason"], "Starting");
        assert_eq!(event["count"], 1);
        assert_eq!(event["involvedObject"], json!({ "kind": "Node", "name": "n", "uid": "n" }));
        assert_eq!(event["source"], json!({ "component": "kubelet", "host": "n" }));
        assert_eq!(event["reportingComponent"], "kubelet");

        let (method, path, patch) = serve(&mut server, 200).await;
        let name = event["metadata"]["name"].as_str().unwrap();
        assert_eq!((method, path), (Method::PATCH, format!("/api/v1/namespaces/default/events/{name}")));
        assert_eq!(patch["count"], 2);
    }

    #[tokio::test]
    async fn an_expired_event_is_created_anew_with_its_count() {
        let (recorder, mut server) = recorder();
        for _ in 0..2 {
            recorder.warning(&node_reference("n"), "Failed", "no");
        }
        serve(&mut server, 200).await;
        assert_eq!(serve(&mut server, 404).await.0, Method::PATCH);
        let (method, _, event) = serve(&mut server, 200).await;
        assert_eq!((method, &event["count"]), (Method::POST, &json!(2)));
    }

    #[tokio::test]
    async fn a_failing_server_is_asked_again_and_a_refusal_is_final() {
        let (recorder, mut server) = recorder();
        recorder.normal(&node_reference("n"), "A", "x");
        recorder.normal(&node_reference("n"), "B", "y");
        assert_eq!(serve(&mut server, 500).await.2["reason"], "A");
        assert_eq!(serve(&mut server, 403).await.2["reason"], "A");
        assert_eq!(serve(&mut server, 200).await.2["reason"], "B");
    }

    #[tokio::test]
    async fn programs_find_more_in_annotations() {
        let (recorder, mut server) = recorder();
        let annotations = BTreeMap::from([("starved_resource".to_owned(), "memory".to_owned())]);
        recorder.annotated_warning(&node_reference("n"), "Evicted", "x", annotations);
        recorder.warning(&node_reference("n"), "Other", "y");
        let told = serve(&mut server, 200).await.2;
        assert_eq!(told["metadata"]["annotations"], json!({ "starved_resource": "memory" }));
        assert_eq!(serve(&mut server, 200).await.2["metadata"]["annotations"], Value::Null);
    }

    #[tokio::test]
    async fn a_long_message_is_cut() {
        let (sink, mut occurrences) = mpsc::channel(1);
        let recorder = Recorder::local(sink);
        recorder.normal(&node_reference("n"), "A", "ä".repeat(2000));
        recorder.normal(&node_reference("n"), "A", "does not fit and is dropped");
        assert_eq!(occurrences.recv().await.unwrap().message, "ä".repeat(1024));
        drop(recorder);
        assert_eq!(occurrences.recv().await, None);
    }
}
