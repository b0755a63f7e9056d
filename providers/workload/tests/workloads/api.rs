//! The host's API, method by method.

use std::sync::Arc;

use kubewasm_workload::{
    error::{HostError, WorkloadError},
    host::{Host, HostApi as _, HostBuilder},
    types::{
        WorkloadStartRequest, WorkloadState, WorkloadStatusRequest, WorkloadStopRequest,
        WorkloadUpdateRequest,
    },
};

use crate::{
    guests,
    world::{Probe, World, component, engine, service, workload},
};

#[tokio::test]
async fn a_workload_is_started_under_its_id_and_is_there_until_it_is_stopped() {
    let world = World::new().await;
    let request = WorkloadStartRequest {
        workload_id: "uid-1".to_owned(),
        workload: workload("w", vec![component("a", &guests::math("1.0.0"))]),
    };
    let started = world.host.workload_start(request.clone()).await.unwrap().workload_status;
    assert_eq!((&*started.workload_id, started.workload_state), ("uid-1", WorkloadState::Running));
    assert_eq!(world.status("uid-1").await, started);
    let again = world.host.workload_start(request.clone()).await.unwrap_err();
    assert!(matches!(again, WorkloadError::Exists(ref id) if id == "uid-1"), "{again}");

    let stop = WorkloadStopRequest { workload_id: "uid-1".to_owned() };
    let stopped = world.host.workload_stop(stop.clone()).await.unwrap().workload_status;
    assert_eq!(stopped.workload_state, WorkloadState::Stopping);
    assert_eq!(world.status("uid-1").await.workload_state, WorkloadState::NotFound);
    let again = world.host.workload_stop(stop).await.unwrap_err();
    assert!(matches!(again, WorkloadError::NotFound(ref id) if id == "uid-1"), "{again}");
    world.host.workload_start(request).await.unwrap();
}

#[tokio::test]
async fn a_workload_without_an_id_is_given_one() {
    let world = World::new().await;
    let request =
        WorkloadStartRequest { workload: workload("w", Vec::new()), ..WorkloadStartRequest::default() };
    let ids = [
        world.host.workload_start(request.clone()).await.unwrap().workload_status.workload_id,
        world.host.workload_start(request).await.unwrap().workload_status.workload_id,
    ];
    assert!(ids[0] != ids[1] && ids.iter().all(|id| id.starts_with("test-w-")), "{ids:?}");
}

