use serde_json::json;

use super::*;

const REQUEST: &str =
    r#"{"uid":"u1", "object":{"z":1,"a":12345678901234567890123}, "later":[1e400], "kind":{"kind":"Pod"}}"#;

fn text(document: Vec<u8>) -> String {
    String::from_utf8(document).unwrap()
}

#[test]
fn a_request_is_handed_on_as_it_came() {
    let review =
        format!(r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{REQUEST}}}"#);
    for from in [REQUEST, &review] {
        let question = Question::review(from.as_bytes());
        // A number that no program can hold is handed on, unless it has to be looked at.
        let question = question.unwrap();
        assert_eq!(question.uid(), "u1");
        let settings = Settings::parse(b"a: [1, x]").unwrap();
        assert_eq!(
            text(question.document(&settings)),
            format!(r#"{{"request":{REQUEST},"settings":{{"a":[1,"x"]}}}}"#)
        );
    }
}

#[test]
fn what_is_no_request_is_told() {
    let error = |text: &str| Question::review(text.as_bytes()).unwrap_err().to_string();
    assert_eq!(
        error(r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}"#),
        "the AdmissionReview has no request"
    );
    for (text, expected) in [
        ("", "EOF while parsing"),
        ("{}", "there is no `uid`"),
        (r#"{"request":{"object":{}}}"#, "there is no `uid`"),
        (r#"{"request":["u1",{}]}"#, "invalid type: sequence"),
        (r#"{"request":{"uid":7}}"#, "invalid type: integer"),
        ("[1]", "invalid type: sequence"),
    ] {
        let error = error(text);
        assert!(
            error.starts_with("it is no AdmissionReview and no request of one: ") && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn a_raw_request_is_any_json() {
    for (request, uid) in
        [(r#"{"user":"tonio","uid":"7"}"#, "7"), (r#"{ "uid": 7 }"#, ""), ("[1]", ""), ("null", "")]
    {
        let question = Question::raw(request.as_bytes()).unwrap();
        assert_eq!(question.uid(), uid);
        let expected = format!(r#"{{"request":{request},"settings":{{}}}}"#);
        assert_eq!(text(question.document(&Settings::default())), expected);
    }
    assert!(Question::raw(b"{").is_err());
}

#[test]
fn a_raw_request_is_within_a_review() {
    let review = Question::raw_review(br#"{"request":{"user":"tonio"},"more":1}"#).unwrap();
    assert_eq!(text(review.document(&Settings::default())), r#"{"request":{"user":"tonio"},"settings":{}}"#);
    for (text, expected) in [("{}", "has no request"), ("[]", "invalid type"), ("", "EOF")] {
        let error = Question::raw_review(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn a_request_says_what_it_is_about() {
    let of = |request: &str| Question::review(request.as_bytes()).unwrap().subject().clone();
    let whole = of(r#"{"uid":"u1","kind":{"kind":"Pod"},"namespace":"ns","operation":"CREATE"}"#);
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(whole, Subject { kind: text("Pod"), namespace: text("ns"), operation: text("CREATE") });
    assert_eq!(of(r#"{"uid":"u1","kind":{"kind":1},"namespace":{},"operation":null}"#), Subject::default());
}

#[test]
fn a_policy_changes_the_object_and_of_a_raw_request_all() {
    let said = Ended::Done {
        stdout: json!({ "accepted": true, "mutated_object": { "a": 2 } }).to_string().into_bytes(),
    };
    let review = Question::review(br#"{"uid":"u1","object":{"a":1}}"#).unwrap();
    assert!(review.response(&said).patch.is_some());
    let deleted = Question::review(br#"{"uid":"u1","object":null,"oldObject":{"a":1}}"#).unwrap();
    assert!(!deleted.response(&said).allowed);
    let raw = Question::raw(br#"{"a":2}"#).unwrap();
    assert_eq!(raw.response(&said), AdmissionResponse::allow(""));
}

#[test]
fn settings_are_an_object() {
    let read = |text: &str| Settings::parse(text.as_bytes());
    assert_eq!(text(read("").unwrap().document()), "{}");
    assert_eq!(text(read("null").unwrap().document()), "{}");
    assert_eq!(text(read(r#"{"b":{"c":[true]}}"#).unwrap().document()), r#"{"b":{"c":[true]}}"#);
    for wrong in ["[1]", "7", "a: b: c"] {
        let error = read(wrong).unwrap_err().to_string();
        assert!(error.starts_with("settings are an object of YAML or JSON: "), "{error}");
    }
}
