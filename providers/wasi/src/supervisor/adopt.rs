//! Taking over the worker that an earlier agent left.
//!
//! A worker that lives and does not answer is asked again and again; until it has told what it hosts, the view
//! cannot tell of what is claimed for it ([`super::Sighting::CannotTell`]).

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    error::GroupError,
    group::{Common, Group},
};

/// Between two attempts.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Asks the worker of a group until it has told what it hosts, or is dead. Fires `tried` after the first attempt.
pub(super) async fn adopt(group: Arc<Group>, common: Arc<Common>, tried: oneshot::Sender<()>) {
    let (mut tried, mut pause) = (Some(tried), FIRST_PAUSE);
    loop {
        let done = match group.client().await {
            Ok(_) => {
                tracing::info!(group = group.name(), "adopted a worker");
                true
            }
            // It has died, or was of another age and has been told to end.
            Err(GroupError::NoWorker { .. }) => {
                let gone = common.view.has_no_worker(group.name());
                common.claims.release(group.name(), gone).await;
                group.look().notify_one();
                true
            }
            Err(error) => {
                tracing::error!(group = group.name(), %error, "a worker is there and cannot be adopted; trying again");
                false
            }
        };
        if let Some(tried) = tried.take() {
            // Nobody may be waiting any more.
            let _ = tried.send(());
        }
        if done {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
