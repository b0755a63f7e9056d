//! A host with an HTTP server and a plugin, and a workload on it: the example of wash-runtime's README, line by line. What differs
//! is the name of the crate, the error type, and where a name was made up for each start (`uuid`): a host does that itself.
//!
//! ```console
//! $ cargo run -p kubewasm-workload --example basic
//! The workload test-test-workload-1 is Running.
//! ```

use std::{collections::HashMap, sync::Arc};

use kubewasm_workload::{
    engine::Engine,
    host::{
        HostApi, HostBuilder,
        http::{DynamicRouter, HttpServer},
    },
    interfaces::config::WasiConfig,
    types::{Workload, WorkloadStartRequest},
};

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Create a Wasmtime engine
    let engine = Engine::builder().build()?;

    // Configure plugins
    let http_router = DynamicRouter::default();
    let http_handler = HttpServer::new(http_router, "127.0.0.1:0".parse()?);
    let wasi_config_plugin = WasiConfig::default();

    // Build and start the host
    let host = HostBuilder::new()
        .with_engine(engine)
        .with_http_handler(Arc::new(http_handler))
        .with_plugin(Arc::new(wasi_config_plugin))?
        .build()?;

    let host = host.start().await?;

    // Start a workload
    let req = WorkloadStartRequest {
        workload_id: String::new(),
        workload: Workload {
            namespace: "test".to_string(),
            name: "test-workload".to_string(),
            annotations: HashMap::new(),
            service: None,
            components: vec![],
            host_interfaces: vec![],
            volumes: vec![],
        },
    };

    let status = host.workload_start(req).await?.workload_status;
    println!("The workload {} is {:?}.", status.workload_id, status.workload_state);

    host.stop().await;
    Ok(())
}
