//! Guests of WASI 0.3.

mod sockets;

use std::{
    io,
    os::unix::ffi::OsStringExt as _,
    pin::pin,
    task::{Context, Waker},
};

use tokio_util::sync::CancellationToken;

use super::*;
use crate::Resolver;

/// A component of WASI 0.3 with this body; see the text that is around it.
fn component(body: &str) -> String {
    include_str!("p3.wat").replacen("BODY)", &format!("{body})"), 1)
}

/// One that only runs, with these instructions.
fn runs(instructions: &str) -> String {
    component(&format!("(func (export \"run\") (result i32) {instructions})"))
}

impl Recorder {
    /// Waits until something was written.
    async fn said_something(&self) {
        let written = async {
            while self.0.lock().unwrap().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, written).await.expect("it says something");
    }
}

/// Prints one line.
const HELLO: &str = r#"
  (data (i32.const 64) "hello from 0.3\n")
  (func (export "run") (result i32) (call $print (i32.const 64) (i32.const 15)) (i32.const 0))"#;

#[tokio::test]
async fn a_component_prints_and_ends() {
    let bench = Bench::new();
    let spec = bench.guest(&component(HELLO));
    assert_eq!(spec.kind, ModuleKind::CliComponentP3);
    let (exit, output) = bench.run(&spec).await;
    assert_eq!((exit.code, exit.reason, &*output), (0, ExitReason::Exited, "hello from 0.3\n"), "{exit:?}");
}

#[tokio::test]
async fn its_exit_code_is_its_own() {
    let bench = Bench::new();
    for (instructions, code, reason, message) in [
        ("(i32.const 0)", 0, ExitReason::Exited, ""),
        ("(i32.const 1)", 1, ExitReason::Exited, ""),
        ("(call $exit (i32.const 0)) unreachable", 0, ExitReason::Exited, ""),
        ("(call $exit (i32.const 1)) unreachable", 1, ExitReason::Exited, ""),
        ("(call $exit-with (i32.const 0)) unreachable", 0, ExitReason::Exited, ""),
        ("(call $exit-with (i32.const 255)) unreachable", 255, ExitReason::Exited, ""),
        ("unreachable", 134, ExitReason::Trapped, "wasm trap: wasm `unreachable` instruction executed\n"),
    ] {
        let (exit, _) = bench.run_wat(&runs(instructions)).await;
        assert_eq!((exit.code, exit.reason), (code, reason), "{instructions}: {exit:?}");
        assert!(exit.message.starts_with(message), "{instructions}: {exit:?}");
        assert_eq!(exit.message.lines().count() > 1, reason == ExitReason::Trapped, "{exit:?}");
    }
}

/// With back-pressure, nothing is lost and nothing changes places.
#[tokio::test]
async fn output_arrives_whole_and_in_order() {
    let bench = Bench::new();
    let numbers = component(
        r#"(func (export "run") (result i32) (local $n i32)
            (loop $next
              (call $print-number (local.get $n))
              (local.set $n (i32.add (local.get $n) (i32.const 1)))
              (br_if $next (i32.lt_u (local.get $n) (i32.const 500))))
            ;; More than one write may have.
            (memory.fill (i32.const 0x10000) (i32.const 46) (i32.const 0x28000))
            (call $print (i32.const 0x10000) (i32.const 0x28000))
            (i32.const 0))"#,
    );
    let (exit, output) = bench.run_wat(&numbers).await;
    assert_eq!(exit.code, 0, "{exit:?}");
    let expected: String = (0..500).map(|n| format!("{n} ")).chain([".".repeat(0x28000)]).collect();
    assert!(output == expected, "{} bytes", output.len());
}

#[tokio::test]
async fn it_has_a_terminal_where_it_is_said_to_have_one() {
    let bench = Bench::new();
    let asks = "(call $terminal (i32.const 64)) (i32.load8_u (i32.const 64))";
    for terminal in [true, false] {
        let spec = GuestSpec { terminal, ..bench.guest(&runs(asks)) };
        assert_eq!(bench.run(&spec).await.0.code, i32::from(terminal));
    }
}

