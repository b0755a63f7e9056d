//! Traces of a pod's start, as the OpenTelemetry Collector gets them.

use std::fs;

use http::Request;
use kube::api::DeleteParams;
use kubewasm_tests::{
    node::{Node, Options},
    ports, wait,
};
use serde_json::{Value, json};

use crate::{
    access,
    collector::{CollectedSpan, Collector},
    pods::{Pods, running},
    suite::{SOON, own_node, suite, with_temp_ns},
};

const WORKER: &str = "kubewasm.worker.v1.Worker/Start";

fn traced(port: u16) -> Options {
    let endpoint = format!("127.0.0.1:{port}");
    Options::default().config("tracing", json!({ "endpoint": endpoint, "samplingRatePerMillion": 1_000_000 }))
}

fn on(node: &Node, image: &str) -> Value {
    json!({
        "nodeSelector": { "kubernetes.io/hostname": node.name() },
        "containers": [{ "name": "main", "image": image, "args": ["sleep", "3600"] }],
    })
}

/// One trace, whose first span has ended.
struct Trace(Vec<CollectedSpan>);

impl Trace {
    /// Waits for that whose first span satisfies `condition`.
    async fn wait_for(collector: &Collector, what: &str, condition: impl Fn(&CollectedSpan) -> bool) -> Self {
        let found = wait::until(what, SOON, async || {
            let spans = collector.spans();
            let first = spans.iter().find(|span| span.parent.is_empty() && condition(span));
            let first = first.ok_or_else(|| format!("{} spans, and {}", spans.len(), collector.log()))?;
            Ok(spans.iter().filter(|span| span.trace == first.trace).cloned().collect())
        });
        Self(found.await.unwrap())
    }

    fn first(&self) -> &CollectedSpan {
        self.0.iter().find(|span| span.parent.is_empty()).unwrap()
    }

    /// The one part of `span` with this name.
    fn part<'a>(&'a self, span: &CollectedSpan, name: &str) -> &'a CollectedSpan {
        let parts: Vec<_> =
            self.0.iter().filter(|part| part.parent == span.id && part.name == name).collect();
        let [part] = parts[..] else { panic!("{name} in {}: {parts:#?} of {:#?}", span.name, self.0) };
        part
    }
}

/// Where the time goes from the watch event to the status that says `Running`, the worker's part included; and a request
/// belongs to the trace of the one who asks.
#[tokio::test]
async fn the_start_of_a_pod_is_one_trace_and_requests_belong_to_their_callers() {
    with_temp_ns(async |client, ns| {
        let (suite, pods) = (suite().await, Pods::new(&client, ns));
        let (folder, port) = (suite.home.folder("trace-collector").unwrap(), ports::free().unwrap());
        let collector = Collector::of_traces(&folder, port).await;
        let node = own_node("traced-node", &traced(port)).await;
        pods.create("starts", on(&node, &suite.actor.tagged)).await;
        let pod = pods.until("starts", "running", running).await;
        let uid = pod.metadata.uid.unwrap();
        let of_pod =
            |span: &CollectedSpan, uid: &str| span.name == "syncPod" && span.attributes["k8s.pod.uid"] == uid;

        let trace = Trace::wait_for(&collector, "the trace of a start", |span| of_pod(span, &uid)).await;
        let sync = trace.first();
        for (name, value) in [
            ("k8s.pod", format!("{ns}/starts").as_str()),
            ("k8s.pod.name", "starts"),
            ("k8s.pod.update_type", "create"),
            ("k8s.namespace.name", ns),
            ("service.name", "kubelet"),
            ("host.name", node.name()),
        ] {
            assert_eq!(sync.attributes.get(name).map(String::as_str), Some(value), "{sync:#?}");
        }
        let pull = trace.part(sync, "pullImage");
        assert_eq!(pull.attributes["container.image.name"], suite.actor.tagged);
        let start = trace.part(sync, "startContainer");
        assert_eq!(start.attributes["k8s.container.name"], "main");
        trace.part(start, "compileModule");
        let call = trace.part(start, WORKER);
        let work = trace.part(call, WORKER);
        let workers: Vec<_> = node.workers().values().map(|pid| pid.to_string()).collect();
        assert!(workers.contains(&work.attributes["process.pid"]), "{work:#?} of {workers:?}");
        trace.part(work, "loadModule");
        trace.part(work, "prepareInstance");
        let is_write = |span: &&CollectedSpan| span.parent == sync.id && span.name == "HTTP PATCH";
        let writes: Vec<_> = trace.0.iter().filter(is_write).collect();
        assert!(!writes.is_empty(), "{:#?}", trace.0);
        let path = format!("/api/v1/namespaces/{ns}/pods/starts/status");
        assert!(writes.iter().all(|write| write.attributes["url.path"] == path), "{writes:#?}");
        assert!(trace.0.iter().all(|span| span.error.is_none()), "{:#?}", trace.0);

        let first_of = |name: &'static str| {
            let uid = uid.clone();
            move |span: &CollectedSpan| span.name == name && span.attributes["k8s.pod.uid"] == uid
        };
        pods.api().delete("starts", &DeleteParams::default()).await.unwrap();
        pods.gone("starts").await;
        let what = "the trace of what stops a pod";
        let stopping = Trace::wait_for(&collector, what, first_of("syncTerminatingPod")).await;
        assert_eq!(stopping.first().attributes["k8s.pod"], format!("{ns}/starts"));
        let what = "the trace of what comes after the end of a pod";
        let after = Trace::wait_for(&collector, what, first_of("syncTerminatedPod")).await;
        let delete = after.part(after.first(), "HTTP DELETE");
        assert_eq!(delete.attributes["url.path"], format!("/api/v1/namespaces/{ns}/pods/starts"));

        pods.create("fails", on(&node, &suite.registry.name("nowhere:v1"))).await;
        let uid = pods.until("fails", "its uid", |_| true).await.metadata.uid.unwrap();
        let trace = Trace::wait_for(&collector, "the trace of a failure", |span| of_pod(span, &uid)).await;
        let error = trace.first().error.clone().unwrap();
        assert!(error.starts_with("ErrImagePull: "), "{error}");
        assert!(trace.part(trace.first(), "pullImage").error.is_some());

        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let request = Request::get("/pods").header("traceparent", format!("00-{trace}-{span}-01"));
        let admin = access::admin_of(&node.url()).await;
        admin.request_text(request.body(Vec::new()).unwrap()).await.unwrap();
        let served = wait::until("the span of a request", SOON, async || {
            let found = collector.spans().into_iter().find(|span| span.trace == trace);
            found.ok_or_else(|| "it has not come".to_owned())
        });
        let served = served.await.unwrap();
        assert_eq!((served.parent.as_str(), served.name.as_str()), (span, "/pods"));
    })
    .await;
}

/// A collector that is not there costs a line in the log.
#[tokio::test]
async fn a_collector_that_is_away_holds_up_no_pod() {
    with_temp_ns(async |client, ns| {
        let (suite, pods) = (suite().await, Pods::new(&client, ns));
        let node = own_node("untraced-node", &traced(ports::free().unwrap())).await;
        pods.create("starts", on(&node, &suite.actor.tagged)).await;
        pods.until("starts", "running", running).await;
        let log = suite.home.log(node.name());
        wait::until("a word about it", SOON, async || {
            let text = fs::read_to_string(&log).map_err(|error| format!("{}: {error}", log.display()))?;
            if text.contains("does not take them in") { Ok(()) } else { Err("nothing is said".to_owned()) }
        })
        .await
        .unwrap();
    })
    .await;
}
