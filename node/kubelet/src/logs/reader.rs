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

use super::{FileKind, LogFileName, LogReadOptions, format::Formatter, tail};

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
/// `is_running` says no and all that was written has been read. When the file is rotated, however often meanwhile, it
/// goes on with the one that was begun after it, as long as that is there and not compressed.
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
        if let Some(successor) = successor(&self.file, &self.path).await? {
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

/// The file that was begun after `file`, when there is now another than it at `path`. A reader that is slower than
/// the writer finds it among those that have been rotated away; where its own is no longer there, the oldest is next.
async fn successor(file: &File, path: &Path) -> io::Result<Option<File>> {
    let there = match tokio::fs::symlink_metadata(path).await {
        Ok(there) => there,
        // Between the renaming of the old file and the making of the new one.
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(err),
    };
    let present = id(&file.metadata().await?);
    if id(&there) == present {
        return Ok(None);
    }
    let path = path.to_owned();
    let found = tokio::task::spawn_blocking(move || {
        let mut later = rotated(&path)?;
        if let Some(place) = later.iter().position(|(_, other)| *other == present) {
            later.drain(..=place);
        }
        let next = later.into_iter().next().map_or(path, |(path, _)| path);
        open(&next)
    });
    match found.await.map_err(io::Error::other)? {
        Ok(successor) => Ok(Some(File::from_std(successor))),
        // Renamed or removed meanwhile: it is looked for again.
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

/// Which file it is, whatever its name.
type FileId = (u64, u64);

fn id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// The files that have been rotated away from `path` and are not compressed, oldest first.
fn rotated(path: &Path) -> io::Result<Vec<(PathBuf, FileId)>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let attempt = LogFileName::parse(name).map(|name| name.attempt);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().and_then(LogFileName::parse) else { continue };
        let is_rotated = name.kind == FileKind::Plain && !name.stamp.is_empty();
        if is_rotated && Some(name.attempt) == attempt {
            // One that is gone meanwhile is no successor.
            let Ok(metadata) = entry.metadata() else { continue };
            found.push((name.stamp.to_owned(), entry.path(), id(&metadata)));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path, id)| (path, id)).collect())
}

/// Opens a log file. Whoever can put a link in its place would have us show what it leads to.
fn open(path: &Path) -> io::Result<std::fs::File> {
    kubewasm_trees::open_plain(path, OFlags::RDONLY, Mode::empty())
}

#[cfg(test)]
mod tests;
