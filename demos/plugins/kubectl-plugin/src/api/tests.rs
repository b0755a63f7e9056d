use k8s_openapi::{
    api::core::v1::{ConfigMap, Node, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::json;

use super::*;
use crate::{Error, testing::Server};

fn config_map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        ..ConfigMap::default()
    }
}

fn stored(name: &str) -> String {
    serde_json::to_string(&config_map(name)).unwrap()
}

#[test]
fn pages_are_put_together() {
    let page = |name: &str, next: &str| {
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "7", "continue": next},
            "items": [{"metadata": {"name": name}}]})
        .to_string()
    };
    let server = Server::default()
        .answer(
            "GET /api/v1/namespaces/shop/pods?labelSelector=app%3Dweb&limit=500",
            200,
            page("a", "more/+"),
        )
        .answer(
            "GET /api/v1/namespaces/shop/pods?labelSelector=app%3Dweb&limit=500&continue=more%2F%2B",
            200,
            page("b", ""),
        );
    let options = ListOptions { labels: "app=web".to_owned(), ..ListOptions::default() };
    let listed = server.client().namespaced::<Pod>("shop").list(&options).unwrap();
    let names: Vec<_> = listed.items.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
    assert_eq!((names, listed.resource_version.as_str()), (vec!["a", "b"], "7"));
    assert!(server.outstanding().is_empty());
}

#[test]
fn a_list_that_took_too_long_is_read_anew_as_a_whole() {
    let first = json!({"metadata": {"continue": "x"}, "items": [{"metadata": {"name": "old"}}]}).to_string();
    let all =
        json!({"metadata": {"resourceVersion": "9"}, "items": [{"metadata": {"name": "new"}}]}).to_string();
    let server = Server::default()
        .answer("GET /api/v1/nodes?limit=500", 200, first)
        .answer("GET /api/v1/nodes?limit=500&continue=x", 410, "")
        .answer("GET /api/v1/nodes", 200, all);
    let listed = server.client().of_cluster::<Node>().list(&ListOptions::default()).unwrap();
    assert_eq!(listed.items.len(), 1);
    assert_eq!(listed.items[0].metadata.name.as_deref(), Some("new"));
}

#[test]
fn a_list_of_nothing_is_empty() {
    let server = Server::default().answer("GET /api/v1/nodes?limit=500", 200, r#"{"items": null}"#);
    assert!(server.client().of_cluster::<Node>().list(&ListOptions::default()).unwrap().items.is_empty());
}

#[test]
fn changes_are_sent_in_their_forms() {
    let server = Server::default()
        .answer("POST /api/v1/namespaces/ns/configmaps", 201, stored("a"))
        .answer("PUT /api/v1/namespaces/ns/configmaps/a", 200, stored("a"))
        .answer("PATCH /api/v1/namespaces/ns/configmaps/a", 200, stored("a"))
        .answer(
            "PATCH /api/v1/namespaces/ns/configmaps/a?fieldManager=kubectl-x&force=true",
            200,
            stored("a"),
        )
        .answer("DELETE /api/v1/namespaces/ns/configmaps/a?propagationPolicy=Background", 200, "{}");
    let maps = server.client().namespaced::<ConfigMap>("ns");
    let map = config_map("a");
    assert_eq!(maps.create(&map).unwrap(), map);
    assert_eq!(maps.replace("a", &map).unwrap(), map);
    maps.patch("a", PatchKind::Strategic, &json!({"data": {"k": "v"}})).unwrap();
    maps.apply("a", &map, "kubectl-x", true).unwrap();
    maps.delete("a").unwrap();
    let types: Vec<_> = server
        .requests()
        .into_iter()
        .map(|request| {
            request.headers.into_iter().find(|(name, _)| *name == "content-type").map(|(_, value)| value)
        })
        .collect();
    let expected = [
        Some("application/json"),
        Some("application/json"),
        Some("application/strategic-merge-patch+json"),
        Some("application/apply-patch+yaml"),
        None,
    ];
    assert_eq!(types, expected.map(|text| text.map(str::to_owned)));
    let sent: ConfigMap = serde_json::from_slice(&server.requests()[0].body).unwrap();
    assert_eq!(sent, map, "with kind and version");
}

#[test]
fn requests_say_who_asks() {
    let server = Server::default().answer("GET /api/v1/namespaces/ns/configmaps/a", 200, stored("a"));
    server.client().namespaced::<ConfigMap>("ns").get("a").unwrap();
    let headers = &server.requests()[0].headers;
    assert!(headers.contains(&("user-agent", "kubectl-test".to_owned())), "{headers:?}");
    assert!(headers.iter().all(|(name, _)| *name != "authorization"));
}

#[test]
fn logs_are_read_as_they_come() {
    let request = "GET /api/v1/namespaces/ns/pods/p/log?container=c&follow=true&tailLines=3";
    let server = Server::default().answer(request, 200, "one\ntwo\n");
    let options =
        LogOptions { container: "c".to_owned(), follow: true, tail: Some(3), ..LogOptions::default() };
    let mut text = String::new();
    server.client().namespaced::<Pod>("ns").logs("p", &options).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "one\ntwo\n");
    assert!(server.requests()[0].patience > Request::PATIENCE);
}

#[test]
fn what_is_refused_or_not_understood_is_an_error() {
    let path = "GET /api/v1/namespaces/ns/configmaps/a";
    let server =
        Server::default().answer(path, 404, "").answer(path, 200, "<html>").break_off(path, "{\"kind\":");
    let maps = server.client().namespaced::<ConfigMap>("ns");
    assert!(maps.get("a").unwrap_err().is_not_found());
    assert!(matches!(maps.get("a"), Err(Error::Answer("object", _))));
    assert_eq!(
        maps.get("a").unwrap_err().to_string(),
        "error: the server's answer is no object: the connection broke"
    );
}

#[test]
fn a_name_that_is_none_is_not_asked_for() {
    let server = Server::default();
    let maps = server.client().namespaced::<ConfigMap>("ns");
    for name in ["", "..", "a/b"] {
        assert!(maps.get(name).is_err() && maps.delete(name).is_err(), "{name:?}");
    }
    assert!(server.requests().is_empty());
}

#[test]
fn names_are_asked_for_without_what_they_name() {
    let body = r#"{"metadata": {}, "items": [{"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}]}"#;
    let server = Server::default().answer("GET /api/v1/namespaces/ns/configmaps?limit=500", 200, body);
    assert_eq!(server.client().namespaced::<ConfigMap>("ns").names().unwrap(), ["a", "b"]);
    let accepted = &server.requests()[0].headers[0];
    assert!(accepted.1.contains("PartialObjectMetadataList"), "{accepted:?}");
}
