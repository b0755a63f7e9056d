//! Containers that are folders, with a file for each object.

use std::{
    io::{self, Read as _, Seek as _, SeekFrom},
    path::PathBuf,
    sync::Arc,
    time::UNIX_EPOCH,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream, stream::BoxStream};
use tokio_stream::wrappers::ReceiverStream;

use super::{Blob, BlobError, BlobRange, BlobStore, BlobWriter, ObjectInfo};
use crate::interfaces::{
    InvalidSettings, Settings,
    folder::{Folder, NewFile},
};

/// Bytes of one piece that is read.
const PIECE: usize = 128 << 10;
/// Bytes that are written before they are made sure to be on the disk, so that the last time is not all at once.
const SYNC: u64 = 32 << 20;
/// Names that are listed ahead of whoever reads them.
const AHEAD: usize = 256;

/// Containers that are folders below `path`: `<path>/<container>/<object>`.
#[derive(Clone, Debug)]
pub struct FileBlobStore {
    root: PathBuf,
}

impl FileBlobStore {
    /// The folder that the settings name. It is made when it is needed.
    ///
    /// # Errors
    /// When they name none.
    pub fn new(settings: &Settings) -> Result<Self, InvalidSettings> {
        Ok(Self { root: settings.path()?.join(settings.tenant().name()) })
    }

    async fn root<T: Send + 'static>(
        &self,
        what: &str,
        action: impl FnOnce(Folder) -> io::Result<T> + Send + 'static,
    ) -> Result<T, BlobError> {
        let root = self.root.clone();
        blocking(what, move || action(Folder::at(&root)?)).await
    }

    async fn container(&self, name: &str) -> Result<Folder, BlobError> {
        let wanted = name.to_owned();
        let folder = self.root("cannot open the container", move |root| root.open(&wanted)).await?;
        folder.ok_or_else(|| BlobError::no_container(name))
    }
}

async fn blocking<T: Send + 'static>(
    what: &str,
    action: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, BlobError> {
    match tokio::task::spawn_blocking(action).await {
        Ok(result) => result.map_err(|error| BlobError::caused(what, &error)),
        Err(error) => Err(BlobError::caused(what, &error)),
    }
}

#[async_trait]
impl BlobStore for FileBlobStore {
    async fn create(&self, container: &str) -> Result<(), BlobError> {
        let name = container.to_owned();
        self.root("cannot make the container", move |root| root.make(&name).map(drop)).await
    }

    async fn delete(&self, container: &str) -> Result<(), BlobError> {
        let name = container.to_owned();
        self.root("cannot delete the container", move |root| root.remove_folder(&name)).await
    }

    async fn created(&self, container: &str) -> Result<Option<u64>, BlobError> {
        let name = container.to_owned();
        let created = self.root("cannot look for the container", move |root| {
            root.open(&name)?.map(|folder| folder.changed()).transpose()
        });
        created.await
    }

    async fn read(&self, container: &str, object: &str, range: BlobRange) -> Result<Blob, BlobError> {
        let folder = self.container(container).await?;
        let name = object.to_owned();
        let opened = blocking("cannot open the object", move || {
            let Some(mut file) = folder.read(&name)? else { return Ok(None) };
            let range = range.within(file.metadata()?.len());
            file.seek(SeekFrom::Start(range.start))?;
            Ok(Some((file, range.end - range.start)))
        });
        let (file, size) = opened.await?.ok_or_else(|| BlobError::no_object(object))?;
        let pieces = stream::try_unfold((Arc::new(file), size), |(file, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            let from = Arc::clone(&file);
            let piece = blocking("cannot read the object", move || {
                let mut piece = vec![0; usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
                let length = (&*from).read(&mut piece)?;
                piece.truncate(length);
                Ok(piece)
            })
            .await?;
            if piece.is_empty() {
                return Err(BlobError::new("the object is shorter than it was"));
            }
            let left = left - piece.len() as u64;
            Ok(Some((Bytes::from(piece), (file, left))))
        });
        Ok(Blob { size, bytes: pieces.boxed() })
    }

    async fn write(&self, container: &str, object: &str) -> Result<Box<dyn BlobWriter>, BlobError> {
        let folder = self.container(container).await?;
        let file = blocking("cannot begin the object", move || folder.begin()).await?;
        Ok(Box::new(FileWriter { file: Some(file), object: object.to_owned(), unsure: 0 }))
    }

    async fn list(
        &self,
        container: &str,
    ) -> Result<BoxStream<'static, Result<String, BlobError>>, BlobError> {
        let folder = self.container(container).await?;
        let (names, listed) = tokio::sync::mpsc::channel(AHEAD);
        let last = names.clone();
        // Ends when nobody reads any more.
        let listing = move || folder.keys(|name| names.blocking_send(Ok(name)).is_ok());
        tokio::spawn(async move {
            if let Err(error) = blocking("cannot list the objects", listing).await {
                let _ = last.send(Err(error)).await;
            }
        });
        Ok(ReceiverStream::new(listed).boxed())
    }

    async fn delete_object(&self, container: &str, object: &str) -> Result<(), BlobError> {
        let folder = self.container(container).await?;
        let name = object.to_owned();
        blocking("cannot delete the object", move || folder.remove(&name)).await
    }

    async fn object(&self, container: &str, object: &str) -> Result<Option<ObjectInfo>, BlobError> {
        let folder = self.container(container).await?;
        let name = object.to_owned();
        let info = blocking("cannot look for the object", move || {
            let Some(file) = folder.read(&name)? else { return Ok(None) };
            let metadata = file.metadata()?;
            let written = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            Ok(Some(ObjectInfo { created_at: written.as_secs(), size: metadata.len() }))
        });
        info.await
    }
}

struct FileWriter {
    /// Not there after a write that failed.
    file: Option<NewFile>,
    object: String,
    /// Bytes that may not be on the disk.
    unsure: u64,
}

#[async_trait]
impl BlobWriter for FileWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<(), BlobError> {
        let Some(mut file) = self.file.take() else {
            return Err(BlobError::new("an earlier write has failed"));
        };
        self.unsure += bytes.len() as u64;
        let sync = self.unsure >= SYNC;
        if sync {
            self.unsure = 0;
        }
        let written = blocking("cannot write the object", move || {
            file.write(&bytes)?;
            if sync {
                file.sync()?;
            }
            Ok(file)
        });
        self.file = Some(written.await?);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), BlobError> {
        let Some(file) = self.file.take() else { return Err(BlobError::new("an earlier write has failed")) };
        let name = std::mem::take(&mut self.object);
        blocking("cannot write the object", move || file.keep(&name)).await
    }

    async fn abort(mut self: Box<Self>) {
        let file = self.file.take();
        let _ = tokio::task::spawn_blocking(move || drop(file)).await;
    }
}