/// Standard input is at its end from the beginning, or ends when the guest should.
#[tokio::test]
async fn the_end_of_its_input_is_the_stop_notice() {
    let bench = Bench::new();
    // 1 is what is said of a stream whose other end is gone, with nothing read.
    let waits = component(
        r#"(data (i32.const 64) "waiting\n")
          (func (export "run") (result i32)
            (call $stdin (i32.const 32))
            (call $print (i32.const 64) (i32.const 8))
            (i32.ne (i32.const 1) (call $outcome (i32.load (i32.const 32))
              (call $stream.read (i32.load (i32.const 32)) (i32.const 128) (i32.const 16)))))"#,
    );
    let spec = bench.guest(&waits);
    assert_eq!(bench.run(&spec).await.0.code, 0, "without a notice");

    let recorder = Arc::<Recorder>::default();
    let output: Arc<dyn Output> = recorder.clone();
    let (account, notice) = (bench.account(&spec), CancellationToken::new());
    let loaded = bench.host.load(&spec.module, spec.kind, spec.stack).await.unwrap();
    let setup = Setup { notice: Some(&notice), ..setup(&spec, &output, &account) };
    let mut guest = tokio::spawn(bench.host.prepare(loaded, setup).unwrap().run());
    recorder.said_something().await;
    assert!(timeout(Duration::from_millis(20), &mut guest).await.is_err(), "it waits");
    notice.cancel();
    let exit = timeout(PATIENCE, guest).await.unwrap().unwrap();
    assert_eq!((exit.code, exit.reason), (0, ExitReason::Exited), "{exit:?}");
}

#[tokio::test]
async fn it_sleeps_for_as_long_as_it_says() {
    let bench = Bench::new();
    let sleeps = "(local $began i64) (local.set $began (call $now)) (call $wait-for (i64.const 20000000))
        (i64.lt_u (i64.sub (call $now) (local.get $began)) (i64.const 20000000))";
    assert_eq!(bench.run_wat(&runs(sleeps)).await.0.code, 0);
}

/// On a host with one turn, a guest that computes for ever lets another one run, and both a sleeper and it can be dropped.
#[tokio::test]
async fn guests_that_never_end_keep_nobody() {
    let bench = Bench::with_turns(1);
    let output = capture(CAPTURE);
    let endless = runs("(loop $for_ever (br $for_ever)) unreachable");
    let sleeper = runs("(call $wait-for (i64.const 3600000000000)) (i32.const 0)");
    let mut tasks = Vec::new();
    for guest in [&endless, &sleeper, &endless] {
        let guest = bench.guest(guest);
        tasks.push(tokio::spawn(bench.instance(&guest, &output).await.run()));
    }
    let (exit, said) = bench.run_wat(&component(HELLO)).await;
    assert_eq!((exit.code, &*said), (0, "hello from 0.3\n"));
    for task in tasks {
        assert!(!task.is_finished());
        task.abort();
        assert!(timeout(PATIENCE, task).await.unwrap().unwrap_err().is_cancelled());
    }
}

/// What it uses of memory and of processors is on its account, and given back.
#[tokio::test]
async fn what_it_uses_is_on_its_account() {
    let bench = Bench::new();
    let grows =
        runs("(loop $again (br_if $again (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable");
    let spec = GuestSpec { memory_limit_bytes: 8 << 20, ..bench.guest(&grows) };
    let (exit, _) = bench.run(&spec).await;
    assert_eq!((exit.code, exit.reason), (137, ExitReason::OutOfMemory), "{exit:?}");
    assert!(exit.message.starts_with("out of memory: the limit is 8388608 bytes"), "{exit:?}");

    let spec = bench.guest(&runs("(loop $for_ever (br $for_ever)) unreachable"));
    let (account, output) = (bench.account(&spec), capture(CAPTURE));
    let loaded = bench.host.load(&spec.module, spec.kind, spec.stack).await.unwrap();
    let guest = tokio::spawn(bench.host.prepare(loaded, setup(&spec, &output, &account)).unwrap().run());
    let used = async {
        while account.usage().cpu.as_millis() < 20 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, used).await.expect("its time is counted");
    assert!(account.usage().memory_bytes > 4 * (64 << 10), "its memory is counted");
    guest.abort();
    let _ = guest.await;
    assert_eq!(account.usage().memory_bytes, 0);
}

