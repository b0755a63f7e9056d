//! One blob on its way: counted and hashed while it is written, and continued where it breaks off.

use std::{path::Path, time::Duration};

use tokio::{
    fs::File,
    io::{AsyncSeekExt as _, AsyncWriteExt as _},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    digest::{Digest, Hasher},
    error::{PullFailure, StoreError},
    module::sniff,
    source::{BlobBody, ModuleSource, Part},
};

/// How often in a row a body is continued that breaks off before [`PROGRESS`] more bytes have come.
const CONTINUATIONS: u32 = 5;
/// Bytes after which a source has earned new patience.
const PROGRESS: u64 = 1 << 20;
/// Before the first continuation; twice as long before each other.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes that must come in the time in which a source may stall.
const SLOWEST: u64 = 64 << 10;

/// What may come, and how.
pub(super) struct TransferLimits {
    /// Bytes, at the most.
    pub(super) size: u64,
    /// See [`crate::StoreOptions::stall_timeout`].
    pub(super) stall: Duration,
    /// It must begin as a module does.
    pub(super) is_module: bool,
}

/// Digest and size of what came; more than the limit by one chunk at the most.
pub(super) struct Transferred {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// Brings a part of an image into the file `to`; `begun` is its beginning, when it is here already. `count` is told of
/// bytes that have not been there before.
///
/// A source that fails before anything has come is not asked again: its caller knows when. One that fails afterwards
/// is asked for the rest, as long as it makes progress. The digest is that of the whole, however it came.
pub(super) async fn transfer(
    source: &dyn ModuleSource,
    part: Part,
    begun: Option<BlobBody>,
    to: &Path,
    limits: &TransferLimits,
    count: impl Fn(u64) + Sync,
) -> Result<Transferred, PullFailure> {
    let file = File::create(to).await.map_err(StoreError::io("write", to))?;
    let mut sink = Sink { path: to, file, hasher: Hasher::default(), head: Vec::new(), size: 0, highest: 0 };
    let mut begun = begun;
    let mut breaks = 0;
    let mut patience = 0;
    loop {
        let outcome = match begun.take() {
            Some(body) => sink.pour(body, limits, &count).await,
            None => match source.read(part, sink.size).await {
                Ok(body) => sink.pour(body, limits, &count).await,
                Err(error) => Err(error),
            },
        };
        match outcome {
            Ok(()) => return sink.finish(limits).await,
            Err(PullFailure::Unavailable(detail)) if sink.highest > 0 => {
                if sink.highest >= patience {
                    (breaks, patience) = (0, sink.highest.saturating_add(PROGRESS));
                }
                if breaks == CONTINUATIONS {
                    return Err(PullFailure::Unavailable(format!(
                        "{detail}; it has broken off {} times, and brought {} bytes",
                        breaks.saturating_add(1),
                        sink.highest
                    )));
                }
                tracing::debug!(detail, bytes = sink.size, "a transfer has broken off and is continued");
                sleep(PAUSE.saturating_mul(1 << breaks)).await;
                breaks += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// A file that is being written.
struct Sink<'a> {
    path: &'a Path,
    file: File,
    hasher: Hasher,
    /// The first bytes.
    head: Vec<u8>,
    /// Bytes in the file.
    size: u64,
    /// The most that were ever in it.
    highest: u64,
}

impl Sink<'_> {
    async fn pour(
        &mut self,
        mut body: BlobBody,
        limits: &TransferLimits,
        count: &(impl Fn(u64) + Sync),
    ) -> Result<(), PullFailure> {
        if body.offset != self.size {
            self.start_over().await?;
        }
        let mut window = (Instant::now() + limits.stall, 0u64);
        loop {
            let chunk = match timeout_at(window.0, body.next()).await {
                Ok(chunk) => chunk?,
                Err(_) => {
                    return Err(PullFailure::Unavailable(format!(
                        "the source sends too slowly: in {:?} fewer than {SLOWEST} bytes came",
                        limits.stall
                    )));
                }
            };
            let Some(chunk) = chunk else { return Ok(()) };
            if limits.is_module {
                self.look(&chunk)?;
            }
            self.size = self.size.saturating_add(chunk.len() as u64);
            if self.size > limits.size {
                return Ok(());
            }
            self.hasher.update(&chunk);
            self.file.write_all(&chunk).await.map_err(StoreError::io("write", self.path))?;
            if self.size > self.highest {
                count(self.size - self.highest);
                self.highest = self.size;
            }
            window.1 = window.1.saturating_add(chunk.len() as u64);
            if window.1 >= SLOWEST {
                window = (Instant::now() + limits.stall, 0);
            }
        }
    }

    /// Collects the first bytes, and refuses what does not begin as a module once there are enough to say what it is;
    /// what is shorter is looked at in the end.
    fn look(&mut self, chunk: &[u8]) -> Result<(), PullFailure> {
        let length = usize::try_from(sniff::LENGTH).unwrap_or(usize::MAX);
        let room = length.saturating_sub(self.head.len());
        if room == 0 {
            return Ok(());
        }
        self.head.extend_from_slice(chunk.get(..room.min(chunk.len())).unwrap_or_default());
        if self.head.len() < length { Ok(()) } else { self.what_it_is() }
    }

    fn what_it_is(&self) -> Result<(), PullFailure> {
        match sniff::what_it_is(&self.head) {
            None => Ok(()),
            Some(looks_like) => Err(PullFailure::Unsupported(format!(
                "what is there is no WebAssembly module: it looks like {looks_like}"
            ))),
        }
    }

    async fn start_over(&mut self) -> Result<(), PullFailure> {
        let failed = || StoreError::io("write", self.path);
        self.file.set_len(0).await.map_err(failed())?;
        self.file.rewind().await.map_err(failed())?;
        (self.hasher, self.size) = (Hasher::default(), 0);
        self.head.clear();
        Ok(())
    }

    async fn finish(mut self, limits: &TransferLimits) -> Result<Transferred, PullFailure> {
        if limits.is_module && self.size == 0 {
            return Err(PullFailure::Unsupported(
                "the file is empty (0 bytes); build the module and put it there again".to_owned(),
            ));
        }
        if limits.is_module {
            self.what_it_is()?;
        }
        if self.size <= limits.size {
            self.file.flush().await.map_err(StoreError::io("write", self.path))?;
            self.file.sync_all().await.map_err(StoreError::io("write", self.path))?;
        }
        Ok(Transferred { digest: self.hasher.finish(), size: self.size })
    }
}

#[cfg(test)]
mod tests;
