//! Taking over the worker that an earlier agent left.
//!
//! A worker that lives and does not answer is asked again and again; until it has told what it hosts, the view
//! cannot tell of any id that it does not know ([`super::Sighting::CannotTell`]).

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{error::GroupError, group::Group, view::View};

/// Between two attempts.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Asks the worker of a group until it has told what it hosts, or is dead. Fires `tried` after the first attempt.
pub(super) async fn adopt(group: Arc<Group>, view: Arc<View>, tried: oneshot::Sender<()>) {
    let (mut tried, mut pause) = (Some(tried), FIRST_PAUSE);
    loop {
        let done = match group.client().await {
            Ok(_) => {
                tracing::info!(group = group.name(), "adopted a worker");
                true
            }
            // It has died, or was of another age and has been told to end.
            Err(GroupError::NoWorker { .. }) => true,
            Err(error) => {
                tracing::error!(group = group.name(), %error, "a worker is there and cannot be adopted; trying again");
                false
            }
        };
        if done {
            view.has_told(group.name());
        }
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
