use serde_json::json;

use super::*;

fn told(code: u16, body: &serde_json::Value) -> String {
    Error::Api(Box::new(status(code, None, body.to_string().as_bytes()))).to_string()
}

#[test]
fn refusals_are_told_in_the_words_of_kubectl() {
    let not_found = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "secrets \"x\" not found", "reason": "NotFound", "details": {"name": "x", "kind": "secrets"}, "code": 404});
    assert_eq!(told(404, &not_found), "Error from server (NotFound): secrets \"x\" not found");
    let login = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "Unauthorized",
        "reason": "Unauthorized", "code": 401});
    assert_eq!(told(401, &login), "error: You must be logged in to the server (Unauthorized)");
    let nameless =
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "code": 418});
    assert_eq!(told(418, &nameless), "Error from server: no");
}

#[test]
fn what_is_invalid_is_told_cause_by_cause() {
    let invalid = |details: serde_json::Value| {
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "all of it", "reason": "Invalid",
            "details": details, "code": 422})
    };
    let one = json!({"kind": "Secret", "name": "x", "causes": [{"field": "data", "message": "too long"}]});
    assert_eq!(told(422, &invalid(one)), "The Secret \"x\" is invalid: data: too long");
    let cause = json!({"field": "data", "message": "too long"});
    let several = json!({"kind": "Secret", "name": "x", "causes": [cause, cause, {"field": "type", "message": "empty"}]});
    assert_eq!(
        told(422, &invalid(several)),
        "The Secret \"x\" is invalid: \n* data: too long\n* type: empty"
    );
    assert_eq!(told(422, &invalid(json!({}))), "The request is invalid: all of it");
    assert_eq!(told(422, &invalid(serde_json::Value::Null)), "The request is invalid: all of it");
}

#[test]
fn an_answer_without_a_status_is_told_by_its_code() {
    let error = |code, body: &str| Error::Api(Box::new(status(code, None, body.as_bytes()))).to_string();
    assert_eq!(
        error(502, "<html>bad gateway\n"),
        "Error from server (InternalError): an error on the server (\"<html>bad gateway\") has prevented the request from \
         succeeding"
    );
    assert_eq!(
        error(404, ""),
        "Error from server (NotFound): the server could not find the requested resource"
    );
    assert_eq!(error(403, "no entry\n"), "Error from server (Forbidden): no entry");
    assert_eq!(
        error(302, ""),
        "Error from server: the server responded with the status code 302 but did not return more information"
    );
    let list = json!({"kind": "PodList", "apiVersion": "v1", "items": []}).to_string();
    assert!(
        error(503, &list).starts_with("Error from server (ServiceUnavailable): "),
        "another kind is no status"
    );
}

#[test]
fn how_long_to_wait_is_kept() {
    let status = status(429, Some(7), b"");
    assert_eq!(status.details.and_then(|details| details.retry_after_seconds), Some(7));
}

#[test]
fn connections_are_told_of_as_kubectl_does() {
    assert_eq!(
        Error::from(TransportError::Refused).to_string(),
        "Unable to connect to the server: connection refused"
    );
    assert_eq!(Error::from(TransportError::Denied).to_string(), "error: the request is not permitted");
    let pipe = io::Error::from(io::ErrorKind::BrokenPipe);
    assert!(matches!(Error::from(pipe), Error::OutputClosed));
}
