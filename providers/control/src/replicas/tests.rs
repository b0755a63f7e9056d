use serde::Deserialize;
use serde_json::json;

use super::*;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Said(u32);

impl Report for Said {
    const ANNOTATION: &'static str = "kubewasm.dev/said";
}

fn lease(name: &str, renewed: i64, report: &str) -> Lease {
    serde_json::from_value(json!({
        "metadata": { "name": format!("server.{name}"), "annotations": { Said::ANNOTATION: report } },
        "spec": { "holderIdentity": name, "renewTime": MicroTime(Timestamp::from_second(renewed).unwrap()) },
    }))
    .unwrap()
}

fn replica(name: &str, renewed: i64) -> Replica<Said> {
    Replica::read(&lease(name, renewed, "1")).unwrap()
}

#[test]
fn a_report_is_read_from_the_lease_of_a_replica_alone() {
    assert_eq!(replica("a", 1).report, Said(1));
    assert_eq!(Replica::<Said>::read(&lease("a", 1, "[")).unwrap().report, Said::default());
    let mut election = lease("a", 1, "1");
    election.metadata.annotations = None;
    assert_eq!(Replica::<Said>::read(&election), None);
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
    let gone = vec!["server.a"];
    assert_eq!(heartbeats.sort([&a, &renewed].into_iter(), at(15)), (vec![&renewed], gone));
    // It comes back.
    let back = replica("a", 3);
    assert_eq!(heartbeats.sort([&back].into_iter(), at(16)), (vec![&back], vec![]));
}
