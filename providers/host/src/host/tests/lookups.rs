//! Look-ups of names beside everything else.

use super::*;
use crate::Resolver;

/// A component that asks for more names than tokio has blocking threads, and then computes for ever.
const ASKS: &str = r#"(component
  (import "wasi:sockets/network@0.2.0" (instance $net
    (export "network" (type $network (sub resource)))
    (type $error-code-of (enum "unknown" "access-denied" "not-supported" "invalid-argument" "out-of-memory" "timeout"
      "concurrency-conflict" "not-in-progress" "would-block" "invalid-state" "new-socket-limit"
      "address-not-bindable" "address-in-use" "remote-unreachable" "connection-refused" "connection-reset"
      "connection-aborted" "datagram-too-large" "name-unresolvable" "temporary-resolver-failure"
      "permanent-resolver-failure"))
    (export "error-code" (type $error-code (eq $error-code-of)))))
  (alias export $net "network" (type $network))
  (alias export $net "error-code" (type $error-code))
  (import "wasi:sockets/instance-network@0.2.0" (instance $instance
    (alias outer 1 $network (type $outer-network))
    (export "network" (type $network (eq $outer-network)))
    (export "instance-network" (func (result (own $network))))))
  (import "wasi:sockets/ip-name-lookup@0.2.0" (instance $names
    (alias outer 1 $network (type $outer-network))
    (export "network" (type $network (eq $outer-network)))
    (alias outer 1 $error-code (type $outer-error-code))
    (export "error-code" (type $error-code (eq $outer-error-code)))
    (export "resolve-address-stream" (type $stream (sub resource)))
    (export "resolve-addresses" (func (param "network" (borrow $network)) (param "name" string)
      (result (result (own $stream) (error $error-code)))))))
  (core module $memory (memory (export "memory") 1) (data (i32.const 64) "silent.example"))
  (core instance $memory (instantiate $memory))
  (alias core export $memory "memory" (core memory $mem))
  (core func $get-network (canon lower (func $instance "instance-network")))
  (core func $resolve (canon lower (func $names "resolve-addresses") (memory $mem)))
  (core module $program
    (import "memory" "memory" (memory 1))
    (import "host" "network" (func $network (result i32)))
    (import "host" "resolve" (func $resolve (param i32 i32 i32 i32)))
    (func (export "run") (result i32)
      (local $net i32) (local $n i32)
      (local.set $net (call $network))
      (loop $again
        (call $resolve (local.get $net) (i32.const 64) (i32.const 14) (i32.const 0))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $again (i32.lt_u (local.get $n) (i32.const 1000))))
      (loop $for_ever (br $for_ever))
      unreachable))
  (core instance $program (instantiate $program
    (with "memory" (instance $memory))
    (with "host" (instance (export "network" (func $get-network)) (export "resolve" (func $resolve))))))
  (func $run (result (result)) (canon lift (core func $program "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $command)))"#;

/// Looks at a file some times.
const READS: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_filestat_get" (func $stat (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "file")
  (func (export "_start") (local $n i32)
    (loop $again
      (if (call $stat (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 128))
        (then (call $exit (i32.const 1))))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $n) (i32.const 10))))))"#;

/// A guest asks a resolver that never answers for a thousand names at once; its neighbour reads files all the same.
// With two threads, as a worker has several: on one, a guest that computes is polled 31 times before what other threads have
// done is looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_resolver_does_not_stop_files() {
    let (asked, mut asks) = tokio::sync::mpsc::unbounded_channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let ended = Mutex::new(ended);
    let bench = Bench::with(|options| {
        options.resolver = Resolver::new(move |_| {
            let _ = asked.send(());
            let _ = ended.lock().unwrap().recv();
            Ok(Vec::new())
        });
    });
    let (greedy, output) = (bench.guest(ASKS), capture(CAPTURE));
    let greedy = tokio::spawn(bench.instance(&greedy, &output).await.run());
    asks.recv().await.unwrap();

    let dir = bench.dir.path().join("root");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("file"), "x").unwrap();
    let (exit, _) = bench.run(&GuestSpec { preopens: root(&dir), ..bench.guest(READS) }).await;
    assert_eq!(exit.code, 0, "{exit:?}");
    assert!(!greedy.is_finished());
    greedy.abort();
    drop(end);
}
