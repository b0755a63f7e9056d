use kubewasm_modules::Digest;

use super::*;
use crate::{
    cluster::{loader::PublishedFacts, resolve::ConfigurationFailure},
    fetch::{FetchReason, proxy_wasm::AbiVersion},
    table::PublishedVersion,
};

fn version(text: &str) -> PublishedVersion {
    serde_json::from_value(json!(text)).unwrap()
}

fn facts(text: &str, generation: i64) -> PublishedFacts {
    PublishedFacts {
        version: version(text),
        generation,
        digest: Digest::of(b"m"),
        size: 1,
        abi: AbiVersion::V0_2_1,
    }
}

fn progress() -> ExtensionProgress {
    ExtensionProgress {
        uid: "u".into(),
        generation: 2,
        module: ModuleProgress::Fetched(None),
        last_fetched: Some("2026-01-01T00:00:00.5Z".parse().unwrap()),
        configuration: ConfigurationProgress::Resolved,
        published: Some(facts("v2", 2)),
    }
}

fn failed(reason: FetchReason) -> ModuleProgress {
    ModuleProgress::Failed(FetchFailure::new(reason, "why"))
}

fn subscribers(counts: Value, refusal: Option<&str>) -> ExtensionSubscribers {
    let refusal = refusal
        .map(|of| json!({ "node": "n1", "version": of, "message": "Unable to create ", "at": "2026-01-01T00:00:00Z" }));
    serde_json::from_value(json!({ "versions": counts, "acks": 9, "nacks": 9, "last_refusal": refusal }))
        .unwrap()
}

fn counts(sent: u32, accepted: u32, refused: u32) -> Value {
    json!({ "sent": sent, "accepted": accepted, "refused": refused })
}

fn say(
    progress: &ExtensionProgress,
    subscribers: &ExtensionSubscribers,
    behind: &[&str],
) -> WasmExtensionStatus {
    status(None, progress, subscribers, behind, Timestamp::UNIX_EPOCH)
}

fn condition(status: &WasmExtensionStatus, kind: &str) -> (String, String, String) {
    let found = status.conditions.iter().find(|condition| condition.type_ == kind).unwrap();
    (found.status.clone(), found.reason.clone(), found.message.clone())
}

#[test]
fn each_condition_says_what_is_the_case() {
    use FetchReason::{DigestMismatch, InvalidImage, NotFound, NotProxyWasm, NotWasm};
    let missing = ConfigurationFailure::Empty { field: "vm_configuration" };
    let resolved = ConfigurationProgress::Resolved;
    let unresolved = ConfigurationProgress::Failed(missing);
    type Case<'a> = (ModuleProgress, &'a ConfigurationProgress, bool, [(&'a str, &'a str); 4]);
    let cases: [Case<'_>; 9] = [
        (
            ModuleProgress::Fetched(None),
            &resolved,
            true,
            [("True", "Fetched"), ("True", "Verified"), ("True", "Resolved"), ("True", "Published")],
        ),
        (
            ModuleProgress::Fetching,
            &resolved,
            false,
            [
                ("Unknown", "Fetching"),
                ("Unknown", "NotFetched"),
                ("True", "Resolved"),
                ("False", "NotPublished"),
            ],
        ),
        (
            failed(NotFound),
            &resolved,
            true,
            [
                ("False", "NotFound"),
                ("Unknown", "NotFetched"),
                ("True", "Resolved"),
                ("False", "FormerVersion"),
            ],
        ),
        (
            failed(DigestMismatch),
            &resolved,
            false,
            [
                ("True", "Fetched"),
                ("False", "DigestMismatch"),
                ("True", "Resolved"),
                ("False", "NotPublished"),
            ],
        ),
        (
            failed(NotWasm),
            &resolved,
            false,
            [("True", "Fetched"), ("False", "NotWasm"), ("True", "Resolved"), ("False", "NotPublished")],
        ),
        (
            failed(NotProxyWasm),
            &unresolved,
            false,
            [("True", "Fetched"), ("False", "NotProxyWasm"), ("False", "Empty"), ("False", "NotPublished")],
        ),
        (
            ModuleProgress::Fetched(None),
            &unresolved,
            true,
            [("True", "Fetched"), ("True", "Verified"), ("False", "Empty"), ("False", "FormerVersion")],
        ),
        (
            ModuleProgress::Fetched(Some(FetchFailure::new(FetchReason::Unavailable, "why"))),
            &resolved,
            true,
            [("True", "FetchedBefore"), ("True", "Verified"), ("True", "Resolved"), ("True", "Published")],
        ),
        (
            failed(InvalidImage),
            &ConfigurationProgress::Invalid("the spec has no image".into()),
            false,
            [
                ("False", "InvalidImage"),
                ("Unknown", "NotFetched"),
                ("False", "InvalidSpec"),
                ("False", "NotPublished"),
            ],
        ),
    ];
    for (module, configuration, is_published, expected) in cases {
        let progress = ExtensionProgress {
            module,
            configuration: configuration.clone(),
            published: is_published.then(|| facts("v1", 1)),
            ..progress()
        };
        let status = say(&progress, &ExtensionSubscribers::default(), &[]);
        let said = [FETCHED, VERIFIED, CONFIG_RESOLVED, PUBLISHED].map(|kind| condition(&status, kind));
        let said = said.each_ref().map(|(status, reason, _)| (status.as_str(), reason.as_str()));
        assert_eq!(said, expected, "{progress:?}");
        assert_eq!(status.observed_generation, 2);
    }
}

