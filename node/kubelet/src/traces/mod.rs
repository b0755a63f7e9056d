//! Traces of what the node does, for OpenTelemetry: where the time of a pod's start goes.
//!
//! ```text
//! Tracer::root, Tracer::continuing ─► Span ─ place ─► child, child of child, …
//!                                      │ dropped: ended
//!                                      ▼
//!                       queue (bounded, never waited for) ─► exporter ─ OTLP over gRPC ─► a collector
//! ```
//!
//! The rules are those of `k8s.io/component-base/tracing`: off without a `tracing` in the configuration; who continues
//! somebody's trace does as that one has decided, and of those that begin here `samplingRatePerMillion` are recorded. A
//! span that is not recorded costs two numbers, and is passed on all the same, so that others decide alike.
//!
//! A function that wants to record its part asks for a [`child`] of whatever it is called in; [`within`] says what that is.
//! This does not go along into tasks that are spawned: they are given the [`TracePlace`].
//!
//! The messages are those of [OTLP](https://opentelemetry.io/docs/specs/otlp/), the header that of
//! [W3C Trace Context](https://www.w3.org/TR/trace-context/). Neither `tracestate` nor `baggage` is carried: nothing that the
//! node sends belongs to a caller's trace.

mod context;
mod endpoint;
mod exporter;
mod metrics;
mod otlp;
pub(crate) mod requests;
mod sampler;
mod span;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::futures::TaskLocalFuture;

use self::{context::random_ids, exporter::SpanQueue, sampler::Sampler};
pub use self::{
    context::{SpanContext, TRACEPARENT},
    endpoint::TraceEndpoint,
    exporter::TraceExporter,
    metrics::TraceMetrics,
    span::{AttributeValue, FinishedSpan, Span, SpanKind},
};

tokio::task_local! {
    static CURRENT: Option<TracePlace>;
}

/// Begins traces. Clones are the same; the default is off.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<TracerInner>>);

#[derive(Debug)]
struct TracerInner {
    sampler: Sampler,
    sink: Sink,
}

/// Where spans go that have ended.
#[derive(Debug)]
enum Sink {
    /// To a collector.
    Exporter(SpanQueue),
    /// To whoever asks for them.
    Kept(Arc<Mutex<Vec<FinishedSpan>>>),
}

/// Spans that have ended, and that nobody has asked for yet.
#[derive(Clone, Debug, Default)]
pub struct KeptSpans(Arc<Mutex<Vec<FinishedSpan>>>);

impl KeptSpans {
    /// Takes them.
    #[must_use]
    pub fn take(&self) -> Vec<FinishedSpan> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Tracer {
    /// One that records nothing.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    fn new(samples_per_million: u32, sink: Sink) -> Self {
        Self(Some(Arc::new(TracerInner { sampler: Sampler::new(samples_per_million), sink })))
    }

    /// One that keeps the spans of traces that others have begun: for a process that hands them on.
    #[must_use]
    pub fn keeping() -> (Self, KeptSpans) {
        Self::keeping_of(0)
    }

    /// One that keeps all spans.
    #[cfg(test)]
    pub(crate) fn keeping_all() -> (Self, KeptSpans) {
        Self::keeping_of(1_000_000)
    }

    /// One that keeps spans, and of those that begin here so many of a million.
    fn keeping_of(samples_per_million: u32) -> (Self, KeptSpans) {
        let kept = KeptSpans::default();
        (Self::new(samples_per_million, Sink::Kept(Arc::clone(&kept.0))), kept)
    }

    /// Begins a trace.
    #[must_use]
    pub fn root(&self, name: &'static str, kind: SpanKind) -> Span {
        self.continuing(None, name, kind)
    }

    /// Continues somebody's trace, or begins one where there is none.
    #[must_use]
    pub fn continuing(&self, parent: Option<SpanContext>, name: &'static str, kind: SpanKind) -> Span {
        let Some(inner) = &self.0 else { return Span::none() };
        Span::begin(inner, parent, name, kind)
    }
}

impl TracerInner {
    /// The context of a new span.
    fn context_below(&self, parent: Option<SpanContext>) -> SpanContext {
        let (trace_id, span_id) = random_ids();
        match parent {
            Some(parent) => SpanContext { span_id, ..parent },
            None => SpanContext { trace_id, span_id, is_sampled: self.sampler.samples(trace_id) },
        }
    }

    fn take(&self, span: FinishedSpan) {
        match &self.sink {
            Sink::Exporter(queue) => queue.put(span),
            Sink::Kept(kept) => kept.lock().unwrap_or_else(PoisonError::into_inner).push(span),
        }
    }
}

/// A span as that which others are parts of. It may have ended.
#[derive(Clone, Debug)]
pub struct TracePlace {
    tracer: Arc<TracerInner>,
    context: SpanContext,
}

impl TracePlace {
    /// Begins a part of it.
    #[must_use]
    pub fn child(&self, name: &'static str, kind: SpanKind) -> Span {
        Span::begin(&self.tracer, Some(self.context), name, kind)
    }

    /// What is told to others who are to go on with it.
    #[must_use]
    pub fn context(&self) -> SpanContext {
        self.context
    }

    /// Takes in spans that another process has recorded of this trace. What belongs to another is left out, and so is
    /// everything where this trace is not recorded.
    pub fn adopt(&self, spans: impl IntoIterator<Item = FinishedSpan>) {
        if self.context.is_sampled {
            let own = spans.into_iter().filter(|span| span.context.trace_id == self.context.trace_id);
            own.for_each(|span| self.tracer.take(span));
        }
    }
}

/// What is done here belongs to this; `None` where nobody records anything.
#[must_use]
pub fn current() -> Option<TracePlace> {
    CURRENT.try_with(Option::clone).ok().flatten()
}

/// Begins a part of what is done here.
#[must_use]
pub fn child(name: &'static str, kind: SpanKind) -> Span {
    let child = CURRENT.try_with(|place| place.as_ref().map(|place| place.child(name, kind)));
    child.ok().flatten().unwrap_or_else(Span::none)
}

/// Does something that belongs to `place`, or to nothing. No larger than `work` itself, for futures are large.
pub fn within<F: Future>(place: Option<TracePlace>, work: F) -> TaskLocalFuture<Option<TracePlace>, F> {
    CURRENT.scope(place, work)
}
