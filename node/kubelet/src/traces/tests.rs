use std::time::{Duration, Instant};

use http::{Request, StatusCode};

use super::{requests as of_requests, *};

fn spans_of(kept: &KeptSpans) -> Vec<(String, Option<[u8; 8]>)> {
    kept.take().into_iter().map(|span| (span.name, span.parent)).collect()
}

#[tokio::test]
async fn parts_are_found_where_something_is_done_and_not_in_tasks_that_are_spawned() {
    let (tracer, kept) = Tracer::keeping_all();
    assert!(current().is_none());
    let root = tracer.root("root", SpanKind::Internal);
    let place = root.place().unwrap();
    within(root.place(), async {
        let part = child("part", SpanKind::Internal);
        within(part.place(), async { drop(child("part of it", SpanKind::Client)) }).await;
        drop(part);
        tokio::spawn(async { drop(child("elsewhere", SpanKind::Internal)) }).await.unwrap();
        tokio::spawn(within(current(), async { drop(child("taken along", SpanKind::Internal)) }))
            .await
            .unwrap();
    })
    .await;
    drop(root);
    let spans = kept.take();
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["part of it", "part", "taken along", "root"], "in the order of their ends");
    let id = |at: usize| Some(spans[at].context.span_id());
    let parents: Vec<_> = spans.iter().map(|span| span.parent).collect();
    assert_eq!(parents, [id(1), id(3), id(3), None]);
    assert!(
        spans.iter().all(|span| span.context.at(place.context().span_id()) == place.context()),
        "one trace"
    );
}

#[test]
fn who_continues_a_trace_does_as_its_caller_has_decided() {
    let recorded = SpanContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
    let other = SpanContext { is_sampled: false, ..recorded };
    let (none, kept_by_none) = Tracer::keeping();
    let (all, kept_by_all) = Tracer::keeping_all();
    for tracer in [&none, &all] {
        drop(tracer.continuing(Some(recorded), "a", SpanKind::Server));
        let mut span = tracer.continuing(Some(other), "b", SpanKind::Server);
        span.set("ignored", true);
        // It is passed on.
        assert_eq!(span.place().unwrap().context().to_string()[..36], recorded.to_string()[..36]);
        drop(tracer.root("c", SpanKind::Server));
    }
    let parent = Some(recorded.span_id());
    assert_eq!(spans_of(&kept_by_none), [("a".to_owned(), parent)]);
    assert_eq!(spans_of(&kept_by_all), [("a".to_owned(), parent), ("c".to_owned(), None)]);
}

#[test]
fn what_is_off_costs_nothing_and_says_nothing() {
    let mut span = Tracer::off().root("x", SpanKind::Internal);
    span.fail("why");
    assert!(span.place().is_none());
    let mut request = Request::new(());
    let _span = of_requests::sending(&Tracer::off(), &mut request, "host");
    assert!(request.headers().is_empty());
}

#[test]
fn a_span_is_bounded_and_as_long_as_what_is_done() {
    let (tracer, kept) = Tracer::keeping_all();
    let begun = Instant::now().checked_sub(Duration::from_secs(3)).unwrap();
    let mut span = tracer.root("x", SpanKind::Internal).since(begun);
    (0..100).for_each(|_| span.set("text", "é".repeat(1000).as_str()));
    span.fail(&"x".repeat(5000));
    drop(span);
    let span = kept.take().remove(0);
    assert!(span.ended_at - span.begun_at >= 3_000_000_000);
    assert_eq!(span.attributes.len(), 32);
    assert_eq!(span.attributes[0].1, AttributeValue::Text("é".repeat(512)));
    assert_eq!(span.error.unwrap().len(), 1024);
}

#[test]
fn spans_of_another_process_are_taken_in_if_they_are_of_this_trace() {
    let (tracer, kept) = Tracer::keeping_all();
    let (mine, other) = (tracer.root("mine", SpanKind::Client), tracer.root("other", SpanKind::Client));
    let place = mine.place().unwrap();
    let span = |context: SpanContext| FinishedSpan {
        context,
        parent: None,
        name: "told".to_owned(),
        kind: SpanKind::Server,
        begun_at: 1,
        ended_at: 2,
        attributes: Vec::new(),
        error: None,
    };
    place.adopt([span(other.place().unwrap().context()), span(place.context().at([7; 8]))]);
    let told = kept.take();
    assert_eq!((told.len(), told[0].context.span_id()), (1, [7; 8]));
}

#[tokio::test]
async fn a_request_is_a_part_of_what_it_is_sent_for_and_tells_the_one_who_gets_it() {
    let (tracer, kept) = Tracer::keeping_all();
    let root = tracer.root("syncPod", SpanKind::Internal);
    let plain = || Request::builder().method("PATCH").uri("/api/v1/pods/p?secret=x").body(()).unwrap();
    let mut carried = within(root.place(), async { of_requests::carrying(plain()) }).await;
    for (request, parent) in
        [(&mut carried, root.place().map(|place| place.context().span_id())), (&mut plain(), None)]
    {
        let mut span = of_requests::sending(&tracer, request, "api:6443");
        of_requests::answered(&mut span, StatusCode::NOT_FOUND, SpanKind::Client);
        drop(span);
        let span = kept.take().remove(0);
        assert_eq!((span.name.as_str(), span.kind, span.parent), ("HTTP PATCH", SpanKind::Client, parent));
        assert_eq!(request.headers()[TRACEPARENT], span.context.to_string().as_str());
        assert_eq!(span.error.as_deref(), Some("Not Found"));
        assert!(span.attributes.contains(&("url.path", "/api/v1/pods/p".into())), "{span:?}");
    }
}
