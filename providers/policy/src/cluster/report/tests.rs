use serde_json::json;

use super::*;

fn lease(name: &str, renewed: i64, report: &str) -> Lease {
    serde_json::from_value(json!({
        "metadata": { "name": format!("kubewasm-policy-default.{name}"), "annotations": { REPORT: report } },
        "spec": { "holderIdentity": name, "renewTime": MicroTime(Timestamp::from_second(renewed).unwrap()) },
    }))
    .unwrap()
}

fn replica(name: &str, renewed: i64) -> Replica {
    Replica::read(&lease(name, renewed, "{}")).unwrap()
}

#[test]
fn a_report_is_read_as_it_was_written() {
    let version = PolicyVersion { uid: "u".into(), generation: 2 };
    let mut report = ReplicaReport { certificate: Some("f".into()), ..ReplicaReport::default() };
    report.note("kw.cap.p".into(), &version);
    let read = Replica::read(&lease("a", 1, &serde_json::to_string(&report).unwrap())).unwrap();
    assert_eq!((&*read.identity, &read.report), ("a", &report));
    assert!(read.report.serves("kw.cap.p", &version));
    for other in
        [PolicyVersion { uid: "u".into(), generation: 3 }, PolicyVersion { uid: "v".into(), generation: 2 }]
    {
        assert!(!read.report.serves("kw.cap.p", &other));
    }
    assert!(!read.report.serves("kw.cap.q", &version));
}

#[test]
fn what_cannot_be_read_serves_nothing() {
    assert_eq!(Replica::read(&lease("a", 1, "[")).unwrap().report, ReplicaReport::default());
    let mut election = lease("a", 1, "{}");
    election.metadata.annotations = None;
    assert_eq!(Replica::read(&election), None);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_is_silent_is_gone() {
    let mut heartbeats = Heartbeats::default();
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let (a, b) = (replica("a", 1), replica("b", 1));
    assert_eq!(heartbeats.sort([&a, &b].into_iter(), at(0)), (vec![&a, &b], vec![]));
    let renewed = replica("b", 2);
    assert_eq!(heartbeats.sort([&a, &renewed].into_iter(), at(14)), (vec![&a, &renewed], vec![]));
    let gone = vec!["kubewasm-policy-default.a"];
    assert_eq!(heartbeats.sort([&a, &renewed].into_iter(), at(15)), (vec![&renewed], gone));
    // It comes back.
    let back = replica("a", 3);
    assert_eq!(heartbeats.sort([&back].into_iter(), at(16)), (vec![&back], vec![]));
}
