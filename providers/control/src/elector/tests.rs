use kube::client::Body;

use super::*;

const TIMES: ElectionTimes = ElectionTimes { lease: Duration::from_secs(15), retry: Duration::from_secs(2) };

fn elector() -> Elector {
    let (service, _) = tower_test::mock::pair::<http::Request<Body>, http::Response<Body>>();
    let lease =
        LeaseName { namespace: "ns".to_owned(), name: "controller".to_owned(), labels: BTreeMap::new() };
    Elector::new(Client::new(service, "default"), lease, "b", TIMES)
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
