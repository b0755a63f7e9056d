use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::{io::DuplexStream, sync::watch};
use tonic::transport::Endpoint;

use super::*;
use crate::traces::{SpanKind, otlp::SpanMessage};

/// A collector that takes in what it is sent, or says that it cannot now. It is reached within this process, where nobody
/// waits for anything but the clock.
struct Collector {
    channel: Channel,
    requests: watch::Receiver<Vec<ExportTraceServiceRequest>>,
    is_busy: Arc<AtomicBool>,
    refusals: watch::Receiver<u32>,
}

/// A way to whoever gets the other ends of its connections.
fn channel(ends: mpsc::UnboundedSender<DuplexStream>) -> Channel {
    let connector = tower::service_fn(move |_: Uri| {
        let (near, far) = tokio::io::duplex(64 << 10);
        let connected = ends.send(far).map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused));
        std::future::ready(connected.map(|()| TokioIo::new(near)))
    });
    Endpoint::from_static("http://collector").connect_with_connector_lazy(connector)
}

/// A tracer whose spans are all sent over this channel.
fn exporter(channel: Channel, metrics: &TraceMetrics) -> (Tracer, TraceExporter) {
    let resource = vec![("service.name", "kubelet".to_owned())];
    let endpoint = TraceEndpoint::parse(None).unwrap();
    let (tracer, exporter) = TraceExporter::open(endpoint, 1_000_000, resource, metrics.clone()).unwrap();
    (tracer, TraceExporter { channel, ..exporter })
}

impl Collector {
    fn start(is_busy: bool) -> Self {
        let (ends, mut connections) = mpsc::unbounded_channel();
        let is_busy = Arc::new(AtomicBool::new(is_busy));
        let (taken, requests) = watch::channel(Vec::new());
        let (refused, refusals) = watch::channel(0);
        let busy = Arc::clone(&is_busy);
        tokio::spawn(async move {
            let (taken, refused) = (Arc::new(taken), Arc::new(refused));
            while let Some(stream) = connections.recv().await {
                let (busy, taken, refused) = (Arc::clone(&busy), Arc::clone(&taken), Arc::clone(&refused));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (busy, taken, refused) =
                        (Arc::clone(&busy), Arc::clone(&taken), Arc::clone(&refused));
                    async move {
                        assert_eq!(request.uri().path(), EXPORT);
                        let body = request.into_body().collect().await?.to_bytes();
                        let status = if busy.load(Ordering::SeqCst) {
                            refused.send_modify(|count| *count += 1);
                            Code::Unavailable
                        } else {
                            let request = ExportTraceServiceRequest::decode(&body[5..]).unwrap();
                            taken.send_modify(|all| all.push(request));
                            Code::Ok
                        };
                        Ok::<_, hyper::Error>(answer(status))
                    }
                });
                let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(served);
            }
        });
        Self { channel: channel(ends), requests, is_busy, refusals }
    }

    /// Waits until so many spans have come.
    async fn spans(&mut self, count: usize) -> Vec<SpanMessage> {
        let all = |requests: &Vec<ExportTraceServiceRequest>| -> Vec<SpanMessage> {
            let scopes = requests.iter().flat_map(|of| &of.resource_spans).flat_map(|of| &of.scope_spans);
            scopes.flat_map(|of| of.spans.clone()).collect()
        };
        let requests = self.requests.wait_for(|requests| all(requests).len() >= count).await.unwrap();
        all(&requests)
    }
}

/// An answer of gRPC: an empty message, which says that all were taken, and the status.
fn answer(status: Code) -> Response<http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(status as i32));
    let body = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async { Some(Ok(trailers)) });
    Response::builder().header("content-type", "application/grpc").body(body.boxed()).unwrap()
}

