//! What a policy reads: a document, and then the answers of its host, one behind the other.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use kubewasm_host::{Chunk, InputSource};

/// Standard input that is at its end whenever all of it was read, and goes on when something is appended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Document(Arc<Mutex<BytesMut>>);

impl Document {
    pub(crate) fn new(beginning: &[u8]) -> Self {
        let document = Self::default();
        document.append(beginning);
        document
    }

    pub(crate) fn append(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
    }

    /// Bytes that are there to be read.
    pub(crate) fn unread(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn take(&self, most: usize) -> Bytes {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let length = left.len().min(most);
        left.split_to(length).freeze()
    }
}

impl InputSource for Document {
    fn is_terminal(&self) -> bool {
        false
    }

    fn read(&self, most: usize) -> Chunk {
        match self.take(most) {
            bytes if bytes.is_empty() && most > 0 => Chunk::End,
            bytes => Chunk::Bytes(bytes),
        }
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_and_goes_on() {
        let document = Document::new(b"{}");
        assert_eq!(document.read(1), Chunk::Bytes("{".into()));
        assert_eq!(document.read(9), Chunk::Bytes("}".into()));
        assert_eq!((document.read(9), document.unread()), (Chunk::End, 0));
        document.append(b"answer");
        assert_eq!(document.unread(), 6);
        assert_eq!(document.read(9), Chunk::Bytes("answer".into()));
        assert_eq!(document.read(9), Chunk::End);
    }
}
