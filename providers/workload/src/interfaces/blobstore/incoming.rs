//! What guests read.

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use wasmtime_wasi::{
    async_trait,
    p2::{InputStream, Pollable, StreamError, StreamResult},
};

use super::{Blob, BlobError};

/// Most bytes of a value that is read at once, as a list.
const WHOLE: u64 = 64 << 20;

/// Bytes of an object, in a guest's table.
#[derive(Debug)]
pub struct IncomingValue(pub(super) Blob);

impl IncomingValue {
    /// All of them.
    pub(super) async fn whole(self) -> Result<Vec<u8>, BlobError> {
        let Blob { size, mut bytes } = self.0;
        if size > WHOLE {
            let text = format!(
                "the value has {size} bytes, and at most {WHOLE} are read at once; read it as a stream"
            );
            return Err(BlobError(text));
        }
        let mut whole = Vec::new();
        while let Some(piece) = bytes.try_next().await? {
            if (whole.len() + piece.len()) as u64 > WHOLE {
                return Err(BlobError::new("the value is longer than was said"));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }

    /// As a stream.
    pub(super) fn stream(self) -> BlobInput {
        BlobInput { blob: Some(self.0), piece: Bytes::new(), failure: None }
    }
}

/// A stream of the bytes of an object. The next piece is asked for when the guest waits for it.
pub(super) struct BlobInput {
    /// `None` after the last one.
    blob: Option<Blob>,
    piece: Bytes,
    /// Told once.
    failure: Option<BlobError>,
}

#[async_trait]
impl Pollable for BlobInput {
    async fn ready(&mut self) {
        while self.piece.is_empty() && self.failure.is_none() {
            let Some(blob) = &mut self.blob else { return };
            match blob.bytes.next().await {
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(error)) => {
                    self.failure = Some(error);
                    self.blob = None;
                }
                None => self.blob = None,
            }
        }
    }
}

impl InputStream for BlobInput {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        if let Some(error) = self.failure.take() {
            return Err(StreamError::LastOperationFailed(wasmtime::Error::new(error)));
        }
        if self.piece.is_empty() && self.blob.is_none() {
            return Err(StreamError::Closed);
        }
        Ok(self.piece.split_to(size.min(self.piece.len())))
    }
}
