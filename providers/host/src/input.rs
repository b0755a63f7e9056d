//! What a guest reads at its standard input: a trait for the embedder.

use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;

/// What comes of reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// So much, at least a byte.
    Bytes(Bytes),
    /// Nothing now; [`InputSource::ready`] tells when to read again.
    NothingYet,
    /// All was read. Whoever reads again may find that there is more by then.
    End,
}

/// Gives a guest its standard input. All handles that the guest has of it read from one source.
///
/// Nothing here may block.
pub trait InputSource: fmt::Debug + Send + Sync + 'static {
    /// Whether the guest is told that it is a terminal.
    fn is_terminal(&self) -> bool;

    /// Takes at most so many bytes.
    fn read(&self, most: usize) -> Chunk;

    /// Is done when there is something to read, or an end.
    fn ready(&self) -> BoxFuture<'_, ()>;
}
