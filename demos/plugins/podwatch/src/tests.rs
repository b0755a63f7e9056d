use kubectl_plugin::{
    TransportError,
    testing::{self, Outcome, Server},
};
use serde_json::{Value, json};

use super::*;

const LIST: &str = "GET /api/v1/namespaces/default/pods?limit=500";
const WATCH: &str = "GET /api/v1/namespaces/default/pods?watch=true&allowWatchBookmarks=true&timeoutSeconds=290&resourceVersion=";

fn pod(name: &str, version: u32, phase: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "resourceVersion": version.to_string(),
            "creationTimestamp": "2026-11-30T07:59:00Z"},
        "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
        "status": {"phase": phase, "podIPs": [{"ip": "10.0.0.7"}]}})
}

fn list(version: u32, pods: &[Value]) -> String {
    json!({"metadata": {"resourceVersion": version.to_string()}, "items": pods}).to_string()
}

fn frame(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

fn run(words: &[&str], server: &Server) -> Outcome {
    testing::run(&PodWatch, "kubectl-podwatch", words, server)
}

/// A server that ends every watch of a test, which has no end by itself.
fn ended(server: Server, version: u32) -> Server {
    server.answer(&format!("{WATCH}{version}"), 403, "enough")
}

#[test]
fn pods_are_printed_as_they_come_change_and_go() {
    let events = frame("ADDED", &pod("web-1", 11, "Pending"))
        + &frame("MODIFIED", &pod("web-1", 12, "Running"))
        + &frame("DELETED", &pod("a", 13, "Running"));
    let server = Server::default().answer(LIST, 200, list(10, &[pod("a", 1, "Running")])).answer(
        &format!("{WATCH}10"),
        200,
        events,
    );
    let outcome = run(&[], &ended(server, 13));
    let expected = "\
EVENT      NAME   READY   STATUS              RESTARTS   AGE   NODE
ADDED      a      0/1     Running             0          60s   n1
ADDED      web-1   0/1     Pending             0          60s   n1
MODIFIED   web-1   0/1     Running             0          60s   n1
DELETED    a       0/1     Running             0          60s   n1
";
    assert_eq!(outcome.out, expected);
    assert_eq!((outcome.code, outcome.err.as_str()), (1, "Error from server (Forbidden): enough\n"));
}

#[test]
fn what_comes_at_once_is_aligned() {
    let server = Server::default().answer(
        LIST,
        200,
        list(10, &[pod("a", 1, "Running"), pod("a-long-name", 2, "Running")]),
    );
    let outcome = run(&[], &ended(server, 10));
    let columns: Vec<_> = outcome.out.lines().map(|line| line.find("READY").or(line.find("0/1"))).collect();
    assert_eq!(columns, [Some(25); 3], "{}", outcome.out);
}

#[test]
fn all_namespaces_wide_and_without_a_heading() {
    let everywhere = WATCH.replace("/namespaces/default", "");
    let server = Server::default()
        .answer(
            "GET /api/v1/pods?labelSelector=app%3Dweb&limit=500",
            200,
            list(10, &[pod("a", 1, "Running")]),
        )
        .answer(&format!("{everywhere}10&labelSelector=app%3Dweb"), 403, "");
    let outcome = run(&["-A", "-l", "app=web", "-o", "wide", "--no-headers", "-w"], &server);
    let line = "ADDED      default     a      0/1     Running             0          60s   n1     10.0.0.7
";
    assert_eq!(outcome.out, line);
}

#[test]
fn what_went_while_nobody_could_watch_is_printed_as_it_was() {
    let server = Server::default()
        .answer(LIST, 200, list(10, &[pod("a", 1, "Running"), pod("b", 2, "Running")]))
        .fail(&format!("{WATCH}10"), TransportError::Refused)
        .answer(&format!("{WATCH}10"), 410, "")
        .answer(LIST, 200, list(50, &[pod("b", 2, "Running")]));
    let outcome = run(&["--no-headers"], &ended(server, 50));
    let lines: Vec<_> = outcome.out.lines().collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(
        lines[2].starts_with("DELETED") && lines[2].contains(" a ") && lines[2].contains("Running"),
        "{lines:?}"
    );
    assert!(
        outcome.err.starts_with(
            "Unable to connect to the server: connection refused (trying again in 1 s)\nThe watch goes on.\n"
        ),
        "{}",
        outcome.err
    );
}

#[test]
fn events_for_programs_are_one_on_a_line() {
    let server = Server::default()
        .answer(LIST, 200, list(10, &[pod("a", 1, "Running")]))
        .answer(&format!("{WATCH}10"), 410, "")
        .answer(LIST, 200, list(20, &[]));
    let outcome = run(&["-o", "json"], &ended(server, 20));
    let events: Vec<Value> = outcome.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 2);
    assert_eq!(
        (&events[0]["type"], &events[0]["object"]["status"]["phase"]),
        (&json!("ADDED"), &json!("Running"))
    );
    assert_eq!(
        (&events[1]["type"], &events[1]["object"]["metadata"]["name"]),
        (&json!("DELETED"), &json!("a"))
    );
}