/// Streams that nobody uses cost the host memory that no limit of the guest's covers: there is an end to them.
#[tokio::test]
async fn streams_of_a_guest_are_bounded() {
    let bench = Bench::new();
    let hoards = runs("(loop $again (drop (call $stream.new)) (br $again)) unreachable");
    let (exit, _) = bench.run_wat(&hoards).await;
    assert_eq!((exit.code, exit.reason), (134, ExitReason::Trapped), "{exit:?}");
    assert!(exit.message.contains("more files, streams, sockets"), "{exit:?}");
}

#[tokio::test]
async fn random_bytes_of_one_call_are_bounded() {
    let bench = Bench::new();
    let asks =
        "(call $random (i64.const 100) (i32.const 64)) (i32.ne (i32.load (i32.const 68)) (i32.const 100))";
    assert_eq!(bench.run_wat(&runs(asks)).await.0.code, 0);
    let all = "(call $random (i64.const -1) (i32.const 64)) (i32.const 0)";
    let (exit, _) = bench.run_wat(&runs(all)).await;
    assert_eq!(exit.code, 134, "the memory here is less than what is given at most: {exit:?}");
}

/// Numbers of errors, and 1: of `no-such-device`, `no-entry`, and `read-only`.
const NO_SUCH_DEVICE: &str = "29 ";
const NO_ENTRY: &str = "20 ";

#[tokio::test]
async fn files_are_opened_and_read() {
    let bench = Bench::new();
    let dir = bench.dir.path().join("root");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("file"), "what is in it").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("pipe"), rustix::fs::Mode::RWXU).unwrap();
    let opens = component(
        r#"(data (i32.const 64) "file") (data (i32.const 72) "none") (data (i32.const 80) "pipe")
          (func $open (param $name i32)
            (call $open-at (call $root) (i32.const 0) (local.get $name) (i32.const 4) (i32.const 0) (i32.const 1)
              (i32.const 32)))
          (func (export "run") (result i32) (local $read i32)
            (call $open (i32.const 72))
            (call $print-number (call $error (i32.const 32)))
            (call $open (i32.const 80))
            (call $print-number (call $error (i32.const 32)))
            (call $open (i32.const 64))
            (call $print-number (call $error (i32.const 32)))
            (call $read-file (i32.load (i32.const 36)) (i64.const 5) (i32.const 40))
            (local.set $read (call $outcome (i32.load (i32.const 40))
              (call $stream.read (i32.load (i32.const 40)) (i32.const 128) (i32.const 64))))
            (call $print (i32.const 128) (i32.shr_u (local.get $read) (i32.const 4)))
            (i32.const 0))"#,
    );
    let spec = GuestSpec { preopens: root(&dir), ..bench.guest(&opens) };
    let (account, captured) = (bench.account(&spec), Capture::new(CAPTURE));
    let output: Arc<dyn Output> = Arc::new(captured.clone());
    let loaded = bench.host.load(&spec.module, spec.kind, spec.stack).await.unwrap();
    let setup = Setup { has_volumes: true, ..setup(&spec, &output, &account) };
    let exit = timeout(PATIENCE, bench.host.prepare(loaded, setup).unwrap().run()).await.unwrap();
    let said = String::from_utf8(captured.take()).unwrap();
    assert_eq!((exit.code, said), (0, format!("{NO_ENTRY}{NO_SUCH_DEVICE}0 is in it")), "{exit:?}");
}

/// Counts the entries of its root, as many at a time as it has room for.
const COUNTS: &str = r#"
  (func (export "run") (result i32) (local $code i32) (local $count i32)
    (call $read-directory (call $root) (i32.const 32))
    (loop $more
      (local.set $code (call $outcome (i32.load (i32.const 32))
        (call $entries.read (i32.load (i32.const 32)) (i32.const 256) (i32.const 7))))
      (local.set $count (i32.add (local.get $count) (i32.shr_u (local.get $code) (i32.const 4))))
      (br_if $more (i32.eqz (i32.and (local.get $code) (i32.const 15)))))
    (call $print-number (local.get $count))
    (drop (call $outcome (i32.load (i32.const 36)) (call $listed.read (i32.load (i32.const 36)) (i32.const 64))))
    (call $exit-with (call $error (i32.const 64)))
    unreachable)"#;

