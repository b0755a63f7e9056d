//! Copies of objects, within a back end or between two.

use std::sync::Arc;

use futures::TryStreamExt as _;

use super::{BlobError, BlobRange, ObjectId, OpenContainer};

/// Copies an object. By the back end itself where it can; or else piece by piece, and the copy is there when all of it is.
pub(super) async fn copy(
    (from, object): (&OpenContainer, &str),
    (to, copied): (&OpenContainer, &str),
) -> Result<(), BlobError> {
    to.check_write()?;
    from.check_object(object)?;
    to.check_object(copied)?;
    if is_same((from, object), (to, copied)) {
        // What is copied onto itself must be there, and stays as it is.
        return from.object(object).await?.map(drop).ok_or_else(|| BlobError::no_object(object));
    }
    if Arc::ptr_eq(&from.store, &to.store) {
        let (source, target) = (
            ObjectId { container: &from.container, object },
            ObjectId { container: &to.container, object: copied },
        );
        if from.turns().run(from.store.store.copy(source, target)).await?? {
            return Ok(());
        }
    }
    let mut blob = from.read(object, BlobRange::WHOLE).await?;
    let mut writer = to.writer(copied).await?;
    let failure = loop {
        match blob.bytes.try_next().await {
            Ok(Some(bytes)) => {
                if let Err(error) = writer.write(bytes).await {
                    break error;
                }
            }
            Ok(None) => return writer.finish().await,
            Err(error) => break error,
        }
    };
    writer.abort().await;
    Err(failure)
}

/// Copies an object, and deletes it.
pub(super) async fn rename(
    (from, object): (&OpenContainer, &str),
    (to, moved): (&OpenContainer, &str),
) -> Result<(), BlobError> {
    from.check_write()?;
    copy((from, object), (to, moved)).await?;
    if is_same((from, object), (to, moved)) {
        return Ok(());
    }
    from.delete_object(object).await
}

fn is_same((from, object): (&OpenContainer, &str), (to, other): (&OpenContainer, &str)) -> bool {
    Arc::ptr_eq(&from.store, &to.store) && from.container == to.container && object == other
}
