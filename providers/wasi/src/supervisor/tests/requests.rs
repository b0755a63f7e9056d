use kubewasm_host::{CpuShare, http::ServerCertificate};
use kubewasm_kubelet::runtime::FailedRequests;

use super::*;
use crate::protocol::wire::SetCertificateOutcome::{Applied, NotServed, Stale, Unchanged, Unspecified};
use crate::spec::InstanceLimits;

fn certificate() -> ServerCertificate {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    let chain = params.self_signed(&key).unwrap();
    ServerCertificate::from_der([chain.der().to_vec()], key.serialize_der()).unwrap()
}

/// It goes to the worker that hosts the instance, in the present session, until that has said what has come of it.
#[tokio::test]
async fn a_certificate_is_sent_until_it_is_known_what_has_come_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let says = |ids: &[&str]| Says {
        events: picture(ids.iter().map(|id| Event::Changed(instance(id, None)))),
        ..Says::default()
    };
    let (one, other) = (says(&["a"]), says(&["b"]));
    let before = Versions { min: Versions::CERTIFICATES - 1, max: Versions::CERTIFICATES - 1 };
    let old = Says { versions: Some(before), ..says(&["c"]) };
    let _one = worker(dir.path(), "one", &["a"], one.clone());
    let _other = worker(dir.path(), "other", &["b"], other.clone());
    let _old = worker(dir.path(), "old", &["c"], old.clone());
    let agent = tables::agent(dir.path()).await;
    let sent = |says: &Says| says.certificates.lock().unwrap().len();
    let certificate = certificate();
    for (outcomes, calls, is_known) in [
        (&[Applied][..], 1, true),
        (&[Unchanged], 1, true),
        (&[NotServed], 1, true),
        (&[Stale, Stale, Applied], 3, true),
        (&[Unspecified], 1, false),
        (&[Stale; 9], 4, false),
    ] {
        let before = sent(&one);
        *one.outcomes.lock().unwrap() = outcomes.iter().copied().collect();
        let set = agent.set_certificate("a", &certificate).await;
        assert_eq!((set.is_ok(), sent(&one) - before), (is_known, calls), "{outcomes:?}");
    }
    let (session, id, carried) = one.certificates.lock().unwrap()[0].clone();
    assert!(!session.is_empty() && id == "a");
    assert_eq!(ServerCertificate::try_from(carried).unwrap(), certificate);
    // One that nobody hosts, and one whose worker takes none.
    for id in ["unknown", "c"] {
        agent.set_certificate(id, &certificate).await.unwrap();
    }
    assert_eq!((sent(&other), sent(&old)), (0, 0));
}

/// New limits go to the worker that hosts the instance, in the present session, until that has said what has come of them.
#[tokio::test]
async fn limits_are_sent_until_it_is_known_what_has_come_of_them() {
    use wire::ResizeOutcome::{Applied, BelowUse, NotRunning, PodBelowUse, Stale, Unspecified};

    let dir = tempfile::tempdir().unwrap();
    let says = |ids: &[&str]| Says {
        events: picture(ids.iter().map(|id| Event::Changed(instance(id, None)))),
        ..Says::default()
    };
    let one = says(&["a"]);
    let before = Versions { min: Versions::RESIZE - 1, max: Versions::RESIZE - 1 };
    let old = Says { versions: Some(before), ..says(&["c"]) };
    let _one = worker(dir.path(), "one", &["a"], one.clone());
    let _old = worker(dir.path(), "old", &["c"], old.clone());
    let agent = tables::agent(dir.path()).await;
    let sent = |says: &Says| says.resizes.lock().unwrap().len();
    let limits = InstanceLimits {
        memory_limit_bytes: 1,
        pod_memory_limit_bytes: 2,
        cpu: CpuShare { limit_millis: 3, request_millis: 4 },
    };
    for (outcomes, calls, expected) in [
        (&[Applied][..], 1, "Ok(())"),
        (&[NotRunning], 1, "Ok(())"),
        (&[Stale, Stale, Applied], 3, "Ok(())"),
        (&[BelowUse], 1, "Err(BelowUse { of_pod: false, limit: 8, used: 9 })"),
        (&[PodBelowUse], 1, "Err(BelowUse { of_pod: true, limit: 8, used: 9 })"),
        (&[Unspecified], 1, "Err(Supervisor("),
        (&[Stale; 9], 4, "Err(Supervisor("),
    ] {
        let before = sent(&one);
        let answer = |outcome: &wire::ResizeOutcome| wire::ResizeResponse {
            outcome: (*outcome).into(),
            used_bytes: 9,
            limit_bytes: 8,
        };
        *one.resized.lock().unwrap() = outcomes.iter().map(answer).collect();
        let resized = format!("{:?}", agent.resize("a", limits).await);
        assert!(resized.starts_with(expected), "{outcomes:?}: {resized}");
        assert_eq!(sent(&one) - before, calls, "{outcomes:?}");
    }
    let carried = one.resizes.lock().unwrap()[0].clone();
    assert_eq!((carried.id.as_str(), InstanceLimits::from(&carried)), ("a", limits));
    agent.resize("unknown", limits).await.unwrap();
    assert!(matches!(agent.resize("c", limits).await, Err(ResizeFailure::Old)));
    assert_eq!(sent(&old), 0);
}

/// A worker tells of its own instances; whose they are is not for it to say.
#[tokio::test]
async fn failed_requests_are_believed_of_a_workers_own_instances() {
    let dir = tempfile::tempdir().unwrap();
    let failed = |id: &str, count, last: &str| {
        Event::FailedRequests(wire::FailedRequests { id: id.into(), count, last: last.into() })
    };
    let long = "x".repeat(9000);
    let mut events = picture(["own", "victim"].map(|id| Event::Changed(instance(id, None))));
    events.extend([failed("victim", 7, "lies"), failed("made-up", 7, "lies")]);
    events.extend([failed("own", 2, "first"), failed("own", 3, &long)]);
    let _liar = worker(dir.path(), "liar", &["own"], Says { events, ..Says::default() });
    let honest = Says { events: picture([Event::Changed(instance("victim", None))]), ..Says::default() };
    let _honest = worker(dir.path(), "honest", &["victim"], honest);
    let agent = tables::agent(dir.path()).await;
    let (mut count, mut last) = (0, String::new());
    // They may come one after the other.
    while count < 5 {
        for failed in agent.failed_requests().await {
            let FailedRequests { id, pod_uid, count: more, last: newest } = failed;
            assert_eq!((id.as_str(), pod_uid.as_str()), ("own", "pod-own"));
            (count, last) = (count + more, newest);
        }
    }
    assert_eq!((count, last.len()), (5, 256), "no more is taken");
}
