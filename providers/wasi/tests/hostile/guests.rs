//! The guests, in text.

/// What the guests below import; all of them, because that is simpler.
const IMPORTS: &str = r#"
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  ;; Sleeps for so many nanoseconds. Uses 0 to 128.
  (func $sleep (param $time i64)
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (local.get $time))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 120))))
  ;; Writes so many bytes from 1024 on to a descriptor. Uses 128 to 140.
  (func $write (param $to i32) (param $size i32) (result i32)
    (i32.store (i32.const 128) (i32.const 1024))
    (i32.store (i32.const 132) (local.get $size))
    (call $fd_write (local.get $to) (i32.const 128) (i32.const 1) (i32.const 136)))"#;

fn guest(start: &str) -> String {
    format!("(module {IMPORTS} {start})")
}

/// Prints a line every ten milliseconds, for ever.
pub(crate) fn ticks() -> String {
    guest(
        r#"(data (i32.const 1024) "tick\0a")
           (func (export "_start")
             (loop $again
               (drop (call $write (i32.const 1) (i32.const 5)))
               (call $sleep (i64.const 10000000))
               (br $again)))"#,
    )
}

/// Computes for ever.
pub(crate) fn spins() -> String {
    guest(r#"(func (export "_start") (loop $again (br $again)))"#)
}

/// Prints a line and sleeps for an hour.
pub(crate) fn sleeps() -> String {
    guest(
        r#"(data (i32.const 1024) "asleep\0a")
           (func (export "_start")
             (drop (call $write (i32.const 1) (i32.const 7)))
             (call $sleep (i64.const 3600000000000)))"#,
    )
}

/// Calls itself.
pub(crate) fn recurses() -> String {
    guest(r#"(func $deeper (export "_start") (call $deeper) (call $deeper))"#)
}

/// Grows its memory by a megabyte at a time, writes to all of it, and traps when there is no more.
pub(crate) fn grows() -> String {
    guest(
        r#"(func (export "_start") (local $at i32)
             (loop $again
               (local.set $at (memory.grow (i32.const 16)))
               (if (i32.eq (local.get $at) (i32.const -1)) (then unreachable))
               (memory.fill (i32.mul (local.get $at) (i32.const 65536)) (i32.const 1) (i32.const 1048576))
               (br $again)))"#,
    )
}

/// Prints so many lines of 4,096 bytes, as fast as it can, and exits with 7.
pub(crate) fn floods(lines: u64) -> String {
    guest(&format!(
        r#"(func (export "_start") (local $n i64)
             (memory.fill (i32.const 1024) (i32.const 120) (i32.const 4095))
             (i32.store8 (i32.const 5119) (i32.const 10))
             (loop $again
               (if (call $write (i32.const 1) (i32.const 4096)) (then unreachable))
               (local.set $n (i64.add (local.get $n) (i64.const 1)))
               (br_if $again (i64.lt_u (local.get $n) (i64.const {lines}))))
             (call $exit (i32.const 7)))"#
    ))
}

/// Opens its root directory ten thousand times, prints a line, and sleeps for an hour with what it got; it
/// exits with 1 if it got them all.
pub(crate) fn opens() -> String {
    guest(
        r#"(data (i32.const 1024) "opened\0a")
           (data (i32.const 2048) ".")
           (func (export "_start") (local $n i32)
             (loop $again
               (local.set $n (i32.add (local.get $n) (i32.const 1)))
               (if (i32.gt_u (local.get $n) (i32.const 10000)) (then (call $exit (i32.const 1))))
               (br_if $again (i32.eqz
                 (call $path_open (i32.const 3) (i32.const 0) (i32.const 2048) (i32.const 1) (i32.const 2)
                   (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 160)))))
             (drop (call $write (i32.const 1) (i32.const 7)))
             (call $sleep (i64.const 3600000000000)))"#,
    )
}

/// Closes standard input, output and error, writes to them all the same, and exits with the error numbers
/// of both, added: EBADF is 8.
pub(crate) fn closes_stdio() -> String {
    guest(
        r#"(data (i32.const 1024) "last words\0a")
           (func (export "_start")
             (drop (call $write (i32.const 1) (i32.const 11)))
             (drop (call $fd_close (i32.const 0)))
             (drop (call $fd_close (i32.const 1)))
             (drop (call $fd_close (i32.const 2)))
             (call $exit (i32.add
               (call $write (i32.const 1) (i32.const 11))
               (call $write (i32.const 2) (i32.const 11)))))"#,
    )
}

/// Polls on four hundred clocks, one of which has come, for ever.
pub(crate) fn polls() -> String {
    guest(
        r#"(func (export "_start") (local $n i32)
             (drop (memory.grow (i32.const 4)))
             (loop $next
               (i32.store offset=65552 (i32.mul (local.get $n) (i32.const 48)) (i32.const 1))
               (i64.store offset=65560 (i32.mul (local.get $n) (i32.const 48)) (i64.const 3600000000000))
               (local.set $n (i32.add (local.get $n) (i32.const 1)))
               (br_if $next (i32.lt_u (local.get $n) (i32.const 400))))
             (i64.store (i32.const 65560) (i64.const 0))
             (loop $again
               (drop (call $poll (i32.const 65536) (i32.const 163840) (i32.const 400) (i32.const 120)))
               (br $again)))"#,
    )
}

/// Asks for sixty megabytes of random bytes, for ever.
pub(crate) fn draws() -> String {
    guest(
        r#"(func (export "_start")
             (drop (memory.grow (i32.const 960)))
             (loop $again
               (drop (call $random (i32.const 65536) (i32.const 62914560)))
               (br $again)))"#,
    )
}

/// Traps at once.
pub(crate) fn traps() -> String {
    guest(r#"(func (export "_start") unreachable)"#)
}
