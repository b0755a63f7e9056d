use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;
use tower_test::mock::{self, Handle};

use super::*;

type ApiServer = Handle<Request<Body>, Response<Body>>;

const TIMES: ElectionTimes = ElectionTimes { lease: Duration::from_secs(15), retry: Duration::from_secs(2) };

fn elector() -> Elector {
    with_server().0
}

fn with_server() -> (Elector, ApiServer) {
    let (service, server) = mock::pair();
    let lease =
        LeaseName { namespace: "ns".to_owned(), name: "controller".to_owned(), labels: BTreeMap::new() };
    (Elector::new(Client::new(service, "default"), lease, "b", TIMES), server)
}

/// Answers the next request.
async fn answer(server: &mut ApiServer, code: u16, body: &Value) {
    let (_, send) = server.next_request().await.unwrap();
    let body = Body::from(serde_json::to_vec(body).unwrap());
    send.send_response(Response::builder().status(code).body(body).unwrap());
}

/// Lets the elector take the Lease, which is nobody's.
async fn lead(server: &mut ApiServer) {
    let free = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "controller", "namespace": "ns", "resourceVersion": "1" },
    });
    for _ in ["the look", "the change"] {
        answer(server, 200, &free).await;
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn held(holder: &str, renewed: i64) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: Some(15),
        acquire_time: Some(MicroTime(at(1))),
        renew_time: Some(MicroTime(at(renewed))),
        lease_transitions: Some(4),
        ..LeaseSpec::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_another_is_over_when_it_has_not_changed_for_its_time() {
    let (mut elector, start) = (elector(), Instant::now());
    // Whatever the holder's clock says.
    for renewed in [10, 1_000_000_000] {
        let lease = held("a", renewed);
        assert_eq!(elector.claim(&lease, at(50), start), Claim::Wait);
        assert_eq!(elector.claim(&lease, at(50), start + Duration::from_secs(14)), Claim::Wait);
    }
    let lease = held("a", 1_000_000_000);
    let Claim::Write(taken) = elector.claim(&lease, at(50), start + Duration::from_secs(15)) else {
        panic!("it is over")
    };
    assert_eq!(taken.holder_identity.as_deref(), Some("b"));
    assert_eq!((taken.lease_transitions, taken.acquire_time), (Some(5), Some(MicroTime(at(50)))));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_begins_the_time_anew() {
    let (mut elector, start) = (elector(), Instant::now());
    for renewed in 0..10 {
        let instant = start + Duration::from_secs(10) * u32::try_from(renewed).unwrap();
        assert_eq!(elector.claim(&held("a", renewed), at(50), instant), Claim::Wait);
    }
}

#[tokio::test(start_paused = true)]
async fn a_free_lease_is_taken_and_an_own_one_renewed() {
    let mut elector = elector();
    for free in [LeaseSpec::default(), held("", 1)] {
        let Claim::Write(taken) = elector.claim(&free, at(50), Instant::now()) else { panic!("it is free") };
        assert_eq!(taken.holder_identity.as_deref(), Some("b"));
    }
    let Claim::Write(renewed) = elector.claim(&held("b", 1), at(50), Instant::now()) else {
        panic!("it is ours")
    };
    assert_eq!((renewed.lease_transitions, renewed.acquire_time), (Some(4), Some(MicroTime(at(1)))));
    assert_eq!(renewed.renew_time, Some(MicroTime(at(50))));
}

#[tokio::test(start_paused = true)]
async fn whoever_is_refused_tries_again_at_its_times_also_when_it_leads_no_more() {
    let (elector, mut server) = with_server();
    let (sender, mut leading) = watch::channel(false);
    let _running = AbortOnDropHandle::new(tokio::spawn(elector.run(sender, CancellationToken::new())));
    lead(&mut server).await;
    leading.wait_for(|leading| *leading).await.unwrap();
    let mut tries = vec![Instant::now()];
    for (code, reason) in [(401, "Unauthorized"), (500, "InternalError"), (409, "Conflict")].repeat(5) {
        let refusal = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": reason, "code": code,
        });
        answer(&mut server, code, &refusal).await;
        tries.push(Instant::now());
    }
    assert!(!*leading.borrow(), "the Lease is over");
    // One of them may be early: at the end of the Lease.
    let pauses: Vec<Duration> =
        tries.iter().zip(tries.iter().skip(1)).map(|(before, after)| *after - *before).collect();
    assert!(pauses.iter().filter(|pause| **pause < TIMES.retry).count() <= 1, "{pauses:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_hears_nothing_says_so_before_the_lease_is_over() {
    let (elector, mut server) = with_server();
    let (sender, mut leading) = watch::channel(false);
    let _running = AbortOnDropHandle::new(tokio::spawn(elector.run(sender, CancellationToken::new())));
    let start = Instant::now();
    lead(&mut server).await;
    leading.wait_for(|leading| *leading).await.unwrap();
    for _ in 0..3 {
        answer(&mut server, 500, &json!({})).await;
    }
    // The next one is not answered.
    leading.wait_for(|leading| !*leading).await.unwrap();
    assert!(start.elapsed() < TIMES.lease, "{:?}", start.elapsed());
}
