use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::services::table::TableMaker;

#[test]
fn what_has_not_changed_is_the_same_as_before() {
    let (one, mut other) = (service(json!({})), service(json!({})));
    other.metadata.name = Some("other".into());
    let headless = {
        let mut service = service(json!({"clusterIP": "None"}));
        service.metadata.name = Some("headless".into());
        service
    };
    let [one, other, headless] = [one, other, headless].map(Arc::new);
    let all = || vec![Arc::clone(&one), Arc::clone(&other), Arc::clone(&headless)];
    let mut slices = slices(vec![slice("one", vec![endpoint("10.0.0.1", "")])]);
    let mut maker = TableMaker::default();
    let first = maker.make(all(), &slices, &here()).services;
    assert_eq!(first.keys().collect::<Vec<_>>(), ["ns/other", "ns/web"]);

    let is_shared = |a: &ServiceRoutes, b: &ServiceRoutes| std::ptr::eq(a, b);
    slices.note(Event::Apply(slice("one", vec![endpoint("10.0.0.2", "")])));
    let second = maker.make(all(), &slices, &here()).services;
    assert!(is_shared(&first["ns/other"], &second["ns/other"]));
    assert_eq!(text(&second["ns/web"]), ["Tcp 10.96.0.9:80 -> 10.0.0.2:8080"]);

    // The same Service once more, as after an interruption.
    let again = vec![Arc::new(Service::clone(&one)), Arc::new(Service::clone(&other))];
    let third = maker.make(again, &slices, &here()).services;
    assert!(is_shared(&second["ns/web"], &third["ns/web"]));

    let elsewhere = Viewpoint { addresses: Vec::new(), ..here() };
    let changed = Arc::new(service(json!({"ports": [{"port": 80, "nodePort": 30080}]})));
    let fourth = maker.make(vec![Arc::clone(&changed)], &slices, &here()).services;
    assert_eq!(text(&fourth["ns/web"]), ["Tcp 10.96.0.9:80 192.0.2.1:30080 -> 10.0.0.2:8080"]);
    assert_eq!(fourth.len(), 1);
    let fifth = maker.make(vec![changed], &slices, &elsewhere).services;
    assert_eq!(text(&fifth["ns/web"]), ["Tcp 10.96.0.9:80 -> 10.0.0.2:8080"]);
}
