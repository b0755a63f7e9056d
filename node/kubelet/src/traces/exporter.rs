//! Sends spans that have ended to a collector, in its own time.
//!
//! Nobody waits for it: who ends a span puts it into a queue of a bounded length, and where that is full, the span is lost
//! and counted. A collector that cannot be reached is tried again for half a minute with the same spans, while new ones wait
//! in the queue; it is told of in the log when that begins, every ten minutes after that, and when it is over.

#[cfg(test)]
mod tests;

use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;

use super::{
    Sink, Tracer,
    endpoint::TraceEndpoint,
    metrics::TraceMetrics,
    otlp::{
        EXPORT, ExportTraceServiceRequest, ExportTraceServiceResponse, InstrumentationScope, ResourceSpans,
        ScopeSpans, TraceResource, key_value,
    },
    span::{AttributeValue, FinishedSpan},
};
use crate::{
    explain::causes,
    retry::{Backoff, sleep},
};

// The sizes and times of OpenTelemetry's batch processor.
/// Spans that may wait.
const QUEUE: usize = 2048;
/// Spans that are sent at once.
const BATCH: usize = 512;
/// How long a batch waits to be full.
const PERIOD: Duration = Duration::from_secs(5);
/// How long a collector may take for a batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a batch is tried, with growing waits.
const TRIES: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// How often it is told that a collector cannot be reached.
const TELL: Duration = Duration::from_mins(10);
/// How long the last spans may take when the node ends.
const GOODBYE: Duration = Duration::from_secs(1);
/// What a collector may answer.
const RESPONSE_LIMIT: usize = 64 * 1024;

/// Where spans wait.
#[derive(Clone, Debug)]
pub(super) struct SpanQueue {
    spans: mpsc::Sender<FinishedSpan>,
    metrics: TraceMetrics,
}

impl SpanQueue {
    /// Lets it wait, where there is room.
    pub(super) fn put(&self, span: FinishedSpan) {
        if self.spans.try_send(span).is_err() {
            self.metrics.dropped();
        }
    }
}

/// Sends what waits. Nothing is connected before it runs.
#[derive(Debug)]
pub struct TraceExporter {
    spans: mpsc::Receiver<FinishedSpan>,
    channel: Channel,
    endpoint: TraceEndpoint,
    resource: Vec<(&'static str, String)>,
    metrics: TraceMetrics,
    /// When it was last told of that the collector cannot be reached.
    told: Option<Instant>,
}

impl TraceExporter {
    /// A tracer, and what sends its spans. Of the traces that begin here, so many of a million are recorded. `resource` is
    /// what all of them are about.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What is wrong with the endpoint.
    pub fn open(
        endpoint: TraceEndpoint,
        samples_per_million: u32,
        resource: Vec<(&'static str, String)>,
        metrics: TraceMetrics,
    ) -> Result<(Tracer, Self), tonic::transport::Error> {
        let (queue, spans) = mpsc::channel(QUEUE);
        let channel = endpoint.channel()?;
        let sink = Sink::Exporter(SpanQueue { spans: queue, metrics: metrics.clone() });
        let exporter = Self { spans, channel, endpoint, resource, metrics, told: None };
        Ok((Tracer::new(samples_per_million, sink), exporter))
    }

    /// Sends spans until it is cancelled, and then what is left, if that is soon done.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        while cancel.run_until_cancelled(self.fill(&mut batch)).await == Some(true) {
            self.deliver(&mut batch, &cancel).await;
        }
        while let Ok(span) = self.spans.try_recv() {
            batch.push(span);
        }
        let last = async {
            while !batch.is_empty() {
                let rest = batch.split_off(batch.len().min(BATCH));
                let sent = self.send(&batch).await;
                self.settle(&sent, batch.len());
                batch = rest;
                if sent.is_err() {
                    return;
                }
            }
        };
        if timeout(GOODBYE, last).await.is_err() {
            tracing::debug!("the last spans were not taken in time");
        }
    }