#[tokio::test]
async fn spans_arrive_with_what_they_are_about() {
    let (mut collector, metrics, cancel) =
        (Collector::start(false), TraceMetrics::default(), CancellationToken::new());
    let (tracer, exporter) = exporter(collector.channel.clone(), &metrics);
    let mut span = tracer.root("syncPod", SpanKind::Internal);
    span.set("k8s.pod.name", "p");
    span.fail("why");
    drop(span);
    let running = tokio::spawn(exporter.run(cancel.clone()));
    // What waits is sent at the end as well.
    cancel.cancel();
    running.await.unwrap();
    let spans = collector.spans(1).await;
    let SpanMessage { trace_id, span_id, parent_span_id, name, kind, attributes, status, .. } = &spans[0];
    assert_eq!((trace_id.len(), span_id.len(), parent_span_id.len()), (16, 8, 0));
    assert_eq!((name.as_str(), *kind), ("syncPod", 1));
    assert_eq!(attributes[..], [key_value("k8s.pod.name", "p".into())]);
    assert_eq!(status.clone().map(|status| (status.code, status.message)), Some((2, "why".to_owned())));
    let resource = collector.requests.borrow()[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(resource.attributes, [key_value("service.name", "kubelet".into())]);
    assert_eq!(metrics.counted("exported"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_is_busy_gets_the_same_spans_again() {
    let (mut collector, metrics) = (Collector::start(true), TraceMetrics::default());
    let (tracer, exporter) = exporter(collector.channel.clone(), &metrics);
    let running = tokio::spawn(exporter.run(CancellationToken::new()));
    drop(tracer.root("first", SpanKind::Internal));
    collector.refusals.wait_for(|refusals| *refusals >= 2).await.unwrap();
    collector.is_busy.store(false, Ordering::SeqCst);
    assert_eq!(collector.spans(1).await[0].name, "first");
    drop(tracer.root("second", SpanKind::Internal));
    assert_eq!(collector.spans(2).await[1].name, "second");
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn where_nobody_takes_them_spans_are_given_up_and_counted() {
    let metrics = TraceMetrics::default();
    let (tracer, exporter) = exporter(channel(mpsc::unbounded_channel().0), &metrics);
    // Nobody is held up, and there is no more of them than there is room for.
    (0..QUEUE + 7).for_each(|_| drop(tracer.root("x", SpanKind::Internal)));
    assert_eq!(metrics.counted("dropped"), 7);
    let cancel = CancellationToken::new();
    let running = tokio::spawn(exporter.run(cancel.clone()));
    let given_up = async {
        while metrics.counted("refused") < BATCH as u64 {
            tokio::time::sleep(FIRST_WAIT).await;
        }
    };
    timeout(Duration::from_mins(5), given_up).await.unwrap();
    cancel.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_node_that_ends_does_not_wait_for_a_collector_that_says_nothing() {
    let (ends, _mute) = mpsc::unbounded_channel();
    let (tracer, exporter) = exporter(channel(ends), &TraceMetrics::default());
    drop(tracer.root("x", SpanKind::Internal));
    let cancel = CancellationToken::new();
    let running = tokio::spawn(exporter.run(cancel.clone()));
    tokio::time::sleep(PERIOD * 2).await;
    cancel.cancel();
    timeout(GOODBYE * 2, running).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_is_told_of_now_and_then() {
    let endpoint = TraceEndpoint::parse(None).unwrap();
    let (_, mut exporter) = TraceExporter::open(endpoint, 0, Vec::new(), TraceMetrics::default()).unwrap();
    let away = Status::unavailable("away");
    exporter.tell(&away);
    let first = exporter.told;
    tokio::time::advance(TELL / 2).await;
    exporter.tell(&away);
    assert_eq!(exporter.told, first);
    tokio::time::advance(TELL).await;
    exporter.tell(&away);
    assert_ne!(exporter.told, first);
    exporter.settle(&Ok(ExportTraceServiceResponse::default()), 1);
    assert_eq!(exporter.told, None, "and when it is over");
}