#[tokio::test]
async fn what_does_not_start_is_not_there() {
    let world = World::new().await;
    let broken = workload("w", vec![component("a", &b"\0asm\x0d\0\x01\0nonsense".as_slice().into())]);
    let error = world.start(broken).await.unwrap_err();
    assert!(error.to_string().starts_with("component `a`: "), "{error}");
    assert_eq!(world.status("w").await.workload_state, WorkloadState::NotFound);
    for (bytes, expected) in [
        (&b"\0asm\x01\0\0\0"[..], "it is a core module"),
        (b"#!/bin/sh\n", "not a WebAssembly module: it is a script"),
    ] {
        let error = world.start(workload("w", vec![component("a", &bytes.into())])).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    let mut other = component("a", &guests::math("1.0.0"));
    other.digest = Some("sha256:0".to_owned());
    let error = world.start(workload("w", vec![other])).await.unwrap_err();
    assert!(error.to_string().contains("and sha256:0 was asked for"), "{error}");
}

#[tokio::test]
async fn the_status_of_a_workload_that_is_not_there_says_so() {
    let world = World::new().await;
    let request = WorkloadStatusRequest { workload_id: "nobody".to_owned() };
    let status = world.host.workload_status(request).await.unwrap().workload_status;
    assert_eq!((&*status.workload_id, status.workload_state), ("nobody", WorkloadState::NotFound));
}

#[tokio::test]
async fn an_update_is_for_a_workload_that_is_there_and_fails_without_harm() {
    let world = World::new().await;
    let math = component("math", &guests::math("1.0.0"));
    let request = WorkloadUpdateRequest { workload_id: "w".to_owned(), workload: workload("w", Vec::new()) };
    let error = world.host.workload_update(request).await.unwrap_err();
    assert!(matches!(error, WorkloadError::NotFound(_)), "{error}");

    let caller = component("caller", &guests::caller());
    world.start(workload("w", vec![caller.clone(), math])).await.unwrap();
    let error = world.update(workload("w", vec![caller])).await.unwrap_err();
    assert!(matches!(error, WorkloadError::Link(_)), "{error}");
    assert_eq!(world.call("w", "add", &[2, 3]).await.unwrap(), Some(1005), "the old version goes on");
    assert_eq!(world.status("w").await.workload_state, WorkloadState::Running);
}

#[tokio::test]
async fn a_heartbeat_tells_what_there_is() {
    let world =
        World::with(|builder| builder.with_id("host-1").with_friendly_name("One").with_label("zone", "a"))
            .await;
    let before = world.host.heartbeat().await.unwrap();
    assert_eq!((before.workload_count, before.component_count), (0, 0));
    let math = guests::math("1.0.0");
    let mut two = workload("two", vec![component("a", &math), component("b", &guests::caller())]);
    two.service = Some(service(&guests::computes(), 0));
    world.start(two).await.unwrap();
    let after = world.host.heartbeat().await.unwrap();
    assert_eq!((after.workload_count, after.component_count), (1, 3));
    assert_eq!((&*after.id, &*after.friendly_name, &*after.labels["zone"]), ("host-1", "One", "a"));
    assert!(after.system_memory_total >= after.system_memory_free && after.system_memory_free > 0);
    assert!(after.started_at > 0 && !after.hostname.is_empty() && !after.os_kernel.is_empty());
    assert!(after.imports.iter().any(|import| import.package_name() == "wasi:http"), "{:?}", after.imports);
    world.stop("two").await.unwrap();
    let last = world.host.heartbeat().await.unwrap();
    assert_eq!((last.workload_count, last.component_count), (0, 0));
}

#[tokio::test]
async fn a_host_that_ends_takes_its_workloads_along_and_takes_no_more() {
    let world = World::new().await;
    let mut with_service = workload("w", Vec::new());
    with_service.service = Some(service(&guests::computes(), 0));
    world.start(with_service).await.unwrap();
    let address = world.address();
    world.host.stop().await;
    assert_eq!(world.status("w").await.workload_state, WorkloadState::NotFound);
    let error = world.start(workload("v", Vec::new())).await.unwrap_err();
    assert!(matches!(error, WorkloadError::Ends), "{error}");
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens");
}

#[tokio::test]
async fn a_builder_refuses_two_plugins_of_one_name_and_a_host_that_cannot_listen() {
    let plugin = || Arc::new(Probe::default());
    let error = HostBuilder::new().with_plugin(plugin()).unwrap().with_plugin(plugin()).unwrap_err();
    assert!(matches!(error, HostError::PluginTwice("probe")), "{error}");

    let world = World::new().await;
    let router = kubewasm_workload::host::http::DynamicRouter::default();
    let taken = kubewasm_workload::host::http::HttpServer::new(router, world.address());
    let host = Host::builder().with_engine(engine()).with_http_handler(Arc::new(taken)).build().unwrap();
    let error = host.start().await.unwrap_err().to_string();
    assert!(error.contains("wasi-http") && error.contains(&world.address().to_string()), "{error}");
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_by_name() {
    let world = World::new().await;
    let math = guests::math("1.0.0");
    let twice = workload("w", vec![component("a", &math), component("a", &math)]);
    let service_name = workload("w", vec![component("service", &math)]);
    let mut entries = workload("w", Vec::new());
    entries.host_interfaces = vec!["wasi:http/incoming-handler".into(), "wasi:http/outgoing-handler".into()];
    let mut rules = component("a", &math);
    rules.local_resources.allowed_hosts = vec!["https://example.com/path".to_owned()];
    let rules = workload("w", vec![rules]);
    for (workload, expected) in [
        (twice, "component `a`"),
        (service_name, "component `service`"),
        (entries, "host interface `wasi:http/outgoing-handler`"),
        (rules, "component `a`: allowed hosts: \"https://example.com/path\""),
    ] {
        let error = world.start(workload).await.unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}
