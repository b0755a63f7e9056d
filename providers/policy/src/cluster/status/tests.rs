use kube::core::DynamicObject;
use serde_json::json;

use super::*;
use crate::cluster::identity::PolicyKind;

fn policy() -> ClusterPolicy {
    let object: DynamicObject = serde_json::from_value(json!({
        "metadata": { "name": "p", "uid": "u", "generation": 3 },
        "spec": { "module": "r.io/p", "rules": [] },
    }))
    .unwrap();
    ClusterPolicy::read(PolicyKind::ClusterAdmissionPolicy, &object)
}

fn version(generation: i64) -> PolicyVersion {
    PolicyVersion { uid: "u".into(), generation }
}

fn served() -> Observed {
    Observed {
        newest: Newest::Served,
        served: Some(3),
        mode: Some(PolicyMode::Protect),
        behind: Vec::new(),
        webhook: WebhookState::Of(Some(version(3))),
        refusal: None,
    }
}

fn failed(is_transient: bool) -> Newest {
    Newest::Failed { message: "r.io/p: not found".into(), is_transient }
}

/// Status and, of each condition, status, reason and message.
fn said(observed: &Observed) -> (PolicyPhase, Vec<(String, String, String)>) {
    let status = PolicyStatus::new(&policy(), observed, Timestamp::UNIX_EPOCH);
    let conditions = status.conditions.into_iter();
    (status.policy_status, conditions.map(|c| (c.status, c.reason, c.message)).collect())
}

#[test]
fn each_state_has_its_words() {
    let newest = |newest, served, webhook| Observed { newest, served, webhook, ..self::served() };
    let former = WebhookState::Of(Some(version(2)));
    for (observed, phase, reasons) in [
        (served(), PolicyPhase::Active, ["WebhookCreated", "PolicyLoaded", "AllReplicasUpToDate"]),
        (
            newest(Newest::Unseen, None, WebhookState::Absent),
            PolicyPhase::Scheduled,
            ["WebhookNotCreated", "PolicyLoading", "NotServed"],
        ),
        (
            newest(Newest::Loading, None, WebhookState::Absent),
            PolicyPhase::Pending,
            ["WebhookNotCreated", "PolicyLoading", "NotServed"],
        ),
        (
            newest(failed(true), None, WebhookState::Absent),
            PolicyPhase::Pending,
            ["WebhookNotCreated", "LoadFailed", "NotServed"],
        ),
        (
            newest(failed(false), Some(2), former.clone()),
            PolicyPhase::Active,
            ["WebhookOfFormerGeneration", "PolicyInvalid", "NotServed"],
        ),
        (
            Observed { behind: vec!["a".into()], webhook: former, ..served() },
            PolicyPhase::Active,
            ["WebhookOfFormerGeneration", "PolicyLoaded", "ReplicasBehind"],
        ),
        (
            Observed { webhook: WebhookState::Absent, refusal: Some("taken".into()), ..served() },
            PolicyPhase::Pending,
            ["WebhookRefused", "PolicyLoaded", "AllReplicasUpToDate"],
        ),
    ] {
        let (status, conditions) = said(&observed);
        assert_eq!(status, phase, "{observed:?}");
        let found: Vec<&str> = conditions.iter().map(|(_, reason, _)| reason.as_str()).collect();
        assert_eq!(found, reasons, "{observed:?}");
    }
}

#[test]
fn a_failure_says_what_and_what_goes_on() {
    let observed = Observed { newest: failed(true), served: Some(2), ..served() };
    let (_, conditions) = said(&observed);
    let expected = "r.io/p: not found; generation 2 goes on being served; it is tried again";
    assert_eq!((&*conditions[1].0, &*conditions[1].2), ("False", expected));
    let former = WebhookState::Of(Some(version(2)));
    let (_, conditions) = said(&Observed { webhook: former, refusal: Some("taken".into()), ..served() });
    let expected =
        "API servers ask the policy as generation 2 has it; the webhook of this generation is refused: taken";
    assert_eq!((&*conditions[0].0, &*conditions[0].2), ("True", expected));
    let behind = (1..=7).map(|number| format!("r{number}")).collect();
    let (_, conditions) = said(&Observed { behind, ..served() });
    let expected = "replicas that do not serve this generation: r1, r2, r3, r4, r5 and 2 more";
    assert_eq!(conditions[2].2, expected);
}

#[test]
fn a_message_has_an_end() {
    let message = "ß".repeat(LONGEST_MESSAGE);
    let newest = Newest::Failed { message, is_transient: false };
    let (_, conditions) = said(&Observed { newest, ..served() });
    assert!(conditions[1].2.len() <= LONGEST_MESSAGE + '…'.len_utf8());
}

#[test]
fn a_condition_keeps_the_time_of_its_last_change() {
    let at = |second| Timestamp::from_second(second).unwrap();
    let mut policy = policy();
    let first = PolicyStatus::new(&policy, &served(), at(1));
    policy.status = Some(first);
    let observed = Observed { newest: failed(false), ..served() };
    let second = PolicyStatus::new(&policy, &observed, at(2));
    let times: Vec<i64> =
        second.conditions.iter().map(|condition| condition.last_transition_time.0.as_second()).collect();
    assert_eq!(times, [1, 2, 2]);
}

#[test]
fn what_is_written_is_what_is_read() {
    let now = "2026-01-01T00:00:00.123456789Z".parse().unwrap();
    let status = PolicyStatus::new(&policy(), &served(), now);
    let manifest = status.manifest(&policy());
    assert_eq!(manifest["kind"], json!("ClusterAdmissionPolicy"));
    assert_eq!(PolicyStatus::deserialize(&manifest["status"]).unwrap(), status);
}
