use std::path::PathBuf;

use kubewasm_host::{Chunk, LARGEST_WRITE, ModuleKind};
use tokio::runtime::Handle;

use super::*;
use crate::logs::{LogOptions, LogPlace};

struct Bench {
    dir: tempfile::TempDir,
    stdio: Arc<ContainerStdio>,
}

fn bench(change: impl FnOnce(&mut InstanceSpec)) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let log =
        Log::open(LogPlace::at(&path).unwrap(), LogOptions::default(), &Handle::current(), Box::new(|_| {}));
    let mut spec = InstanceSpec::new("1", PathBuf::new(), ModuleKind::CoreCommand, path);
    change(&mut spec);
    Bench { stdio: ContainerStdio::new(log.unwrap(), &spec, None), dir }
}

async fn rest(outlet: &Outlet) -> String {
    let mut all = Vec::new();
    while let Some((_, bytes)) = outlet.next().await {
        all.extend_from_slice(&bytes);
    }
    String::from_utf8(all).unwrap()
}

#[tokio::test]
async fn all_callers_and_the_log_are_written_to() {
    let bench = bench(|_| {});
    let stdio = &bench.stdio;
    assert!(stdio.push(Stream::Stdout, "early\n".into()));
    let (first, second) = (stdio.add_outlet(true).unwrap(), stdio.add_outlet(true).unwrap());
    assert!(stdio.push(Stream::Stdout, "one\n".into()));
    stdio.remove_outlet(&second);
    assert!(stdio.push(Stream::Stderr, "two\n".into()));
    stdio.end("it trapped\n");
    assert_eq!(rest(&first).await, "one\ntwo\nit trapped\n");
    assert_eq!(rest(&stdio.add_outlet(true).unwrap()).await, "", "who comes late hears nothing");
    stdio.log.written().await;
    let log = std::fs::read_to_string(bench.dir.path().join("0.log")).unwrap();
    assert_eq!(log.lines().count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_read_is_dropped_and_the_guest_goes_on() {
    let bench = bench(|_| {});
    let stdio = &bench.stdio;
    let outlet = stdio.add_outlet(true).unwrap();
    let large = Bytes::from(vec![b'x'; LARGEST_WRITE]);
    while stdio.full().is_none() {
        stdio.log.written().await;
        assert!(stdio.push(Stream::Stdout, large.clone()));
    }
    assert_eq!(stdio.room(), 0);
    stdio.ready().await;
    assert!(outlet.was_given_up());
    assert!(stdio.room() > 0);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_reads_slowly_misses_nothing() {
    let bench = bench(|_| {});
    let stdio = &bench.stdio;
    let outlet = stdio.add_outlet(true).unwrap();
    let reader = tokio::spawn(async move {
        let mut bytes = 0;
        while let Some((_, piece)) = outlet.next().await {
            bytes += piece.len();
            tokio::time::sleep(super::super::outlet::PATIENCE / 2).await;
        }
        bytes
    });
    for _ in 0..20 {
        stdio.ready().await;
        assert!(stdio.push(Stream::Stdout, vec![b'x'; LARGEST_WRITE].into()));
    }
    stdio.end("");
    assert_eq!(reader.await.unwrap(), 20 * LARGEST_WRITE);
}

#[tokio::test]
async fn input_that_is_there_once_ends_with_its_first_caller() {
    for (once, ended) in [(true, Chunk::End), (false, Chunk::NothingYet)] {
        let bench = bench(|spec| (spec.stdin, spec.stdin_once) = (true, once));
        let input = bench.stdio.input().unwrap();
        let (first, second) = (bench.stdio.add_input(), bench.stdio.add_input());
        first.write("a".into()).await;
        second.write("b".into()).await;
        assert_eq!([input.read(9), input.read(9)], [Chunk::Bytes("a".into()), Chunk::Bytes("b".into())]);
        drop(second);
        assert_eq!(input.read(9), Chunk::NothingYet);
        drop(first);
        assert_eq!(input.read(9), ended);
    }
    let without = bench(|_| {});
    assert!(without.stdio.input().is_none());
    without.stdio.add_input().write("dropped".into()).await;
}

#[tokio::test]
async fn a_terminal_shows_what_is_typed_and_hands_on_lines() {
    let bench = bench(|spec| (spec.stdin, spec.tty) = (true, true));
    let stdio = &bench.stdio;
    let input = stdio.input().unwrap();
    assert!(input.is_terminal());
    assert!(stdio.push(Stream::Stdout, "> ".into()));
    let outlet = stdio.add_outlet(true).unwrap();
    let typed = stdio.add_input();
    typed.write("l".into()).await;
    assert_eq!(input.read(9), Chunk::NothingYet);
    typed.write("s\r\x04".into()).await;
    assert_eq!(
        [input.read(9), input.read(9), input.read(9)],
        [Chunk::Bytes("ls\n".into()), Chunk::End, Chunk::NothingYet]
    );
    typed.write("\x03".into()).await;
    stdio.interrupted().await;
    stdio.end("");
    assert_eq!(rest(&outlet).await, "> ls\n^C\n");
}
