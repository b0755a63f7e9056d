use std::time::Duration;

use http::Response;
use serde_json::{Value, json};
use tower_test::mock::{self, Handle};

use super::*;

type ApiServer = Handle<Request<Body>, Response<Body>>;

fn cluster() -> (Cluster, ApiServer) {
    let (service, handle) = mock::pair::<Request<Body>, Response<Body>>();
    (Cluster::new(Client::new(service, "default"), Arc::default()), handle)
}

/// Answers one request, and says what it was.
async fn answer(server: &mut ApiServer, status: u16, body: impl Into<Vec<u8>>) -> String {
    let (request, send) = server.next_request().await.unwrap();
    assert_eq!(request.headers()[header::ACCEPT], "application/json");
    send.send_response(Response::builder().status(status).body(Body::from(body.into())).unwrap());
    format!("{} {}", request.method(), request.uri())
}

/// Answers requests with these documents, in order.
fn answers(mut server: ApiServer, documents: Vec<(u16, Value)>) -> tokio::task::JoinHandle<Vec<String>> {
    tokio::spawn(async move {
        let mut asked = Vec::new();
        for (status, document) in documents {
            asked.push(answer(&mut server, status, document.to_string()).await);
        }
        asked
    })
}

fn core() -> (u16, Value) {
    let resource = |name: &str, kind: &str, namespaced: bool| json!({ "name": name, "kind": kind, "namespaced": namespaced });
    let resources = [
        resource("pods/eviction", "Pod", true),
        resource("pods", "Pod", true),
        resource("namespaces", "Namespace", false),
    ];
    (200, json!({ "kind": "APIResourceList", "groupVersion": "v1", "resources": resources }))
}

async fn call(cluster: &Cluster, operation: &str, payload: &Value) -> Result<Value, String> {
    let answer = cluster.call(operation, payload.to_string().as_bytes()).await?;
    Ok(serde_json::from_slice(&answer).unwrap())
}

