//! The record of a task's pod on disk, written off the threads that tasks run on.

use std::{io, time::Duration};

use tokio::task::JoinHandle;

use crate::pods::{
    lifecycle::{Now, State},
    records::Records,
};

/// How long a write is waited for. A disk that takes longer counts as one that cannot be written to.
const PATIENCE: Duration = Duration::from_secs(5);

/// Writes one state after another, and none that is there already.
pub(super) struct Journal {
    records: Records,
    uid: String,
    /// The newest state that is known to be on disk.
    on_disk: Option<State>,
    /// What is being written.
    writing: Option<(State, JoinHandle<io::Result<()>>)>,
}

impl Journal {
    pub(super) fn new(records: Records, uid: String) -> Self {
        Self { records, uid, on_disk: None, writing: None }
    }

    /// Returns when this state is on disk. May be dropped; what is being written then is waited for the next
    /// time. `must` as for [`Records::save`].
    ///
    /// # Errors
    /// Why it is not on disk. The one before may be, or one that was written since.
    pub(super) async fn save(&mut self, state: State, must: bool, now: Now) -> Result<(), String> {
        if let Err(error) = self.finish().await
            && self.writing.is_some()
        {
            return Err(error);
        }
        if self.on_disk.as_ref() == Some(&state) {
            return Ok(());
        }
        let (records, uid, written) = (self.records.clone(), self.uid.clone(), state.clone());
        let write = tokio::task::spawn_blocking(move || records.save(&uid, &written, must, now));
        self.writing = Some((state, write));
        self.finish().await
    }

    /// Takes in what has come of the write that is under way.
    async fn finish(&mut self) -> Result<(), String> {
        let Some((_, write)) = &mut self.writing else { return Ok(()) };
        let Ok(written) = tokio::time::timeout(PATIENCE, write).await else {
            return Err(format!("the disk has not answered for {} s", PATIENCE.as_secs()));
        };
        let state = self.writing.take().map(|(state, _)| state);
        match written {
            Ok(Ok(())) => {
                self.on_disk = state;
                Ok(())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Nothing is written any more when this returns.
    pub(super) async fn close(self) {
        if let Some((_, write)) = self.writing {
            let _ = write.await;
        }
    }
}
