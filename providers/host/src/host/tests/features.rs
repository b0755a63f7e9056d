//! What guests are made of: features of WebAssembly, and imports.

use super::*;

/// A component of WASI 0.3 of one module, which exports `run`.
fn component(module: &str) -> String {
    format!(
        r#"(component (core module $m {module}) (core instance $i (instantiate $m))
          (func $run async (result (result)) (canon lift (core func $i "run")))
          (instance $command (export "run" (func $run))) (export "wasi:cli/run@0.3.0" (instance $command)))"#
    )
}

/// Modules that use what is on, as a core module and in a component of 0.3. Each has a function that gives 0.
#[tokio::test]
async fn what_wasmtime_has_on_is_on() {
    let bench = Bench::new();
    for definitions in [
        // Garbage collection.
        r#"(type $pair (struct (field i32) (field (mut i32))))
           (func $f (result i32) (local $pair (ref null $pair))
             (local.set $pair (struct.new $pair (i32.const 1) (i32.const 2)))
             (struct.set $pair 1 (local.get $pair) (i32.const 1))
             (i32.sub (struct.get $pair 0 (local.get $pair)) (struct.get $pair 1 (local.get $pair))))"#,
        // Exceptions.
        r#"(tag $e (param i32))
           (func $throws (throw $e (i32.const 0)))
           (func $f (result i32)
             (block $caught (result i32) (try_table (catch $e $caught) (call $throws)) (i32.const 1)))"#,
        // Memories of 64 bits, and more than one.
        r#"(memory $large i64 1) (memory $other 1)
           (func $f (result i32) (i32.store $large (i64.const 8) (i32.const 7))
             (i32.sub (i32.load $large (i64.const 8)) (i32.const 7)))"#,
        // Tail calls, deeper than any stack.
        r#"(func $f (result i32) (return_call $down (i32.const 10000000)))
           (func $down (param i32) (result i32)
             (if (i32.eqz (local.get 0)) (then (return (i32.const 0))))
             (return_call $down (i32.sub (local.get 0) (i32.const 1))))"#,
        // Vectors, relaxed ones too.
        r#"(func $f (result i32) (i32x4.extract_lane 0
             (i32x4.relaxed_trunc_f32x4_s (v128.const f32x4 0.5 0 0 0))))"#,
        // Atomic instructions on memory that is not shared.
        "(memory 1) (func $f (result i32) (i32.atomic.rmw.add (i32.const 0) (i32.const 1)))",
    ] {
        let core =
            format!("(module {definitions} (func (export \"_start\") (if (call $f) (then unreachable))))");
        let (exit, _) = bench.run_wat(&core).await;
        assert_eq!(exit.code, 0, "{definitions}: {exit:?}");
        let (exit, _) = bench.run_wat(&component(&format!("{definitions} (export \"run\" (func $f))"))).await;
        assert_eq!(exit.code, 0, "{definitions}: {exit:?}");
    }
}

/// What a garbage collector keeps is memory like any other.
#[tokio::test]
async fn collected_memory_ends_at_the_limit() {
    let bench = Bench::new();
    let module = |keeps: bool, rest: &str| {
        let kept = if keeps { "(global.set $head)" } else { "drop" };
        format!(
            r#"(type $node (struct (field (ref null $node)) (field i64)))
              (global $head (mut (ref null $node)) (ref.null $node))
              (func $f (result i32) (local $n i32)
                (loop $again
                  (struct.new $node (global.get $head) (i64.const 1))
                  {kept}
                  (local.set $n (i32.add (local.get $n) (i32.const 1)))
                  (br_if $again (i32.lt_u (local.get $n) (i32.const 1000000))))
                (i32.const 0))
              {rest}"#
        )
    };
    let start = r#"(func (export "_start") (drop (call $f)))"#;
    let run = r#"(export "run" (func $f))"#;
    for (keeps, code, reason) in [(true, 137, ExitReason::OutOfMemory), (false, 0, ExitReason::Exited)] {
        for wat in [format!("(module {})", module(keeps, start)), component(&module(keeps, run))] {
            let spec = GuestSpec { memory_limit_bytes: 8 << 20, ..bench.guest(&wat) };
            let (exit, _) = bench.run(&spec).await;
            assert_eq!((exit.code, exit.reason), (code, reason), "{wat}: {exit:?}");
        }
    }
}

/// An exception that nobody catches is told as one.
#[tokio::test]
async fn an_exception_that_nobody_catches_is_a_trap() {
    let bench = Bench::new();
    let throws = "(tag $e) (func $f (result i32) (throw $e))";
    for wat in [
        format!("(module {throws} (func (export \"_start\") (drop (call $f))))"),
        component(&format!("{throws} (export \"run\" (func $f))")),
    ] {
        let (exit, _) = bench.run_wat(&wat).await;
        assert_eq!((exit.code, exit.reason), (134, ExitReason::Trapped), "{exit:?}");
        assert!(exit.message.contains("exception"), "{exit:?}");
    }
}

#[tokio::test]
async fn imports_that_are_not_there_are_named() {
    let bench = Bench::new();
    let wat = r#"(component
      (import "wasi:keyvalue/store@0.2.0-draft2" (instance (export "open" (func (param "name" string)))
        (export "close" (func))))
      (import "wasi:cli/exit@0.3.0" (instance (export "exit" (func (param "status" (result))))
        (export "exit-later" (func))))
      (import "wasi:cli/exit@0.2.3" (instance (export "exit" (func (param "status" (result))))))
      (import "my:own/thing" (instance (export "thing" (type (sub resource)))))
      (import "free" (func))
      (core module $m (func (export "run") (result i32) (i32.const 0))) (core instance $i (instantiate $m))
      (func $run async (result (result)) (canon lift (core func $i "run")))
      (instance $command (export "run" (func $run))) (export "wasi:cli/run@0.3.0" (instance $command)))"#;
    let spec = bench.guest(wat);
    let error = bench.host.load(&spec.module, spec.kind, spec.stack).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "the module cannot be linked: it imports what no host interface here is: \
         `wasi:keyvalue/store@0.2.0-draft2`, `wasi:cli/exit@0.3.0#exit-later`, `my:own/thing`, `free`; \
         build it without these"
    );
    let mistyped = wat.replace("(export \"exit-later\" (func))", "").replace("(import \"free\" (func))", "");
    let mistyped = mistyped
        .replace("(param \"status\" (result))", "(param \"status\" u32)")
        .lines()
        .filter(|line| !line.contains("keyvalue") && !line.contains("close") && !line.contains("my:own"))
        .collect::<String>();
    let spec = bench.guest(&mistyped);
    let error = bench.host.load(&spec.module, spec.kind, spec.stack).await.unwrap_err().to_string();
    assert!(error.contains("`wasi:cli/exit@0.3.0`") && error.contains("type mismatch"), "{error}");
}
