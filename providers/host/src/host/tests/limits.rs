//! What a guest can grab, and what it gets when it grabs too much.

use super::*;

const PAGE: u64 = 64 << 10;

/// What the host holds for a guest of [`Bench::run`].
fn held(spec: &GuestSpec) -> u64 {
    setup(spec, &capture(CAPTURE), &Arc::new(Account::new(GuestLimits { memory_bytes: 0, cpu: spec.cpu })))
        .held()
}

/// Grows its memory by this many pages, a page at a time, and traps when it cannot.
fn grows(pages: u32, when_refused: &str) -> String {
    format!(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32))) (memory (export "memory") 1)
          (func (export "_start") (local $n i32)
            (loop $again
              (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then {when_refused}))
              (local.set $n (i32.add (local.get $n) (i32.const 1)))
              (br_if $again (i32.lt_u (local.get $n) (i32.const {pages}))))))"#
    )
}

#[tokio::test]
async fn memory_ends_at_the_limit() {
    let bench = Bench::new();
    for (wat, code, reason) in [
        (grows(9, "unreachable"), 0, ExitReason::Exited),
        (grows(10, "unreachable"), 137, ExitReason::OutOfMemory),
        (grows(10, "(call $exit (i32.const 2))"), 137, ExitReason::OutOfMemory),
        (grows(10, "return"), 0, ExitReason::Exited),
        ("(module (memory 20) (func (export \"_start\")))".to_owned(), 137, ExitReason::OutOfMemory),
        (
            "(module (table 100000 funcref) (func (export \"_start\")))".to_owned(),
            137,
            ExitReason::OutOfMemory,
        ),
        (two_instances(5), 0, ExitReason::Exited),
        (two_instances(6), 137, ExitReason::OutOfMemory),
    ] {
        let spec = bench.guest(&wat);
        let limit = held(&spec) + 10 * PAGE;
        let spec = GuestSpec { memory_limit_bytes: limit, ..spec };
        let (exit, _) = bench.run(&spec).await;
        assert_eq!((exit.code, exit.reason), (code, reason), "{wat}: {}", exit.message);
        if reason == ExitReason::OutOfMemory {
            assert!(exit.message.contains(&format!("the limit is {limit} bytes")), "{}", exit.message);
        }
    }
}

/// A component of two instances with so many pages each.
fn two_instances(pages: u32) -> String {
    format!(
        r#"(component
          (core module $memory (memory {pages}))
          (core instance (instantiate $memory))
          (core instance (instantiate $memory))
          (core module $m (func (export "run") (result i32) (i32.const 0)))
          (core instance $i (instantiate $m))
          (func $run (result (result)) (canon lift (core func $i "run")))
          (instance $cli (export "run" (func $run)))
          (export "wasi:cli/run@0.2.0" (instance $cli)))"#
    )
}

#[tokio::test]
async fn a_limit_below_what_the_host_holds_is_explained() {
    let bench = Bench::new();
    let spec = GuestSpec { memory_limit_bytes: 1000, ..bench.guest(SPINS) };
    let loaded = bench.host.load(&spec.module, spec.kind, spec.stack).await.unwrap();
    let account = bench.account(&spec);
    let output = capture(CAPTURE);
    let error = bench.host.prepare(loaded, setup(&spec, &output, &account)).unwrap_err().to_string();
    assert!(error.contains("the limit is 1000 bytes") && error.contains("raise limits.memory"), "{error}");
    assert_eq!(account.usage().memory_bytes, 0);
}

#[tokio::test]
async fn a_larger_stack_is_charged() {
    let bench = Bench::new();
    let spec = GuestSpec { stack: Stack::of_bytes(16 << 20).unwrap(), ..bench.guest(SLEEPS) };
    let loaded = bench.host.load(&spec.module, spec.kind, spec.stack).await.unwrap();
    let account = bench.account(&spec);
    let output = capture(CAPTURE);
    let guest = bench.host.prepare(loaded, setup(&spec, &output, &account)).unwrap();
    assert_eq!(account.usage().memory_bytes, held(&spec) + spec.stack.charge());
    drop(guest);
    assert_eq!(account.usage().memory_bytes, 0);
}

#[tokio::test]
async fn instances_of_one_container_share_its_account_and_give_back() {
    let bench = Bench::new();
    let spec = bench.guest(&grows(9, "unreachable"));
    // Room for one and a half of them.
    let spec = GuestSpec { memory_limit_bytes: 2 * held(&spec) + 15 * PAGE, ..spec };
    let loaded = bench.host.load(&spec.module, spec.kind, spec.stack).await.unwrap();
    let account = bench.account(&spec);
    let sleeps = bench.guest(SLEEPS);
    let output = capture(CAPTURE);
    let prepare = |loaded: &Arc<Loaded>| {
        bench.host.prepare(Arc::clone(loaded), setup(&spec, &output, &account)).unwrap()
    };
    let sleeping = bench.host.load(&sleeps.module, sleeps.kind, Stack::DEFAULT).await.unwrap();
    let mut first = Box::pin(prepare(&sleeping).run());
    assert!(futures::poll!(first.as_mut()).is_pending());
    assert_eq!(account.usage().memory_bytes, held(&spec) + PAGE, "its memory and what the host holds");
    assert_eq!(prepare(&loaded).run().await.code, 0);

    let second = grows(14, "unreachable");
    let second = bench.guest(&second);
    let second = bench.host.load(&second.module, second.kind, Stack::DEFAULT).await.unwrap();
    assert_eq!(prepare(&second).run().await.reason, ExitReason::OutOfMemory, "the first has a page");
    drop(first);
    assert_eq!(prepare(&second).run().await.code, 0);
    assert_eq!(account.usage().memory_bytes, 0);
}

