use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};

use super::{
    testing::{ACCEPTS, CHANGES, REFUSES, Shelf, policy, says},
    *,
};
use crate::spec::{Mode, Spec};

async fn state() -> Arc<ServerState> {
    let shelf =
        Shelf::new([("accepts", says(ACCEPTS)), ("refuses", says(REFUSES)), ("changes", says(CHANGES))]);
    let policies = Arc::new(testing::registry(Arc::new(shelf)));
    let mut watching = policy("refuses");
    watching.mode = Mode::Monitor;
    for (id, spec) in [
        ("accepts", policy("accepts")),
        ("refuses", policy("refuses")),
        ("changes", policy("changes")),
        ("watching", watching),
    ] {
        policies.put(id, Spec::Policy(spec)).await.unwrap();
    }
    Arc::new(ServerState {
        policies,
        metrics: ServerMetrics::default(),
        bodies: Bodies::default(),
        wait: Duration::ZERO,
        observer: None,
        ready: watch::channel(true).1,
        stopping: CancellationToken::new(),
    })
}

async fn ask(
    state: &Arc<ServerState>,
    method: Method,
    path: &str,
    body: impl Into<Bytes>,
) -> (StatusCode, Value) {
    let request = Request::builder().method(method).uri(path).body(Full::new(body.into())).unwrap();
    let response = routes::answer(Arc::clone(state), request).await;
    let (parts, body) = response.into_parts();
    assert_eq!(parts.headers[header::CONTENT_TYPE], "application/json");
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status, serde_json::from_slice(&body).unwrap())
}

const REVIEW: &str = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u1","operation":"CREATE","object":{"a":1}}}"#;

#[tokio::test]
async fn each_path_has_its_answer() {
    let state = state().await;
    let (status, body) = ask(&state, Method::POST, "/validate/accepts?timeout=10s", REVIEW).await;
    let expected = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "response": { "uid": "u1", "allowed": true, "auditAnnotations": null, "warnings": null },
    });
    assert_eq!((status, body), (StatusCode::OK, expected));
    for (path, allowed) in [
        ("/validate/refuses", false),
        ("/validate/watching", true),
        ("/validate/changes", false),
        ("/audit/refuses", false),
        ("/audit/watching", false),
        ("/audit/changes", true),
    ] {
        let (status, body) = ask(&state, Method::POST, path, REVIEW).await;
        assert_eq!((status, &body["response"]["allowed"]), (StatusCode::OK, &json!(allowed)), "{path}");
    }
    let (status, body) = ask(&state, Method::POST, "/validate_raw/refuses", r#"{"request":[1]}"#).await;
    let expected = json!({ "response": {
        "uid": "", "allowed": false, "status": { "message": "no", "code": 400 }, "auditAnnotations": null, "warnings": null,
    } });
    assert_eq!((status, body), (StatusCode::OK, expected));
}

#[tokio::test]
async fn mistakes_have_their_statuses() {
    let state = state().await;
    for (method, path, body, expected) in [
        (Method::POST, "/validate/nobody", REVIEW, 404),
        (Method::POST, "/validate_raw/nobody", "{}", 404),
        (Method::POST, "/audit/nobody", REVIEW, 404),
        (Method::POST, "/", REVIEW, 404),
        (Method::GET, "/validate/accepts", "", 405),
        (Method::PUT, "/validate/accepts", REVIEW, 405),
        (Method::POST, "/validate/accepts", "{}", 422),
        (Method::POST, "/validate_raw/accepts", "{}", 422),
        (Method::POST, "/audit/accepts", r#"{"kind":"AdmissionReview"}"#, 422),
        (Method::POST, "/validate/accepts", "{", 400),
    ] {
        let (status, answer) = ask(&state, method, path, body).await;
        assert_eq!(status.as_u16(), expected, "{path} {body}");
        assert_eq!(answer["status"], json!(expected));
        assert!(!answer["message"].as_str().unwrap().is_empty());
    }
    let (status, _) = ask(&state, Method::POST, "/validate/accepts", vec![b' '; body::MOST_BODY + 1]).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_server_is_ready_between_the_loads_and_the_stop() {
    let state = state().await;
    let (ready, is_ready) = watch::channel(false);
    let state = ServerState { ready: is_ready, ..Arc::into_inner(state).unwrap() };
    let ask = |method, path| {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        health::answer(&state, &request).status().as_u16()
    };
    assert_eq!(ask(Method::GET, "/readiness"), 503);
    ready.send_replace(true);
    assert_eq!(ask(Method::GET, "/readiness"), 200);
    assert_eq!(
        (ask(Method::GET, "/metrics"), ask(Method::GET, "/"), ask(Method::POST, "/metrics")),
        (200, 404, 405)
    );
    state.stopping.cancel();
    assert_eq!(ask(Method::GET, "/readiness"), 503);
}
