//! Two components that are linked to each other, and a plugin of one's own that calls the first of them.
//!
//! ```console
//! $ cargo run -p kubewasm-workload --example linked
//! 6 * 7 = 42
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use kubewasm_host::GuestState;
use kubewasm_workload::{
    ResolvedWorkload,
    host::{HostApi as _, HostBuilder},
    host_interface::{
        BoundInterface, ComponentBinding, HostInterface, InterfaceError, LinkedImport, Stateless,
    },
    types::{Component, Workload, WorkloadStartRequest},
    wit::WitWorld,
};
use wasmtime::component::{Linker, Val};

/// Multiplies by having its sibling add.
const MULTIPLIES: &str = r#"(component
  (import "example:math/add@1.0.0" (instance $math
    (export "add" (func (param "a" u32) (param "b" u32) (result u32)))))
  (core func $add (canon lower (func $math "add")))
  (core module $m
    (import "math" "add" (func $add (param i32 i32) (result i32)))
    (func (export "multiply") (param $a i32) (param $b i32) (result i32) (local $sum i32)
      (loop $again
        (if (local.get $b) (then
          (local.set $sum (call $add (local.get $sum) (local.get $a)))
          (local.set $b (i32.sub (local.get $b) (i32.const 1)))
          (br $again))))
      (local.get $sum)))
  (core instance $i (instantiate $m (with "math" (instance (export "add" (func $add))))))
  (func $multiply (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $i "multiply")))
  (instance $out (export "multiply" (func $multiply)))
  (export "example:math/multiply@1.0.0" (instance $out)))"#;

const ADDS: &str = r#"(component
  (core module $m (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))
  (core instance $i (instantiate $m))
  (func $add (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $i "add")))
  (instance $out (export "add" (func $add)))
  (export "example:math/add@1.0.0" (instance $out)))"#;

/// Has workloads multiply.
#[derive(Debug, Default)]
struct Calculator(Mutex<Option<ResolvedWorkload>>);

#[async_trait]
impl HostInterface for Calculator {
    fn id(&self) -> &'static str {
        "calculator"
    }

    fn world(&self) -> WitWorld {
        WitWorld { imports: vec!["example:math/multiply@1.0.0".into()], ..WitWorld::default() }
    }

    async fn bind_component(&self, _: &ComponentBinding) -> Result<Arc<dyn BoundInterface>, InterfaceError> {
        Ok(Arc::new(Stateless))
    }

    fn link(&self, _: &mut Linker<GuestState>, _: &[LinkedImport]) -> wasmtime::Result<()> {
        // It calls components, and is not called by any.
        Ok(())
    }

    async fn resolved(&self, workload: &ResolvedWorkload) -> Result<(), InterfaceError> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(workload.clone());
        Ok(())
    }
}

#[tokio::main]
pub(crate) async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let calculator = Arc::new(Calculator::default());
    let plugin: Arc<dyn HostInterface> = Arc::<Calculator>::clone(&calculator);
    let host = HostBuilder::new().with_plugin(plugin)?.build()?.start().await?;

    let component = |name: &str, text: &str| -> Result<Component, wat::Error> {
        Ok(Component { name: name.into(), bytes: wat::parse_str(text)?.into(), ..Component::default() })
    };
    let workload = Workload {
        name: "linked".to_owned(),
        components: vec![component("multiplies", MULTIPLIES)?, component("adds", ADDS)?],
        ..Workload::default()
    };
    host.workload_start(WorkloadStartRequest { workload, ..WorkloadStartRequest::default() }).await?;

    let resolved = calculator.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let multiply = resolved.map(|workload| workload.exporters("example:math/multiply@1.0.0"));
    for exporter in multiply.unwrap_or_default() {
        let product = exporter.call("multiply", vec![Val::U32(6), Val::U32(7)]).await?;
        if let [Val::U32(product)] = product.as_slice() {
            println!("6 * 7 = {product}");
        }
    }
    host.stop().await;
    Ok(())
}
