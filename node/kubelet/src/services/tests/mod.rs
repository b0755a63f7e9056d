mod follower;
mod routes;
mod slices;
mod table;

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::*;
use crate::{runtime::ServiceRoutes, services::slices::Slices};

fn here() -> Viewpoint {
    Viewpoint {
        node: "here".into(),
        zone: "a".into(),
        addresses: ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap()).into(),
    }
}

/// A Service `ns/web` with this specification, besides a ClusterIP and a port.
fn service(spec: Value) -> Service {
    let mut all = json!({"clusterIP": "10.96.0.9", "ports": [{"port": 80}]});
    merge(&mut all, spec);
    serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "web"}, "spec": all})).unwrap()
}

fn merge(all: &mut Value, more: Value) {
    let Value::Object(more) = more else { panic!("{more} is no object") };
    all.as_object_mut().unwrap().extend(more);
}

/// A slice of `ns/web` whose endpoints are at port 8080.
fn slice(name: &str, endpoints: Vec<Value>) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"namespace": "ns", "name": name, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    }))
    .unwrap()
}

/// An endpoint in one word for each thing that is told of it: `unready`, `unserving`, `ending`, `here`, `zone=…`, `node=…`.
fn endpoint(address: &str, words: &str) -> Value {
    let (mut conditions, mut zones, mut nodes) =
        (json!({"ready": true, "serving": true}), Vec::new(), Vec::new());
    let mut all = json!({"addresses": [address], "nodeName": "there"});
    for word in words.split_whitespace() {
        match word.split_once('=') {
            Some(("zone", zone)) => zones.push(json!({"name": zone})),
            Some(("node", node)) => nodes.push(json!({"name": node})),
            _ => match word {
                "unready" => conditions["ready"] = false.into(),
                "unserving" => conditions["serving"] = false.into(),
                "ending" => {
                    conditions["ready"] = false.into();
                    conditions["terminating"] = true.into();
                }
                "here" => all["nodeName"] = "here".into(),
                other => panic!("{other}"),
            },
        }
    }
    all["conditions"] = conditions;
    all["hints"] = json!({"forZones": zones, "forNodes": nodes});
    all
}

/// Slices of these, all of which have been read.
fn slices(all: Vec<EndpointSlice>) -> Slices {
    let mut slices = Slices::default();
    slices.note(Event::Init);
    for slice in all {
        slices.note(Event::InitApply(slice));
    }
    slices.note(Event::InitDone);
    slices
}

/// The routes of a Service with these endpoints, as lines.
fn lines(service: &Service, endpoints: &[(&str, &str)]) -> Vec<String> {
    let endpoints = endpoints.iter().map(|(address, words)| endpoint(address, words)).collect();
    let slices = slices(vec![slice("one", endpoints)]);
    let routes = super::routes::of(service, slices.of("ns/web"), &here());
    routes.map_or_else(|| vec!["none".to_owned()], |routes| text(&routes))
}

/// A line for each route: `at ─► endpoints`, and what else there is.
fn text(routes: &ServiceRoutes) -> Vec<String> {
    let join = |all: &[std::net::SocketAddr]| {
        let all: Vec<_> = all.iter().map(ToString::to_string).collect();
        all.join(" ")
    };
    let line = |route: &crate::runtime::ServiceRoute| {
        let mut line = format!("{:?} {} -> {}", route.transport, join(&route.at), join(&route.endpoints));
        if route.node_only {
            line.push_str("; node only");
        }
        if let Some(affinity) = route.affinity {
            line.push_str(&format!("; affinity {}", affinity.as_secs()));
        }
        for source in &route.sources {
            line.push_str(&format!("; from {source}"));
        }
        line
    };
    routes.routes.iter().map(line).collect()
}

#[test]
fn modes_are_read_as_they_are_written() {
    for mode in [ServicesMode::Auto, ServicesMode::Off] {
        assert_eq!(mode.to_string().parse(), Ok(mode));
    }
    let error = "on".parse::<ServicesMode>().map_err(|error| error.to_string());
    assert_eq!(error, Err("\"on\" is neither auto nor off".to_owned()));
}