#[tokio::test]
async fn a_list_is_tidied_and_asked_for_once_in_a_while() {
    let (cluster, server) = cluster();
    let list = json!({
        "kind": "PodList", "apiVersion": "v1", "metadata": { "resourceVersion": "7" },
        "items": [{ "metadata": { "name": "a", "managedFields": [{ "manager": "x" }] }, "spec": { "n": 1.50 } }],
    });
    let empty = json!({ "kind": "PodList", "apiVersion": "v1", "items": null });
    let server = answers(server, vec![core(), (200, list), (200, empty)]);
    let query = json!({
        "api_version": "v1", "kind": "Pod", "namespace": "a", "label_selector": "x=y", "field_selector": null,
    });
    let expected = json!({
        "kind": "PodList", "apiVersion": "v1", "metadata": { "resourceVersion": "7" },
        "items": [{ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a" }, "spec": { "n": 1.50 } }],
    });
    for _ in 0..3 {
        assert_eq!(call(&cluster, LIST_IN_NAMESPACE, &query).await.unwrap(), expected);
    }
    let all = call(&cluster, LIST_ALL, &json!({ "api_version": "v1", "kind": "Pod" })).await.unwrap();
    assert_eq!(all["items"], json!([]));
    assert_eq!(
        server.await.unwrap(),
        ["GET /api/v1", "GET /api/v1/namespaces/a/pods?labelSelector=x%3Dy", "GET /api/v1/pods"]
    );
}

#[tokio::test]
async fn an_object_is_what_the_api_server_has() {
    let (cluster, server) = cluster();
    let object = json!({ "kind": "Pod", "metadata": { "name": "p", "managedFields": [] } });
    let gone = json!({ "kind": "Status", "message": "pods \"q\" not found" });
    let documents = vec![core(), (200, object.clone()), (200, object.clone()), (404, gone)];
    let server = answers(server, documents);
    let get = |name: &str, anew: bool| {
        json!({
            "api_version": "v1", "kind": "Pod", "name": name, "namespace": "a", "disable_cache": anew,
        })
    };
    for anew in [false, false, true] {
        assert_eq!(call(&cluster, GET, &get("p", anew)).await.unwrap(), object);
    }
    let error = call(&cluster, GET, &get("q", false)).await.unwrap_err();
    assert_eq!(error, "Cannot find v1/Pod named 'q' inside of namespace 'Some(\"a\")'");
    let asked = server.await.unwrap();
    assert_eq!(asked[1..3], ["GET /api/v1/namespaces/a/pods/p", "GET /api/v1/namespaces/a/pods/p"]);
}

#[tokio::test]
async fn kinds_and_namespaces_have_to_go_together() {
    let (cluster, server) = cluster();
    let refused = json!({ "kind": "Status", "message": "pods is forbidden: User \"x\"" });
    let server = answers(server, vec![core(), core(), core(), (403, refused)]);
    for (operation, query, expected) in [
        (
            LIST_IN_NAMESPACE,
            json!({ "api_version": "v1", "kind": "Namespace", "namespace": "a" }),
            "resource v1/Namespace is cluster wide. Cannot search for it inside of a namespace",
        ),
        (
            GET,
            json!({ "api_version": "v1", "kind": "Pod", "name": "a" }),
            "Resource v1/Pod is namespaced, but no namespace was provided",
        ),
        (
            GET,
            json!({ "api_version": "v1", "kind": "Pod", "name": "../secrets", "namespace": "a" }),
            "\"../secrets\" is no name",
        ),
        (LIST_ALL, json!({ "api_version": "v1", "kind": "Thing" }), "Cannot find resource v1/Thing"),
        (
            LIST_ALL,
            json!({ "api_version": "v1", "kind": "Pod" }),
            "the API server answered 403 Forbidden: pods is forbidden: User \"x\"",
        ),
        (
            LIST_IN_NAMESPACE,
            json!({ "api_version": "v1", "kind": "Pod" }),
            "the payload of list_resources_by_namespace names no namespace",
        ),
        ("watch", json!({}), "unknown operation: watch"),
    ] {
        assert_eq!(call(&cluster, operation, &query).await.unwrap_err(), expected);
    }
    server.await.unwrap();
}

#[tokio::test]
async fn reviews_are_made_by_the_api_server() {
    let (cluster, server) = cluster();
    let review = json!({ "kind": "SubjectAccessReview", "spec": {}, "status": { "allowed": true } });
    let server = answers(server, vec![(201, review)]);
    let asked = json!({
        "subject_access_review": { "user": "u", "groups": null, "resource_attributes": { "verb": "get", "resource": "pods" } },
        "disable_cache": false,
    });
    for _ in 0..2 {
        assert_eq!(call(&cluster, CAN_I, &asked).await.unwrap(), json!({ "allowed": true }));
    }
    assert_eq!(server.await.unwrap(), ["POST /apis/authorization.k8s.io/v1/subjectaccessreviews"]);
}

#[tokio::test]
async fn a_huge_list_a_silent_server_and_nonsense_are_bounded() {
    let (cluster, mut server) = cluster();
    let query = json!({ "api_version": "v1", "kind": "Pod" });
    let asked = tokio::spawn(async move {
        answer(&mut server, 200, core().1.to_string()).await;
        answer(&mut server, 200, vec![b' '; LONGEST_ANSWER + 1]).await;
        answer(&mut server, 200, "no list").await;
        answer(&mut server, 500, "no status").await;
        // Taken, and never answered.
        server.next_request().await
    });
    let error = call(&cluster, LIST_ALL, &query).await.unwrap_err();
    assert_eq!(
        error,
        "the API server's answer has more than 16 MiB; ask for less: for one namespace, or with selectors"
    );
    let error = call(&cluster, LIST_ALL, &query).await.unwrap_err();
    assert!(error.starts_with("the API server's list cannot be read: "), "{error}");
    let error = call(&cluster, LIST_ALL, &query).await.unwrap_err();
    assert_eq!(error, "the API server answered 500 Internal Server Error");
    let silent = tokio::time::timeout(Duration::from_millis(100), call(&cluster, LIST_ALL, &query)).await;
    assert!(silent.is_err(), "{silent:?}");
    assert!(asked.await.unwrap().is_some());
    let error = cluster.call(LIST_ALL, b"no JSON").await.unwrap_err();
    assert!(error.starts_with("the payload of list_resources_all cannot be read: "), "{error}");
}