#[test]
fn envoys_are_counted_and_the_last_word_of_one_that_refuses_is_told() {
    for (counts, refusal, expected, message) in [
        (json!({}), None, ("Unknown", "NoSubscribers"), "no Envoy asks for it"),
        (json!({ "v2": counts(0, 3, 0) }), None, ("True", "Accepted"), "3 Envoys have accepted version v2"),
        (json!({ "v2": counts(1, 2, 0) }), None, ("Unknown", "Progressing"), "2 of 3 Envoys"),
        (
            json!({ "v1": counts(0, 1, 0), "v2": counts(0, 2, 0) }),
            None,
            ("Unknown", "Progressing"),
            "2 of 3 Envoys",
        ),
        (
            json!({ "v2": counts(0, 1, 2) }),
            Some("v2"),
            ("False", "Refused"),
            "2 of 3 Envoys refuse version v2, and go on with what they had before: Unable to create (node \"n1\")",
        ),
        // What was said against another version says nothing of this one.
        (
            json!({ "v2": counts(0, 1, 1) }),
            Some("v1"),
            ("False", "Refused"),
            "1 of 2 Envoys refuse version v2, and go on",
        ),
        (json!({ "v2": counts(0, 1, 0) }), Some("v2"), ("True", "Accepted"), "1 Envoys have accepted"),
    ] {
        let status = say(&progress(), &subscribers(counts, refusal), &[]);
        let (verdict, reason, said) = condition(&status, ACCEPTED);
        assert_eq!((verdict.as_str(), reason.as_str()), expected, "{said}");
        assert!(said.starts_with(message), "{said}");
        assert!(refusal == Some("v2") || !said.contains("Unable"), "{said}");
    }
    let status =
        say(&progress(), &subscribers(json!({ "v1": counts(0, 4, 0), "v2": counts(1, 2, 3) }), None), &[]);
    assert_eq!((status.subscribers, status.acks, status.nacks), (10, 2, 3));
    assert_eq!(status.last_fetched, Some(in_seconds(Timestamp::from_second(1_767_225_600).unwrap())));
    let nothing = ExtensionProgress { published: None, ..progress() };
    assert_eq!(condition(&say(&nothing, &ExtensionSubscribers::default(), &[]), ACCEPTED).1, "NotPublished");
}

#[test]
fn replicas_that_are_behind_are_named() {
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let (_, reason, message) =
        condition(&say(&progress(), &ExtensionSubscribers::default(), &names), PUBLISHED);
    assert_eq!(reason, "ReplicasBehind");
    assert!(message.ends_with("a, b, c, d, e and 2 more"), "{message}");
}

#[test]
fn what_is_still_so_has_been_so_since_then() {
    let first = say(&progress(), &ExtensionSubscribers::default(), &[]);
    let failed = ExtensionProgress { module: failed(FetchReason::NotFound), ..progress() };
    let later = Timestamp::from_second(100).unwrap();
    let second = status(Some(&first), &failed, &ExtensionSubscribers::default(), &[], later);
    let since = |kind: &str| {
        second.conditions.iter().find(|condition| condition.type_ == kind).unwrap().last_transition_time.0
    };
    assert_eq!(since(CONFIG_RESOLVED), Timestamp::UNIX_EPOCH);
    assert_eq!(since(FETCHED), later);
    assert_eq!(since(PUBLISHED), later);
    assert_eq!(status(Some(&second), &failed, &ExtensionSubscribers::default(), &[], Timestamp::MAX), second);
    let long = ConfigurationProgress::Invalid("é".repeat(LONGEST_MESSAGE));
    let long = ExtensionProgress { configuration: long, ..progress() };
    let message = condition(&say(&long, &ExtensionSubscribers::default(), &[]), CONFIG_RESOLVED).2;
    assert!(message.len() <= LONGEST_MESSAGE + 3 && message.ends_with('…'));
}

#[test]
fn what_was_accepted_before_says_nothing_of_the_newest_generation() {
    let fetching =
        ExtensionProgress { module: ModuleProgress::Fetching, published: Some(facts("v1", 1)), ..progress() };
    let status = say(&fetching, &subscribers(json!({ "v1": counts(0, 3, 0) }), None), &[]);
    let (verdict, reason, _) = condition(&status, ACCEPTED);
    assert_eq!((verdict.as_str(), reason.as_str(), status.acks), ("Unknown", "FormerVersion", 3));
}
