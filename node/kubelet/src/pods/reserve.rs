//! Room on disk that is kept for noting down that something ends.
//!
//! ```text
//! <root>/reserve/<number>    written in full, so that their blocks and inodes are ours
//! ```
//!
//! A record that cannot be written because the disk is full is written over one of these files, which then takes the
//! record's place: nothing is given back to the file system in between, where a guest that writes would be faster.
//! (A file system that copies on write keeps no such promise.) What was used is made again when there is room.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How many files.
const PIECES: usize = 64;

/// Bytes of each; few records are larger.
const PIECE: usize = 64 * 1024;

/// How often it is tried to make again what was used.
const REFILL: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Reserve {
    dir: PathBuf,
    /// When it was last tried to make the files; none where all of them are there.
    refilled: Mutex<Option<Instant>>,
}

impl Reserve {
    /// The reserve below `root`, as an earlier agent has left it.
    pub(super) fn open(root: &Path) -> Self {
        Self { dir: root.join("reserve"), refilled: Mutex::default() }
    }

    fn piece(&self, number: usize) -> PathBuf {
        self.dir.join(number.to_string())
    }

    /// Makes a file at `to` that holds `bytes`, out of the reserve.
    ///
    /// # Errors
    /// What the system says; [`io::ErrorKind::StorageFull`] when nothing is left of it.
    pub(super) fn write(&self, to: &Path, bytes: &[u8]) -> io::Result<()> {
        self.refilled.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
        let mut pieces = (0..PIECES).map(|number| self.piece(number));
        if !pieces.any(|piece| fs::rename(piece, to).is_ok()) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        // What does not fit into one needs the room of others.
        for piece in pieces.take(bytes.len() / PIECE) {
            let _ = fs::remove_file(piece);
        }
        let mut file = File::options().write(true).open(to)?;
        file.write_all(bytes)?;
        file.set_len(bytes.len() as u64)
    }

    /// Gives up one file, for what is not written over one.
    pub(super) fn give_up_one(&self) -> bool {
        self.refilled.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(Instant::now);
        (0..PIECES).any(|number| fs::remove_file(self.piece(number)).is_ok())
    }

    /// Makes what was used again, if it is time to try. To be called when there is room.
    pub(super) fn refill(&self) {
        let mut refilled = self.refilled.lock().unwrap_or_else(PoisonError::into_inner);
        if refilled.is_some_and(|last| last.elapsed() >= REFILL) {
            *refilled = Some(Instant::now());
            drop(refilled);
            self.fill();
        }
    }

    /// Makes what is missing of it, if there is room.
    pub(super) fn fill(&self) {
        let filled = self.try_fill();
        if let Err(error) = &filled {
            tracing::warn!(dir = %self.dir.display(), %error, "no room is kept for noting down the end of pods");
        }
        let mut refilled = self.refilled.lock().unwrap_or_else(PoisonError::into_inner);
        *refilled = filled.is_err().then(Instant::now);
    }

    fn try_fill(&self) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let room = rustix::fs::statvfs(&self.dir)?;
        let missing: Vec<_> = (0..PIECES)
            .map(|number| self.piece(number))
            .filter(|piece| !fs::metadata(piece).is_ok_and(|found| found.len() == PIECE as u64))
            .collect();
        // Not the last that there is: that would only be used up again.
        let needed = 2 * (missing.len() * PIECE) as u64;
        if !missing.is_empty() && room.f_bavail.saturating_mul(room.f_frsize) < needed {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let new = self.dir.join("new");
        for piece in missing {
            fs::write(&new, vec![0; PIECE]).inspect_err(|_| drop(fs::remove_file(&new)))?;
            fs::rename(&new, piece)?;
        }
        Ok(())
    }
}
