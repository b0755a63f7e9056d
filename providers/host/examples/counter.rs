//! A host interface of one's own: guests count with the help of their host, each for itself.
//!
//! ```console
//! $ cargo run -p kubewasm-host --example counter
//! The guest exited with 0, after the host had counted to 3 for it.
//! ```

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use kubewasm_host::{
    Capture, CpuShare, GuestLimits, GuestState, Host, HostOptions, Output, Plugin, PluginState, Setup, Stack,
    compile,
};
use wasmtime::{StoreContextMut, component::Linker};

/// Calls `next` until it is 3.
const GUEST: &str = r#"(component
  (import "example:counter/counter@1.0.0" (instance $counter (export "next" (func (result u32)))))
  (core func $next (canon lower (func $counter "next")))
  (core module $m
    (import "counter" "next" (func $next (result i32)))
    (func (export "run") (result i32)
      (loop $again (br_if $again (i32.lt_u (call $next) (i32.const 3))))
      (i32.const 0)))
  (core instance $i (instantiate $m (with "counter" (instance (export "next" (func $next))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $cli (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $cli)))"#;

/// Lets guests count, and knows how far any of them has come.
#[derive(Debug, Default)]
struct Counter {
    highest: Arc<AtomicU32>,
}

impl Plugin for Counter {
    /// How far this guest is.
    type State = u32;

    fn link(&self, linker: &mut Linker<GuestState>, state: PluginState<u32>) -> wasmtime::Result<()> {
        let highest = Arc::clone(&self.highest);
        linker.instance("example:counter/counter@1.0.0")?.func_wrap(
            "next",
            move |mut store: StoreContextMut<'_, GuestState>, (): ()| {
                let count = state.of(store.data_mut());
                *count += 1;
                highest.fetch_max(*count, Ordering::Relaxed);
                Ok((*count,))
            },
        )
    }

    fn state(&self, _: &Setup<'_>) -> u32 {
        0
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let (module, code) = (dir.path().join("guest.wasm"), dir.path().join("guest.code"));
    std::fs::write(&module, wat::parse_str(GUEST)?)?;
    // What others have made belongs into a child process: `compile::ChildCompiler`.
    let kind = compile::compile_file(&module, &code)?;

    let counter = Counter::default();
    let highest = Arc::clone(&counter.highest);
    let mut options = HostOptions::new(dir.path().join("empty"));
    options.plugins.push(Arc::new(counter));
    let host = Arc::new(Host::new(options)?);

    let loaded = host.load(&code, kind, Stack::DEFAULT).await?;
    let account = host.account(GuestLimits { memory_bytes: 16 << 20, cpu: CpuShare::default() });
    let output: Arc<dyn Output> = Arc::new(Capture::new(1 << 10));
    let argv = ["guest".to_owned()];
    let guest = host.prepare(loaded, Setup { argv: &argv, ..Setup::isolated(&output, &account) })?;
    let exit = guest.run().await;
    let count = highest.load(Ordering::Relaxed);
    println!("The guest exited with {}, after the host had counted to {count} for it.", exit.code);
    Ok(())
}
