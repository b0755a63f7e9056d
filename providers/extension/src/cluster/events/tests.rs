use serde_json::json;

use super::*;

fn status(
    digest: Option<&str>,
    version: Option<&str>,
    conditions: &[(&str, &str, &str, &str)],
) -> WasmExtensionStatus {
    let conditions: Vec<_> = conditions
        .iter()
        .map(|(kind, status, reason, message)| {
            json!({
                "type": kind, "status": status, "reason": reason, "message": message,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            })
        })
        .collect();
    let status = json!({ "resolvedDigest": digest, "version": version, "sizeBytes": 3, "abiVersion": "0.2.1", "conditions": conditions });
    serde_json::from_value(status).unwrap()
}

fn told(before: Option<&WasmExtensionStatus>, now: &WasmExtensionStatus) -> Vec<String> {
    let tell = |event: ExtensionEvent| {
        format!("{} {}: {}", if event.is_warning { "!" } else { "-" }, event.reason, event.note)
    };
    events(before, now).into_iter().map(tell).collect()
}

const FINE: [(&str, &str, &str, &str); 4] = [
    (FETCHED, "True", "Fetched", ""),
    (VERIFIED, "True", "Verified", ""),
    (CONFIG_RESOLVED, "True", "Resolved", "all"),
    (PUBLISHED, "True", "Published", ""),
];

#[test]
fn each_stage_is_told_once() {
    let fetching =
        status(None, None, &[(FETCHED, "Unknown", "Fetching", ""), (PUBLISHED, "False", "NotPublished", "")]);
    let gone = status(
        None,
        None,
        &[(FETCHED, "False", "NotFound", "404"), (PUBLISHED, "False", "NotPublished", "")],
    );
    let refused =
        status(None, None, &[(FETCHED, "False", "Denied", "403"), (PUBLISHED, "False", "NotPublished", "")]);
    let fine = status(Some("sha256:1"), Some("v1"), &FINE);
    for (before, now, expected) in [
        (None, &fetching, &["- Created: the extension was seen"][..]),
        (Some(&fetching), &gone, &["! FetchFailed: NotFound: 404"]),
        (Some(&gone), &gone, &[]),
        (Some(&gone), &refused, &["! FetchFailed: Denied: 403"]),
        (
            Some(&gone),
            &fine,
            &["- Fetched: sha256:1, 3 bytes, ABI 0.2.1", "- Published: Envoys get version v1"],
        ),
        (Some(&fine), &fine, &[]),
    ] {
        assert_eq!(told(before, now), expected, "{before:?} {now:?}");
    }
    let other = status(Some("sha256:1"), Some("v2"), &FINE);
    assert_eq!(told(Some(&fine), &other), ["- Published: Envoys get version v2"]);
    // The former one goes on being published, and then it is back.
    let mut worse = FINE;
    (worse[1].1, worse[1].2, worse[1].3) = ("False", "NotProxyWasm", "it is a component");
    worse[3].1 = "False";
    let worse = status(Some("sha256:1"), Some("v1"), &worse);
    assert_eq!(told(Some(&fine), &worse), ["! VerificationFailed: NotProxyWasm: it is a component"]);
    assert_eq!(
        told(Some(&worse), &fine),
        ["- Fetched: sha256:1, 3 bytes, ABI 0.2.1", "- Published: Envoys get version v1"]
    );
    let mut unresolved = FINE;
    (unresolved[2].1, unresolved[2].2, unresolved[2].3) = ("False", "KeyMissing", "no key");
    unresolved[3].1 = "False";
    let unresolved = status(Some("sha256:1"), Some("v1"), &unresolved);
    assert_eq!(told(Some(&fine), &unresolved), ["! ConfigurationFailed: KeyMissing: no key"]);
    assert_eq!(
        told(Some(&unresolved), &fine),
        ["- ConfigurationResolved: all", "- Published: Envoys get version v1"]
    );
}

#[test]
fn one_envoy_more_that_refuses_is_no_news() {
    let with = |status_text: &str, reason: &str, message: &str| {
        let mut conditions = FINE.to_vec();
        conditions.push((ACCEPTED, status_text, reason, message));
        status(Some("sha256:1"), Some("v1"), &conditions)
    };
    let one = with("False", "Refused", "1 of 2 Envoys refuse version v1, and go on: no");
    let more = with("False", "Refused", "7 of 9 Envoys refuse version v1, and go on: no");
    let other = with("False", "Refused", "7 of 9 Envoys refuse version v1, and go on: never");
    let fine = with("True", "Accepted", "9 Envoys have accepted version v1");
    assert_eq!(
        told(Some(&fine), &one),
        ["! Refused: Refused: 1 of 2 Envoys refuse version v1, and go on: no"]
    );
    assert!(told(Some(&one), &more).is_empty());
    assert_eq!(told(Some(&more), &other).len(), 1);
    assert_eq!(told(Some(&more), &fine), ["- Accepted: 9 Envoys have accepted version v1"]);
    let nobody = with("Unknown", "NoSubscribers", "");
    assert!(told(Some(&nobody), &fine).is_empty());
}
