use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::testing::Server;

const LIST: &str = "GET /api/v1/namespaces/ns/pods?limit=500";

fn pod(name: &str, version: u32) -> Value {
    json!({"metadata": {"namespace": "ns", "name": name, "uid": format!("uid-{name}"), "resourceVersion": version.to_string()}})
}

fn list(version: u32, pods: &[Value]) -> String {
    json!({"metadata": {"resourceVersion": version.to_string()}, "items": pods}).to_string()
}

fn frame(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

fn watch_from(version: u32) -> String {
    format!(
        "GET /api/v1/namespaces/ns/pods?watch=true&allowWatchBookmarks=true&timeoutSeconds=290&resourceVersion={version}"
    )
}

/// What a watch tells, until the server has no more answers.
fn told(server: &Server) -> Vec<String> {
    let watcher = server.client().namespaced::<Pod>("ns").watch(&ListOptions::default());
    let name = |pod: &Pod| pod.metadata.name.clone().unwrap_or_default();
    let mut told = Vec::new();
    for event in watcher {
        told.push(match event {
            Ok(Event::Added(pod)) => format!("+{}", name(&pod)),
            Ok(Event::Modified(pod)) => format!("~{}", name(&pod)),
            Ok(Event::Deleted { identity, last }) => {
                format!("-{}{}", identity.name, if last.is_some() { "" } else { "?" })
            }
            Ok(Event::Interrupted { .. }) if server.outstanding().is_empty() => break,
            Ok(Event::Interrupted { pause, .. }) => format!("interrupted {}", pause.as_secs()),
            Ok(Event::Resumed) => "resumed".to_owned(),
            Err(error) => error.to_string(),
        });
    }
    told
}

#[test]
fn what_is_there_is_told_and_then_what_happens() {
    let body =
        frame("ADDED", &pod("b", 11)) + &frame("MODIFIED", &pod("a", 12)) + &frame("DELETED", &pod("b", 13));
    let server =
        Server::default().answer(LIST, 200, list(10, &[pod("a", 5)])).answer(&watch_from(10), 200, body);
    assert_eq!(told(&server), ["+a", "+b", "~a", "-b"]);
}

#[test]
fn an_end_is_gone_on_from_without_a_list_and_bookmarks_count() {
    let bookmark = json!({"kind": "Pod", "metadata": {"resourceVersion": "40"}});
    let server = Server::default()
        .answer(LIST, 200, list(10, &[]))
        .answer(&watch_from(10), 200, frame("ADDED", &pod("a", 11)))
        .answer(&watch_from(11), 200, frame("BOOKMARK", &bookmark))
        .answer(&watch_from(40), 200, frame("DELETED", &pod("a", 41)));
    assert_eq!(told(&server), ["+a", "-a"]);
    assert!(server.outstanding().is_empty());
}

#[test]
fn a_server_that_is_away_for_a_while_is_waited_for() {
    let server = Server::default()
        .answer(LIST, 200, list(10, &[pod("a", 5)]))
        .break_off(&watch_from(10), frame("ADDED", &pod("b", 11)) + "{\"type\": \"ADD")
        .fail(&watch_from(11), TransportError::Refused)
        .answer(&watch_from(11), 503, "")
        .answer(&watch_from(11), 200, frame("DELETED", &pod("b", 12)));
    assert_eq!(
        told(&server),
        ["+a", "+b", "interrupted 1", "interrupted 2", "interrupted 4", "resumed", "-b"]
    );
    let pauses: Vec<_> = server.pauses().iter().map(Duration::as_secs).collect();
    assert_eq!(pauses, [1, 2, 4]);
}

#[test]
fn what_was_missed_is_found_by_listing_anew() {
    let gone =
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired"});
    for expired in [(200, frame("ERROR", &gone)), (410, gone.to_string())] {
        let server = Server::default()
            .answer(LIST, 200, list(10, &[pod("kept", 1), pod("changed", 2), pod("lost", 3)]))
            .answer(&watch_from(10), expired.0, expired.1)
            .answer(LIST, 200, list(90, &[pod("kept", 1), pod("changed", 50), pod("new", 60)]))
            .answer(&watch_from(90), 200, frame("DELETED", &pod("new", 91)));
        assert_eq!(told(&server), ["+kept", "+changed", "+lost", "-lost?", "~changed", "+new", "-new"]);
        assert!(server.outstanding().is_empty());
    }
}

#[test]
fn an_object_of_the_same_name_is_another_one() {
    let mut second = pod("a", 20);
    second["metadata"]["uid"] = json!("another");
    let server = Server::default()
        .answer(LIST, 200, list(10, &[pod("a", 5)]))
        .answer(&watch_from(10), 410, "")
        .answer(LIST, 200, list(30, &[second]));
    assert_eq!(told(&server)[..3], ["+a", "-a?", "+a"]);
}

#[test]
fn who_may_not_watch_is_told_so_once() {
    let forbidden =
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden",
        "message": "pods is forbidden"})
        .to_string();
    let server = Server::default().answer(LIST, 200, list(10, &[])).answer(&watch_from(10), 403, forbidden);
    assert_eq!(told(&server), ["Error from server (Forbidden): pods is forbidden"]);
    let refused = Server::default().fail(LIST, TransportError::Refused);
    assert_eq!(told(&refused), ["Unable to connect to the server: connection refused"]);
}

#[test]
fn what_is_no_event_ends_the_watch_with_an_error() {
    let server = Server::default().answer(LIST, 200, list(10, &[])).answer(&watch_from(10), 200, "<html>\n");
    let told = told(&server);
    assert!(told[0].starts_with("error: the server's answer is no event of a watch"), "{told:?}");
    assert_eq!(told.len(), 1);
}

#[test]
fn a_kind_of_event_that_is_new_is_passed_over() {
    let body = frame("FUTURE", &pod("a", 11)) + &frame("ADDED", &pod("a", 12));
    let server = Server::default().answer(LIST, 200, list(10, &[])).answer(&watch_from(10), 200, body);
    assert_eq!(told(&server), ["+a"]);
}
