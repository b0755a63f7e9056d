//! The record of a task's pod on disk, written off the threads that tasks run on.

use std::{io, time::Duration};

use tokio::task::JoinHandle;

use crate::pods::{
    lifecycle::{Now, PodState},
    records::Records,
};

/// How long a write is waited for. A disk that takes longer counts as one that cannot be written to.
const PATIENCE: Duration = Duration::from_secs(5);

/// Writes one state after another, and none that is there already; but when somebody has set the wall clock, by which
/// the next agent will find out what the times in it mean.
pub(super) struct Journal {
    records: Records,
    uid: String,
    /// The newest state that is known to be on disk, and when it was written.
    on_disk: Option<(PodState, Now)>,
    /// What is being written.
    writing: Option<(PodState, Now, JoinHandle<io::Result<()>>)>,
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
    pub(super) async fn save(&mut self, state: PodState, must: bool, now: Now) -> Result<(), String> {
        if let Err(error) = self.finish().await
            && self.writing.is_some()
        {
            return Err(error);
        }
        let is_there = match &self.on_disk {
            Some((there, written)) if *there == state => {
                if now.agrees_with(*written) {
                    return Ok(());
                }
                true
            }
            _ => false,
        };
        let (records, uid, written) = (self.records.clone(), self.uid.clone(), state.clone());
        let write = tokio::task::spawn_blocking(move || records.save(&uid, &written, must, now));
        self.writing = Some((state, now, write));
        let saved = self.finish().await;
        if is_there { Ok(()) } else { saved }
    }

    /// Takes in what has come of the write that is under way.
    async fn finish(&mut self) -> Result<(), String> {
        let Some((_, _, write)) = &mut self.writing else { return Ok(()) };
        let Ok(written) = tokio::time::timeout(PATIENCE, write).await else {
            return Err(format!("the disk has not answered for {} s", PATIENCE.as_secs()));
        };
        let state = self.writing.take().map(|(state, now, _)| (state, now));
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
        if let Some((_, _, write)) = self.writing {
            let _ = write.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pods::clock;

    #[tokio::test]
    async fn a_state_is_written_once_and_again_when_the_clock_was_set() {
        let root = tempfile::tempdir().unwrap();
        let records = Records::open(root.path()).unwrap();
        let mut journal = Journal::new(records.clone(), "u".to_owned());
        let now = clock::now();
        let file = records.dir("u").join("state.json");
        let mut state = PodState::default();
        journal.save(state.clone(), false, now).await.unwrap();
        std::fs::remove_file(&file).unwrap();
        let later =
            Now { steady: now.steady.after(Duration::from_secs(9)), wall: now.wall + Duration::from_secs(9) };
        journal.save(state.clone(), false, later).await.unwrap();
        assert!(!file.exists(), "it is known to be there");
        let set = Now { wall: later.wall + Duration::from_secs(3600), ..later };
        journal.save(state.clone(), false, set).await.unwrap();
        assert!(file.exists());
        // A folder in the way of the new file.
        std::fs::create_dir(records.dir("u").join(".state.json.new")).unwrap();
        state.round = 1;
        journal.save(state.clone(), true, set).await.unwrap_err();
        std::fs::remove_dir(records.dir("u").join(".state.json.new")).unwrap();
        journal.save(state.clone(), true, set).await.unwrap();
        assert_eq!(records.load("u", set).unwrap(), Some(state));
    }
}
