//! What a worker has recorded of a start for the trace that the agent keeps.
//!
//! The worker has no way to a collector: it tells the agent with its answer. What it says is not trusted with more than its
//! own part of the trace: a few spans, with names that are cut.

use kubewasm_kubelet::traces::{FinishedSpan, SpanKind, TracePlace};

use super::wire;

/// Spans of one start, at the most.
const SPANS: usize = 16;
/// Bytes of a name.
const NAME: usize = 64;
/// Bytes of an error.
const ERROR: usize = 1024;

impl From<&FinishedSpan> for wire::TraceSpan {
    fn from(span: &FinishedSpan) -> Self {
        Self {
            span_id: span.context.span_id().to_vec(),
            parent_span_id: span.parent.map(Vec::from).unwrap_or_default(),
            name: span.name.clone(),
            begun_at: span.begun_at,
            ended_at: span.ended_at,
            error: span.error.clone(),
        }
    }
}

/// What a worker of this process id has told, as spans of the trace that `place` is in.
pub(crate) fn told(spans: Vec<wire::TraceSpan>, place: &TracePlace, pid: u32) -> Vec<FinishedSpan> {
    let own = place.context();
    let cut = |text: String, limit| text[..text.floor_char_boundary(limit)].to_owned();
    let span = |span: wire::TraceSpan| {
        let parent = span.parent_span_id.try_into().ok()?;
        Some(FinishedSpan {
            context: own.at(span.span_id.try_into().ok().filter(|id| *id != [0; 8])?),
            parent: Some(parent),
            name: cut(span.name, NAME),
            // The first one is that of the call.
            kind: if parent == own.span_id() { SpanKind::Server } else { SpanKind::Internal },
            begun_at: span.begun_at,
            ended_at: span.ended_at.max(span.begun_at),
            attributes: vec![("process.pid", i64::from(pid).into())],
            error: span.error.map(|error| cut(error, ERROR)),
        })
    };
    spans.into_iter().take(SPANS).filter_map(span).collect()
}

#[cfg(test)]
mod tests {
    use kubewasm_kubelet::traces::{SpanContext, Tracer};

    use super::*;

    const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// The place of a call, in a process that keeps spans.
    fn call() -> TracePlace {
        let (tracer, _) = Tracer::keeping();
        tracer.continuing(SpanContext::parse(CALLER), "call", SpanKind::Client).place().unwrap()
    }

    #[test]
    fn what_a_worker_has_recorded_is_a_part_of_the_agents_call() {
        let call = call();
        let (tracer, kept) = Tracer::keeping();
        let parent = SpanContext::parse(&call.context().to_string());
        let span = tracer.continuing(parent, "start", SpanKind::Server);
        drop(span.place().unwrap().child("loadModule", SpanKind::Internal));
        drop(span);
        let sent: Vec<wire::TraceSpan> = kept.take().iter().map(Into::into).collect();
        let told = told(sent, &call, 7);
        let [load, start] = &told[..] else { panic!("{told:?}") };
        assert_eq!(
            (start.name.as_str(), start.kind, start.parent),
            ("start", SpanKind::Server, Some(call.context().span_id()))
        );
        assert_eq!((load.kind, load.parent), (SpanKind::Internal, Some(start.context.span_id())));
        assert!(
            told.iter().all(|span| span.context == call.context().at(span.context.span_id())),
            "one trace"
        );
        assert_eq!(load.attributes, [("process.pid", 7_i64.into())]);
    }

    #[test]
    fn a_worker_that_makes_things_up_has_little_of_it() {
        let whole = wire::TraceSpan {
            span_id: vec![1; 8],
            parent_span_id: vec![2; 8],
            name: "é".repeat(100),
            begun_at: 5,
            ended_at: 1,
            error: Some("x".repeat(5000)),
        };
        let none = [
            wire::TraceSpan { span_id: vec![0; 8], ..whole.clone() },
            wire::TraceSpan { span_id: vec![1; 9], ..whole.clone() },
            wire::TraceSpan { parent_span_id: Vec::new(), ..whole.clone() },
        ];
        let call = call();
        assert_eq!(told(none.to_vec(), &call, 7), []);
        let told = told(vec![whole; 100], &call, 7);
        assert_eq!(told.len(), SPANS);
        assert_eq!((told[0].name.len(), told[0].ended_at), (NAME, 5));
        assert_eq!(told[0].error.as_ref().map(String::len), Some(ERROR));
    }
}
