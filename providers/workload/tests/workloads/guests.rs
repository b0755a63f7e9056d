//! Components of the tests, in the text format.

use bytes::Bytes;

pub(crate) fn encoded(text: &str) -> Bytes {
    wat::parse_str(text).unwrap().into()
}

/// Exports `test:math/ops` in this version: `add`, `count` (how often this instance was asked that), `echo`, `loop` and `trap`.
pub(crate) fn math(version: &str) -> Bytes {
    encoded(&format!(
        r#"(component
          (core module $m
            (memory (export "memory") 1)
            (global $count (mut i32) (i32.const 0))
            (global $free (mut i32) (i32.const 1024))
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
              (local.set $at (global.get $free))
              (global.set $free (i32.and (i32.add (global.get $free) (i32.add (local.get 3) (i32.const 7))) (i32.const -8)))
              (local.get $at))
            (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1)))
            (func (export "count") (result i32)
              (global.set $count (i32.add (global.get $count) (i32.const 1)))
              (global.get $count))
            (func (export "echo") (param i32 i32) (result i32)
              (i32.store (i32.const 0) (local.get 0))
              (i32.store (i32.const 4) (local.get 1))
              (i32.const 0))
            (func (export "loop") (loop (br 0)))
            (func (export "trap") unreachable))
          (core instance $i (instantiate $m))
          (func $add (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $i "add")))
          (func $count (result u32) (canon lift (core func $i "count")))
          (func $echo (param "text" (list string)) (result (list string))
            (canon lift (core func $i "echo") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
          (func $loop (canon lift (core func $i "loop")))
          (func $trap (canon lift (core func $i "trap")))
          (instance $ops
            (export "add" (func $add)) (export "count" (func $count)) (export "echo" (func $echo))
            (export "loop" (func $loop)) (export "trap" (func $trap)))
          (export "test:math/ops@{version}" (instance $ops)))"#
    ))
}