#[tokio::test]
async fn a_directory_is_read_to_its_end() {
    let bench = Bench::new();
    let dir = bench.dir.path().join("root");
    std::fs::create_dir(&dir).unwrap();
    let spec = GuestSpec { preopens: root(&dir), ..bench.guest(&component(COUNTS)) };
    assert_eq!(bench.run(&spec).await.1, "0 ");
    for n in 0..300 {
        std::fs::write(dir.join(format!("file-{n}")), "").unwrap();
    }
    let (exit, said) = bench.run(&spec).await;
    assert_eq!((exit.code, &*said), (0, "300 "), "{exit:?}");
    std::fs::write(dir.join(std::ffi::OsString::from_vec(vec![0xff])), "").unwrap();
    let (exit, _) = bench.run(&spec).await;
    assert_eq!(exit.code, 9, "a name that is no text is an error: {exit:?}");
}

/// A guest that begins to read more directories than there are threads for files, and goes on with none, keeps no other from
/// its files.
#[tokio::test]
async fn directories_that_nobody_reads_on_hold_no_threads() {
    let bench = Bench::new();
    let dir = bench.dir.path().join("root");
    std::fs::create_dir(&dir).unwrap();
    for n in 0..4 {
        std::fs::write(dir.join(format!("file-{n}")), "").unwrap();
    }
    let begins = component(
        r#"(func (export "run") (result i32) (local $n i32) (local $root i32)
            (local.set $root (call $root))
            (loop $next
              (call $read-directory (local.get $root) (i32.const 32))
              (drop (call $outcome (i32.load (i32.const 32))
                (call $entries.read (i32.load (i32.const 32)) (i32.const 256) (i32.const 1))))
              (local.set $n (i32.add (local.get $n) (i32.const 1)))
              (br_if $next (i32.lt_u (local.get $n) (i32.const 600))))
            (call $print-number (local.get $n))
            (call $wait-for (i64.const 3600000000000))
            (i32.const 0))"#,
    );
    let recorder = Arc::<Recorder>::default();
    let output: Arc<dyn Output> = recorder.clone();
    let greedy = GuestSpec { preopens: root(&dir), ..bench.guest(&begins) };
    let greedy = tokio::spawn(bench.instance(&greedy, &output).await.run());
    recorder.said_something().await;
    assert!(!greedy.is_finished());
    let spec = GuestSpec { preopens: root(&dir), ..bench.guest(&component(COUNTS)) };
    assert_eq!(bench.run(&spec).await.1, "4 ");
    greedy.abort();
}

#[tokio::test]
async fn names_are_looked_up_by_the_hosts_resolver() {
    let bench = Bench::with(|options| {
        options.resolver = Resolver::new(|name| match name {
            "known.example" => Ok(vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()]),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        });
    });
    let asks = component(
        r#"(data (i32.const 64) "known.example") (data (i32.const 96) "not a name") (data (i32.const 128) "127.0.0.9")
          (func $ask (param $name i32) (param $size i32)
            (call $resolve (local.get $name) (local.get $size) (i32.const 32))
            (call $print-number (call $error (i32.const 32))))
          (func (export "run") (result i32)
            (call $ask (i32.const 96) (i32.const 10))
            (call $ask (i32.const 128) (i32.const 9))
            (call $print-number (i32.load8_u (i32.add (i32.load (i32.const 36)) (i32.const 5))))
            (call $ask (i32.const 64) (i32.const 13))
            (call $print-number (i32.load (i32.const 40)))
            (call $print-number (i32.load8_u (i32.add (i32.load (i32.const 36)) (i32.const 5))))
            (i32.const 0))"#,
    );
    let (exit, said) = bench.run_wat(&asks).await;
    // 2 is `invalid-argument` and 1.
    assert_eq!((exit.code, &*said), (0, "2 0 9 0 2 7 "), "{exit:?}");
}

/// What is polled without anybody to be woken does not end by itself: a guest is polled by nobody else.
#[tokio::test]
async fn a_guest_that_was_dropped_while_it_waited_leaves_nothing() {
    let bench = Bench::new();
    let spec = bench.guest(&runs("(call $wait-for (i64.const 3600000000000)) (i32.const 0)"));
    let (account, output) = (bench.account(&spec), capture(CAPTURE));
    let loaded = bench.host.load(&spec.module, spec.kind, spec.stack).await.unwrap();
    let guest = bench.host.prepare(loaded, setup(&spec, &output, &account)).unwrap();
    {
        let mut running = pin!(guest.run());
        let _ = running.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
    assert_eq!(account.usage().memory_bytes, 0);
}
