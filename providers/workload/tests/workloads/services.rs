//! Services, and the loopback of a workload.

use kubewasm_workload::types::{LocalResources, Service, WorkloadState};

use crate::{
    guests,
    world::{World, command, component, guest, service, workload},
};

fn with_service(name: &str, service: Service) -> kubewasm_workload::types::Workload {
    kubewasm_workload::types::Workload { service: Some(service), ..workload(name, Vec::new()) }
}

#[tokio::test]
async fn a_service_that_exits_with_0_has_completed() {
    let world = World::new().await;
    world.start(with_service("w", service(&guest("hello-0.2.wat").await, 3))).await.unwrap();
    let status = world.until("w", WorkloadState::Completed).await;
    assert_eq!(status.message, "the service has completed");
    assert_eq!(world.said("w", "service"), "hello from a component\n");
    world.stop("w").await.unwrap();
}

#[tokio::test]
async fn a_service_that_fails_is_started_again_as_often_as_it_may_be() {
    let world = World::new().await;
    for (restarts, expected) in [(0, "restarted 0 times"), (2, "restarted 2 times")] {
        let name = format!("w{restarts}");
        world.start(with_service(&name, service(&guests::exits(1), restarts))).await.unwrap();
        let status = world.until(&name, WorkloadState::Error).await;
        let is_right =
            status.message.starts_with("the service exited with 1") && status.message.contains(expected);
        assert!(is_right, "{}", status.message);
    }
}

#[tokio::test]
async fn a_service_that_computes_for_ever_is_stopped() {
    let world = World::new().await;
    let status = world.start(with_service("w", service(&guests::computes(), 0))).await.unwrap();
    assert_eq!(status.workload_state, WorkloadState::Running);
    world.stop("w").await.unwrap();
    assert_eq!(world.status("w").await.workload_state, WorkloadState::NotFound);
}

#[tokio::test]
async fn a_service_calls_components() {
    let world = World::new().await;
    let mut workload = workload("w", vec![component("math", &guests::math("1.0.0"))]);
    workload.service = Some(service(&guests::adds(), 0));
    world.start(workload).await.unwrap();
    world.until("w", WorkloadState::Completed).await;
}

/// What listens on `address`, and says where it was asked.
async fn listening(address: &str) -> Service {
    let mut service = service(&guest("sockets-0.2.c").await, 0);
    service.local_resources.arguments = vec!["tcp-serve".to_owned(), address.to_owned()];
    service
}

#[tokio::test]
async fn a_service_listens_on_its_workloads_own_loopback() {
    let world = World::new().await;
    let sockets = guest("sockets-0.2.c").await;
    let ask = |to: &str| command(&sockets, &["tcp-ask".to_owned(), to.to_owned()], LocalResources::default());
    // The same port in two workloads, and on all addresses in one of them: none is the machine's.
    for (name, address) in [("one", "127.0.0.1:8099"), ("other", "0.0.0.0:8099")] {
        let mut workload = workload(name, vec![ask("127.0.0.1:8099")]);
        workload.service = Some(listening(address).await);
        world.start(workload).await.unwrap();
    }
    world.start(workload("alone", vec![ask("127.0.0.1:8099")])).await.unwrap();
    for name in ["one", "other"] {
        let answer = answered(&world, name).await;
        assert!(answer.contains("127.0.0.1:8099"), "it is shown the usual address: {answer}");
    }
    assert!(world.run("alone").await.starts_with("refused"), "nobody listens in this workload");
    assert!(tokio::net::TcpStream::connect("127.0.0.1:8099").await.is_err(), "nor on the machine");
}

/// Asks until the service listens, which it does some time after its start.
async fn answered(world: &World, name: &str) -> String {
    let began = std::time::Instant::now();
    loop {
        let answer = world.run(name).await;
        if !answer.starts_with("refused") {
            return answer;
        }
        assert!(began.elapsed() < crate::world::PATIENCE, "waited in vain for an answer: {answer}");
    }
}

#[tokio::test]
async fn components_bind_nothing() {
    let world = World::new().await;
    let sockets = guest("sockets-0.2.c").await;
    for (name, address) in [("a", "127.0.0.1:8098"), ("b", "0.0.0.0:8098"), ("c", "127.0.0.1:0")] {
        let arguments = ["tcp-hold".to_owned(), address.to_owned()];
        let bind = ["tcp-bind".to_owned(), address.to_owned()];
        let arguments = if address.ends_with(":0") { arguments } else { bind };
        let everything = LocalResources { allowed_hosts: vec!["*".to_owned()], ..LocalResources::default() };
        world.start(workload(name, vec![command(&sockets, &arguments, everything)])).await.unwrap();
        let said = world.run(name).await;
        assert!(said.starts_with("refused"), "{address}: {said}");
    }
}

#[tokio::test]
async fn a_port_of_the_machines_loopback_is_reached_where_it_is_allowed() {
    let world = World::new().await;
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        while let Ok((mut stream, _)) = server.accept().await {
            // Whoever asked may have gone.
            let _ = stream.write_all(b"from the machine\n").await;
        }
    });
    let sockets = guest("sockets-0.2.c").await;
    let arguments = ["tcp-ask".to_owned(), format!("127.0.0.1:{port}")];
    for (name, allowed_loopback_ports, expected) in [
        ("allowed", vec![port], "from the machine"),
        ("other", vec![port.wrapping_add(1)], "refused"),
        ("none", Vec::new(), "refused"),
    ] {
        let resources = LocalResources { allowed_loopback_ports, ..LocalResources::default() };
        world.start(workload(name, vec![command(&sockets, &arguments, resources)])).await.unwrap();
        let said = world.run(name).await;
        assert!(said.contains(expected), "{name}: {said}");
    }
}
