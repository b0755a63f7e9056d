//! Every example of the crate comes to its end.

#[path = "../../examples/basic.rs"]
mod basic;
#[path = "../../examples/hot_reload.rs"]
mod hot_reload;
#[path = "../../examples/linked.rs"]
mod linked;
#[path = "../../examples/service.rs"]
mod service;

#[test]
fn a_host_with_a_workload() {
    basic::main().unwrap();
}

#[test]
fn linked_components() {
    linked::main().unwrap();
}

#[test]
fn a_service_and_its_component() {
    service::main().unwrap();
}

#[test]
fn hot_reload() {
    hot_reload::main().unwrap();
}
