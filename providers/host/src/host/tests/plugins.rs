//! Host interfaces of the embedder's.

use wasmtime::StoreContextMut;

use super::*;
use crate::{Plugin, PluginState};

/// A guest that calls `next` of both interfaces twice, and fails unless they answer 11, 12 and 21, 22.
const COUNTS: &str = r#"(component
  (import "test:count/tens" (instance $tens (export "next" (func (result u32)))))
  (import "test:count/twenties" (instance $twenties (export "next" (func (result u32)))))
  (core func $ten (canon lower (func $tens "next")))
  (core func $twenty (canon lower (func $twenties "next")))
  (core module $m
    (import "host" "ten" (func $ten (result i32)))
    (import "host" "twenty" (func $twenty (result i32)))
    (func $is (param i32 i32) (if (i32.ne (local.get 0) (local.get 1)) (then unreachable)))
    (func (export "run") (result i32)
      (call $is (call $ten) (i32.const 11))
      (call $is (call $twenty) (i32.const 21))
      (call $is (call $ten) (i32.const 12))
      (call $is (call $twenty) (i32.const 22))
      (i32.const 0)))
  (core instance $i (instantiate $m
    (with "host" (instance (export "ten" (func $ten)) (export "twenty" (func $twenty))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $cli (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $cli)))"#;

#[derive(Debug)]
struct Counter {
    interface: &'static str,
    from: u32,
}

impl Plugin for Counter {
    type State = u32;

    fn link(
        &self,
        linker: &mut component::Linker<GuestState>,
        state: PluginState<u32>,
    ) -> wasmtime::Result<()> {
        linker.instance(self.interface)?.func_wrap(
            "next",
            move |mut store: StoreContextMut<'_, GuestState>, (): ()| {
                let count = state.of(store.data_mut());
                *count += 1;
                Ok((*count,))
            },
        )
    }

    fn state(&self, _: &Setup<'_>) -> u32 {
        self.from
    }
}

fn plugins() -> Vec<Arc<dyn AnyPlugin>> {
    vec![
        Arc::new(Counter { interface: "test:count/tens", from: 10 }),
        Arc::new(Counter { interface: "test:count/twenties", from: 20 }),
    ]
}

#[tokio::test]
async fn each_guest_has_a_state_of_its_own_of_each_plugin() {
    let bench = Bench::with(|options| options.plugins = plugins());
    let spec = bench.guest(COUNTS);
    for _ in 0..2 {
        let (exit, _) = bench.run(&spec).await;
        assert_eq!(exit.code, 0, "{}", exit.message);
    }
}

#[tokio::test]
async fn an_interface_that_no_plugin_brings_is_named() {
    let bench = Bench::with(|options| options.plugins = plugins().into_iter().take(1).collect());
    let spec = bench.guest(COUNTS);
    let error = bench.host.load(&spec.module, spec.kind, spec.stack).await.unwrap_err().to_string();
    assert!(error.contains("test:count/twenties"), "{error}");
}

#[test]
fn two_plugins_of_one_interface_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = HostOptions::new(dir.path());
    options.plugins =
        [10, 20].map(|from| Arc::new(Counter { interface: "test:count/tens", from }) as _).to_vec();
    let error = Host::new(options).unwrap_err();
    assert!(matches!(error, HostError::Plugin { .. }), "{error}");
    assert!(error.to_string().contains("test:count/tens"), "{error}");
}
