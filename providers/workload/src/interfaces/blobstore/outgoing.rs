//! What guests write.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;
use wasmtime_wasi::{
    async_trait,
    p2::{OutputStream, Pollable, StreamError, StreamResult},
};

use super::{
    BlobError, OpenContainer,
    pipe::{EarlyBytes, Pipe, PipeEnd},
};

/// What is to become an object, in a guest's table. One that is dropped before it is finished has changed nothing.
#[derive(Debug)]
pub struct OutgoingValue {
    pipe: Arc<Pipe>,
    has_stream: bool,
    writing: Option<JoinHandle<Result<(), BlobError>>>,
}

impl OutgoingValue {
    pub(super) fn new(early: EarlyBytes) -> Self {
        Self { pipe: Pipe::new(early), has_stream: false, writing: None }
    }

    /// The stream that its bytes are written to, once.
    pub(super) fn stream(&mut self) -> Option<BlobOutput> {
        (!std::mem::replace(&mut self.has_stream, true)).then(|| BlobOutput(Arc::clone(&self.pipe)))
    }

    /// Says what object it is to become. What was written and what will be goes there from now on.
    pub(super) fn write_to(&mut self, container: OpenContainer, object: String) -> Result<(), BlobError> {
        container.check_write()?;
        container.check_object(&object)?;
        if !self.pipe.attach() {
            return Err(BlobError::new(
                "the value is written to an object already; each object takes a value of its own",
            ));
        }
        let pipe = Arc::clone(&self.pipe);
        self.writing = Some(tokio::spawn(async move {
            let written = container.write_from(&object, &pipe).await;
            if let Err(error) = &written {
                pipe.fail(error.to_string());
            }
            written
        }));
        Ok(())
    }

    /// All is written. Waits until the object is there.
    pub(super) async fn finish(mut self) -> Result<(), BlobError> {
        let Some(writing) = self.writing.take() else {
            return Err(BlobError::new(
                "the value is not written to any object: call write-data before finish",
            ));
        };
        self.pipe.end(PipeEnd::Finished);
        match writing.await {
            Ok(written) => written,
            Err(_) => Err(BlobError::new("the host has ended before the object was written")),
        }
    }
}

impl Drop for OutgoingValue {
    fn drop(&mut self) {
        self.pipe.end(PipeEnd::Dropped);
    }
}

/// The stream of a value. It takes bytes as fast as they get further; that they are kept, `finish` says.
pub(super) struct BlobOutput(Arc<Pipe>);

#[async_trait]
impl Pollable for BlobOutput {
    async fn ready(&mut self) {
        self.0.has_room().await;
    }
}

impl BlobOutput {
    fn room(&self) -> StreamResult<usize> {
        self.0.room().map_err(|reason| StreamError::LastOperationFailed(wasmtime::Error::msg(reason)))
    }
}

impl OutputStream for BlobOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > self.room()? {
            return Err(StreamError::trap("more bytes were written than there was room for"));
        }
        self.0.write(bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.room().map(drop)
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.room()
    }
}
