//! A new version of a component takes over, and its callers notice nothing.
//!
//! ```console
//! $ cargo run -p kubewasm-workload --example hot_reload
//! The version is 1.
//! The version is 2.
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use kubewasm_host::GuestState;
use kubewasm_workload::{
    ExportedInterface, ResolvedWorkload,
    host::{HostApi as _, HostBuilder},
    host_interface::{
        BoundInterface, ComponentBinding, HostInterface, InterfaceError, LinkedImport, Stateless,
    },
    types::{Component, Workload, WorkloadStartRequest, WorkloadUpdateRequest},
    wit::WitWorld,
};
use wasmtime::component::{Linker, Val};

const INTERFACE: &str = "example:app/version@1.0.0";

fn component(version: u32) -> Result<Component, wat::Error> {
    let text = format!(
        r#"(component
          (core module $m (func (export "get") (result i32) (i32.const {version})))
          (core instance $i (instantiate $m))
          (func $get (result u32) (canon lift (core func $i "get")))
          (instance $out (export "get" (func $get)))
          (export "{INTERFACE}" (instance $out)))"#
    );
    Ok(Component { name: "app".to_owned(), bytes: wat::parse_str(text)?.into(), ..Component::default() })
}

/// Knows which component to ask.
#[derive(Debug, Default)]
struct Asks(Mutex<Option<ExportedInterface>>);

#[async_trait]
impl HostInterface for Asks {
    fn id(&self) -> &'static str {
        "asks"
    }

    fn world(&self) -> WitWorld {
        WitWorld { imports: vec![INTERFACE.into()], ..WitWorld::default() }
    }

    async fn bind_component(&self, _: &ComponentBinding) -> Result<Arc<dyn BoundInterface>, InterfaceError> {
        Ok(Arc::new(Stateless))
    }

    fn link(&self, _: &mut Linker<GuestState>, _: &[LinkedImport]) -> wasmtime::Result<()> {
        Ok(())
    }

    /// Called for each version.
    async fn resolved(&self, workload: &ResolvedWorkload) -> Result<(), InterfaceError> {
        let exporter = workload.exporters(INTERFACE).into_iter().next();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = exporter;
        Ok(())
    }
}

impl Asks {
    async fn ask(&self) -> Result<(), Box<dyn std::error::Error>> {
        let exporter = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let exporter = exporter.ok_or("there is nobody to ask")?;
        if let [Val::U32(version)] = exporter.call("get", Vec::new()).await?.as_slice() {
            println!("The version is {version}.");
        }
        Ok(())
    }
}

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let asks = Arc::new(Asks::default());
    let plugin: Arc<dyn HostInterface> = Arc::<Asks>::clone(&asks);
    let host = HostBuilder::new().with_plugin(plugin)?.build()?.start().await?;
    let version = |number| -> Result<Workload, wat::Error> {
        Ok(Workload { name: "app".to_owned(), components: vec![component(number)?], ..Workload::default() })
    };
    let workload_id = "app".to_owned();
    host.workload_start(WorkloadStartRequest { workload_id: workload_id.clone(), workload: version(1)? })
        .await?;
    asks.ask().await?;
    host.workload_update(WorkloadUpdateRequest { workload_id, workload: version(2)? }).await?;
    asks.ask().await?;
    host.stop().await;
    Ok(())
}