/// Opens `/file` until that fails, closes the first one, opens once more, and exits with the error number
/// that ended it; one that may be opened after all makes it 100.
const OPENS: &str = r#"(module
  (import "wasi_snapshot_preview1" "path_open" (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "file")
  (func $one (result i32)
    (call $open (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 4) (i32.const 0)
      (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 64)))
  (func (export "_start") (local $errno i32)
    (loop $again
      (local.set $errno (call $one))
      (br_if $again (i32.eqz (local.get $errno))))
    (if (call $close (i32.const 9)) (then (call $exit (i32.const 101))))
    (if (call $one) (then (call $exit (i32.const 102))))
    (if (i32.eqz (call $one)) (then (call $exit (i32.const 103))))
    (call $exit (local.get $errno))))"#;

#[tokio::test]
async fn open_files_end_with_emfile_and_closing_makes_room() {
    let bench = Bench::new();
    let dir = bench.dir.path().join("root");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("file"), "x").unwrap();
    let spec = GuestSpec { preopens: root(&dir), memory_limit_bytes: 32 << 20, ..bench.guest(OPENS) };
    let (exit, _) = bench.run(&spec).await;
    assert_eq!(exit.code, 33, "EMFILE; {}", exit.message);
}

#[tokio::test]
async fn random_bytes_come_in_any_number() {
    let bench = Bench::new();
    // Fills 80 MiB, and exits with whether the first and the last page have anything in them.
    let (exit, _) = bench
        .run_wat(
            r#"(module
              (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
              (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
              (memory (export "memory") 1281)
              (func (export "_start")
                (if (call $random (i32.const 65536) (i32.const 83886080)) (then (call $exit (i32.const 99))))
                (call $exit (i32.or
                  (i64.ne (i64.load (i32.const 65536)) (i64.const 0))
                  (i32.shl (i64.ne (i64.load (i32.const 83951608)) (i64.const 0)) (i32.const 1))))))"#,
        )
        .await;
    assert_eq!(exit.code, 3, "{}", exit.message);
    let (exit, _) = bench
        .run_wat(
            r#"(module
              (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
              (memory (export "memory") 1)
              (func (export "_start") (drop (call $random (i32.const 1) (i32.const 65536)))))"#,
        )
        .await;
    assert_eq!(exit.reason, ExitReason::Trapped, "what is not its own is not filled");
}

#[tokio::test]
async fn a_poll_on_more_than_a_guest_may_hold_ends_it_with_a_reason() {
    let bench = Bench::new();
    // Polls on 20,000 clocks at a time.
    let wat = r#"(module
      (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 40)
      (func (export "_start") (local $n i32)
        (loop $next
          (i32.store offset=16 (i32.mul (local.get $n) (i32.const 48)) (i32.const 1))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $next (i32.lt_u (local.get $n) (i32.const 20000))))
        (drop (call $poll (i32.const 0) (i32.const 1000000) (i32.const 20000) (i32.const 2000000)))))"#;
    let (exit, _) = bench.run_wat(wat).await;
    assert_eq!(exit.reason, ExitReason::Trapped);
    assert!(exit.message.contains("more files, streams, sockets and pollables"), "{}", exit.message);
}

#[tokio::test]
async fn a_call_hands_no_more_to_the_host_than_the_container_may_have() {
    let bench = Bench::new();
    // Writes from a list of vectors that is longer than that: ENOMEM is 48.
    let wat = r#"(module
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
      (memory (export "memory") 1)
      (func (export "_start")
        (call $exit (call $write (i32.const 1) (i32.const 0) (i32.const 1000000) (i32.const 8)))))"#;
    let spec = GuestSpec { memory_limit_bytes: 2 << 20, ..bench.guest(wat) };
    assert_eq!(bench.run(&spec).await.0.code, 48);
}

/// Two guests that compute for ever, on one thread with one turn.
#[tokio::test]
async fn guests_share_by_weight_what_there_is() {
    let bench = Bench::with_turns(1);
    let spec = bench.guest(SPINS);
    let loaded = bench.host.load(&spec.module, spec.kind, spec.stack).await.unwrap();
    let mut accounts = Vec::new();
    let mut guests = tokio::task::JoinSet::new();
    for request_millis in [100, 300] {
        let spec = GuestSpec { cpu: CpuShare { limit_millis: 0, request_millis }, ..spec.clone() };
        let account = bench.account(&spec);
        let output = capture(0);
        let guest = bench.host.prepare(Arc::clone(&loaded), setup(&spec, &output, &account)).unwrap();
        guests.spawn(guest.run());
        accounts.push(account);
    }
    // Until there is enough to compare.
    let used = || accounts.iter().map(|account| account.usage().cpu).sum::<Duration>();
    while used() < Duration::from_secs(2) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let [light, heavy] = [0, 1].map(|n| accounts[n].usage().cpu.as_secs_f64());
    let ratio = heavy / light;
    assert!((2.7..3.3).contains(&ratio), "{heavy} s to {light} s");
}
