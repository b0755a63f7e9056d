//! Stops the worker of a group when its last instance has been gone for a while.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

use super::group::Group;

/// All groups that have, or lately had, a worker.
pub(super) type Groups = Mutex<HashMap<String, Kept>>;

/// A group, and the task that stops its worker.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) group: Arc<Group>,
    _keeper: AbortOnDropHandle<()>,
}

/// Who holds a group that nobody uses: the map, and its keeper.
const OURS: usize = 2;

impl Kept {
    /// Keeps a group until it is not needed any more; it is taken out of `groups` then.
    pub(super) fn new(group: Arc<Group>, groups: &Arc<Groups>, linger: Duration) -> Self {
        let keeper = tokio::spawn(keep(Arc::clone(&group), Arc::downgrade(groups), linger));
        Self { group, _keeper: AbortOnDropHandle::new(keeper) }
    }
}

async fn keep(group: Arc<Group>, groups: Weak<Groups>, linger: Duration) {
    loop {
        group.look().notified().await;
        // For as long as nothing comes in, a look after every linger: a worker that has died lately is
        // remembered for longer.
        while group.is_idle() {
            if tokio::time::timeout(linger, group.look().notified()).await.is_ok() {
                // Something happened: the time begins anew.
                continue;
            }
            if !group.retire().await {
                continue;
            }
            let Some(groups) = groups.upgrade() else { return };
            let mut groups = groups.lock().await;
            // Whoever has taken the group from the map meanwhile goes on with it, and so does this task.
            if Arc::strong_count(&group) == OURS {
                groups.remove(group.name());
                return;
            }
        }
    }
}
