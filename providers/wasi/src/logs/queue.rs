//! Between a guest's streams and its log file: a queue that is written out by a blocking thread.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use jiff::Timestamp;
use kubewasm_host::{LARGEST_WRITE, Output, Stream, clock};
use tokio::{runtime::Handle, sync::Notify};

use super::file::{LogFile, LogOptions, LogPlace};

/// Bytes on their way to the file with which a guest may still write: while half of a write is, it waits. Until then it goes on
/// while a thread writes what it has written, so that one that writes a line at a time does not wait for each.
const PLENTY: usize = LARGEST_WRITE / 2;
/// Bytes on their way at most. More than a guest is given leave for, because a component can hold several handles of one
/// stream, each with its own leave to write.
const QUEUE_LIMIT: usize = 5 * LARGEST_WRITE;

/// How long the end of a guest waits for its last output; a disk that hangs for longer loses it.
const FINISH_TIMEOUT: Duration = Duration::from_secs(10);

/// Told of the processor time that writing has taken.
pub type Meter = Box<dyn Fn(Duration) + Send + Sync>;

/// The log of one instance. Clones are the same log.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<SharedQueue>,
    /// Whose blocking threads write.
    runtime: Handle,
}

struct SharedQueue {
    queue: Mutex<LogQueue>,
    /// Notified whenever something of it has come into the file.
    progress: Notify,
    /// Held by the one thread that writes.
    file: Mutex<LogFile>,
    meter: Meter,
}

impl fmt::Debug for SharedQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedQueue").field("file", &self.file).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct LogQueue {
    items: Vec<Item>,
    /// Bytes that the items take, and those that are being written.
    cost: usize,
    /// A thread is on its way to the queue, or writing.
    busy: bool,
}

#[derive(Debug)]
enum Item {
    Output(Stream, Bytes),
    Finish,
}

impl Log {
    /// Opens or creates the file, and writes to it on blocking threads of `runtime`. Blocks shortly.
    ///
    /// # Errors
    /// Those of opening the file.
    pub fn open(place: LogPlace, options: LogOptions, runtime: &Handle, meter: Meter) -> io::Result<Self> {
        let file = Mutex::new(LogFile::open(place, options)?);
        let shared = SharedQueue { queue: Mutex::default(), progress: Notify::new(), file, meter };
        Ok(Self { shared: Arc::new(shared), runtime: runtime.clone() })
    }

    /// Removes the file if nothing was written to it. Blocks shortly.
    pub fn remove_if_empty(&self) {
        self.shared.file.lock().unwrap_or_else(PoisonError::into_inner).remove_if_empty();
    }

    /// Waits until all that was pushed is in the file, or lost with it.
    pub async fn written(&self) {
        self.until(|queue| !queue.busy).await;
    }

    async fn until(&self, is_so: impl Fn(&LogQueue) -> bool) {
        loop {
            let mut progress = std::pin::pin!(self.shared.progress.notified());
            progress.as_mut().enable();
            if is_so(&self.queue()) {
                return;
            }
            progress.await;
        }
    }

    /// Ends the log: last words of the host, if any, then the unfinished lines. Returns when all is in the
    /// file, or when the file takes too long.
    pub async fn finish(&self, last_words: &str) {
        if !last_words.is_empty() {
            // Its own lines, whatever the guest left unfinished.
            self.enqueue(self.queue(), Item::Finish);
            let text = format!("{}\n", last_words.trim_end());
            self.enqueue(self.queue(), Item::Output(Stream::Stderr, text.into()));
        }
        self.enqueue(self.queue(), Item::Finish);
        if tokio::time::timeout(FINISH_TIMEOUT, self.written()).await.is_err() {
            tracing::warn!("a container's log takes longer than {} s to write", FINISH_TIMEOUT.as_secs());
        }
    }

    fn enqueue(&self, mut queue: MutexGuard<'_, LogQueue>, item: Item) {
        queue.items.push(item);
        if !queue.busy {
            queue.busy = true;
            drop(queue);
            let shared = Arc::clone(&self.shared);
            self.runtime.spawn_blocking(move || shared.write_out());
        }
    }

    fn queue(&self) -> MutexGuard<'_, LogQueue> {
        self.shared.queue()
    }
}

impl Output for Log {
    fn held(&self) -> u64 {
        LARGEST_WRITE as u64
    }

    /// What makes a whole write of what is on its way, unless that is half of one already.
    fn room(&self) -> usize {
        self.queue().room()
    }

    fn push(&self, stream: Stream, bytes: Bytes) -> bool {
        let mut queue = self.queue();
        let cost = bytes.len().saturating_add(size_of::<Item>());
        if queue.cost.saturating_add(cost) > QUEUE_LIMIT {
            return false;
        }
        queue.cost += cost;
        self.enqueue(queue, Item::Output(stream, bytes));
        true
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.until(|queue| queue.room() > 0))
    }
}