    /// Waits until a batch is full, or has waited long enough. False when no more will come.
    async fn fill(&mut self, batch: &mut Vec<FinishedSpan>) -> bool {
        if batch.is_empty() && self.spans.recv_many(batch, 1).await == 0 {
            return false;
        }
        let more = async {
            while batch.len() < BATCH {
                let room = BATCH - batch.len();
                if self.spans.recv_many(batch, room).await == 0 {
                    return;
                }
            }
        };
        // Either way what has come is there.
        let _ = timeout(PERIOD, more).await;
        true
    }

    /// Tries until the batch is taken or refused, or has been tried often enough.
    async fn deliver(&mut self, batch: &mut Vec<FinishedSpan>, cancel: &CancellationToken) {
        let mut waits = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        for attempt in 1..=TRIES {
            let Some(sent) = cancel.run_until_cancelled(self.send(batch)).await else { return };
            match &sent {
                Err(status) if may_pass(status.code()) && attempt < TRIES => {
                    self.tell(status);
                    if !sleep(waits.next(), cancel).await {
                        return;
                    }
                }
                _ => {
                    self.settle(&sent, batch.len());
                    batch.clear();
                    return;
                }
            }
        }
    }

    async fn send(&self, batch: &[FinishedSpan]) -> Result<ExportTraceServiceResponse, Status> {
        let attributes =
            self.resource.iter().map(|(key, value)| key_value(key, AttributeValue::Text(value.clone())));
        let scope = InstrumentationScope {
            name: "kubewasm".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(TraceResource { attributes: attributes.collect() }),
                scope_spans: vec![ScopeSpans {
                    scope: Some(scope),
                    spans: batch.iter().map(Into::into).collect(),
                }],
            }],
        };
        let mut client = Grpc::new(self.channel.clone()).max_decoding_message_size(RESPONSE_LIMIT);
        let export = async {
            client.ready().await.map_err(|error| Status::unavailable(causes(&error)))?;
            let codec: ProstCodec<_, ExportTraceServiceResponse> = ProstCodec::default();
            let path = PathAndQuery::from_static(EXPORT);
            Ok(client.unary(Request::new(request), path, codec).await?.into_inner())
        };
        let late = || Status::deadline_exceeded(format!("no answer within {EXPORT_TIMEOUT:?}"));
        timeout(EXPORT_TIMEOUT, export).await.unwrap_or_else(|_| Err(late()))
    }

    /// Counts what has become of a batch.
    fn settle(&mut self, sent: &Result<ExportTraceServiceResponse, Status>, spans: usize) {
        let spans = u64::try_from(spans).unwrap_or(u64::MAX);
        match sent {
            Ok(answer) => {
                if self.told.take().is_some() {
                    tracing::info!(endpoint = ?self.endpoint, "the collector takes in traces again");
                }
                let partial = answer.partial_success.clone().unwrap_or_default();
                let refused = u64::try_from(partial.rejected_spans).unwrap_or(0).min(spans);
                if refused > 0 {
                    tracing::debug!(refused, message = partial.error_message, "the collector refuses spans");
                }
                self.metrics.refused(refused);
                self.metrics.exported(spans - refused);
            }
            Err(status) => {
                self.tell(status);
                self.metrics.refused(spans);
            }
        }
    }

    /// Says that it does not work, now and then.
    fn tell(&mut self, status: &Status) {
        if self.told.is_some_and(|told| told.elapsed() < TELL) {
            return;
        }
        self.told = Some(Instant::now());
        tracing::warn!(
            endpoint = ?self.endpoint, code = ?status.code(), error = causes(status),
            "the collector of traces (tracing.endpoint) does not take them in; pods are not held up by that"
        );
    }
}

/// The answers after which OTLP has a client try again.
fn may_pass(code: Code) -> bool {
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
    )
}