/// Imports all of `test:math/ops@1.0.0`, and exports it as `test:app/entry@1.0.0`: each call is passed on, and 1000 added to sums.
pub(crate) fn caller() -> Bytes {
    encoded(
        r#"(component
          (import "test:math/ops@1.0.0" (instance $ops
            (export "add" (func (param "a" u32) (param "b" u32) (result u32)))
            (export "count" (func (result u32)))
            (export "echo" (func (param "text" (list string)) (result (list string))))
            (export "loop" (func))
            (export "trap" (func))))
          (core module $memory
            (memory (export "memory") 1)
            (global $free (mut i32) (i32.const 1024))
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
              (local.set $at (global.get $free))
              (global.set $free (i32.and (i32.add (global.get $free) (i32.add (local.get 3) (i32.const 7))) (i32.const -8)))
              (local.get $at)))
          (core instance $memory (instantiate $memory))
          (core func $add (canon lower (func $ops "add")))
          (core func $count (canon lower (func $ops "count")))
          (core func $echo (canon lower (func $ops "echo") (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
          (core func $loop (canon lower (func $ops "loop")))
          (core func $trap (canon lower (func $ops "trap")))
          (core module $m
            (import "ops" "add" (func $add (param i32 i32) (result i32)))
            (import "ops" "count" (func $count (result i32)))
            (import "ops" "echo" (func $echo (param i32 i32 i32)))
            (import "ops" "loop" (func $loop))
            (import "ops" "trap" (func $trap))
            (func (export "add") (param i32 i32) (result i32)
              (i32.add (call $add (local.get 0) (local.get 1)) (i32.const 1000)))
            (func (export "count") (result i32) (call $count))
            (func (export "echo") (param i32 i32) (result i32)
              (call $echo (local.get 0) (local.get 1) (i32.const 0))
              (i32.const 0))
            (func (export "loop") (call $loop))
            (func (export "trap") (call $trap)))
          (core instance $i (instantiate $m (with "ops" (instance
            (export "add" (func $add)) (export "count" (func $count)) (export "echo" (func $echo))
            (export "loop" (func $loop)) (export "trap" (func $trap))))))
          (func $add-out (param "a" u32) (param "b" u32) (result u32) (canon lift (core func $i "add")))
          (func $count-out (result u32) (canon lift (core func $i "count")))
          (func $echo-out (param "text" (list string)) (result (list string))
            (canon lift (core func $i "echo") (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
          (func $loop-out (canon lift (core func $i "loop")))
          (func $trap-out (canon lift (core func $i "trap")))
          (instance $entry
            (export "add" (func $add-out)) (export "count" (func $count-out)) (export "echo" (func $echo-out))
            (export "loop" (func $loop-out)) (export "trap" (func $trap-out)))
          (export "test:app/entry@1.0.0" (instance $entry)))"#,
    )
}

/// Exports `test:count/counters@1.0.0`: a resource that counts on from where it is made to begin, and how many of them an instance
/// has.
pub(crate) fn counters() -> Bytes {
    encoded(
        r#"(component
          (core module $state
            (memory (export "memory") 1)
            (global (export "live") (mut i32) (i32.const 0))
            (func (export "dtor") (param i32) (global.set 0 (i32.sub (global.get 0) (i32.const 1)))))
          (core instance $state (instantiate $state))
          (alias core export $state "dtor" (core func $dtor))
          (type $counter (resource (rep i32) (dtor (core func $dtor))))
          (core func $new (canon resource.new $counter))
          (core func $rep (canon resource.rep $counter))
          (core func $drop (canon resource.drop $counter))
          (core module $m
            (import "state" "memory" (memory 1))
            (import "state" "live" (global $live (mut i32)))
            (import "canon" "new" (func $new (param i32) (result i32)))
            (import "canon" "rep" (func $rep (param i32) (result i32)))
            (import "canon" "drop" (func $drop (param i32)))
            (global $free (mut i32) (i32.const 16))
            (func (export "new") (param i32) (result i32) (local $at i32)
              (local.set $at (global.get $free))
              (global.set $free (i32.add (global.get $free) (i32.const 4)))
              (i32.store (local.get $at) (local.get 0))
              (global.set $live (i32.add (global.get $live) (i32.const 1)))
              (call $new (local.get $at)))
            (func (export "next") (param i32) (result i32)
              (i32.store (local.get 0) (i32.add (i32.load (local.get 0)) (i32.const 1)))
              (i32.load (local.get 0)))
            (func (export "end") (param i32) (result i32) (local $value i32)
              (local.set $value (i32.load (call $rep (local.get 0))))
              (call $drop (local.get 0))
              (local.get $value))
            (func (export "live") (result i32) (global.get $live)))
          (core instance $i (instantiate $m
            (with "state" (instance $state))
            (with "canon" (instance
              (export "new" (func $new)) (export "rep" (func $rep)) (export "drop" (func $drop))))))
          (func $new-out (param "start" u32) (result (own $counter)) (canon lift (core func $i "new")))
          (func $next-out (param "self" (borrow $counter)) (result u32) (canon lift (core func $i "next")))
          (func $end-out (param "counter" (own $counter)) (result u32) (canon lift (core func $i "end")))
          (func $live-out (result u32) (canon lift (core func $i "live")))
          (component $shim
            (import "counter" (type $c (sub resource)))
            (import "new" (func $new (param "start" u32) (result (own $c))))
            (import "next" (func $next (param "self" (borrow $c)) (result u32)))
            (import "end" (func $end (param "counter" (own $c)) (result u32)))
            (import "live" (func $live (result u32)))
            (export $out "counter" (type $c))
            (export "[constructor]counter" (func $new) (func (param "start" u32) (result (own $out))))
            (export "[method]counter.next" (func $next) (func (param "self" (borrow $out)) (result u32)))
            (export "end" (func $end) (func (param "counter" (own $out)) (result u32)))
            (export "live" (func $live)))
          (instance $counters (instantiate $shim
            (with "counter" (type $counter)) (with "new" (func $new-out)) (with "next" (func $next-out))
            (with "end" (func $end-out)) (with "live" (func $live-out))))
          (export "test:count/counters@1.0.0" (instance $counters)))"#,
    )
}

/// Imports that, and exports `test:app/entry@1.0.0`: `use` makes two counters and tells what they count to; `leak` makes one that it
/// does not drop, and tells how many there are.
pub(crate) fn counting() -> Bytes {
    encoded(
        r#"(component
          (import "test:count/counters@1.0.0" (instance $counters
            (export "counter" (type $c (sub resource)))
            (export "[constructor]counter" (func (param "start" u32) (result (own $c))))
            (export "[method]counter.next" (func (param "self" (borrow $c)) (result u32)))
            (export "end" (func (param "counter" (own $c)) (result u32)))
            (export "live" (func (result u32)))))
          (alias export $counters "counter" (type $c))
          (core func $new (canon lower (func $counters "[constructor]counter")))
          (core func $next (canon lower (func $counters "[method]counter.next")))
          (core func $end (canon lower (func $counters "end")))
          (core func $live (canon lower (func $counters "live")))
          (core func $drop (canon resource.drop $c))
          (core module $m
            (import "c" "new" (func $new (param i32) (result i32)))
            (import "c" "next" (func $next (param i32) (result i32)))
            (import "c" "end" (func $end (param i32) (result i32)))
            (import "c" "live" (func $live (result i32)))
            (import "c" "drop" (func $drop (param i32)))
            ;; 1000000 * what the first counts to, 10000 * the second, 100 * how many there are with one dropped, and with none.
            (func (export "use") (result i32) (local $a i32) (local $b i32) (local $sum i32)
              (local.set $a (call $new (i32.const 10)))
              (local.set $b (call $new (i32.const 20)))
              (local.set $sum (i32.mul (call $next (local.get $a)) (i32.const 1000000)))
              (drop (call $next (local.get $b)))
              (call $drop (local.get $a))
              (local.set $sum (i32.add (local.get $sum) (i32.mul (call $live) (i32.const 100))))
              (local.set $sum (i32.add (local.get $sum) (i32.mul (call $end (local.get $b)) (i32.const 10000))))
              (i32.add (local.get $sum) (call $live)))
            (func (export "leak") (result i32)
              (drop (call $new (i32.const 1)))
              (call $live)))
          (core instance $i (instantiate $m (with "c" (instance
            (export "new" (func $new)) (export "next" (func $next)) (export "end" (func $end))
            (export "live" (func $live)) (export "drop" (func $drop))))))
          (func $use (result u32) (canon lift (core func $i "use")))
          (func $leak (result u32) (canon lift (core func $i "leak")))
          (instance $entry (export "use" (func $use)) (export "leak" (func $leak)))
          (export "test:app/entry@1.0.0" (instance $entry)))"#,
    )
}

/// Imports these interfaces with a function `f` each, and exports `test:app/entry@1.0.0`.
pub(crate) fn importing(interfaces: &[&str]) -> Bytes {
    let imports =
        interfaces.iter().map(|name| format!(r#"(import "{name}" (instance (export "f" (func))))"#));
    exporting_f("test:app/entry@1.0.0", &imports.collect::<String>())
}

/// Exports an interface with a function `f`, and has these imports.
pub(crate) fn exporting_f(interface: &str, imports: &str) -> Bytes {
    encoded(&format!(
        r#"(component {imports}
          (core module $m (func (export "f")))
          (core instance $i (instantiate $m))
          (func $f (canon lift (core func $i "f")))
          (instance $e (export "f" (func $f)))
          (export "{interface}" (instance $e)))"#
    ))
}

/// A service that ends with this.
pub(crate) fn exits(code: u32) -> Bytes {
    encoded(&format!(
        r#"(component
          (core module $m (func (export "run") (result i32) (i32.const {code})))
          (core instance $i (instantiate $m))
          (func $run (result (result)) (canon lift (core func $i "run")))
          (instance $cli (export "run" (func $run)))
          (export "wasi:cli/run@0.2.0" (instance $cli)))"#
    ))
}

/// A service that computes for ever.
pub(crate) fn computes() -> Bytes {
    encoded(
        r#"(component
          (core module $m (func (export "run") (result i32) (loop (br 0)) unreachable))
          (core instance $i (instantiate $m))
          (func $run (result (result)) (canon lift (core func $i "run")))
          (instance $cli (export "run" (func $run)))
          (export "wasi:cli/run@0.2.0" (instance $cli)))"#,
    )
}

/// A service that has `test:math/ops@1.0.0` add, and fails if it cannot.
pub(crate) fn adds() -> Bytes {
    encoded(
        r#"(component
          (import "test:math/ops@1.0.0" (instance $ops
            (export "add" (func (param "a" u32) (param "b" u32) (result u32)))))
          (core func $add (canon lower (func $ops "add")))
          (core module $m
            (import "ops" "add" (func $add (param i32 i32) (result i32)))
            (func (export "run") (result i32)
              (i32.ne (call $add (i32.const 2) (i32.const 3)) (i32.const 5))))
          (core instance $i (instantiate $m (with "ops" (instance (export "add" (func $add))))))
          (func $run (result (result)) (canon lift (core func $i "run")))
          (instance $cli (export "run" (func $run)))
          (export "wasi:cli/run@0.2.0" (instance $cli)))"#,
    )
}

