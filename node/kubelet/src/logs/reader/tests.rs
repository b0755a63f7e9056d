use std::{
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::StreamExt as _;

use super::*;

/// A log file, and the container that writes it.
struct Log {
    dir: tempfile::TempDir,
    running: Arc<AtomicBool>,
}

impl Log {
    fn new(content: &str) -> Self {
        let log = Self { dir: tempfile::tempdir().unwrap(), running: Arc::new(AtomicBool::new(true)) };
        log.write(content);
        log
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("0.log")
    }

    fn write(&self, content: &str) {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(self.path()).unwrap();
        file.write_all(content.as_bytes()).unwrap();
    }

    fn rotate(&self) {
        std::fs::rename(self.path(), self.dir.path().join("0.log.1")).unwrap();
    }

    fn stop(&self) {
        self.running.store(false, Ordering::SeqCst);
    }

    async fn stream(&self, options: LogReadOptions) -> ReceiverStream<io::Result<Bytes>> {
        let running = Arc::clone(&self.running);
        stream(self.path(), &options, move || running.load(Ordering::SeqCst)).await.unwrap()
    }

    async fn read(&self, options: LogReadOptions) -> String {
        let chunks: Vec<_> = self.stream(options).await.collect().await;
        String::from_utf8(chunks.into_iter().map(Result::unwrap).collect::<Vec<_>>().concat()).unwrap()
    }
}

fn lines(range: std::ops::Range<u32>) -> String {
    range.map(|n| format!("2026-01-02T00:00:00.{n:09}Z stdout F line {n}\n")).collect()
}

fn printed(range: std::ops::Range<u32>) -> String {
    range.map(|n| format!("line {n}\n")).collect()
}

/// Reads until the given text has come, and nothing else.
async fn expect(stream: &mut ReceiverStream<io::Result<Bytes>>, expected: &str) {
    let mut seen = String::new();
    while seen.len() < expected.len() {
        let chunk = stream.next().await.expect("the stream ended").unwrap();
        seen.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn reads_a_file_of_many_blocks() {
    let log = Log::new(&lines(0..5000));
    assert_eq!(log.read(LogReadOptions::default()).await, printed(0..5000));
}

#[tokio::test]
async fn reads_the_tail() {
    let log = Log::new(&lines(0..5000));
    for (count, range) in [(0, 0..0), (1, 4999..5000), (3000, 2000..5000), (9000, 0..5000)] {
        let options = LogReadOptions { tail_lines: Some(count), ..LogReadOptions::default() };
        assert_eq!(log.read(options).await, printed(range), "{count}");
    }
}

#[tokio::test]
async fn prints_an_unfinished_line() {
    let log = Log::new("2026-01-02T00:00:00Z stdout F one\n2026-01-02T00:00:00Z stdout P tw");
    assert_eq!(log.read(LogReadOptions::default()).await, "one\ntw");
}

#[tokio::test]
async fn a_limit_ends_even_a_follow() {
    let log = Log::new(&lines(0..10));
    let options = LogReadOptions { follow: true, limit_bytes: Some(9), ..LogReadOptions::default() };
    assert_eq!(log.read(options).await, "line 0\nli");
}

#[tokio::test]
async fn leaves_out_a_line_without_end() {
    let log = Log::new(&format!("{}{}\n{}", lines(0..1), "x".repeat(2 * MAX_LINE), lines(1..2)));
    assert_eq!(log.read(LogReadOptions::default()).await, printed(0..2));
}

#[tokio::test]
async fn follows_until_the_container_stops() {
    let log = Log::new(&lines(0..2));
    let mut stream =
        log.stream(LogReadOptions { follow: true, tail_lines: Some(1), ..LogReadOptions::default() }).await;
    expect(&mut stream, &printed(1..2)).await;
    log.write(&lines(2..3));
    expect(&mut stream, &printed(2..3)).await;
    log.stop();
    log.write(&lines(3..4));
    // Written after the stop was ordered, or before: whoever wins, the stream ends.
    let rest: Vec<_> = stream.collect().await;
    assert!(rest.len() <= 1, "{rest:?}");
}

#[tokio::test]
async fn follows_across_a_rotation() {
    let log = Log::new(&lines(0..1));
    let mut stream = log.stream(LogReadOptions { follow: true, ..LogReadOptions::default() }).await;
    expect(&mut stream, &printed(0..1)).await;
    log.write(&lines(1..2));
    log.rotate();
    log.write(&lines(2..3));
    expect(&mut stream, &printed(1..3)).await;
    log.stop();
    assert!(stream.next().await.is_none());
}

/// A reader that looks away while the file is rotated again and again misses nothing of what is still there.
#[tokio::test]
async fn follows_across_rotations_that_it_did_not_see() {
    let log = Log::new(&lines(0..1));
    let mut stream = log.stream(LogReadOptions { follow: true, ..LogReadOptions::default() }).await;
    expect(&mut stream, &printed(0..1)).await;
    for n in 1..6 {
        log.write(&lines(n..n + 1));
        std::fs::rename(log.path(), log.dir.path().join(format!("0.log.20260102-00000{n}"))).unwrap();
    }
    // Those of another attempt are another log.
    std::fs::write(log.dir.path().join("1.log.20260102-000003"), lines(50..51)).unwrap();
    log.write(&lines(6..7));
    expect(&mut stream, &printed(1..7)).await;
    log.stop();
    assert!(stream.next().await.is_none());
}

/// The files between its own and the present one, where those before them are gone or compressed.
#[tokio::test]
async fn goes_on_with_the_oldest_file_that_is_there() {
    let log = Log::new(&lines(0..1));
    let mut stream = log.stream(LogReadOptions { follow: true, ..LogReadOptions::default() }).await;
    expect(&mut stream, &printed(0..1)).await;
    let rotated = |n: u32| log.dir.path().join(format!("0.log.20260102-00000{n}"));
    std::fs::write(rotated(3), lines(3..4)).unwrap();
    std::fs::write(log.dir.path().join("0.log.20260102-000002.gz"), "compressed").unwrap();
    std::fs::remove_file(log.path()).unwrap();
    log.write(&lines(4..5));
    expect(&mut stream, &printed(3..5)).await;
}

#[tokio::test]
async fn following_what_has_stopped_ends_at_once() {
    let log = Log::new(&lines(0..3));
    log.stop();
    assert_eq!(log.read(LogReadOptions { follow: true, ..LogReadOptions::default() }).await, printed(0..3));
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_reading() {
    let log = Log::new(&lines(0..1));
    let mut stream = log.stream(LogReadOptions { follow: true, ..LogReadOptions::default() }).await;
    expect(&mut stream, &printed(0..1)).await;
    drop(stream);
    // The task held the only other reference to the flag.
    while Arc::strong_count(&log.running) > 1 {
        tokio::task::yield_now().await;
    }
}

/// A link that is planted in the place of a log, or of one that is followed, shows nothing of what it leads to.
#[tokio::test]
async fn a_link_is_no_log() {
    let log = Log::new(&lines(0..1));
    let secret = log.dir.path().join("secret");
    std::fs::write(&secret, lines(7..8)).unwrap();
    let mut stream = log.stream(LogReadOptions { follow: true, ..LogReadOptions::default() }).await;
    expect(&mut stream, &printed(0..1)).await;
    log.rotate();
    std::os::unix::fs::symlink(&secret, log.path()).unwrap();
    let end = stream.next().await.unwrap().unwrap_err().to_string();
    assert!(end.contains("symbolic link"), "{end}");
    for options in [LogReadOptions::default(), LogReadOptions { follow: true, ..LogReadOptions::default() }] {
        let error = super::stream(log.path(), &options, || true).await.unwrap_err().to_string();
        assert!(error.contains("symbolic link"), "{error}");
    }
}

#[tokio::test]
async fn a_missing_file_is_an_error() {
    let err = stream("/does/not/exist.log".into(), &LogReadOptions::default(), || true).await.unwrap_err();
    assert_eq!(err.kind(), io::ErrorKind::NotFound);
}
