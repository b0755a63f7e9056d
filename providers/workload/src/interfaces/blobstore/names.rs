//! Names of objects, as a guest reads them.

use std::fmt;

use futures::{TryStreamExt as _, stream::BoxStream};

use super::BlobError;
use crate::interfaces::limits::{StreamTurn, Turns};

/// Names of objects, one after the other.
pub struct ObjectNames {
    /// `None` after the last one.
    names: Option<BoxStream<'static, Result<String, BlobError>>>,
    turns: Turns,
    _turn: StreamTurn,
}

impl fmt::Debug for ObjectNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectNames").field("is_at_end", &self.names.is_none()).finish_non_exhaustive()
    }
}

impl ObjectNames {
    pub(super) fn new(
        names: BoxStream<'static, Result<String, BlobError>>,
        turns: Turns,
        turn: StreamTurn,
    ) -> Self {
        Self { names: Some(names), turns, _turn: turn }
    }

    /// At most so many names, and no more than a page has; and whether there are no more.
    ///
    /// # Errors
    /// What the back end says.
    pub async fn read(&mut self, most: u64) -> Result<(Vec<String>, bool), BlobError> {
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(self.turns.limits().page_keys);
        let mut some = Vec::new();
        while some.len() < most {
            match self.next().await? {
                Some(name) => some.push(name),
                None => break,
            }
        }
        Ok((some, self.names.is_none()))
    }

    /// Passes over so many names. How many there were, and whether there are no more.
    ///
    /// # Errors
    /// What the back end says.
    pub async fn skip(&mut self, most: u64) -> Result<(u64, bool), BlobError> {
        let mut skipped = 0;
        while skipped < most && self.next().await?.is_some() {
            skipped += 1;
        }
        Ok((skipped, self.names.is_none()))
    }

    async fn next(&mut self) -> Result<Option<String>, BlobError> {
        let Some(names) = &mut self.names else { return Ok(None) };
        let next = self.turns.piece(names.try_next()).await?;
        if !matches!(next, Ok(Some(_))) {
            self.names = None;
        }
        next
    }
}