/// A plugin: exports `test:store/tally@1.0.0`, which counts, and can fail.
pub(crate) fn tally() -> Bytes {
    encoded(
        r#"(component
          (core module $m
            (global $count (mut i32) (i32.const 0))
            (func (export "next") (result i32)
              (global.set $count (i32.add (global.get $count) (i32.const 1)))
              (global.get $count))
            (func (export "fail") unreachable)
            (func (export "hang") (loop (br 0))))
          (core instance $i (instantiate $m))
          (func $next (result u32) (canon lift (core func $i "next")))
          (func $fail (canon lift (core func $i "fail")))
          (func $hang (canon lift (core func $i "hang")))
          (instance $tally (export "next" (func $next)) (export "fail" (func $fail)) (export "hang" (func $hang)))
          (export "test:store/tally@1.0.0" (instance $tally)))"#,
    )
}

/// Uses that plugin: `next` passes on, `crash` counts and traps, `break` has the plugin fail, and `hang` never return.
pub(crate) fn tallying() -> Bytes {
    encoded(
        r#"(component
          (import "test:store/tally@1.0.0" (instance $tally
            (export "next" (func (result u32))) (export "fail" (func)) (export "hang" (func))))
          (core func $next (canon lower (func $tally "next")))
          (core func $fail (canon lower (func $tally "fail")))
          (core func $hang (canon lower (func $tally "hang")))
          (core module $m
            (import "t" "next" (func $next (result i32)))
            (import "t" "fail" (func $fail))
            (import "t" "hang" (func $hang))
            (func (export "next") (result i32) (call $next))
            (func (export "crash") (drop (call $next)) unreachable)
            (func (export "break") (call $fail))
            (func (export "hang") (call $hang)))
          (core instance $i (instantiate $m (with "t" (instance
            (export "next" (func $next)) (export "fail" (func $fail)) (export "hang" (func $hang))))))
          (func $next-out (result u32) (canon lift (core func $i "next")))
          (func $crash (canon lift (core func $i "crash")))
          (func $break (canon lift (core func $i "break")))
          (func $hang-out (canon lift (core func $i "hang")))
          (instance $entry
            (export "next" (func $next-out)) (export "crash" (func $crash)) (export "break" (func $break))
            (export "hang" (func $hang-out)))
          (export "test:app/entry@1.0.0" (instance $entry)))"#,
    )
}
