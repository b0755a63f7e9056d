//! Policies that are called by waPC, in text.

use super::*;

const WAPC: &str = r#"
  (import "wapc" "__guest_request" (func $request (param i32 i32)))
  (import "wapc" "__guest_response" (func $response (param i32 i32)))
  (import "wapc" "__guest_error" (func $error (param i32 i32)))
  (import "wapc" "__console_log" (func $log (param i32 i32)))
  (import "wapc" "__host_call" (func $call (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wapc" "__host_response_len" (func $response_length (result i32)))
  (import "wapc" "__host_response" (func $read_response (param i32)))
  (import "wapc" "__host_error_len" (func $error_length (result i32)))
  (import "wapc" "__host_error" (func $read_error (param i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 4)
  (global $started (mut i32) (i32.const 0))
"#;

/// A policy with texts at 1024, 1280, …, that does this when it is called with so many bytes.
async fn policy(texts: &[&str], more: &str, body: &str) -> Case {
    let text = format!(
        "(module {WAPC} {} {more}
          (func (export \"__guest_call\") (param $operation i32) (param $payload i32) (result i32) {body}))",
        data(texts)
    );
    case_text(&text, Arc::new(LocalHost)).await
}

/// Answers with its operation and its payload, one behind the other.
const ECHO: &str = "(call $request (i32.const 65536) (i32.add (i32.const 65536) (local.get $operation)))
  (call $response (i32.const 65536) (i32.add (local.get $operation) (local.get $payload)))
  (i32.const 1)";

#[tokio::test]
async fn a_policy_is_called_for_its_operations() {
    let case = policy(&[], "", ECHO).await;
    let document = format!("{{\"request\":\"{}\"}}", "x".repeat(50_000));
    for _ in 0..2 {
        assert_eq!(case.says(&document).await, format!("validate{document}"));
    }
    let ended = case.evaluator.call(&case.policy, Call::ValidateSettings, b"{}").await;
    assert_eq!(ended, Ended::Done { stdout: b"validate_settings{}".to_vec() });
}

#[tokio::test]
async fn an_instance_is_prepared_by_what_it_exports() {
    let starts = "(func $start (param $bit i32)
        (global.set $started (i32.or (global.get $started) (local.get $bit))))
      (func (export \"_start\") (call $start (i32.const 1)) (call $exit (i32.const 0)))
      (func (export \"_initialize\") (call $start (i32.const 2)))
      (func (export \"wapc_init\") (call $start (i32.const 4)))";
    let says = "(i32.store8 (i32.const 32) (i32.add (i32.const 48) (global.get $started)))
      (call $response (i32.const 32) (i32.const 1)) (i32.const 1)";
    assert_eq!(policy(&[], starts, says).await.says("{}").await, "7");
    let fails = "(func (export \"wapc_init\") (call $exit (i32.const 3)))";
    let reason = policy(&[], fails, says).await.fails("{}").await;
    assert_eq!(reason, "the policy exited with 3 and said nothing");
}

#[tokio::test]
async fn errors_are_refusals() {
    let error = "(call $error (i32.const 1024) (i32.const 5)) (i32.const 0)";
    assert_eq!(policy(&["boom\n"], "", error).await.fails("{}").await, "boom");
    let silent = policy(&[], "", "(i32.const 0)").await.fails("{}").await;
    assert_eq!(silent, "the policy's call came to 0, and it said nothing");
    let lost = policy(&[], "", "(i32.const 1)").await.fails("{}").await;
    assert_eq!(lost, "the policy has said that it succeeded, and has not answered");
    let trapped = policy(&[], "", "unreachable").await.fails("{}").await;
    assert!(trapped.contains("unreachable"), "{trapped}");
    let bounds = Bounds { timeout: Duration::from_millis(300), ..Bounds::default() };
    let spins = policy(&[], "", "(loop $again (br $again)) (i32.const 1)").await.bounded(bounds);
    assert_eq!(spins.fails("{}").await, "the policy came to no answer within 0.3 s");
}

/// Calls its host with the texts at 1024, 1280, 1536 and 1792, and answers with what it came to.
fn asks(texts: [&str; 4]) -> String {
    let [binding, namespace, operation, payload] = texts.map(str::len);
    format!(
        "(if (call $call (i32.const 1024) (i32.const {binding}) (i32.const 1280) (i32.const {namespace})
            (i32.const 1536) (i32.const {operation}) (i32.const 1792) (i32.const {payload}))
          (then (call $read_response (i32.const 65536)) (call $response (i32.const 65536) (call $response_length)))
          (else (call $read_error (i32.const 65536)) (call $response (i32.const 65536) (call $error_length))))
        (i32.const 1)"
    )
}

#[tokio::test]
async fn a_policy_asks_its_host() {
    let texts = ["kubewarden", "net", "v1/dns_lookup_host", "\"127.0.0.1\""];
    let case = policy(&texts, "", &asks(texts)).await;
    let denied = "Policy has not been granted access to the 'net/v1/dns_lookup_host' host capability. The violation has been reported.";
    assert_eq!(case.says("{}").await, denied);
    assert_eq!(case.granted(&["net/*"]).says("{}").await, "{\"ips\":[\"127.0.0.1\"]}");
    let texts = ["other", "net", "x", ""];
    let said = policy(&texts, "", &asks(texts)).await.says("{}").await;
    assert_eq!(said, "there is no binding \"other\"; it is \"kubewarden\"");
}

#[tokio::test]
async fn addresses_beyond_the_memory_end_the_policy() {
    for (body, expected) in [
        ("(call $request (i32.const 262140) (i32.const 0))", "__guest_request: the operation of 8 bytes"),
        ("(call $request (i32.const 0) (i32.const -1))", "__guest_request: the payload of 2 bytes"),
        ("(call $response (i32.const 262143) (i32.const 2))", "__guest_response: the answer of 2 bytes"),
        ("(call $response (i32.const 0) (i32.const -1))", "the answer has 4294967295 bytes"),
        ("(call $error (i32.const -1) (i32.const 1))", "__guest_error: the error of 1 bytes"),
        ("(call $log (i32.const 0) (i32.const 65537))", "the line has 65537 bytes, and may have 65536"),
    ] {
        let reason = policy(&[], "", &format!("{body} (i32.const 1)")).await.fails("{}").await;
        assert!(reason.contains(expected), "{body}: {reason}");
    }
    let texts = ["kubewarden", "tracing", "nothing", "{}"];
    let answers = format!("{} (drop) (call $read_error (i32.const 262140)) (i32.const 1)", asks(texts));
    let reason = policy(&texts, "", &answers).await.fails("{}").await;
    assert!(reason.contains("is not all within the policy's memory"), "{reason}");
}
