//! Reading a log file from some line to its end, and on while its container writes.

use std::{
    fs::Metadata,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use tokio::{fs::File, io::AsyncReadExt as _, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::{LogReadOptions, format::Formatter, tail};

/// How often a followed file is looked at for more.
const POLL: Duration = Duration::from_millis(100);
/// Bytes read at once.
const BLOCK: usize = 64 * 1024;
/// Lines that are longer were not written by us; they are left out.
const MAX_LINE: usize = 1024 * 1024;
/// Chunks that may wait for a slow client.
const QUEUE: usize = 4;

/// Reads the log at `path` as `options` say, as chunks for a client.
///
/// Without `follow` it ends at what was the end of the file when it began. With it, it goes on until
/// `is_running` says no and all that was written has been read; it finds the file again when it is rotated.
/// Dropping the stream ends the reading.
///
/// # Errors
/// The file could not be opened, or its tail not found. Later failures come as the last item.
pub async fn stream(
    path: PathBuf,
    options: &LogReadOptions,
    is_running: impl Fn() -> bool + Send + 'static,
) -> io::Result<ReceiverStream<io::Result<Bytes>>> {
    let mut reader = Reader::open(path, options, is_running).await?;
    let (chunks, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        loop {
            let chunk = tokio::select! {
                () = chunks.closed() => return,
                chunk = reader.next() => chunk,
            };
            let Some(chunk) = chunk.transpose() else { return };
            let failed = chunk.is_err();
            if chunks.send(chunk).await.is_err() || failed {
                return;
            }
        }
    });
    Ok(ReceiverStream::new(receiver))
}

struct Reader<F> {
    path: PathBuf,
    file: File,
    /// Where the reading ends; `None` while it follows.
    end: Option<u64>,
    offset: u64,
    block: Vec<u8>,
    /// The beginning of a line whose end has not been read.
    line: Vec<u8>,
    /// The line is too long: what comes before its end is left out.
    skipping: bool,
    formatter: Formatter,
    /// The file that took the place of this one; it is read once this one is at its end.
    successor: Option<File>,
    is_running: F,
    /// The container was seen stopped: the next end of file is the last.
    stopped: bool,
    finished: bool,
}

impl<F: Fn() -> bool> Reader<F> {
    async fn open(path: PathBuf, options: &LogReadOptions, is_running: F) -> io::Result<Self> {
        let opened = path.clone();
        let tail_lines = options.tail_lines;
        let (file, size, offset) = tokio::task::spawn_blocking(move || {
            let file = open(&opened)?;
            let size = file.metadata()?.len();
            let offset = tail_lines.map_or(Ok(0), |lines| tail::start(&file, size, lines))?;
            io::Seek::seek(&mut &file, io::SeekFrom::Start(offset))?;
            io::Result::Ok((file, size, offset))
        })
        .await
        .map_err(io::Error::other)??;
        // The unfinished line that `tail` leaves at the end is not one of the lines asked for.
        let nothing = tail_lines == Some(0) && !options.follow;
        Ok(Self {
            path,
            file: File::from_std(file),
            end: (!options.follow).then_some(if nothing { offset } else { size }),
            offset,
            block: vec![0; BLOCK],
            line: Vec::new(),
            skipping: false,
            formatter: Formatter::new(options),
            successor: None,
            is_running,
            stopped: false,
            finished: false,
        })
    }

    /// The next bytes for the client; `None` at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut out = Vec::new();
        while out.is_empty() && !self.finished {
            let wanted = match self.end {
                Some(end) => BLOCK.min(usize::try_from(end.saturating_sub(self.offset)).unwrap_or(BLOCK)),
                None => BLOCK,
            };
            let count = self.file.read(self.block.get_mut(..wanted).unwrap_or_default()).await?;
            self.offset += count as u64;
            if count > 0 {
                self.take_block(count, &mut out);
            } else if self.end.is_some() {
                self.finish(&mut out);
            } else {
                self.at_end_of_file(&mut out).await?;
            }
            self.finished |= self.formatter.is_done();
        }
        Ok((!out.is_empty()).then(|| out.into()))
    }

    fn take_block(&mut self, count: usize, out: &mut Vec<u8>) {
        let block = self.block.get(..count).unwrap_or_default();
        for piece in block.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            if self.line.len() + text.len() > MAX_LINE {
                self.skipping = true;
                self.line.clear();
            }
            if !self.skipping {
                self.line.extend_from_slice(text);
            }
            if ends {
                if !self.skipping && !self.formatter.is_done() {
                    self.formatter.push(&self.line, out);
                }
                self.skipping = false;
                self.line.clear();
            }
        }
    }

    /// Nothing more comes: what is left of an unfinished line is printed too.
    fn finish(&mut self, out: &mut Vec<u8>) {
        if !self.skipping && !self.line.is_empty() && !self.formatter.is_done() {
            self.formatter.push(&self.line, out);
        }
        self.finished = true;
    }

    /// Following, and all that is there has been read. Every way on reads the file once more before it
    /// leaves it, since the writer may have been quicker than the look around.
    async fn at_end_of_file(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        if let Some(successor) = self.successor.take() {
            self.file = successor;
            self.offset = 0;
            self.line.clear();
            self.skipping = false;
            return Ok(());
        }
        if let Some(successor) = replaced(&self.file, &self.path).await? {
            self.successor = Some(successor);
            return Ok(());
        }
        if self.stopped {
            self.finish(out);
        } else if (self.is_running)() {
            tokio::time::sleep(POLL).await;
        } else {
            self.stopped = true;
        }
        Ok(())
    }
}

/// The file that is now at `path`, when it is another than `file`.
async fn replaced(file: &File, path: &Path) -> io::Result<Option<File>> {
    let id = |metadata: &Metadata| (metadata.dev(), metadata.ino());
    let there = match tokio::fs::symlink_metadata(path).await {
        Ok(there) => there,
        // Between the renaming of the old file and the making of the new one.
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(err),
    };
    if id(&there) == id(&file.metadata().await?) {
        return Ok(None);
    }
    let path = path.to_owned();
    match tokio::task::spawn_blocking(move || open(&path)).await.map_err(io::Error::other)? {
        Ok(successor) => Ok(Some(File::from_std(successor))),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// Opens a log file. Whoever can put a link in its place would have us show what it leads to.
fn open(path: &Path) -> io::Result<std::fs::File> {
    kubewasm_trees::open_plain(path, OFlags::RDONLY, Mode::empty())
}

#[cfg(test)]
mod tests {
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
        let mut stream = log
            .stream(LogReadOptions { follow: true, tail_lines: Some(1), ..LogReadOptions::default() })
            .await;
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

    #[tokio::test]
    async fn following_what_has_stopped_ends_at_once() {
        let log = Log::new(&lines(0..3));
        log.stop();
        assert_eq!(
            log.read(LogReadOptions { follow: true, ..LogReadOptions::default() }).await,
            printed(0..3)
        );
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
        for options in
            [LogReadOptions::default(), LogReadOptions { follow: true, ..LogReadOptions::default() }]
        {
            let error = super::stream(log.path(), &options, || true).await.unwrap_err().to_string();
            assert!(error.contains("symbolic link"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_missing_file_is_an_error() {
        let err =
            stream("/does/not/exist.log".into(), &LogReadOptions::default(), || true).await.unwrap_err();
        assert_eq!(err.kind(), io::ErrorKind::NotFound);
    }
}