impl LogQueue {
    fn room(&self) -> usize {
        if self.cost < PLENTY { LARGEST_WRITE - self.cost } else { 0 }
    }
}

impl SharedQueue {
    /// Writes until the queue is empty.
    fn write_out(&self) {
        let mut accounted = clock::thread_time();
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (items, cost) = {
                let mut queue = self.queue();
                if queue.items.is_empty() {
                    queue.busy = false;
                    break;
                }
                (std::mem::take(&mut queue.items), queue.cost)
            };
            let now = Timestamp::now();
            let mut batch = Vec::with_capacity(items.len());
            for item in items {
                match item {
                    Item::Output(stream, bytes) => batch.push((stream, bytes)),
                    Item::Finish => {
                        file.append(&std::mem::take(&mut batch), now);
                        file.finish(now);
                    }
                }
            }
            file.append(&batch, now);
            // Before the guest goes on, so that it cannot outrun its account.
            let time = clock::thread_time();
            (self.meter)(time.saturating_sub(accounted));
            accounted = time;
            let mut queue = self.queue();
            // What is on its way now has come since, and counts.
            queue.cost = queue.cost.saturating_sub(cost);
            drop(queue);
            self.progress.notify_waiters();
        }
        drop(file);
        self.progress.notify_waiters();
    }

    fn queue(&self) -> MutexGuard<'_, LogQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn open(path: &Path) -> Log {
        let place = LogPlace::at(path).unwrap();
        Log::open(place, LogOptions::default(), &Handle::current(), Box::new(|_| {})).unwrap()
    }

    async fn logged(writes: &[(Stream, &'static str)], last_words: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let log = open(&path);
        for (stream, text) in writes {
            assert!(log.push(*stream, Bytes::from_static(text.as_bytes())));
        }
        log.finish(last_words).await;
        let text = std::fs::read_to_string(&path).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[tokio::test]
    async fn order_of_both_streams_is_kept() {
        let lines =
            logged(&[(Stream::Stdout, "1\n"), (Stream::Stderr, "2\n"), (Stream::Stdout, "3\n")], "").await;
        assert_eq!(lines, ["stdout F 1", "stderr F 2", "stdout F 3"]);
    }

    #[tokio::test]
    async fn last_words_follow_the_unfinished_line() {
        let lines = logged(&[(Stream::Stderr, "unfinished")], "wasm trap: x\n  0: f\n").await;
        assert_eq!(lines, ["stderr P unfinished", "stderr F wasm trap: x", "stderr F   0: f"]);
    }

    #[tokio::test]
    async fn what_is_written_is_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let log = open(&path);
        for n in 1..=50 {
            assert_eq!(log.room(), LARGEST_WRITE);
            assert!(log.push(Stream::Stdout, Bytes::from_static(b"line\n")));
            log.written().await;
            assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), n);
        }
    }

    #[tokio::test]
    async fn the_time_that_writing_takes_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let told = Arc::new(Mutex::new(Duration::ZERO));
        let meter = {
            let told = Arc::clone(&told);
            Box::new(move |used| *told.lock().unwrap() += used)
        };
        let path = dir.path().join("0.log");
        let log = Log::open(LogPlace::at(&path).unwrap(), LogOptions::default(), &Handle::current(), meter)
            .unwrap();
        assert!(log.push(Stream::Stdout, Bytes::from_static(b"line\n")));
        log.written().await;
        assert!(*told.lock().unwrap() > Duration::ZERO);
    }

    #[tokio::test]
    async fn a_guest_goes_on_until_half_a_write_is_on_its_way() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(&dir.path().join("0.log"));
        let hanging = log.shared.file.lock().unwrap();
        let mut pushed = 0;
        while log.room() > 0 {
            assert!(log.room() >= PLENTY, "leave is given for no less");
            assert!(log.push(Stream::Stdout, Bytes::from_static(b"a line\n")));
            pushed += 1;
        }
        assert_eq!(pushed, PLENTY.div_ceil(7 + size_of::<Item>()));
        let ready = log.ready();
        drop(hanging);
        ready.await;
        assert!(log.room() > 0);
        log.written().await;
        assert_eq!(log.room(), LARGEST_WRITE);
    }

    #[tokio::test]
    async fn a_guest_cannot_fill_the_queue_of_a_disk_that_hangs() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(&dir.path().join("0.log"));
        let hanging = log.shared.file.lock().unwrap();
        let mut taken = 0;
        while log.push(Stream::Stdout, Bytes::from(vec![b'x'; LARGEST_WRITE])) {
            taken += LARGEST_WRITE;
            assert_eq!(log.room(), 0);
        }
        assert_eq!(taken, 4 * LARGEST_WRITE);
        drop(hanging);
        log.written().await;
        assert_eq!(log.room(), LARGEST_WRITE);
    }
}
