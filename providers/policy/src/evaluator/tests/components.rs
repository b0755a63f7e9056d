//! Components that ask their host, in text. Those with types are of Rust, and among the end-to-end tests.

use super::*;

/// A command that asks its host for its log with `payload`, and fails where that fails.
fn command(payload: &str) -> String {
    let length = payload.len();
    let escaped: String = payload.bytes().map(|byte| format!("\\{byte:02x}")).collect();
    format!(
        r#"(component
  (import "kubewasm:policy/host@0.1.0" (instance $host
    (export "call" (func (param "namespace" string) (param "operation" string) (param "payload" (list u8))
      (result (result (list u8) (error string)))))))
  (core module $libc
    (memory (export "memory") 1)
    (global $free (mut i32) (i32.const 4096))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.get $free) (global.set $free (i32.add (global.get $free) (local.get 3)))))
  (core instance $libc (instantiate $libc))
  (core func $call (canon lower (func $host "call") 
    (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
  (core module $m
    (import "libc" "memory" (memory 1))
    (import "host" "call" (func $call (param i32 i32 i32 i32 i32 i32 i32)))
    (data (i32.const 16) "tracing") (data (i32.const 32) "log") (data (i32.const 48) "{escaped}")
    (func (export "run") (result i32)
      (call $call (i32.const 16) (i32.const 7) (i32.const 32) (i32.const 3) (i32.const 48) (i32.const {length}) (i32.const 0))
      (i32.load8_u (i32.const 0))))
  (core instance $i (instantiate $m
    (with "libc" (instance $libc)) (with "host" (instance (export "call" (func $call))))))
  (func $run (result (result)) (canon lift (core func $i "run")))
  (instance $cli (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $cli)))"#
    )
}

#[tokio::test]
async fn a_program_that_is_a_component_asks_its_host_by_types() {
    let logs = case_text(&command("{\"message\":\"hello\"}"), Arc::new(LocalHost)).await;
    assert_eq!(logs.says("{}").await, "");
    let fails = case_text(&command("no JSON"), Arc::new(LocalHost)).await;
    assert_eq!(fails.fails("{}").await, "the policy exited with 1 and said nothing");
}