#[test]
fn one_pod_is_chosen_by_its_name() {
    let server = Server::default()
        .answer(
            "GET /api/v1/namespaces/default/pods?fieldSelector=spec.nodeName%3Dn1%2Cmetadata.name%3Da&limit=500",
            200,
            list(10, &[pod("a", 1, "Running")]),
        )
        .answer(&format!("{WATCH}10&fieldSelector=spec.nodeName%3Dn1%2Cmetadata.name%3Da"), 403, "");
    assert_eq!(run(&["a", "--field-selector", "spec.nodeName=n1", "-o", "name"], &server).out, "pod/a\n");
}

#[test]
fn mistakes_are_told_before_anything_is_asked() {
    for (words, expected) in [
        (&["a", "b"][..], "one pod, or all"),
        (&["a", "-A"], "cannot be named across all namespaces"),
        (&["-o", "yaml"], "no form in YAML"),
        (&["--follow"], "unknown flag: --follow"),
    ] {
        let outcome = run(words, &Server::default());
        assert!(outcome.code == 1 && outcome.err.contains(expected), "{outcome:?}");
    }
}

#[test]
fn events_have_colours_where_they_are_wanted() {
    let mut printer = Printer::new(&arguments(&[]).flags, true);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut print = |event| {
        out.clear();
        printer.add(event, "2026-11-30T08:00:00Z".parse().unwrap(), &mut out, &mut err).unwrap();
        printer.print(&mut out).unwrap();
        String::from_utf8(out.clone()).unwrap()
    };
    let typed = |value: Value| -> Pod { serde_json::from_value(value).unwrap() };
    let added = print(kubectl_plugin::Event::Added(typed(pod("a", 1, "Running"))));
    assert!(added.starts_with("EVENT") && added.contains("\n\u{1b}[32mADDED\u{1b}[0m      a"), "{added:?}");
    let modified = print(kubectl_plugin::Event::Modified(typed(pod("a", 2, "Running"))));
    assert!(!modified.contains('\u{1b}'), "{modified:?}");
    let mut hostile = pod("ADDED", 3, "Running");
    hostile["status"]["reason"] = json!("ADDED\u{1b}[2J");
    let added = print(kubectl_plugin::Event::Added(typed(hostile)));
    assert!(
        added.starts_with("\u{1b}[32mADDED\u{1b}[0m ") && added.matches('\u{1b}').count() == 2,
        "{added:?}"
    );
}

#[test]
fn completions_name_pods() {
    let complete = |words: &[&str], server: &Server| {
        testing::run(&PodWatch, "kubectl_complete-podwatch", words, server).out
    };
    let server = Server::default().answer(LIST, 200, list(1, &[pod("a", 1, ""), pod("b", 1, "")]));
    assert_eq!(complete(&["b"], &server), "b\n:4\n");
    assert_eq!(complete(&["-o", ""], &Server::default()), "json\nname\nwide\n:4\n");
    assert_eq!(complete(&["a", ""], &Server::default()), ":4\n");
}

fn arguments(words: &[&str]) -> Arguments {
    let mut arguments = Arguments::new(words.iter().copied(), FLAGS);
    name(&mut arguments).unwrap();
    arguments
}
