//! A service that has a component do its work, and says when it is done.
//!
//! ```console
//! $ cargo run -p kubewasm-workload --example service
//! Running
//! Completed: the service has completed
//! ```

use kubewasm_workload::{
    host::{HostApi as _, HostBuilder},
    types::{Component, Service, Workload, WorkloadStartRequest, WorkloadState},
};

/// Asks its sibling until that says that it is done.
const SERVICE: &str = r#"(component
  (import "example:work/worker@1.0.0" (instance $worker (export "left" (func (param "done" u32) (result u32)))))
  (core func $left (canon lower (func $worker "left")))
  (core module $m
    (import "worker" "left" (func $left (param i32) (result i32)))
    (func (export "run") (result i32) (local $done i32)
      (loop $again
        (local.set $done (i32.add (local.get $done) (i32.const 1)))
        (br_if $again (call $left (local.get $done))))
      (i32.const 0)))
  (core instance $i (instantiate $m (with "worker" (instance (export "left" (func $left))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $cli (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $cli)))"#;

/// There are ten pieces of work.
const WORKER: &str = r#"(component
  (core module $m (func (export "left") (param i32) (result i32) (i32.sub (i32.const 10) (local.get 0))))
  (core instance $i (instantiate $m))
  (func $left (param "done" u32) (result u32) (canon lift (core func $i "left")))
  (instance $out (export "left" (func $left)))
  (export "example:work/worker@1.0.0" (instance $out)))"#;

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let host = HostBuilder::new().build()?.start().await?;
    let workload = Workload {
        name: "service".to_owned(),
        service: Some(Service {
            bytes: wat::parse_str(SERVICE)?.into(),
            max_restarts: 3,
            ..Service::default()
        }),
        components: vec![Component { bytes: wat::parse_str(WORKER)?.into(), ..Component::default() }],
        ..Workload::default()
    };
    let request = WorkloadStartRequest { workload, ..WorkloadStartRequest::default() };
    let started = host.workload_start(request).await?.workload_status;
    println!("Running");
    if let Some(mut status) = host.watch(&started.workload_id) {
        let ended = status.wait_for(|status| status.workload_state != WorkloadState::Running).await?.clone();
        println!("{:?}: {}", ended.workload_state, ended.message);
    }
    host.stop().await;
    Ok(())
}
