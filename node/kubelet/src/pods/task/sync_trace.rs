//! The traces of what is done to have a pod run, and to have it end: upstream's spans `syncPod`, with the pulls, the starts and
//! the writes of the status in it, `syncTerminatingPod` and `syncTerminatedPod`.
//!
//! The first one lasts from when the pod was seen until all its containers have started and the API server has been told of
//! it. One that comes later, because of a container that is started again, lasts until nothing is under way and that has been
//! told. What fails ends it, and what is tried again is in another. The end of a pod is in two: one until nothing of it runs any
//! more, and one until its volumes are gone and the API server has its last status and has let go of it, if it was deleted.

use std::time::Instant;

use crate::{
    pods::lifecycle::PodName,
    traces::{Span, SpanKind, TracePlace, Tracer},
};

/// The trace that a pod's task is in.
#[derive(Debug)]
pub(super) struct SyncTrace {
    tracer: Tracer,
    span: Option<Span>,
    /// Not all containers have started yet.
    is_first: bool,
    end: EndStage,
}

/// How far the end of a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum EndStage {
    /// It is to run.
    No,
    /// Something of it runs that is to be stopped.
    Terminating,
    /// Nothing of it runs.
    Terminated,
}

impl SyncTrace {
    /// That of a pod that was seen then. One that an earlier agent has begun to start is in none before something is done.
    pub(super) fn new(tracer: Tracer, pod: &PodName, seen: Instant, is_known: bool) -> Self {
        let mut trace = Self { tracer, span: None, is_first: !is_known, end: EndStage::No };
        if !is_known {
            trace.span = Some(trace.begin(pod, "create").since(seen));
        }
        trace
    }

    fn begin(&self, pod: &PodName, update: &'static str) -> Span {
        let mut span = self.root("syncPod", pod);
        span.set("k8s.pod.update_type", update);
        span
    }

    fn root(&self, name: &'static str, pod: &PodName) -> Span {
        let mut span = self.tracer.root(name, SpanKind::Internal);
        span.set("k8s.pod.uid", pod.uid.as_str());
        span.set("k8s.pod", format!("{}/{}", pod.namespace, pod.name).as_str());
        span.set("k8s.pod.name", pod.name.as_str());
        span.set("k8s.namespace.name", pod.namespace.as_str());
        span
    }

    /// What something belongs to that is done now.
    pub(super) fn place(&mut self, pod: &PodName) -> Option<TracePlace> {
        if self.span.is_none() {
            self.span = Some(self.begin(pod, "sync"));
        }
        self.current()
    }

    /// What the telling of it belongs to.
    pub(super) fn current(&self) -> Option<TracePlace> {
        self.span.as_ref().and_then(Span::place)
    }

    /// Something has failed.
    pub(super) fn fail(&mut self, error: &str) {
        if let Some(mut span) = self.span.take() {
            span.fail(error);
        }
    }

    /// All containers have started.
    pub(super) fn started(&mut self) {
        self.is_first = false;
    }

    /// A turn is over: something `is_under_way` or not, and the API server knows how things are or not.
    pub(super) fn settle(&mut self, is_under_way: bool, is_told: bool) {
        if !self.is_first && !is_under_way && is_told {
            self.span = None;
        }
    }

    /// The pod is to end, and something of it runs still.
    pub(super) fn terminating(&mut self, pod: &PodName) {
        self.end_at(EndStage::Terminating, "syncTerminatingPod", pod);
    }

    /// The pod has ended, and nothing of it runs.
    pub(super) fn terminated(&mut self, pod: &PodName) {
        self.end_at(EndStage::Terminated, "syncTerminatedPod", pod);
    }

    fn end_at(&mut self, stage: EndStage, name: &'static str, pod: &PodName) {
        if self.end >= stage {
            return;
        }
        // Each ends before the next one begins.
        self.close();
        self.end = stage;
        self.span = Some(self.root(name, pod));
    }

    /// Nothing more is done for it.
    pub(super) fn close(&mut self) {
        self.is_first = false;
        self.span = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traces::{AttributeValue, FinishedSpan, KeptSpans};

    fn pod() -> PodName {
        PodName { name: "p".to_owned(), namespace: "ns".to_owned(), uid: "u".to_owned() }
    }

    fn begun(is_known: bool) -> (SyncTrace, KeptSpans) {
        let (tracer, kept) = Tracer::keeping_all();
        (SyncTrace::new(tracer, &pod(), Instant::now(), is_known), kept)
    }

    fn update_type(span: &FinishedSpan) -> AttributeValue {
        span.attributes.iter().find(|(name, _)| *name == "k8s.pod.update_type").unwrap().1.clone()
    }

    #[test]
    fn the_first_trace_lasts_until_all_containers_have_started_and_it_is_told() {
        let (mut trace, kept) = begun(false);
        trace.settle(false, true);
        assert_eq!(kept.take(), [], "an init container may run");
        trace.started();
        trace.settle(true, true);
        trace.settle(false, false);
        assert_eq!(kept.take(), []);
        trace.settle(false, true);
        let spans = kept.take();
        assert_eq!((spans.len(), spans[0].name.as_str(), &spans[0].parent), (1, "syncPod", &None));
        assert_eq!(update_type(&spans[0]), "create".into());
        assert!(trace.current().is_none());

        assert!(trace.place(&pod()).is_some(), "a container that is started again is in another");
        trace.settle(false, true);
        assert_eq!(update_type(&kept.take()[0]), "sync".into());
    }

    #[test]
    fn a_failure_ends_a_trace_and_the_next_try_is_in_another() {
        let (mut trace, kept) = begun(false);
        trace.fail("ErrImagePull: away");
        let failed = kept.take();
        assert_eq!(failed[0].error.as_deref(), Some("ErrImagePull: away"));
        let place = trace.place(&pod()).unwrap();
        trace.close();
        let next = kept.take();
        assert_eq!((next[0].context, next[0].error.clone()), (place.context(), None));
        assert_eq!(update_type(&next[0]), "sync".into());
    }

    #[test]
    fn the_end_of_a_pod_is_in_two_traces() {
        let (mut trace, kept) = begun(false);
        let names = || kept.take().into_iter().map(|span| span.name.to_string()).collect::<Vec<_>>();
        trace.terminating(&pod());
        assert_eq!(names(), ["syncPod"]);
        trace.terminating(&pod());
        let stopping = trace.current().unwrap().context();
        trace.terminated(&pod());
        let ended = kept.take();
        assert_eq!(
            (ended.len(), ended[0].name.as_str(), ended[0].context),
            (1, "syncTerminatingPod", stopping)
        );
        let uid = ended[0].attributes.iter().find(|(name, _)| *name == "k8s.pod.uid");
        assert_eq!(uid.unwrap().1, "u".into());
        trace.terminated(&pod());
        trace.terminating(&pod());
        assert!(names().is_empty(), "it does not begin to end again");
        trace.close();
        assert_eq!(names(), ["syncTerminatedPod"]);
        trace.terminated(&pod());
        assert!(trace.current().is_none(), "once it is over, it is");
    }

    #[test]
    fn a_pod_of_an_earlier_agent_is_in_no_trace_before_something_is_done() {
        let (trace, kept) = begun(true);
        assert!(trace.current().is_none());
        drop(trace);
        assert_eq!(kept.take(), []);
    }
}
